"""Features of pictures: what a backbone makes of them, kept so that no picture is embedded twice.

    features/<digest>/<machine>/<sha256>.arrow     a row a picture: the SHA-256 of its pixels, and its features

The digest is of what decides the numbers beside the pixels: backbone, view, precision. The machine is a digest of what
decides their last bits: TensorFlow, the processor. So every dataset that holds a picture finds its features, whoever
embedded it, and a training learns from the same bits whatever else is there. An older Lookbook kept them without a
machine, directly below the digest: nobody knows which bits these have. What is damaged is embedded again.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa

from artifacts.disk import Disk
from artifacts.documents import digest
from artifacts.errors import NotFound
from artifacts.segments import Segments

_FOLDER = "features"
_DIGEST_BYTES = 32


class Features(Segments):
    """The features on record that were `decided_by` the same values. Use as a context: however it is left, what was
    added is committed.

    width: how many features a picture has.
    computed_by: what decides their last bits; None for features of whatever machine, which are only looked at.
    earlier: whether those on record are taken over, or only added to.
    """

    def __init__(
        self,
        disk: Disk,
        decided_by: Mapping[str, Any],
        width: int,
        *,
        computed_by: Mapping[str, Any] | None = None,
        earlier: bool = True,
    ) -> None:
        folder = f"{_FOLDER}/{digest(dict(decided_by))}"
        if computed_by is not None:
            folder += f"/{digest(dict(computed_by))}"
        schema = pa.schema({"content": pa.binary(_DIGEST_BYTES), "features": pa.list_(pa.float32(), width)})
        super().__init__(disk, folder, schema)
        self._width = width
        self._parts: list[np.ndarray] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        for key in disk.list(folder) if earlier else ():
            with suppress(NotFound):  # another process found it damaged
                self.take_over(key)

    def __contains__(self, content: bytes) -> bool:
        return content in self._places

    def add_pictures(self, contents: Sequence[bytes], features: np.ndarray) -> None:
        """Keep what pictures became.

        contents: the SHA-256 of each picture's pixels, 32 bytes.
        features: float32 [pictures, width].

        Raises StoreError when the disk refuses.
        """
        flat = pa.array(np.ascontiguousarray(features).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, self._width)
        self.add([pa.array(contents, pa.binary(_DIGEST_BYTES)), column], features.nbytes)

    def gather(self, contents: Sequence[bytes], into: np.ndarray) -> None:
        """Write the features of pictures that are committed.

        contents: of each picture, all of them known.
        into: float32 [pictures, width].
        """
        places = np.array([self._places[content] for content in contents], np.int64).reshape(-1, 2)
        for part in np.unique(places[:, 0]):
            items = np.flatnonzero(places[:, 0] == part)
            into[items] = self._parts[part][places[items, 1]]

    def on_batches(self, batches: Sequence[pa.RecordBatch]) -> None:
        for batch in batches:
            contents = batch.column("content").to_pylist()
            self._places.update((content, (len(self._parts), row)) for row, content in enumerate(contents))
            self._parts.append(batch.column("features").flatten().to_numpy().reshape(-1, self._width))
