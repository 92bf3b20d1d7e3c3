"""Files that wait for work, cut into shards: a list in the store's staging area, which every machine can read.

staging/plans/<sha256>.arrow     the entries, a record batch a shard
staging/plans/<sha256>.json      the plan: which list it is of, and what is known of each shard
"""

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from artifacts.disk import Disk, hash_file
from artifacts.documents import seal, unseal
from artifacts.errors import Corrupt
from artifacts.living import take
from artifacts.opening import use_file
from tasks.shared.listing import Entry, digest_entries

_SCHEMA = pa.schema(
    [("path", pa.binary()), ("bytes", pa.int64()), ("mtime_ns", pa.int64()), ("regular", pa.bool_())]
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Entries of a folder, cut into shards.

    key: in the store's staging area.
    listing: the SHA-256 (hex) of the entries.
    file: of these, open, as a cache may lose it, and not mapped: nothing of it is in memory but the shard that is read.
    digests: of the entries of each shard.
    shard_rows: how many entries each shard has.
    listed: when the listing began, in seconds since the epoch.
    where: the `real_path` of the folder that was listed.
    """

    key: str
    listing: str
    file: pa.ipc.RecordBatchFileReader
    digests: list[str]
    shard_rows: list[int]
    listed: float
    where: str

    @property
    def rows(self) -> int:
        return sum(self.shard_rows)

    def entries(self, shard: int) -> pa.Table:
        """path (binary), bytes, mtime_ns (int64), regular (bool), sorted by path."""
        return pa.Table.from_batches([self.file.get_batch(shard)])


def save_plan(
    disk: Disk, shards: Iterable[list[Entry]], where: str, record: Callable[[str], str] | None = None
) -> str | None:
    """The key of a new plan; None for no shards.

    where: the `real_path` of the folder.
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
        take(disk, _entries_key(entries), path)  # another one may have listed it
    plan = {"entries": entries, "digests": digests, "rows": rows, "listed": round(listed, 3), "where": where}
    if record:
        plan["records"] = list(map(record, digests))
    content = seal(plan)
    key = f"staging/plans/{hashlib.sha256(content).hexdigest()}.json"
    take(disk, key, content)
    return key


def load_plan(disk: Disk, key: str) -> Plan:
    """The plan that is under a key of the staging area. Raises NotFound and Corrupt."""
    plan = unseal(disk.read(key), key)
    try:
        file = use_file(disk, _entries_key(plan["entries"]), plan["entries"], _open)
    except Corrupt as error:
        raise Corrupt(f"{error}; run it again, the folder is listed anew") from None
    return Plan(key, plan["entries"], file, plan["digests"], plan["rows"], plan["listed"], plan["where"])


def remove_plan(disk: Disk, plan: Plan) -> None:
    """Its work is done."""
    disk.remove(plan.key)
    disk.remove(_entries_key(plan.listing))


def _open(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.OSFile(str(path)))


def _entries_key(sha256: str) -> str:
    return f"staging/plans/{sha256}.arrow"
