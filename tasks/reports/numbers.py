"""Numbers as people read them. What has no value is a dash."""

from collections.abc import Mapping
from typing import Any


def shown(value: float | None, form: str = "{:.2%}") -> str:
    return "-" if value is None else form.format(value)


def many(count: int, what: str) -> str:
    """`1 decision`, `1,234 decisions`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def with_interval(numbers: Mapping[str, Any]) -> str:
    """The accuracy of an evaluation as `86.41% (85.73% to 87.07%)`, without the interval where there is none."""
    if not (interval := numbers.get("accuracy_interval")):
        return shown(numbers["accuracy"])
    return f"{numbers['accuracy']:.2%} ({interval[0]:.2%} to {interval[1]:.2%})"


def without_copies(numbers: Mapping[str, Any]) -> str:
    """What follows a number of test images in a sentence, where some of the split's images are copies of others."""
    copies = numbers.get("copies", 0)
    return f" ({copies:,} more {'is a copy' if copies == 1 else 'are copies'}, not counted)" if copies else ""
