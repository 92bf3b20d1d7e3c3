"""The report of a retraining in Prefect's UI: what came out, in short. The whole page is in the metrics artifact."""

from collections.abc import Mapping

from artifacts import dataset as datasets
from artifacts import metrics, weights
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.reports.numbers import shown, with_interval, without_copies
from tasks.reports.pictures import data_uri
from tasks.reports.tables import cell, table
from tasks.results import Retrained

_WORST = 5


def markdown(store: Store, result: Retrained) -> str:
    """GitHub's markdown with the charts inside."""
    measured = metrics.load(store, Ref.parse(result.metrics))
    numbers = measured.numbers
    trained = weights.load(store, Ref.parse(result.weights))
    made = trained.artifact.manifest["provenance"]
    decided = "**Promoted.**" if result.decision.promoted else "**Not promoted.**"
    held_out = " Held-out images are counted after the epoch." if trained.settings.get("validation") else ""
    worst = [(cell(each.is_), cell(each.called), f"{each.items:,}") for each in numbers.most_confused[:_WORST]]
    top = [(f"right among the {k} most probable", shown(value)) for k, value in numbers.top_k.items()]
    findings = datasets.load(store, Ref.parse(result.dataset)).findings
    refs = {"dataset": result.dataset, "weights": result.weights, "metrics": result.metrics}
    refs["champion"] = result.decision.champion
    parts = [
        f"{decided} {cell(result.decision.reason)}.",
        table(
            ("on the test images", "this model"),
            [
                ("accuracy", with_interval(numbers)),
                *top,
                ("loss", shown(numbers.loss, "{:.4f}")),
                ("Brier score", shown(numbers.brier, "{:.4f}")),
                ("expected calibration error", shown(numbers.calibration["error"] if numbers.calibration else None)),
            ],
        ),
        f"Accuracy is the share of the {numbers.items:,} test images{without_copies(numbers)} that the model names "
        "correctly, with its 95 % confidence interval. Loss is the mean of -log(probability of the right class): "
        "smaller is better.",
        *(["## Odd about the data", "\n".join(f"- {cell(each['text'])}" for each in findings)] if findings else []),
        "## Learning curve",
        "On the training images, one epoch at a time. Each image is counted before the step that learns from it."
        f"{held_out}",
        _chart(measured, "learning-curve.png"),
        *(_matrix(measured) if numbers.confusion_matrix else []),
        *(["Most often confused:", table(("is", "was called", "images"), worst)] if worst else []),
        "## The whole report",
        f"`{measured.artifact.folder}/report.html` has the images behind each of these numbers, most certain mistakes, "
        "likely label errors and the reliability diagram; `model-card.md` is beside it.",
        "## What it was made of",
        table(("", ""), [(kind, f"`{ref}`") for kind, ref in refs.items()]),
        f"Seconds: {', '.join(f'{stage} {seconds:.1f}' for stage, seconds in result.seconds.items())}. "
        f"Trained on {cell(str(made['device']))}.",
    ]
    return "\n\n".join(parts)


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
