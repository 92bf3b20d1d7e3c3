"""Finished shards of a scoring, in the store's staging: parts, and the records that name them.

    staging/parts/<random>.parquet            the rows of a shard, which versions link to; in a bucket, where nothing
                                              can be linked, it is parts/<sha256>.parquet, which manifests name
    staging/shards/<digest>/00000001.json     the part of a shard: the commit
    staging/fresh/<digest>.json               a scoring that takes nothing over and is not done yet

The digest is of all that decides a shard's rows, so whoever finishes a shard does it for everybody.
"""

import re
import time
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from artifacts import owners
from artifacts.disk import Disk, hash_file
from artifacts.documents import digest as digest_of
from artifacts.documents import seal, unseal
from artifacts.errors import AlreadyExists, Corrupt, NotFound
from artifacts.publishing import create_part

LEAST = 18  # rows of a table that its report shows as least certain

COLUMNS = 2  # raise it when columns have other types: earlier rows are then taken over into new parts

FRESH_SECONDS = 24 * 3600
"""How long an interrupted fresh scoring is gone on with. An older one begins anew: nobody remembers that it began."""


@dataclass(frozen=True)
class Part:
    """A finished shard: where its rows are, and what they are.

    key: of its Parquet file.
    sha256: of that file (hex).
    digest: of what went in.
    first: the path of its first row, as in the column.
    rows: how many rows it has.
    labels: class -> rows.
    errors: kind -> rows.
    size: of that file, in bytes.
    confidence: of the rows with a label, how many have a confidence below 0.1, 0.2 and so on up to 1.
    least: their LEAST lowest confidences, ascending.

    The last three are None in records of an earlier Lookbook.
    """

    key: str
    sha256: str
    digest: str
    first: str
    rows: int
    labels: dict[str, int]
    errors: dict[str, int]
    size: int | None = None
    confidence: list[int] | None = None
    least: list[float] | None = None

    def has_any(self, kinds: Collection[str]) -> bool:
        """Whether a row has an error of one of these kinds."""
        return any(kind in kinds for kind in self.errors)


def part_of(document: Mapping[str, Any]) -> Part:
    """The part that a record, or a receipt, tells. What a later Lookbook adds is passed over."""
    return Part(**{field.name: document[field.name] for field in fields(Part) if field.name in document})


def confidences(rows: pa.Table) -> tuple[list[int], list[float]]:
    """`confidence` and `least` of a Part with these rows."""
    found = rows.column("confidence").drop_null().to_numpy()
    return np.histogram(found, _TENTHS)[0].tolist(), [float(each) for each in np.sort(found)[:LEAST]]


_TENTHS = np.linspace(0, 1, 11)
_RECORD = re.compile(r"/[0-9]{8}\.json$")  # an editor's copy of one, say, is none


def record_digest(shard: str, folder: str) -> str:
    """The digest under which the shard with the digest `shard` is on record. The folder, without links, is in it: in
    another one, files of the same paths, sizes and times may be other files. COLUMNS is in it, too, so that the parts
    of one table have the same columns."""
    return digest_of({"shard": shard, "folder": folder, "columns": COLUMNS})


class Shards:
    """The finished shards of one store."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def finish(self, record: str, digest: str, rows: pa.Table, fresh: str | None = None) -> Part:
        """Write the rows of a finished shard as a part, and put it on record.

        record: the digest that the record is under.
        digest: of what went into the shard.
        rows: a table with the columns of `artifacts.predictions`, one row at least.
        fresh: the mark of the fresh scoring that made it.

        Returns the part that counts, as `record` does.
        """
        with self._disk.scratch() as scratch:
            path = scratch / "part.parquet"
            pq.write_table(rows, path, compression="zstd")
            key, sha256 = self.create(path)
            size = path.stat().st_size
        first = rows.column("path")[0].as_py()
        counts = _counts(rows, "label"), _counts(rows, "error")
        part = Part(key, sha256, digest, first, len(rows), *counts, size, *confidences(rows))
        return self.record(record, part, fresh)

    def create(self, path: Path) -> tuple[str, str]:
        """Take over a file of the store's scratch area as a part. Returns its key and its SHA-256 (hex)."""
        sha256, size = hash_file(path)
        if not self._disk.links:
            return create_part(self._disk, path, sha256), sha256
        key = f"staging/parts/{uuid.uuid4().hex}.parquet"
        self._disk.create(key, path)
        self._disk.remember(key, sha256, size)
        return key, sha256

    def finished(self, digest: str, fresh: str | None = None) -> Part | None:
        """The shard's part if it is on record and undamaged; with `fresh` only if that fresh scoring made it."""
        _, part, writer = self._newest(digest)
        made_by_it = fresh is None or writer.startswith(f"{fresh}-")
        return part if part and made_by_it and self._undamaged(part) else None

    def record(self, digest: str, part: Part, fresh: str | None = None) -> Part:
        """Put `part` on record as the shard `digest`. Returns the part that counts: an equal one that was there before
        is taken instead, and the file of `part` removed."""
        writer = uuid.uuid4().hex if fresh is None else f"{fresh}-{uuid.uuid4().hex}"
        while True:
            number, newest, by = self._newest(digest)
            if by == writer:  # the disk wrote it, and its answer was lost
                return part
            if newest and newest.sha256 == part.sha256 and self._undamaged(newest):
                if newest.key != part.key:
                    self._disk.remove(part.key)
                part = newest
                if fresh is None or by.startswith(f"{fresh}-"):
                    return part
            try:
                self._disk.create(f"{_folder(digest)}/{number + 1:08d}.json", seal({**asdict(part), "writer": writer}))
            except AlreadyExists:
                continue
            return part

    def begin_fresh(self, digest: str) -> str:
        """The mark of the fresh scoring `digest`: a new one, or that of one that was interrupted within a day.

        One that another process of this machine still works on is none of those; of another machine's that can't be
        told.
        """
        key = fresh_key(digest)
        while True:
            begun = {"mark": uuid.uuid4().hex, "began": round(time.time(), 3)}
            try:
                found = unseal(self._disk.read(key), key)
                if abs(time.time() - found["began"]) < FRESH_SECONDS:  # a clock may have been ahead
                    owner = found.get("owner", "")
                    if owners.is_mine(owner):
                        return str(found["mark"])
                    if owners.has_ended(owner) is not False:
                        begun = {"mark": found["mark"], "began": found["began"]}
            except (NotFound, Corrupt):
                pass
            self._disk.remove(key)
            with suppress(AlreadyExists):
                self._disk.create(key, seal({**begun, "owner": owners.new_name()}))
                return str(begun["mark"])

    def end_fresh(self, digest: str, mark: str) -> None:
        """The fresh scoring that has this mark is published: the next one begins anew."""
        key = fresh_key(digest)
        try:
            ended = unseal(self._disk.read(key), key)["mark"] == mark
        except NotFound:
            return
        except Corrupt:
            ended = True
        if ended:
            self._disk.remove(key)

    def _newest(self, digest: str) -> tuple[int, Part | None, str]:
        """The number of the newest record (0 without any), its part (None when it is damaged), and its writer."""
        keys = [key for key in self._disk.list(_folder(digest)) if _RECORD.search(key)]
        if not keys:
            return 0, None, ""
        number = int(keys[-1].rpartition("/")[2].removesuffix(".json"))
        try:
            document = unseal(self._disk.read(keys[-1]), keys[-1])
        except Corrupt:
            return number, None, ""
        writer = str(document.pop("writer"))
        return number, part_of(document), writer

    def _undamaged(self, part: Part) -> bool:
        try:
            return self._disk.materialize(part.key, part.sha256).sha256 == part.sha256
        except NotFound:
            return False


def fresh_key(digest: str) -> str:
    """Where the mark of the fresh scoring `digest` is."""
    return f"staging/fresh/{digest}.json"


def _counts(table: pa.Table, column: str) -> dict[str, int]:
    """How many rows have each text in a column. Rows without any are left out."""
    counted = table.column(column).cast(pa.string()).drop_null().value_counts().to_pylist()
    return {each["values"]: each["counts"] for each in sorted(counted, key=lambda each: each["values"])}


def _folder(digest: str) -> str:
    return f"staging/shards/{digest}"
