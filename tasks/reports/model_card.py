"""The model card: what a model is, what it learned from, what it is worth and where it is not to be trusted.

Headings as in Mitchell et al., "Model Cards for Model Reporting" (2019), as far as Lookbook knows of them.
"""

from artifacts.dataset import Dataset
from artifacts.metrics import Numbers
from artifacts.weights import Weights
from tasks.reports.numbers import CLASSES, calibrated, many, shown, weakest, without_copies
from tasks.reports.tables import cell, table

_SMALL_SUPPORT, _FEW_SHOWN = 30, 100


def model_card(weights: Weights, learned_from: Dataset | None, dataset: Dataset, numbers: Numbers) -> str:
    """GitHub's markdown. learned_from: what the weights were trained on, None when that is gone; dataset: whose test
    split they are measured on."""
    made, spec = weights.artifact.manifest["provenance"], dataset.image_spec
    colour = "grey" if spec["channels"] == 1 else "colour"
    source = weights.artifact.identity["inputs"]["dataset"]
    parts = [
        f"# {cell(weights.ref.name)}",
        f"An image classifier that tells {len(weights.classes)} classes apart, `{weights.ref}`: the architecture "
        f"`{cell(str(weights.settings['architecture']))}` of Lookbook, trained {made['created']} on "
        f"{cell(str(made.get('device', 'an unknown device')))}.",
        "## Intended use",
        f"Pictures like those it was trained on, one thing on each, looked at as {spec['width']}x{spec['height']} "
        f"pixels in {colour}. It names one of its classes for every picture, also for one that shows none of them.",
        "## Data",
        *_data(weights, learned_from, source, dataset),
        "## Metrics",
        *_metrics(weights, numbers),
        "## Limits",
        *_limits(weights, numbers),
        "## Settings",
        table(("setting", "value"), [(name, cell(str(value))) for name, value in weights.settings.items()]),
        "## Lineage",
        table(
            ("", ""),
            [
                ("weights", f"`{weights.ref}`"),
                ("trained on", f"`{cell(source)}`"),
                *((cell(name), f"`{value}`") for name, value in _inputs(learned_from).items()),
                ("tested with", f"`{dataset.artifact.ref}`"),
                *(("stands on", f"`{each}`") for each in dict.fromkeys(view.backbone for view in weights.views)),
                ("code", f"`{made.get('commit') or 'no checkout'}`"),
                ("versions", cell(", ".join(f"{name} {version}" for name, version in made["versions"].items()))),
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _data(weights: Weights, learned_from: Dataset | None, source: str, dataset: Dataset) -> list[str]:
    tested = dataset.artifact.facts["counts"]["test"]
    trained = learned_from.artifact.facts["counts"]["train"] if learned_from else {"items": None, "per_class": {}}
    trained_on = f"Trained on `{cell(source)}`, which is not in the store any more."
    if learned_from:
        share = weights.settings.get("validation")
        held_out = f", {100 * share:.3g} % of each class held out" if share else ""
        trained_on = (
            f"Trained on {many(trained['items'], 'image')} of `{source}`{held_out}; "
            f"left out: {many(len(learned_from.bad), 'file')}."
        )
    return [
        trained_on,
        f"Tested with {many(tested['items'], 'image')} of `{dataset.artifact.ref}`.",
        table(
            ("class", "to train on", "to test with"),
            [
                (cell(name), shown(trained["per_class"].get(name), "{:,}"), f"{tested['per_class'][name]:,}")
                for name in weights.classes[:CLASSES]
            ],
        ),
        *([f"... and {len(weights.classes) - CLASSES:,} more classes."] if len(weights.classes) > CLASSES else []),
        *[f"- {cell(each['text'])}" for each in dataset.findings],
    ]


def _inputs(dataset: Dataset | None) -> dict[str, str]:
    return dict(dataset.artifact.identity["inputs"]) if dataset else {}


def _metrics(weights: Weights, numbers: Numbers) -> list[str]:
    if numbers.accuracy_interval is None or numbers.calibration is None:
        return ["Its predictions are not numbers (NaN)."]
    low, high = numbers.accuracy_interval
    figures = [
        ("accuracy", f"{numbers.accuracy:.2%} ({low:.2%} to {high:.2%})"),
        *((f"right among the {k} most probable", f"{value:.2%}") for k, value in numbers.top_k.items()),
        ("log loss", f"{numbers.loss:.4f}"),
        ("Brier score", f"{numbers.brier:.4f}"),
        ("expected calibration error", f"{numbers.calibration['error']:.2%}"),
    ]
    if own := numbers.uncalibrated:
        figures += [("the same, uncalibrated", f"{own.error:.2%}"), ("log loss, uncalibrated", f"{own.loss:.4f}")]
    listed, others = weakest(numbers.per_class, weights.classes)
    rows = [
        (cell(name), shown(each.precision), shown(each.recall), shown(each.f1))
        for name, each in ((name, numbers.per_class[name]) for name in listed)
    ]
    return [
        f"On {numbers.items:,} test images{without_copies(numbers)}, the interval with 95 % confidence:",
        table(("metric", "value"), figures),
        *([others] if others else []),
        table(("class", "precision", "recall", "F1"), rows),
    ]


def _limits(weights: Weights, numbers: Numbers) -> list[str]:
    """What the numbers themselves give away."""
    limits = [
        f"- {cell(each.is_)} is called {cell(each.called)} {many(each.items, 'time')}."
        for each in numbers.most_confused[:3]
    ]
    few = [name for name in weights.classes if numbers.per_class[name].support < _SMALL_SUPPORT]
    if few:
        named = ", ".join(few[:_FEW_SHOWN]) + (f" and {len(few) - _FEW_SHOWN:,} more" if len(few) > _FEW_SHOWN else "")
        limits.append(f"- Fewer than {_SMALL_SUPPORT} test images of {cell(named)}: their numbers say little.")
    limits.append("- Nothing was measured on pictures from elsewhere, by group, or under attack.")
    limits.append(f"- Confidence is {calibrated(weights.temperature, weights.calibration)}.")
    return ["\n".join(limits)]
