"""A table of predictions in numbers, with the few rows that a report shows."""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from artifacts import metrics, predictions
from artifacts.errors import Corrupt, NotFound
from artifacts.opening import use_file
from artifacts.refs import Ref
from artifacts.shards import LEAST, Part, confidences
from artifacts.store import Store
from tasks.judging.fairness import fair_to
from tasks.vision.metrics import scale
from tasks.vision.stability import Shift, rise, shift

_A_CLASS, _ERRORS = 6, 5
_BINS = np.linspace(0, 1, 11)
UNSURE_BINS = 5  # of ten: a confidence below one half
_COLUMNS = ["path", "sha256", "bytes", "mtime_ns", "label", "confidence", "error", "detail"]


@dataclass(frozen=True)
class Row:
    """One row of the table, as the report shows it."""

    path: str
    size: int
    mtime_ns: int
    label: str | None
    confidence: float | None
    error: str | None
    detail: str | None


@dataclass
class Summary:
    """Counts and samples. `class_shift`, `confidence_shift` and `low_confidence_rise` (by how much the share of the
    confidences below 0.5 is higher, beyond chance) compare with what is fair of the test split; they are None where the
    predictions of that are not in the store, where the weights have learned from all of it, and where nothing was
    predicted. `calibrated`: how confidence is, in words. `differences`: what the pictures have that those which were
    learned from have not, in sentences."""

    rows: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[Row]] = field(default_factory=dict)
    unsure: list[Row] = field(default_factory=list)
    examples: dict[str, list[Row]] = field(default_factory=dict)
    confidence: list[int] = field(default_factory=lambda: [0] * 10)
    calibrated: str = "not calibrated"
    class_shift: Shift | None = None
    confidence_shift: Shift | None = None
    low_confidence_rise: float | None = None
    differences: dict[str, str] = field(default_factory=dict)

    def shown(self) -> list[Row]:
        """The rows that the page has pictures of."""
        return [*(row for rows in self.samples.values() for row in rows), *self.unsure]


def summarize(
    store: Store,
    weights: Ref,
    dataset: str,
    classes: Sequence[str],
    parts: Iterable[Part],
    temperature: float | None = None,
) -> Summary:
    """Add up what the parts' records tell, and read the few parts whose rows are shown, one after another.

    temperature: that their probabilities are scaled by.
    """
    parts = [part if part.confidence is not None else _looked_into(store, part) for part in parts]
    summary = Summary(
        rows=sum(part.rows for part in parts),
        classes=dict.fromkeys(classes, 0),
        samples={name: [] for name in classes},
    )
    lowest = heapq.nsmallest(LEAST, ((each, place) for place, part in enumerate(parts) for each in part.least or ()))
    unsure_of = Counter(place for _, place in lowest)
    unsure: list[tuple[float, int, Row]] = []
    bins = np.zeros(10, np.int64)
    for place, part in enumerate(parts):
        bins += np.array(part.confidence, np.int64)
        for name, rows in part.labels.items():
            summary.classes[name] += rows
        for kind, rows in part.errors.items():
            summary.errors[kind] = summary.errors.get(kind, 0) + rows
            summary.examples.setdefault(kind, [])
        if unsure_of[place] or _shows(summary, part):
            table = read_part(store, part)
            _show(summary, table)
            unsure += [(row.confidence or 0.0, place, row) for row in _least_certain(table, unsure_of[place])]
    summary.confidence = bins.tolist()
    summary.unsure = [row for _, _, row in sorted(unsure, key=lambda each: each[:2])]
    if bins.any() and (expected := _test_split(store, weights, dataset, temperature or 1.0)) is not None:
        counts = np.array(list(summary.classes.values()), np.int64)
        summary.class_shift = shift(np.bincount(expected.argmax(1), minlength=len(classes)), counts)
        tested = np.histogram(expected.max(1), _BINS)[0]
        summary.confidence_shift = shift(tested, bins)
        unsure_tested, unsure_found = ((int(each[:UNSURE_BINS].sum()), int(each.sum())) for each in (tested, bins))
        summary.low_confidence_rise = rise(unsure_tested, unsure_found)
    return summary


def _looked_into(store: Store, part: Part) -> Part:
    """A part of an earlier Lookbook, with what its record does not tell."""
    confidence, least = confidences(read_part(store, part))
    return replace(part, confidence=confidence, least=least)


def read_part(store: Store, part: Part) -> pa.Table:
    """The rows of a part, with the columns that a report needs."""
    return use_file(store.disk, part.key, part.sha256, lambda path: predictions.read_part(path, _COLUMNS))


def _shows(summary: Summary, part: Part) -> bool:
    """Whether the part has rows that are still looked for."""
    return any(len(summary.samples[name]) < _A_CLASS for name in part.labels) or any(
        len(summary.examples[kind]) < _ERRORS for kind in part.errors
    )


def _show(summary: Summary, table: pa.Table) -> None:
    """Take samples and examples of a part, as far as they are still looked for."""
    for column, wanted, most in (("label", summary.samples, _A_CLASS), ("error", summary.examples, _ERRORS)):
        texts = table.column(column).cast(pa.string()).to_numpy(zero_copy_only=False)
        for text, shown in wanted.items():
            if len(shown) < most:
                shown += [_row(table, int(item)) for item in np.flatnonzero(texts == text)[: most - len(shown)]]


def _least_certain(table: pa.Table, most: int) -> list[Row]:
    """That many rows with the lowest confidence."""
    confidence = table.column("confidence").to_numpy(zero_copy_only=False)
    scored = np.flatnonzero(~np.isnan(confidence))
    return [_row(table, int(item)) for item in scored[np.argsort(confidence[scored], kind="stable")[:most]]]


def _row(table: pa.Table, item: int) -> Row:
    [row] = table.slice(item, 1).to_pylist()
    return Row(row["path"], row["bytes"], row["mtime_ns"], row["label"], row["confidence"], row["error"], row["detail"])


def _test_split(store: Store, weights: Ref, dataset: str, temperature: float) -> np.ndarray | None:
    """The weights' probabilities of what is fair of their own test split, float32 [items, classes]; None for none. An
    evaluation may have them at another temperature than the table: an earlier Lookbook's has them at none."""
    with suppress(NotFound, Corrupt):  # a report is no reason to fail; `lookbook verify` tells
        if found := metrics.find(store, weights, dataset):
            probabilities = found.probabilities()[fair_to(store, weights, Ref.parse(dataset))]
            if temperature != (before := found.temperature or 1.0):
                probabilities = scale(probabilities, temperature / before)
            return np.asarray(probabilities) if len(probabilities) else None
    return None
