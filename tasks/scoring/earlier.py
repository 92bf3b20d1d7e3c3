"""Rows scored before, which a changed shard takes over."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from artifacts import aliases, predictions
from artifacts.errors import Corrupt, NotFound
from artifacts.predictions import PASSING_ERRORS
from artifacts.shards import Shards
from artifacts.store import Store
from tasks.scoring.job import Job
from tasks.shared.listing import to_bytes, to_text


class Earlier:
    """Rows scored before by the same weights in the same way: in this shard's record, or in the newest table.

    `fresh`: there are none.
    """

    def __init__(self, store: Store, job: Job, fresh: bool) -> None:
        self._store, self._job, self._fresh = store, job, fresh
        self._table: predictions.Predictions | None = None
        self._same_folder = False
        self._firsts: list[bytes] = []
        ref = None if fresh else aliases.current(store.disk, "predictions", job.name, "latest")
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

    def rows(
        self, shard: str, paths: list[bytes], sizes: np.ndarray, mtimes: np.ndarray
    ) -> tuple[pa.Table | None, np.ndarray, dict[int, str], dict[int, int]]:
        """A table, and for each path the row in it that stays (-1: none). `shard`: the shard's digest.

        Where the time differs, or the table is of another folder, the content decides: item -> its SHA-256 then, and
        item -> its row.
        """
        kept = np.full(len(paths), -1, np.int64)
        known: dict[int, str] = {}
        touched: dict[int, int] = {}
        parts = [
            index
            for index, first in enumerate(self._firsts)
            if first <= paths[-1] and (index + 1 == len(self._firsts) or self._firsts[index + 1] > paths[0])
        ]
        try:
            recorded = None if self._fresh else Shards(self._store.disk).finished(self._job.record(shard))
            if recorded:  # with rows that may go better now
                table, same_folder = pq.read_table(self._store.disk.local_path(recorded.key)), True
            elif self._table and parts:
                table = pa.concat_tables([self._table.read(index) for index in parts])
                same_folder = self._same_folder
            else:
                return None, kept, known, touched
        except (NotFound, Corrupt):
            return None, kept, known, touched
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
        return table, kept, known, touched
