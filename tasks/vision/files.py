"""Files to decode, a request at a time, and what became of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.vision.images import ImageSpec

CHUNK = 256  # files a request at most
REQUEST_BYTES = 8 << 20  # large pictures travel in smaller groups, so that no decoder is left with the last long one
SLOT_BYTES = 16 << 20  # pixels a request at most: what a decoder shares is twice that


def files_a_request(spec: ImageSpec) -> int:
    """How many pictures of this size one request may have: a power of two up to CHUNK, within SLOT_BYTES of pixels."""
    fitting = max(1, SLOT_BYTES // (spec.height * spec.width * spec.channels))
    return min(CHUNK, 1 << fitting.bit_length() - 1)


@dataclass(frozen=True)
class Files:
    """Up to CHUNK files to decode.

    paths: below the pool's folder.
    sizes: as planned, in bytes.
    mtimes_ns: as planned (`times.held`).
    known: place -> the SHA-256 (hex) with which it was decoded before. A content that is still that is not decoded.
    """

    paths: Sequence[bytes]
    sizes: Sequence[int]
    mtimes_ns: Sequence[int]
    known: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, part: slice) -> "Files":
        start, stop, _ = part.indices(len(self))
        known = {place - start: sha256 for place, sha256 in self.known.items() if start <= place < stop}
        return Files(self.paths[part], self.sizes[part], self.mtimes_ns[part], known)


def cut(items: np.ndarray, sizes: np.ndarray, spec: ImageSpec | None = None) -> Iterator[np.ndarray]:
    """Requests of about REQUEST_BYTES of files at most, at least one request (an empty one for no items).

    items: int64, places in `sizes`, which are the bytes of all files. With the `spec` that they are decoded by, a
    request has `files_a_request` items at most, which the pool sends as they are; otherwise up to CHUNK.
    """
    most = files_a_request(spec) if spec else CHUNK
    start = 0
    while start == 0 or start < len(items):
        # A disk may tell sizes whose sum no int64 holds.
        read = np.cumsum(np.minimum(sizes[items[start : start + most]], REQUEST_BYTES))
        end = start + max(1, int(np.searchsorted(read, REQUEST_BYTES)))
        yield items[start:end]
        start = end


@dataclass(frozen=True)
class DecodedFiles:
    """What became of Files, in the same order.

    pixels: uint8 [items, height, width, channels], undefined where there is an error.
    sha256: hex, of what was read; None when nothing could be.
    width, height: of the source, in pixels; 0 on error.
    errors: place -> (kind, detail).
    same: the places whose content was known.
    """

    pixels: np.ndarray
    sha256: list[str | None]
    width: list[int]
    height: list[int]
    errors: dict[int, tuple[str, str]]
    same: list[int]


def joined(parts: Sequence[DecodedFiles]) -> DecodedFiles:
    """Parts of one request as one."""
    pixels = np.concatenate([part.pixels for part in parts])
    whole = DecodedFiles(pixels, [], [], [], {}, [])
    for part in parts:
        start = len(whole.sha256)
        whole.errors.update({start + place: error for place, error in part.errors.items()})
        whole.same.extend(start + place for place in part.same)
        whole.sha256.extend(part.sha256)
        whole.width.extend(part.width)
        whole.height.extend(part.height)
    return whole
