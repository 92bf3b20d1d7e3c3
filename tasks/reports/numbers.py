"""Numbers as people read them. What has no value is a dash."""

from collections.abc import Mapping, Sequence
from typing import Any

CLASSES = 500  # up to so many a table has a row for each
WEAKEST = 100  # and with more of them a row for each of the weakest


def shown(value: float | None, form: str = "{:.2%}") -> str:
    return "-" if value is None else form.format(value)


def many(count: int, what: str) -> str:
    """`1 decision`, `1,234 decisions`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def weakest(per_class: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> tuple[list[str], str]:
    """The classes that a table has rows for, and what it says of the others: all of them, or, with more than CLASSES,
    the WEAKEST ones by F1. A class without an F1 comes last."""
    if len(classes) <= CLASSES:
        return list(classes), ""
    order = sorted(classes, key=lambda name: 2.0 if per_class[name]["f1"] is None else per_class[name]["f1"])
    return order[:WEAKEST], f"The {WEAKEST} classes with the lowest F1 of {len(classes):,}; metrics.json has all."


def with_interval(numbers: Mapping[str, Any]) -> str:
    """The accuracy of an evaluation as `86.41% (85.73% to 87.07%)`, without the interval where there is none."""
    if not (interval := numbers.get("accuracy_interval")):
        return shown(numbers["accuracy"])
    return f"{numbers['accuracy']:.2%} ({interval[0]:.2%} to {interval[1]:.2%})"


def without_copies(numbers: Mapping[str, Any]) -> str:
    """What follows a number of test images in a sentence, where some of the split's images are copies of others."""
    copies = numbers.get("copies", 0)
    return f" ({copies:,} more {'is a copy' if copies == 1 else 'are copies'}, not counted)" if copies else ""
