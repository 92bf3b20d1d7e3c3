"""Rows scored before, which a changed shard takes over."""

from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from artifacts import aliases, predictions
from artifacts.errors import Corrupt, NotFound
from artifacts.opening import use_file
from artifacts.predictions import PASSING_ERRORS
from artifacts.shards import Shards
from artifacts.store import Store
from tasks.scoring.job import Job
from tasks.shared.listing import to_bytes, to_text


@dataclass(frozen=True)
class EarlierRows:
    """What was scored before of some paths.

    kept: int64, for each path the row of `table` that stays; -1 for none.
    table: the rows; None where nothing was scored before.
    known: item -> the SHA-256 (hex) with which it was scored, where the content must decide whether its row stays.
    touched: item -> its row, where the content must decide.
    """

    kept: np.ndarray
    table: pa.Table | None = None
    known: dict[int, str] = field(default_factory=dict)
    touched: dict[int, int] = field(default_factory=dict)


class Earlier:
    """Rows scored before by the same weights in the same way: in this shard's record, or in the newest table.

    A fresh scoring has none.
    """

    def __init__(self, store: Store, job: Job) -> None:
        self._store, self._job = store, job
        self._table: predictions.Predictions | None = None
        self._same_folder = False
        self._firsts: list[bytes] = []
        ref = None if job.request.fresh else aliases.current(store.disk, "predictions", job.name, "latest")
        if ref is None:
            return
        try:
            found = predictions.load(store, ref)
        except (NotFound, Corrupt):
            return
        identity = found.artifact.identity
        theirs = (identity["inputs"]["weights"], found.artifact.facts["image_spec"], identity["settings"])
        if theirs == (str(job.weights), job.spec.to_dict(), job.settings):
            self._table = found
            self._same_folder = found.artifact.manifest["provenance"].get("folder") == job.where
            self._firsts = [to_bytes(part["first"]) for part in found.parts]

    def rows(self, shard: str, paths: list[bytes], sizes: np.ndarray, mtimes: np.ndarray) -> EarlierRows:
        """What stays of a shard's paths. `shard`: its digest; sizes (bytes), mtimes (ns): int64, as they are now.

        Where the time differs, or the table is of another folder, the content must decide.
        """
        kept = np.full(len(paths), -1, np.int64)
        try:
            table, same_folder = self._candidates(shard, paths)
        except (NotFound, Corrupt):
            return EarlierRows(kept)
        if table is None:
            return EarlierRows(kept)
        known: dict[int, str] = {}
        touched: dict[int, int] = {}
        rows = {path: row for row, path in enumerate(table.column("path").to_pylist())}
        before = {name: table.column(name).to_numpy() for name in ("bytes", "mtime_ns")}
        errors = table.column("error").cast(pa.string()).to_pylist()
        sha256 = table.column("sha256").to_pylist()
        for item, path in enumerate(paths):
            row = rows.get(to_text(path), -1)
            if row < 0 or errors[row] in PASSING_ERRORS or before["bytes"][row] != sizes[item]:
                continue
            if errors[row] == "unsupported" and not sha256[row]:  # a link or a pipe then, and perhaps a file now
                continue
            if same_folder and before["mtime_ns"][row] == mtimes[item]:
                kept[item] = row
            elif sha256[row]:
                known[item] = sha256[row]
                touched[item] = row
        return EarlierRows(kept, table, known, touched)

    def _candidates(self, shard: str, paths: list[bytes]) -> tuple[pa.Table | None, bool]:
        """Rows that may be of these paths, and whether they are of the same folder. Raises NotFound and Corrupt."""
        recorded = None if self._job.request.fresh else Shards(self._store.disk).finished(self._job.record(shard))
        if recorded:  # with rows that may go better now
            return use_file(self._store.disk, recorded.key, recorded.sha256, predictions.read_part), True
        parts = range(max(0, bisect_right(self._firsts, paths[0]) - 1), bisect_right(self._firsts, paths[-1]))
        if self._table and parts:
            return pa.concat_tables([self._table.read(index) for index in parts]), self._same_folder
        return None, False
