"""The report of a retraining in Prefect's UI: what came out, in short. The whole page is in the metrics artifact."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from artifacts import metrics, weights
from artifacts.errors import Corrupt
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.reports import audit as audits
from tasks.reports import evaluation
from tasks.reports.numbers import many, shown, with_interval, without_copies
from tasks.reports.pages import address_of
from tasks.reports.pictures import data_uri
from tasks.reports.tables import cell, table
from tasks.results import Retrained
from tasks.reviewing.production import last_audit

_WORST = 5
_TESTED = {
    "folder": "the folder's own",
    "audits": "drawn at random (audits)",
    "others": "labelled, but not drawn at random",
}


def markdown(store: Store, result: Retrained, because: str | None, review: str | None) -> str:
    """GitHub's markdown with the charts inside.

    because: why the run was started.
    review: the address of the page where pictures are labelled, and beside which reports are, if there is one.
    """
    whole = address_of(Ref.parse(result.metrics), review)
    measured = metrics.load(store, Ref.parse(result.metrics))
    numbers = measured.numbers
    trained = weights.load(store, Ref.parse(result.weights))
    made = trained.artifact.manifest["provenance"]
    decided = "**Promoted.**" if result.decision.promoted else "**Not promoted.**"
    worst = [(cell(each.is_), cell(each.called), f"{each.items:,}") for each in numbers.most_confused[:_WORST]]
    top = [(f"right among the {k} most probable", shown(value)) for k, value in numbers.top_k.items()]
    odd = [f"- {cell(each['text'])}" for each in result.findings]
    refs = {"dataset": result.dataset, "weights": result.weights, "metrics": result.metrics}
    refs["champion"] = result.decision.champion
    parts = [
        f"{decided} {cell(result.decision.reason)}.",
        *([f"Started because {cell(because)}."] if because else []),
        table(
            ("on the test images", "this model"),
            [
                ("accuracy", with_interval(numbers)),
                *top,
                ("loss", shown(numbers.loss, "{:.4f}")),
                ("Brier score", shown(numbers.brier, "{:.4f}")),
                ("expected calibration error", shown(numbers.calibration["error"] if numbers.calibration else None)),
                *([("the same, uncalibrated", shown(own.error))] if (own := numbers.uncalibrated) else []),
            ],
        ),
        f"Accuracy is the share of the {numbers.items:,} test images{without_copies(numbers)} that the model names "
        "correctly, with its 95 % confidence interval. Loss is the mean of -log(probability of the right class): "
        "smaller is better.",
        *_lessons(store, measured),
        *(["## Odd about the data", "\n".join(odd)] if odd else []),
        *_backbones(trained),
        *_learned(measured, trained),
        *(_matrix(measured) if numbers.confusion_matrix else []),
        *(["Most often confused:", table(("is", "was called", "images"), worst)] if worst else []),
        "## The whole report",
        f"{f'[The whole report]({whole})' if whole else '`report.html`'} has the images behind each of these numbers, "
        "most certain mistakes, likely label errors and the reliability diagram. "
        f"It and `model-card.md` are in `{measured.artifact.folder}`.",
        "## What it was made of",
        table(("", ""), [(kind, f"`{ref}`") for kind, ref in refs.items()]),
        f"Seconds: {', '.join(f'{stage} {took:.1f}' for stage, took in result.seconds.items() if took is not None)}. "
        f"Trained on {cell(str(made['device']))}.",
    ]
    return "\n\n".join(parts)


def _backbones(trained: weights.Weights) -> list[str]:
    """What the weights stand on, and what else was tried where that was chosen."""
    choice = trained.artifact.manifest["provenance"].get("choice")
    if choice is None:
        return []
    named = f"`{cell(trained.settings['backbone'])}`{', mirrored' if trained.mirrored else ''}"
    parts = ["## Pretrained networks", f"It stands on {named}: {cell(choice['why'])}."]
    if choice["tried"]:
        rows = [
            (
                f"`{cell(each['backbone'])}`{', mirrored' if each['mirrored'] else ''}",
                shown(each["accuracy"]),
                shown(each["loss"], "{:.4f}"),
                "" if each["behind"] is None else f"{each['behind']:.4f} ± {each['behind_error']:.4f}",
                f"{each['milliseconds']:.1f}",
            )
            for each in choice["tried"]
        ]
        parts += [
            "Tried on a sample of the training images, each held out once. The loss behind the best one's has its "
            "standard error. The quickest within one of them is taken. What would take longer than is allowed was left "
            "out.",
            table(("pixels of a side after the colon", "accuracy", "loss", "behind", "ms a picture"), rows),
        ]
    return parts


def _learned(measured: metrics.Metrics, trained: weights.Weights) -> list[str]:
    """How the weights came about: by epochs, by penalties, or by both."""
    parts = []
    if evaluation.PENALTY_CURVE in measured.artifact.files:
        chart = _chart(measured, evaluation.PENALTY_CURVE)
        parts += ["## How strongly the last layer is penalized", evaluation.PENALIZED, chart]
    if evaluation.LEARNING_CURVE in measured.artifact.files:
        held_out = " Held-out images are counted after the epoch." if trained.settings.get("validation") else ""
        seen = "On the training images, one epoch at a time. Each image is counted before the step that learns from it."
        parts += ["## Learning curve", f"{seen}{held_out}", _chart(measured, evaluation.LEARNING_CURVE)]
    if tuned := trained.artifact.manifest["provenance"].get("fine_tuned"):
        parts += ["## Fine-tuning", f"{cell(tuned['said']).capitalize()}."]
    return parts


def _lessons(store: Store, measured: metrics.Metrics) -> list[str]:
    found = measured.lessons
    if found is None:
        return []
    parts = ["## What people's labels changed", lessons_sentence(found)]
    rows = [
        (told, f"{each['items']:,}", shown(_share(each)))
        for part, told in _TESTED.items()
        if (each := found["tested"].get(part)) and each["items"]
    ]
    parts.append(table(("test images", "how many", "accuracy"), rows))
    if metrics.LESSONS_CHART in measured.artifact.files:
        parts += ["Right now, and wrong when somebody looked:", _chart(measured, metrics.LESSONS_CHART)]
    with suppress(Corrupt):  # it only stands beside; `lookbook verify` tells
        if (audit := last_audit(store, found["name"])) is not None:
            parts.append(audits.markdown(audit))
    return parts


def lessons_sentence(found: Mapping[str, Any]) -> str:
    """What the labels were, and what the new weights make of the pictures behind them."""
    uses = ", ".join(f"{count:,} {cell(use)}" for use, count in found["uses"].items())
    return (
        f"Labels of `{found['name']}`: {uses}. Of {many(found['wrong_before'], 'labelled picture')} that the model had "
        f"named wrongly when somebody looked ({found['learned']:,} of which the new one has learned from), it names "
        f"**{found['right_now']:,}** rightly."
    )


def _share(counts: Mapping[str, int]) -> float:
    return counts["right"] / counts["items"]


def _matrix(measured: metrics.Metrics) -> list[str]:
    """None is drawn of many hundred classes."""
    rows = "Test images: a row is what they are, a column what they were called."
    return ["## Confusion matrix", rows, _chart(measured, "confusion-matrix.png")]


def unchanged(reason: str, refs: Mapping[str, str]) -> str:
    """The report of a run that had nothing to do."""
    return "\n\n".join(
        [f"**Nothing to do:** {cell(reason)}.", table(("", ""), [(kind, f"`{ref}`") for kind, ref in refs.items()])]
    )


def _chart(measured: metrics.Metrics, file: str) -> str:
    return f"![{file.removesuffix('.png')}]({data_uri(measured.artifact.read(file), 'png')})"
