"""The rows of one shard: what stays, what becomes of the rest, and the Parquet table of both."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from tasks.scoring.earlier import Earlier
from tasks.scoring.job import Job
from tasks.shared.listing import to_text
from tasks.vision.files import DecodedFiles, Files, cut
from tasks.vision.images import ImageSpec


class Shard:
    """One shard while it is worked on: its entries, the rows that stay, and the rows that come.

    number: its place in the plan.
    digest: of what goes into it.
    paths, sizes (bytes), mtimes (ns): of its entries.
    kept: int64, for each entry the row of `table` that stays; -1 for none.
    wanted: int64, the entries to decode.
    odd: int64, the entries that are no files and have no row yet.
    """

    def __init__(self, number: int, digest: str, entries: pa.Table, earlier: Earlier) -> None:
        """Find out which of a plan's `entries` have rows already."""
        self.number, self.digest = number, digest
        self.paths: list[bytes] = entries.column("path").to_pylist()
        self.sizes = entries.column("bytes").to_numpy()
        self.mtimes = entries.column("mtime_ns").to_numpy()
        found = earlier.rows(digest, self.paths, self.sizes, self.mtimes)
        self.table, self.kept = found.table, found.kept
        self._known, self._touched = found.known, found.touched
        regular = entries.column("regular").to_numpy(zero_copy_only=False)
        self.kept[~regular] = -1
        rows = len(self.paths)
        self.odd = np.flatnonzero(~regular & (self.kept < 0))
        self.wanted = np.flatnonzero(regular & (self.kept < 0))
        self.sha256: list[str | None] = [None] * rows
        self.width, self.height = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        self.errors: dict[int, tuple[str, str]] = dict.fromkeys(
            self.odd.tolist(), ("unsupported", "the entry is no regular file but a link, a pipe or a device")
        )
        self.probabilities: np.ndarray | None = None

    @property
    def reused(self) -> int:
        """How many rows stay."""
        return int((self.kept >= 0).sum())

    def chunks(self, spec: ImageSpec) -> Iterator["Chunk"]:
        """What to decode by `spec`, a request at a time; one empty request where there is nothing to decode."""
        for items in cut(self.wanted, self.sizes, spec):
            known = {place: self._known[item] for place, item in enumerate(items.tolist()) if item in self._known}
            sizes, mtimes = self.sizes[items].tolist(), self.mtimes[items].tolist()
            yield Chunk(self, items, Files([self.paths[item] for item in items], sizes, mtimes, known))

    def take(self, items: np.ndarray, decoded: DecodedFiles, probabilities: np.ndarray) -> None:
        """Note what became of a chunk's items. probabilities: float32 [items, classes]."""
        if self.probabilities is None:
            self.probabilities = np.zeros((len(self.paths), probabilities.shape[1]), np.float32)
        self.probabilities[items] = probabilities
        self.width[items], self.height[items] = decoded.width, decoded.height
        for item, sha256 in zip(items.tolist(), decoded.sha256, strict=True):
            self.sha256[item] = sha256
        for place, error in decoded.errors.items():
            self.errors[int(items[place])] = error
        for place in decoded.same:  # touched, not changed: the row stays, but for its time
            self.kept[items[place]] = self._touched[int(items[place])]


@dataclass(frozen=True)
class Chunk:
    """Files of a shard that are decoded by one request. items: int64, their places in the shard."""

    shard: Shard
    items: np.ndarray
    files: Files


def table_of(job: Job, shard: Shard) -> pa.Table:
    """A row an entry, in the order of the paths, with the columns of `artifacts.predictions`."""
    schema = job.schema()
    rows = len(shard.paths)
    fine = np.ones(rows, bool)
    if shard.errors:
        fine[list(shard.errors)] = False
    probabilities = shard.probabilities if shard.probabilities is not None else np.zeros((rows, len(job.classes)), "f4")
    errors = [shard.errors.get(row, (None, None)) for row in range(rows)]
    best = probabilities.argmax(axis=1).astype(np.int32)
    labels = pa.DictionaryArray.from_arrays(pa.array(best, mask=~fine), pa.array(job.classes))
    ends = np.concatenate([[0], np.cumsum(fine * len(job.classes))]).astype(np.int32)
    columns: list[Any] = [
        pa.array([to_text(path) for path in shard.paths]),
        pa.array(shard.sha256, pa.string()),
        pa.array(shard.sizes),
        pa.array(shard.mtimes),
        pa.array(shard.width, mask=~fine),
        pa.array(shard.height, mask=~fine),
        labels,
        pa.array(probabilities.max(axis=1), mask=~fine),
        pa.ListArray.from_arrays(ends, probabilities[fine].ravel(), mask=pa.array(~fine)),
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([str(job.weights)])),
        pa.array([kind for kind, _ in errors], pa.string()).dictionary_encode(),
        pa.array([detail for _, detail in errors], pa.string()),
    ]
    table = pa.table(columns, schema=schema)
    kept = np.flatnonzero(shard.kept >= 0)
    if shard.table is None or not len(kept):
        return table
    # Copied rows, put between the others: their path, size and time are the plan's, the rest is as it was.
    both = pa.concat_tables([table, shard.table.cast(schema)]).unify_dictionaries()
    order = np.arange(rows)
    order[kept] = rows + shard.kept[kept]
    merged = both.take(pa.array(order)).combine_chunks()
    for name in ("path", "bytes", "mtime_ns"):
        merged = merged.set_column(schema.get_field_index(name), schema.field(name), table.column(name))
    # In the order in which they occur, as in a table scored at once: the same rows are the same bytes.
    error = merged.column("error").cast(pa.string()).combine_chunks().dictionary_encode()
    merged = merged.set_column(schema.get_field_index("error"), schema.field("error"), error)
    for name in ("label", "weights"):
        column = table.column(name).combine_chunks().dictionary
        codes = pa.compute.index_in(merged.column(name).cast(pa.string()).combine_chunks(), value_set=column)
        merged = merged.set_column(
            schema.get_field_index(name), schema.field(name), pa.DictionaryArray.from_arrays(codes, column)
        )
    return merged
