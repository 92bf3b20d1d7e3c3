"""The report of a decision in Prefect's UI: challenger against champion, and why one of them is champion now."""

from collections.abc import Iterator

from artifacts import metrics
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.judging.decision import Compared, Decision, Grounds, LeftOut
from tasks.reports.numbers import many, shown
from tasks.reports.retraining import lessons_sentence
from tasks.reports.tables import cell, table

_OFTEN = 20


def markdown(store: Store, weights: str, decision: Decision) -> str:
    """GitHub's markdown. weights: the challenger's ref."""
    grounds = decision.grounds
    name = Ref.parse(weights).name
    parts = [
        f"{'**Promoted.**' if decision.promoted else '**Not promoted.**'} {cell(decision.reason)}.",
        table(("", ""), [("challenger", f"`{weights}`"), ("champion now", f"`{decision.champion}`")]),
    ]
    if grounds.compared and grounds.compared.comparison.p_value is not None:
        parts += _compared(store, grounds, grounds.compared)
    if (lessons := metrics.load(store, Ref.parse(grounds.metrics)).lessons) is not None:
        parts.append(lessons_sentence(lessons))
    parts.append(
        f"This test split has made {many(grounds.decisions, 'decision')} before this one{_worn(grounds.decisions)}."
    )
    if not decision.promoted and weights != decision.champion:
        parts.append(f'By hand, whatever the numbers say: `lookbook promote {weights} --reason "..."`.')
    parts.append(f"All decisions: `lookbook history {name}`; back to the champion before: `lookbook rollback {name}`.")
    return "\n\n".join(parts)


def _compared(store: Store, grounds: Grounds, compared: Compared) -> list[str]:
    challenger, champion = (
        metrics.load(store, Ref.parse(ref)).numbers for ref in (grounds.metrics, compared.champion_metrics)
    )
    on_same, gate = compared.comparison, grounds.gate
    accuracies = ("accuracy", shown(on_same.accuracy), shown(on_same.champion_accuracy))
    recalls = [
        (cell(f"recall of {name}"), shown(recall.challenger), shown(recall.champion))
        for name, recall in on_same.recalls.items()
    ]
    whole = [
        ("loss", shown(challenger.loss, "{:.4f}"), shown(champion.loss, "{:.4f}")),
        ("Brier score", shown(challenger.brier, "{:.4f}"), shown(champion.brier, "{:.4f}")),
    ]
    gains, losses = on_same.gains or 0, on_same.losses or 0
    return [
        table((f"on the same {on_same.items:,} test images", "challenger", "champion before"), [accuracies, *recalls]),
        table(("on all test images that it has not learned from", "challenger", "champion before"), whole),
        *_left_out(grounds.left_out, compared),
        (
            f"Exactly one of the two is right on {many(gains + losses, 'image')}: the challenger on {gains:,}, the "
            f"champion on {losses:,}."
            if gains + losses
            else "Both are right on the same images."
        )
        + " If both were equally good, the challenger would be the right one on as many or more "
        f"with a probability of {on_same.p_value:.2g} (McNemar's exact test); the gate asks for {gate.significance:g} "
        f"or less. It also asks for an accuracy of at least {gate.minimum_accuracy:.2%}, and that no class's recall "
        f"falls by more than {gate.max_recall_drop:.2%} where that is beyond chance or more than half of its images.",
    ]


def _left_out(left_out: LeftOut | None, compared: Compared) -> Iterator[str]:
    """Which test images do not count, and what nobody could judge."""
    if left_out and left_out.copies:
        yield f"Each content counts once: {left_out.copies:,} of the test images {_are(left_out.copies)} of others."
    if left_out and left_out.seen:
        verb = "is" if left_out.seen == 1 else "are"
        yield f"One of the models has learned from {many(left_out.seen, 'test image')}, which {verb} left out."
    if left_out and left_out.near:
        verb = "is" if left_out.near == 1 else "are"
        yield (
            f"{many(left_out.near, 'test image')} {verb} nearly the same as a picture that one of the models has "
            f"learned from, and {verb} left out."
        )
    if compared.uncompared:
        names = cell(", ".join(compared.uncompared))
        yield f"**No test image is left of {names}:** look at what the challenger says of some."
    if compared.unprotected:
        yield (
            f"**The recall of {cell(', '.join(compared.unprotected))} fell**, but on so few test images that it may be "
            "chance: look at them, and add some."
        )
    if left_out and left_out.unknown:
        yield (
            f"**Nobody knows whether one of the models has learned from these test images:** "
            f"{', '.join(f'`{each}`' for each in left_out.unknown)} is missing or damaged. A model that has learned "
            "from them looks better on them than it is."
        )


def _are(copies: int) -> str:
    return "is a copy" if copies == 1 else "are copies"


def _worn(decisions: int) -> str:
    if decisions < _OFTEN:
        return ""
    return ": a split that decides so often stops being a test; test with other images"
