"""Images that are on both sides of a data set: the same pixels, or nearly so. Plain NumPy.

Nearly the same is told in two steps: a perceptual hash finds candidates, the pixels decide. On Fashion-MNIST the hash
alone joins trousers with other trousers: 12,229 pairs of the two sides are within 4 bits, 14 of them within 8 of 255.
"""

from collections.abc import Iterator

import numpy as np

HASH_BITS = 4  # of 64 that may differ
PIXELS_RMS = 8.0  # of 255, root mean square over all pixels
_FREQUENCIES = 8
_BANDS = (13, 13, 13, 13, 12)  # bits; of two hashes that differ in HASH_BITS at most, one band at least is the same
_COMMON = 4096  # a band's value that so many have tells nothing
_BLOCK = 2048
_PAIRS = 1 << 22  # candidates that are looked at together


def near_duplicates(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images that look the same: int64 [pairs, 2], places in `ours` and `theirs`, sorted; and how far apart
    their pixels are: float32 [pairs], 0 to PIXELS_RMS.

    Both: uint8 [items, height, width, channels]. Images of a single colour are passed over.
    """
    hashes = [perceptual_hashes(images) for images in (ours, theirs)]
    plain = [blank(images) for images in (ours, theirs)]
    none = np.zeros((0, 2), np.int64)
    pairs = np.unique(np.concatenate([none, *_candidates(*hashes, *plain)]), axis=0)
    apart = _rms(ours, theirs, pairs)
    return pairs[apart <= PIXELS_RMS], apart[apart <= PIXELS_RMS]


def perceptual_hashes(images: np.ndarray) -> np.ndarray:
    """uint64 [items]: a bit for each of the 8x8 lowest frequencies of the discrete cosine transform of the grey image,
    without the mean: whether it is above their median, both rounded, as a frequency that is not there is not just zero
    (Zauner, "Implementation and Benchmarking of Perceptual Image
    Hash Functions", 2010, section 3.2.1)."""
    across, down = (_cosines(images.shape[axis]) for axis in (2, 1))
    hashes = np.empty(len(images), np.uint64)
    for start in range(0, len(images), _BLOCK):
        grey = images[start : start + _BLOCK].mean(axis=3, dtype=np.float32)
        rows = (grey.reshape(-1, grey.shape[2]) @ across).reshape(*grey.shape[:2], _FREQUENCIES)
        found = (rows.transpose(0, 2, 1).reshape(-1, grey.shape[1]) @ down).reshape(len(grey), -1).round()
        middle = np.partition(found, 31, axis=1)[:, 31:32]
        hashes[start : start + _BLOCK] = np.packbits(found > middle, axis=1).view(np.uint64).ravel()
    return hashes


def blank(images: np.ndarray) -> np.ndarray:
    """bool [items]: whether all pixels of an image are the same."""
    found = np.empty(len(images), bool)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK]
        found[start : start + _BLOCK] = (block == block[:, :1, :1]).all(axis=(1, 2, 3))
    return found


def _cosines(size: int) -> np.ndarray:
    """float32 [size, 8]: the first frequencies after the mean."""
    return np.cos(np.pi * (np.arange(size)[:, None] + 0.5) * np.arange(1, _FREQUENCIES + 1) / size).astype(np.float32)


def _candidates(
    ours: np.ndarray, theirs: np.ndarray, our_plain: np.ndarray, their_plain: np.ndarray
) -> Iterator[np.ndarray]:
    """Pairs whose hashes differ in HASH_BITS at most, in blocks of int64 [pairs, 2]."""
    mine, yours = np.flatnonzero(~our_plain), np.flatnonzero(~their_plain)
    shift = 0
    for bits in _BANDS:
        keys = [((hashes >> np.uint64(shift)) & np.uint64((1 << bits) - 1)) for hashes in (ours[mine], theirs[yours])]
        shift += bits
        order = np.argsort(keys[1], kind="stable")
        ordered = keys[1][order]
        first = np.searchsorted(ordered, keys[0], "left")
        count = np.searchsorted(ordered, keys[0], "right") - first
        count[count > _COMMON] = 0
        ends = np.cumsum(count)
        start = 0
        while start < len(mine):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS, "right")))
            many = count[start:stop]
            place = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first[start:stop], many)
            pairs = np.stack([np.repeat(mine[start:stop], many), yours[order[place]]], axis=1)
            yield pairs[np.bitwise_count(ours[pairs[:, 0]] ^ theirs[pairs[:, 1]]) <= HASH_BITS]
            start = stop


def _rms(ours: np.ndarray, theirs: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """float32 [pairs]: root mean square difference of two images, pair by pair."""
    found = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _BLOCK):
        mine, yours = pairs[start : start + _BLOCK].T
        difference = ours[mine].astype(np.float32) - theirs[yours]
        found[start : start + _BLOCK] = np.sqrt(np.square(difference).mean(axis=(1, 2, 3)))
    return found
