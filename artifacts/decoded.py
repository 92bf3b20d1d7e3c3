"""What preparations decoded and did not publish yet, in the store's staging: whoever prepares the same takes it over.

    staging/decoded/<digest>/<sha256>.arrow     a row a file: what was read of it, and its pixels where it is not bad

The digest is of all that decides what a file becomes. A segment is named by its own SHA-256, so one that is damaged is
noticed and decoded again, and two that are equal are one. Whoever publishes a dataset removes what it is made of.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from artifacts.disk import LocalDisk, hash_file
from artifacts.documents import digest
from artifacts.errors import AlreadyExists, StoreError
from artifacts.preparations import FILE, Read

_FOLDER = "staging/decoded"
_BYTES = 64 << 20  # of pixels that are in memory until they are committed
_SECONDS = 10.0  # after which they are, however few: what a kill costs at most
_KEPT_SECONDS = 7 * 24 * 3600.0  # what nobody took over in a week is removed
_SCHEMA = pa.schema([*FILE, pa.field("pixels", pa.large_binary())])

Place = tuple[np.ndarray, int]  # images, uint8 [items, height, width, channels], and which of them


class Decoded:
    """What was decoded so far by preparations that were `decided_by` the same values. Use as a context: however it is
    left, what was added is committed.

    files: what was read of each file; places: SHA-256 of a file -> where its image is, in memory maps that stay
    readable when their segments are removed. Both are of committed segments only.
    """

    def __init__(self, disk: LocalDisk, decided_by: Mapping[str, Any], image: tuple[int, int, int]) -> None:
        """image: height, width, channels."""
        self.files: list[Read] = []
        self.places: dict[str, Place] = {}
        self._disk = disk
        self._folder = _folder(decided_by)
        self._image = image
        self._keys: list[str] = []
        self._added: list[pa.RecordBatch] = []
        self._bytes = 0
        self._committed = time.monotonic()
        for key in disk.list(_FOLDER):
            with suppress(FileNotFoundError):  # another preparation is done with it
                if key.startswith(f"{self._folder}/"):
                    self._take_over(key)
                elif time.time() - disk.local_path(key).stat().st_mtime > _KEPT_SECONDS:
                    disk.remove(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self.commit()
        except StoreError:
            if kind is None:
                raise

    def add(self, files: Sequence[Read], images: np.ndarray) -> None:
        """Keep what was read. images: uint8 [files, height, width, channels], undefined for those that are bad.

        Raises StoreError when the disk refuses.
        """
        if not files:
            return
        columns: list[Any] = [list(column) for column in zip(*files, strict=True)]
        columns.append([None if file.bad else image.tobytes() for file, image in zip(files, images, strict=True)])
        self._added.append(pa.RecordBatch.from_arrays([*map(pa.array, columns, _SCHEMA.types)], schema=_SCHEMA))
        self._bytes += images.nbytes
        if self._bytes > _BYTES or time.monotonic() - self._committed > _SECONDS:
            self.commit()

    def commit(self) -> None:
        """Commit what was added as a segment of its own."""
        added, self._added, self._bytes = self._added, [], 0
        if added:
            with self._disk.scratch() as folder:
                path = folder / "segment.arrow"
                with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
                    for batch in added:
                        writer.write_batch(batch)
                key = f"{self._folder}/{hash_file(path)[0]}.arrow"
                with suppress(AlreadyExists):
                    self._disk.create(key, path)
                self._open(path)
            self._keys.append(key)
        self._committed = time.monotonic()

    def remove(self) -> None:
        """Remove what was taken over and what was committed: a dataset was published out of it."""
        for key in self._keys:
            self._disk.remove(key)

    def _take_over(self, key: str) -> None:
        path = self._disk.local_path(key)
        if path.name == f"{hash_file(path)[0]}.arrow":
            self._open(path)
            self._keys.append(key)
        else:
            self._disk.remove(key)

    def _open(self, path: Path) -> None:
        with pa.memory_map(str(path)) as file:  # what was read stays mapped: thousands of segments take no descriptors
            batches = list(pa.ipc.open_file(file).read_all().to_batches())
        for batch in batches:
            files = [Read(*row) for row in zip(*(column.to_pylist() for column in batch.columns[:-1]), strict=True)]
            images = np.frombuffer(batch.column("pixels").buffers()[2] or b"", np.uint8).reshape(-1, *self._image)
            good = [str(file.sha256) for file in files if not file.bad]
            self.places.update(zip(good, ((images, place) for place in range(len(images))), strict=True))
            self.files += files


def forget(disk: LocalDisk, decided_by: Mapping[str, Any]) -> None:
    """Remove all that was decoded: there is a dataset of it, and who made it was killed before removing it."""
    for key in disk.list(_folder(decided_by)):
        disk.remove(key)


def _folder(decided_by: Mapping[str, Any]) -> str:
    return f"{_FOLDER}/{digest(dict(decided_by))}"
