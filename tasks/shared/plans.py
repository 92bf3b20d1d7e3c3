"""Files that wait for work, cut into shards: a list in the store's staging area, which every machine can read.

staging/plans/<random>.arrow     the entries, a record batch a shard
staging/plans/<random>.json      the plan: what is known of each shard

A plan belongs to the run that made it, and goes with it: two runs that list the same folder have a plan each.
"""

import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from artifacts.disk import Disk, hash_file
from artifacts.documents import seal, unseal
from artifacts.errors import Corrupt, StoreError
from artifacts.opening import use_file
from tasks.shared.listing import Entry, digest_entries

_FOLDER = "staging/plans"
_SCHEMA = pa.schema(
    [("path", pa.binary()), ("bytes", pa.int64()), ("mtime_ns", pa.int64()), ("regular", pa.bool_())]
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Entries of a folder, cut into shards.

    key: in the store's staging area.
    file: the entries, open, as a cache may lose it, and not mapped: in memory is the shard that is read, and no more.
    digests: of the entries of each shard.
    shard_rows: how many entries each shard has.
    listed: when the listing began, in seconds since the epoch.
    where: the `real_path` of the folder that was listed.
    fresh: the mark of the fresh scoring that it is of; None for any other work.
    """

    key: str
    file: pa.ipc.RecordBatchFileReader
    digests: list[str]
    shard_rows: list[int]
    listed: float
    where: str
    fresh: str | None = None

    @property
    def rows(self) -> int:
        return sum(self.shard_rows)

    def entries(self, shard: int) -> pa.Table:
        """path (binary), bytes, mtime_ns (int64), regular (bool), sorted by path."""
        return pa.Table.from_batches([self.file.get_batch(shard)])


def save_plan(
    disk: Disk,
    shards: Iterable[list[Entry]],
    where: str,
    record: Callable[[str], str] | None = None,
    fresh: str | None = None,
) -> str | None:
    """The key of a new plan; None for no shards.

    where: the `real_path` of the folder.
    fresh: the mark of a fresh scoring.
    record: gives the digest under which a shard goes on record, of the digest of its entries. A run that needs the plan
    needs those records, too (artifacts/collecting).
    """
    listed = time.time()
    digests: list[str] = []
    rows: list[int] = []
    with disk.scratch() as scratch:
        path = scratch / "plan.arrow"
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA, options=options) as writer:
            for shard in shards:
                digests.append(digest_entries(shard))
                rows.append(len(shard))
                columns: Any = zip(*shard, strict=True)
                writer.write_batch(pa.record_batch(list(map(list, columns)), schema=_SCHEMA))
        if not rows:
            return None
        entries = hash_file(path)[0]
        key = f"{_FOLDER}/{uuid.uuid4().hex}.json"
        disk.create(entries_key(key), path)
    plan = {"entries": entries, "digests": digests, "rows": rows, "listed": round(listed, 3), "where": where}
    plan["fresh"] = fresh
    if record:
        plan["records"] = list(map(record, digests))
    disk.create(key, seal(plan))
    return key


def load_plan(disk: Disk, key: str) -> Plan:
    """The plan that is under a key of the staging area. Raises NotFound and Corrupt."""
    plan = unseal(disk.read(key), key)
    try:
        file = use_file(disk, entries_key(key), plan["entries"], _open)
    except Corrupt as error:
        raise Corrupt(f"{error}; run it again, the folder is listed anew") from None
    return Plan(key, file, plan["digests"], plan["rows"], plan["listed"], plan["where"], plan["fresh"])


def remove_plan(disk: Disk, key: str) -> None:
    """Its run is done. Where the store does not answer, the plan stays until it is collected."""
    with suppress(StoreError):
        disk.remove(key)
        disk.remove(entries_key(key))


def entries_key(key: str) -> str:
    """Where the entries of the plan `key` are."""
    return f"{key.removesuffix('.json')}.arrow"


def _open(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.OSFile(str(path)))
