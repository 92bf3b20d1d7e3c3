"""A listed folder, cut into shards: what the stage `plan` leaves in the store's staging area."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.disk import Disk
from artifacts.errors import Corrupt


@dataclass(frozen=True)
class Plan:
    """A listed folder: a Parquet file that has a row group for each shard.

    key: in the store's staging area.
    path: of the file.
    digests: of the entries of each shard.
    shard_rows: how many entries each shard has.
    listed: when the listing began, in seconds since the epoch.
    where: the `real_path` of the folder that was listed.
    """

    key: str
    path: Path
    digests: list[str]
    shard_rows: list[int]
    listed: float
    where: str

    @property
    def rows(self) -> int:
        return sum(self.shard_rows)

    def entries(self, shard: int) -> pa.Table:
        """path (binary), bytes, mtime_ns (int64), regular (bool), sorted by path."""
        return self._file.read_row_group(shard)

    @cached_property
    def _file(self) -> pq.ParquetFile:
        """Opened once: the footer grows with the number of shards."""
        return pq.ParquetFile(self.path)


def load_plan(disk: Disk, key: str) -> Plan:
    """The plan that is under a key of the staging area. Raises NotFound and Corrupt."""
    sha256 = key.rpartition("/")[2].removesuffix(".parquet")
    found = disk.materialize(key, sha256)
    if found.sha256 != sha256:
        raise Corrupt(f"{key} is damaged: it is not what was written; run it again, the folder is listed anew")
    path = found.path
    footer = pq.read_metadata(path)
    rows = [footer.row_group(shard).num_rows for shard in range(footer.num_row_groups)]
    metadata = footer.metadata
    return Plan(
        key,
        path,
        json.loads(metadata[b"lookbook.shards"]),
        rows,
        float(metadata[b"lookbook.listed"]),
        json.loads(metadata[b"lookbook.where"]),
    )
