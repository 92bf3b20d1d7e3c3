"""The report of a retraining in Prefect's UI: what came out, against the champion, and why it was promoted or not."""

from collections.abc import Mapping
from typing import Any

from artifacts import metrics, weights
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.reports.pictures import confusion_matrix, data_uri, learning_curve
from tasks.reports.tables import cell, table

_WORST = 5


def markdown(store: Store, result: Mapping[str, Any]) -> str:
    """GitHub's markdown with the charts inside. `result` is what the flow `retrain` returns."""
    numbers = metrics.load(store, Ref.parse(result["metrics"])).numbers
    trained = weights.load(store, Ref.parse(result["weights"]))
    made = trained.artifact.manifest["provenance"]
    classes = trained.classes  # in the matrix's order; per_class is a JSON object, and has none
    decided = "**Promoted.**" if result["promoted"] else "**Not promoted.**"
    before = result["numbers"]
    held_out = " Images that are held out are counted after the epoch." if trained.settings.get("validation") else ""
    rows = [("accuracy", "accuracy", "{:.2%}"), ("loss", "loss", "{:.4f}")]
    compared = [
        (title, _told(numbers[key], form), _told(before.get(f"champion_{key}"), form)) for title, key, form in rows
    ]
    parts = [
        f"{decided} {cell(result['reason'])}.",
        table(("on the test images", "this model", "champion before"), compared),
        f"Accuracy is the share of the {numbers['items']:,} test images that were named rightly; loss is the mean of "
        "-log(probability of the right class): smaller is better.",
        "## Learning curve",
        "On the training images, an epoch at a time; each image is counted before the step that learns from it."
        f"{held_out}",
        f"![learning curve]({data_uri(learning_curve(trained.history, made.get('best_epoch')), 'png')})",
        "## Confusion matrix",
        "Test images: a row is what they are, a column what they were called.",
        f"![confusion matrix]({data_uri(confusion_matrix(numbers['confusion_matrix'], classes), 'png')})",
        *_confused(numbers["confusion_matrix"], classes),
        "## What it was made of",
        table(("", ""), [(kind, f"`{result[kind]}`") for kind in ("dataset", "weights", "metrics", "champion")]),
        f"Seconds: {', '.join(f'{stage} {seconds:.1f}' for stage, seconds in result['seconds'].items())}. "
        f"Trained on {cell(str(made['device']))}.",
    ]
    return "\n\n".join(parts)


def unchanged(reason: str, refs: Mapping[str, str]) -> str:
    """The report of a run that had nothing to do."""
    return "\n\n".join(
        [f"**Nothing to do:** {cell(reason)}.", table(("", ""), [(kind, f"`{ref}`") for kind, ref in refs.items()])]
    )


def _confused(matrix: list[list[int]], classes: list[str]) -> list[str]:
    pairs = [
        (count, is_, called)
        for is_, row in enumerate(matrix)
        for called, count in enumerate(row)
        if count and is_ != called
    ]
    worst = sorted(pairs, reverse=True)[:_WORST]
    if not worst:
        return []
    rows = [(cell(classes[is_]), cell(classes[called]), f"{count:,}") for count, is_, called in worst]
    return ["Most often confused:", table(("is", "was called", "images"), rows)]


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
