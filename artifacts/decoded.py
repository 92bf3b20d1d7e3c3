"""What preparations decoded and did not publish yet, in the store's staging: whoever prepares the same takes it over.

    staging/decoded/<digest>/<sha256>.arrow     a row a file: what was read of it, and its pixels where it is not bad

The digest is of all that decides what a file becomes. What is damaged is decoded again. Whoever publishes a dataset
removes what it is made of.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa

from artifacts.disk import Disk
from artifacts.documents import digest
from artifacts.errors import NotFound
from artifacts.preparations import FILE, Read
from artifacts.segments import Segments

_FOLDER = "staging/decoded"
KEPT_SECONDS = 7 * 24 * 3600.0  # what nobody took over in a week is removed
_SCHEMA = pa.schema([*FILE, pa.field("pixels", pa.large_binary())])

Place = tuple[np.ndarray, int]  # images, uint8 [items, height, width, channels], and which of them


class Decoded(Segments):
    """What was decoded so far by preparations that were `decided_by` the same values. Use as a context: however it is
    left, what was added is committed.

    files: what was read of each file; places: SHA-256 of a file -> where its image is, in memory maps that stay
    readable when their segments are removed. Both are of committed segments only.
    """

    def __init__(
        self, disk: Disk, decided_by: Mapping[str, Any], image: tuple[int, int, int], *, earlier: bool = True
    ) -> None:
        """image: height, width, channels; earlier: whether what there is is taken over, or only added to."""
        super().__init__(disk, _folder(decided_by), _SCHEMA)
        self.files: list[Read] = []
        self.places: dict[str, Place] = {}
        self._image = image
        if earlier:
            self.take_over_all()

    def take_over_all(self) -> None:
        """Take over what others have committed, and remove what nobody wants any more."""
        others: list[str] = []
        for key in self._disk.list(_FOLDER):
            if not key.startswith(f"{self._folder}/"):
                others.append(key)
            elif key not in self.keys:
                with suppress(NotFound):  # another preparation is done with it
                    self.take_over(key)
        oldest = self._disk.now() - KEPT_SECONDS if others else 0.0  # this machine may have another clock
        for key in others:
            with suppress(NotFound):
                if self._disk.modified(key) < oldest:
                    self._disk.remove(key)

    def add_files(self, files: Sequence[Read], images: np.ndarray) -> None:
        """Keep what was read. images: uint8 [files, height, width, channels], undefined for those that are bad.

        Raises StoreError when the disk refuses.
        """
        if not files:
            return
        columns: list[Any] = [list(column) for column in zip(*files, strict=True)]
        columns.append([None if file.bad else image.tobytes() for file, image in zip(files, images, strict=True)])
        self.add([*map(pa.array, columns, _SCHEMA.types)], images.nbytes)

    def remove(self) -> None:
        """Remove what was taken over and what was committed: a dataset was published out of it."""
        for key in self.keys:
            self._disk.remove(key)

    def on_batches(self, batches: Sequence[pa.RecordBatch]) -> None:
        for batch in batches:
            files = [Read(*row) for row in zip(*(column.to_pylist() for column in batch.columns[:-1]), strict=True)]
            images = np.frombuffer(batch.column("pixels").buffers()[2] or b"", np.uint8).reshape(-1, *self._image)
            good = [str(file.sha256) for file in files if not file.bad]
            self.places.update(zip(good, ((images, place) for place in range(len(images))), strict=True))
            self.files += files


def forget(disk: Disk, decided_by: Mapping[str, Any]) -> None:
    """Remove all that was decoded: there is a dataset of it, and who made it was killed before removing it."""
    for key in disk.list(_folder(decided_by)):
        disk.remove(key)


def _folder(decided_by: Mapping[str, Any]) -> str:
    return f"{_FOLDER}/{digest(dict(decided_by))}"
