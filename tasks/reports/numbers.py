"""Numbers as people read them. What has no value is a dash."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from artifacts.printable import many as many

if TYPE_CHECKING:
    from artifacts.metrics import ClassNumbers, Numbers

CLASSES = 500  # up to so many a table has a row for each
WEAKEST = 100  # and with more of them a row for each of the weakest


def shown(value: float | None, form: str = "{:.2%}") -> str:
    return "-" if value is None else form.format(value)


def plain(value: object) -> str:
    """A setting, or another value of a manifest, in words: never as Python writes it."""
    if isinstance(value, Mapping):
        inner = {name: plain(each) for name, each in value.items()}
        given = {name: f"({text})" if isinstance(value[name], Mapping) else text for name, text in inner.items()}
        return ", ".join(f"{name} {text}" for name, text in given.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value)) or "-"
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return str(value)


def size(count: int) -> str:
    """Bytes as `1.2 MB`, in powers of 1000."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return many(count, "byte") if unit == "bytes" else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def weakest(per_class: Mapping[str, "ClassNumbers"], classes: Sequence[str]) -> tuple[list[str], str]:
    """The classes that a table has rows for, and what it says of the others: all of them, or, with more than CLASSES,
    the WEAKEST ones by F1. A class without an F1 comes last."""
    if len(classes) <= CLASSES:
        return list(classes), ""
    f1 = {name: per_class[name].f1 for name in classes}
    order = sorted(classes, key=lambda name: 2.0 if (value := f1[name]) is None else value)
    return order[:WEAKEST], f"The {WEAKEST} classes with the lowest F1 of {len(classes):,}; metrics.json has all."


def with_interval(numbers: "Numbers") -> str:
    """The accuracy of an evaluation as `86.41% (85.73% to 87.07%)`, without the interval where there is none."""
    if numbers.accuracy is None or numbers.accuracy_interval is None:
        return shown(numbers.accuracy)
    low, high = numbers.accuracy_interval
    return f"{numbers.accuracy:.2%} ({low:.2%} to {high:.2%})"


def calibrated(temperature: float | None, calibration: Mapping[str, Any] | None) -> str:
    """How the confidence of weights is: what follows `confidence is` in a sentence.

    calibration: by what the temperature was fitted (`artifacts.weights.save`); None where nobody wrote it down.
    """
    if temperature is None:
        return "not calibrated: these weights have no temperature"
    told = f"calibrated by the temperature {temperature:.3f}"
    if calibration is None:
        return told
    images = many(calibration["items"], "image")
    fitted_to = {"held-out": f"{images} held out", "out-of-fold": f"out-of-fold predictions of {images}"}
    bound = "; all of these were right, so it is a bound" if calibration.get("bound") else ""
    return f"{told}, fitted to {fitted_to[calibration['by']]}{bound}"


def without_copies(numbers: "Numbers") -> str:
    """What follows a number of test images in a sentence, where some of the split's images do not count: copies of
    others, and those that the model has learned from."""
    parts = []
    if numbers.copies:
        parts.append(f"{numbers.copies:,} more {'is a copy' if numbers.copies == 1 else 'are copies'}")
    if numbers.learned:
        is_ = "is" if numbers.learned == 1 else "are"
        parts.append(f"{numbers.learned:,} more {is_} the same, or nearly, as training images")
    return f" ({', and '.join(parts)}, not counted)" if parts else ""
