"""The model card: what a model is, what it learned from, what it is worth and where it is not to be trusted.

Headings as in Mitchell et al., "Model Cards for Model Reporting" (2019), as far as Lookbook knows of them.
"""

from collections.abc import Mapping
from typing import Any

from artifacts.dataset import Dataset
from artifacts.weights import Weights
from tasks.reports.tables import cell, table

_SMALL_SUPPORT = 30


def model_card(weights: Weights, dataset: Dataset, numbers: Mapping[str, Any]) -> str:
    """GitHub's markdown."""
    made, facts = weights.artifact.manifest["provenance"], dataset.artifact.facts
    spec = dataset.image_spec
    colour = "grey" if spec["channels"] == 1 else "colour"
    counts = facts["counts"]
    parts = [
        f"# {cell(weights.ref.name)}",
        f"An image classifier that tells {len(weights.classes)} classes apart, `{weights.ref}`: the architecture "
        f"`{cell(str(weights.settings['architecture']))}` of Lookbook, trained {made['created']} on "
        f"{cell(str(made.get('device', 'an unknown device')))}.",
        "## Intended use",
        f"Pictures like those it was trained on, one thing on each, looked at as {spec['width']}x{spec['height']} "
        f"pixels in {colour}. It names one of its classes for every picture, also for one that shows none of them.",
        "## Data",
        f"`{dataset.artifact.ref}`: {counts['train']['items']:,} images to train on, {counts['test']['items']:,} to "
        f"test with, {len(dataset.bad):,} files left out.",
        table(
            ("class", "to train on", "to test with"),
            [
                (cell(name), *(f"{counts[side]['per_class'][name]:,}" for side in ("train", "test")))
                for name in weights.classes
            ],
        ),
        *[f"- {cell(each['text'])}" for each in dataset.findings],
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
                ("dataset", f"`{dataset.artifact.ref}`"),
                *((cell(name), f"`{value}`") for name, value in dataset.artifact.identity["inputs"].items()),
                ("code", f"`{made.get('commit') or 'no checkout'}`"),
                ("versions", cell(", ".join(f"{name} {version}" for name, version in made["versions"].items()))),
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _metrics(weights: Weights, numbers: Mapping[str, Any]) -> list[str]:
    if numbers["accuracy"] is None:
        return ["Its predictions are not numbers (NaN)."]
    low, high = numbers["accuracy_interval"]
    told = [
        ("accuracy", f"{numbers['accuracy']:.2%} ({low:.2%} to {high:.2%})"),
        *((f"right among the {k} most probable", f"{value:.2%}") for k, value in numbers["top_k"].items()),
        ("log loss", f"{numbers['loss']:.4f}"),
        ("Brier score", f"{numbers['brier']:.4f}"),
        ("expected calibration error", f"{numbers['calibration']['error']:.2%}"),
    ]
    if scaled := numbers.get("calibrated"):
        told.append((f"the same at temperature {scaled['temperature']:.3f}", f"{scaled['error']:.2%}"))
    rows = [
        (cell(name), *("-" if told_of[key] is None else f"{told_of[key]:.2%}" for key in ("precision", "recall", "f1")))
        for name in weights.classes
        for told_of in (numbers["per_class"][name],)
    ]
    return [
        f"On {numbers['items']:,} test images, the interval with 95 % confidence:",
        table(("metric", "value"), told),
        table(("class", "precision", "recall", "F1"), rows),
    ]


def _limits(weights: Weights, numbers: Mapping[str, Any]) -> list[str]:
    """What the numbers themselves give away."""
    told = [
        f"- {cell(each['is'])} is called {cell(each['called'])} {each['items']:,} times."
        for each in numbers["most_confused"][:3]
    ]
    few = [name for name in weights.classes if numbers["per_class"][name]["support"] < _SMALL_SUPPORT]
    if few:
        told.append(f"- Fewer than {_SMALL_SUPPORT} test images of {cell(', '.join(few))}: their numbers say little.")
    told.append("- Nothing was measured on pictures from elsewhere, by group, or under attack.")
    if weights.temperature is None:
        told.append("- Confidence is as the network gives it: no images were held out to calibrate it on.")
    return ["\n".join(told)]
