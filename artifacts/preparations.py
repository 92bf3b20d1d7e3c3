"""What earlier preparations read, in the store's staging: so that the same files are not read again.

    staging/prepared/<digest>/00000007.parquet     a row a file, and the dataset that came of them

The digest is of all that decides what a file becomes. A preparation that looked at the same files needs none of them;
one that has more of them takes over the pixels of those that it knows.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.disk import Disk
from artifacts.documents import digest
from artifacts.errors import AlreadyExists, InvalidRef, NotFound
from artifacts.refs import Ref

FILE = pa.schema(
    {"path": pa.binary(), "bytes": pa.int64(), "mtime_ns": pa.int64(), "sha256": pa.string(), "bad": pa.string()}
)


class Read(NamedTuple):
    """A file as it was read: its path, size (bytes) and time (ns), the SHA-256 of its content (hex), and what is bad
    about it (None: nothing)."""

    path: bytes
    size: int
    mtime_ns: int
    sha256: str | None
    bad: str | None


@dataclass(frozen=True)
class Preparation:
    """listed: digest of what was looked at; dataset: what came of it; `files` are read when they are asked for."""

    listed: str
    dataset: Ref
    _content: bytes

    def files(self) -> list[Read]:
        """None where the record is damaged: they are read again then."""
        try:
            table = pq.read_table(io.BytesIO(self._content), page_checksum_verification=True)
        except (pa.ArrowException, OSError):
            return []
        return [Read(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def dataset_of(disk: Disk, key: str) -> Ref | None:
    """The dataset that a record is of; None where it can't be read."""
    with suppress(NotFound, InvalidRef, pa.ArrowException, OSError, KeyError, TypeError):
        return Ref.parse(pq.read_schema(io.BytesIO(disk.read(key))).metadata[b"dataset"].decode())
    return None


class Preparations:
    """The preparations that were `decided_by` the same values; the newest is kept."""

    def __init__(self, disk: Disk, decided_by: Mapping[str, Any]) -> None:
        self._disk = disk
        self._folder = f"staging/prepared/{digest(dict(decided_by))}"

    def newest(self) -> Preparation | None:
        """None when there is none that can be read: it only saves work."""
        with suppress(NotFound, InvalidRef, pa.ArrowException, OSError, KeyError, TypeError):
            content = self._disk.read(self._keys()[-1]) if self._keys() else b""
            metadata = pq.read_schema(io.BytesIO(content)).metadata
            return Preparation(metadata[b"listed"].decode(), Ref.parse(metadata[b"dataset"].decode()), content)
        return None

    def save(self, listed: str, dataset: Ref, files: Sequence[Read] = ()) -> None:
        """Put on record what came of what was `listed`, and drop what was on record before."""
        columns: Any = [list(column) for column in zip(*files, strict=True)] or [[] for _ in FILE]
        schema = FILE.with_metadata({"listed": listed, "dataset": str(dataset)})
        content = io.BytesIO()
        pq.write_table(pa.table(columns, schema=schema), content, compression="zstd", write_page_checksum=True)
        before = self._keys()
        number = int(before[-1].rpartition("/")[2].removesuffix(".parquet")) + 1 if before else 1
        with suppress(AlreadyExists):  # another preparation was first: its record is as good
            self._disk.create(f"{self._folder}/{number:08}.parquet", content.getvalue())
        for key in before:
            self._disk.remove(key)

    def _keys(self) -> list[str]:
        return list(self._disk.list(self._folder))
