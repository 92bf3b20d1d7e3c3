"""A listed folder, cut into shards: what the stage `plan` leaves in the store's staging area."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.disk import Disk


@dataclass(frozen=True)
class Plan:
    """A listed folder: a Parquet file that has a row group for each shard.

    path: of the file.
    digests: of the entries of each shard.
    shard_rows: how many entries each shard has.
    listed: when the listing began, in seconds since the epoch.
    where: the `real_path` of the folder that was listed.
    """

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
    """The plan that is under a key of the staging area. Raises NotFound."""
    path = disk.materialize(key, key.rpartition("/")[2].removesuffix(".parquet")).path
    footer = pq.read_metadata(path)
    rows = [footer.row_group(shard).num_rows for shard in range(footer.num_row_groups)]
    metadata = footer.metadata
    return Plan(
        path,
        json.loads(metadata[b"lookbook.shards"]),
        rows,
        float(metadata[b"lookbook.listed"]),
        json.loads(metadata[b"lookbook.where"]),
    )
