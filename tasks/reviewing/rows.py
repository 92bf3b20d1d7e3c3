"""Rows of a table of predictions, picked by what a person wants to look at. A table is read part by part, so its size
decides how long that takes, and not the memory."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from artifacts.predictions import Predictions
from tasks.vision.errors import SettingsError

NOTHING = pa.array([], pa.string())
PICKED = 2000  # rows among which the page chooses what it shows: the least certain ones of those that are wanted

Kind = Literal["unsure", "class", "error", "confidence"]


class Place(NamedTuple):
    """Where a row is in its table."""

    part: int
    row: int


@dataclass(frozen=True)
class Seen:
    """A row as a person sees it. probabilities: float32 [classes]; None where there is no prediction."""

    place: Place
    path: str
    sha256: str | None
    size: int
    mtime_ns: int
    label: str | None
    confidence: float | None
    probabilities: np.ndarray | None
    error: str | None
    detail: str | None

    @property
    def margin(self) -> float:
        """How far the most probable class is ahead of the next one, 0 to 1."""
        if self.probabilities is None or len(self.probabilities) < 2:
            return 0.0
        second, first = np.partition(self.probabilities, -2)[-2:]
        return float(first - second)


@dataclass(frozen=True)
class Wanted:
    """Which rows. kind: unsure (all predictions), class or error (`value`), or confidence (`low` to `high`)."""

    kind: Kind = "unsure"
    value: str = ""
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Wanted":
        """`unsure`, `class:T-shirt`, `error:corrupt` or `confidence:0.4-0.6`. Raises SettingsError."""
        kind, _, value = text.partition(":")
        if kind == "unsure" and not value:
            return cls()
        if kind in ("class", "error") and value:
            return cls("class" if kind == "class" else "error", value)
        if kind == "confidence":
            low, _, high = value.partition("-")
            try:
                if 0 <= float(low) <= float(high) <= 1:
                    return cls("confidence", low=float(low), high=float(high))
            except ValueError:
                pass
        raise SettingsError(
            f"expected unsure, class:NAME, error:KIND or confidence:0.4-0.6 as what to show, found {text!r}"
        )

    def among(self, rows: pa.Table) -> np.ndarray:
        """Of a part's rows (confidence, label, error) those that are wanted: int64."""
        if self.kind == "error":
            return np.flatnonzero(pc.fill_null(pc.equal(_text(rows, "error"), self.value), False).to_numpy())
        confidence = rows.column("confidence").to_numpy()
        if self.kind == "class":
            return np.flatnonzero(pc.fill_null(pc.equal(_text(rows, "label"), self.value), False).to_numpy())
        return np.flatnonzero((confidence >= self.low) & (confidence <= self.high))


def pick(table: Predictions, wanted: Wanted, most: int = PICKED) -> list[Place]:
    """The `most` least certain ones of the rows that are wanted, least certain first; errors in their order."""
    confidences, places = np.empty(0, np.float32), np.empty((0, 2), np.int64)
    for part in range(len(table.parts)):
        rows = table.read(part, ["confidence", "label", "error"])
        found = wanted.among(rows)
        theirs = rows.column("confidence").to_numpy()[found]
        if wanted.kind == "error":
            theirs = np.zeros(len(found), np.float32)
        lowest = np.argsort(theirs, kind="stable")[:most]
        confidences = np.concatenate([confidences, theirs[lowest]])
        places = np.concatenate([places, np.stack([np.full(len(lowest), part), found[lowest]], axis=1)])
        keep = np.argsort(confidences, kind="stable")[:most]
        confidences, places = confidences[keep], places[keep]
    return [Place(part, row) for part, row in places.tolist()]


def read(table: Predictions, places: Sequence[Place]) -> list[Seen]:
    """These rows, in order. Raises IndexError for one that is not there."""
    of_part: dict[int, list[int]] = {}
    for each in places:
        of_part.setdefault(each.part, []).append(each.row)
    found: dict[Place, Seen] = {}
    for part, rows in of_part.items():
        if part >= len(table.parts):
            raise IndexError(part)
        taken = table.read(part, _COLUMNS).take(sorted(set(rows)))
        found.update({each.place: each for each in _seen(part, sorted(set(rows)), taken)})
    return [found[each] for each in places]


def rows_by_class(table: Predictions, but: pa.Array = NOTHING) -> dict[str, int]:
    """class -> how many rows the model gave it, without those of the contents `but` (SHA-256, hex)."""
    found: Counter[str] = Counter()
    for part in range(len(table.parts)):
        found.update(_labels(table, part, but).drop_null().to_pylist())
    return dict(sorted(found.items()))


def draw(table: Predictions, per_class: Mapping[str, int], seed: int, but: pa.Array = NOTHING) -> list[Place]:
    """So many rows of each class, drawn at random and in random order; none of the contents `but` (SHA-256, hex). The
    same seed draws the same ones."""
    random = np.random.default_rng(seed)
    rows_of = rows_by_class(table, but)
    ranks = {
        name: np.sort(random.choice(rows_of[name], size=wanted, replace=False))
        for name, wanted in sorted(per_class.items())
        if wanted
    }
    met: Counter[str] = Counter()
    drawn: list[Place] = []
    for part in range(len(table.parts)):
        labels = _labels(table, part, but).to_numpy(zero_copy_only=False)
        for name, wanted in ranks.items():
            mine = np.flatnonzero(labels == name)
            of_these = wanted[(wanted >= met[name]) & (wanted < met[name] + len(mine))] - met[name]
            drawn += [Place(part, int(row)) for row in mine[of_these]]
            met[name] += len(mine)
    return [drawn[place] for place in random.permutation(len(drawn))]


def _labels(table: Predictions, part: int, but: pa.Array) -> pa.ChunkedArray:
    """What the model said of each row; null where it said nothing, and for the contents `but`."""
    rows = table.read(part, ["label", "sha256"])
    return pc.if_else(pc.is_in(rows.column("sha256"), value_set=but), None, _text(rows, "label"))


_COLUMNS = ["path", "sha256", "bytes", "mtime_ns", "label", "confidence", "probabilities", "error", "detail"]


def _seen(part: int, rows: Sequence[int], taken: pa.Table) -> Iterator[Seen]:
    columns = [taken.column(name).to_pylist() for name in _COLUMNS]
    for row, values in zip(rows, zip(*columns, strict=True), strict=True):
        path, sha256, size, mtime_ns, label, confidence, probabilities, error, detail = values
        vector = None if probabilities is None else np.array(probabilities, np.float32)
        yield Seen(Place(part, row), path, sha256, size, mtime_ns, label, confidence, vector, error, detail)


def _text(rows: pa.Table, column: str) -> pa.ChunkedArray:
    return rows.column(column).cast(pa.string())
