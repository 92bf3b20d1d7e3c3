"""Arrow files that grow in number and never change: what long work has finished so far, committed a piece at a time.

    <folder>/<sha256>.arrow

A segment is named by its own SHA-256, so one that is damaged is noticed and its rows are made anew, and two that are
equal are one.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from artifacts.disk import Disk, hash_file
from artifacts.errors import AlreadyExists, Corrupt, StoreError
from artifacts.opening import use_file

_BYTES = 64 << 20  # that are in memory until they are committed
_SECONDS = 10.0  # after which they are, however few: what a kill costs at most


class Segments:
    """The segments in one folder of the store. Use as a context: however it is left, what was added is committed.

    folder: its key.
    schema: of the rows.
    keys: of the segments that were taken over or committed.
    """

    def __init__(self, disk: Disk, folder: str, schema: pa.Schema) -> None:
        self.keys: list[str] = []
        self._disk = disk
        self._folder = folder
        self._schema = schema
        self._added: list[pa.RecordBatch] = []
        self._bytes = 0
        self._committed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self.commit()
        except StoreError:
            if kind is None:
                raise

    def add(self, columns: Sequence[pa.Array], size: int) -> None:
        """Keep rows, and commit them when they are many, or when the last time is long ago.

        size: their bytes. Raises StoreError when the disk refuses.
        """
        self._added.append(pa.RecordBatch.from_arrays([*columns], schema=self._schema))
        self._bytes += size
        if self._bytes > _BYTES or time.monotonic() - self._committed > _SECONDS:
            self.commit()

    def commit(self) -> None:
        """Commit what was added as a segment of its own."""
        added, self._added, self._bytes = self._added, [], 0
        if added:
            with self._disk.scratch() as folder:
                path = folder / "segment.arrow"
                with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, self._schema) as writer:
                    for batch in added:
                        writer.write_batch(batch)
                key = f"{self._folder}/{hash_file(path)[0]}.arrow"
                with suppress(AlreadyExists):
                    self._disk.create(key, path)
                self.on_batches(_read(path))
            self.keys.append(key)
        self._committed = time.monotonic()

    def on_batches(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Called with the rows of each segment that is committed or taken over: memory maps, which stay readable when
        the segment is removed."""
        raise NotImplementedError

    def take_over(self, key: str) -> None:
        """Read a segment that is there. One that is damaged is removed. Raises NotFound."""
        named = key.rpartition("/")[2].removesuffix(".arrow")
        try:
            batches = use_file(self._disk, key, named, _read)
        except Corrupt:
            self._disk.remove(key)
        else:
            self.on_batches(batches)
            self.keys.append(key)


def _read(path: Path) -> list[pa.RecordBatch]:
    with pa.memory_map(str(path)) as file:  # what was read stays mapped: thousands of segments take no descriptors
        return list(pa.ipc.open_file(file).read_all().to_batches())
