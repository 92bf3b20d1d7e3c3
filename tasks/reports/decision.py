"""The report of a decision in Prefect's UI: challenger against champion, and why one of them is champion now."""

from collections.abc import Iterator, Mapping
from typing import Any

from artifacts import metrics
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.reports.numbers import many, shown
from tasks.reports.tables import cell, table

_OFTEN = 20


def markdown(store: Store, result: Mapping[str, Any]) -> str:
    """GitHub's markdown. `result` is what the stage `promote` returns, with `weights`: the challenger's ref."""
    told = result["numbers"]
    name = Ref.parse(result["weights"]).name
    parts = [
        f"{'**Promoted.**' if result['promoted'] else '**Not promoted.**'} {cell(result['reason'])}.",
        table(("", ""), [("challenger", f"`{result['weights']}`"), ("champion now", f"`{result['champion']}`")]),
    ]
    if told.get("p_value") is not None:
        parts += _compared(store, told)
    decisions = told["decisions"]
    parts.append(f"This test split has made {many(decisions, 'decision')} before this one{_worn(decisions)}.")
    if not result["promoted"] and result["weights"] != result["champion"]:
        parts.append(f'By hand, whatever the numbers say: `lookbook promote {result["weights"]} --reason "..."`.')
    parts.append(f"All decisions: `lookbook history {name}`; back to the champion before: `lookbook rollback {name}`.")
    return "\n\n".join(parts)


def _compared(store: Store, told: Mapping[str, Any]) -> list[str]:
    challenger, champion = (
        metrics.load(store, Ref.parse(told[key])).numbers for key in ("metrics", "champion_metrics")
    )
    accuracies = ("accuracy", shown(told["accuracy"]), shown(told["champion_accuracy"]))
    rows = [(title, *(shown(each[key], form) for each in (challenger, champion))) for title, key, form in _FIGURES]
    recalls = [
        (cell(f"recall of {name}"), shown(recall["challenger"]), shown(recall["champion"]))
        for name, recall in told["recalls"].items()
    ]
    apart = told["gains"] + told["losses"]
    return [
        table((f"on the same {told['items']:,} test images", "challenger", "champion before"), [accuracies, *recalls]),
        table(("on the whole test split", "challenger", "champion before"), rows),
        *_left_out(told),
        f"Just one of the two is right on {apart:,} images: the challenger on {told['gains']:,}, the champion on "
        f"{told['losses']:,}. Were both equally good, chance alone would give the challenger so many or more with "
        f"probability {told['p_value']:.2g} (McNemar's exact test); {told['significance']:g} is asked. Asked are also "
        f"an accuracy of {told['minimum_accuracy']:.2%} at least, and no class whose recall falls by more than "
        f"{told['max_recall_drop']:.2%}, beyond chance or by more than half of its images.",
    ]


_FIGURES = (("loss", "loss", "{:.4f}"), ("Brier score", "brier", "{:.4f}"))


def _left_out(told: Mapping[str, Any]) -> Iterator[str]:
    """Which test images do not count, and what nobody could judge. Decisions of an older Lookbook have none of it."""
    if copies := told.get("copies"):
        yield f"Each content counts once: {copies:,} of the test images {_are(copies)} of others."
    if seen := told.get("seen"):
        yield f"A model has learned from {many(seen, 'test image')}, which {'is' if seen == 1 else 'are'} left out."
    if uncompared := told.get("uncompared"):
        yield f"**No test image is left of {cell(', '.join(uncompared))}:** look at what the challenger says of some."
    if unprotected := told.get("unprotected"):
        yield (
            f"**The recall of {cell(', '.join(unprotected))} fell**, on so few test images that it may be chance: look "
            "at them, and add some."
        )
    if unknown := told.get("unknown"):
        yield (
            f"**Whether a model has learned from these test images is not known:** "
            f"{', '.join(f'`{each}`' for each in unknown)} is missing or damaged. One that has is the better on them."
        )


def _are(copies: int) -> str:
    return "is a copy" if copies == 1 else "are copies"


def _worn(decisions: int) -> str:
    if decisions < _OFTEN:
        return ""
    return ": a split that decides so often stops being a test; test with other images"
