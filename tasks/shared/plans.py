"""Files that wait for work, cut into shards: a list in the store's staging area, which every machine can read."""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.disk import Disk, hash_file
from artifacts.errors import AlreadyExists, Corrupt
from tasks.shared.listing import Entry, digest_entries

_SCHEMA = pa.schema(
    [("path", pa.binary()), ("bytes", pa.int64()), ("mtime_ns", pa.int64()), ("regular", pa.bool_())]
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Entries of a folder: a Parquet file that has a row group for each shard.

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


def save_plan(disk: Disk, shards: Iterable[list[Entry]], where: str) -> str | None:
    """The key of a new plan; None for no shards. where: the `real_path` of the folder."""
    with disk.scratch() as scratch:
        path = scratch / "plan.parquet"
        if not _write(shards, path, where):
            return None
        key = f"staging/plans/{hash_file(path)[0]}.parquet"
        with suppress(AlreadyExists):  # listed by another one in the same millisecond
            disk.create(key, path)
    return key


def _write(shards: Iterable[list[Entry]], path: Path, where: str) -> int:
    """Write a row group for each shard. Returns how many there are."""
    listed = time.time()
    digests: list[str] = []
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        for shard in shards:
            digests.append(digest_entries(shard))
            columns: Any = zip(*shard, strict=True)
            table = pa.table(list(map(list, columns)), schema=_SCHEMA)
            writer.write_table(table, row_group_size=len(shard))
        writer.add_key_value_metadata(
            {
                "lookbook.shards": json.dumps(digests),
                "lookbook.listed": f"{listed:.3f}",
                "lookbook.where": json.dumps(where),
            }
        )
    return len(digests)


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
