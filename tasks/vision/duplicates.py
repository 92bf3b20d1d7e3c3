"""Images that are the same: copies within a side of a data set, and those on both sides, or nearly so. Plain NumPy.

Images that are nearly the same are found in two steps: a perceptual hash finds candidates, and the pixels decide. On
Fashion-MNIST the hash alone joins trousers with other trousers: 12,229 pairs of the two sides are within 4 bits, 14 of
them within 8 of 255.
"""

import hashlib
import math
import os
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

HASH_BITS = 4  # of 64 that may differ
PIXELS_RMS = 8.0  # of 255, root mean square over all pixels
CLOSEST = 8  # images that are listed for one of ours
_FREQUENCIES = 8
_BANDS = (13, 13, 13, 13, 12)  # bits; of two hashes that differ in HASH_BITS at most, one band at least is the same
_COMMON = 1024  # of the images that share a band's value so many are looked at: enough to find one that is the same
_APART = 16  # pixels between those that tell that an image is not blank
_BYTES = 2 << 20  # of images, looked at together: as floats they still fit the cache
_PAIRS = 1 << 20  # candidates, likewise
_ALONE = 1 << 18  # multiplications of a product that OpenBLAS gives to one thread
_FEW = 64  # numbers that tell most images apart
_HASHED = 256  # images that a thread hashes in one go


def contents_of(images: Sequence[np.ndarray] | np.ndarray) -> list[bytes]:
    """The SHA-256 of each image's pixels, in as many threads as there are processors.

    images: uint8 [items, height, width, channels], or a list of such images.
    """

    def hashes(start: int) -> list[bytes]:
        return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images[start : start + _HASHED]]

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return [each for part in threads.map(hashes, range(0, len(images), _HASHED)) for each in part]


def also_among(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """bool [ours]: which images have the pixels of one of the others.

    ours, theirs: uint8 [items, height, width, channels]; of images of another shape none has.

    A few pixels tell most images apart, so that 3,000 photographs are not read as a whole.
    """
    if ours.shape[1:] != theirs.shape[1:]:
        return np.zeros(len(ours), bool)
    few_of_ours, few_of_theirs = _few_pixels(ours), _few_pixels(theirs)
    in_both = set(few_of_ours) & set(few_of_theirs)
    ours_left, theirs_left = (
        [place for place, few in enumerate(of) if few in in_both] for of in (few_of_ours, few_of_theirs)
    )
    known = set(contents_of([theirs[place] for place in theirs_left]))
    found = np.zeros(len(ours), bool)
    found[ours_left] = [each in known for each in contents_of([ours[place] for place in ours_left])]
    return found


def _few_pixels(images: np.ndarray) -> list[bytes]:
    """Of each image the same few of its numbers."""
    numbers = images.reshape(len(images), math.prod(images.shape[1:]))
    few = np.ascontiguousarray(numbers[:, :: max(1, numbers.shape[1] // _FEW)])
    return [each.tobytes() for each in few]


def firsts(images: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """For each image the place of the first one with the same pixels, and with the same label where those are given.

    images: uint8 [items, height, width, channels]; labels: int32 [items]. int64 [items]: an image that is no copy of an
    earlier one has its own place. 60,000 images of 28x28 take 0.1 s.
    """
    contents = contents_of(images)
    return firsts_of(contents if labels is None else list(zip(contents, labels.tolist(), strict=True)))


def firsts_of(contents: Sequence[Hashable]) -> np.ndarray:
    """The same of contents: int64 [items]."""
    found: dict[Hashable, int] = {}
    return np.array([found.setdefault(each, place) for place, each in enumerate(contents)], np.int64)


def near_duplicates(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images that look the same: int64 [pairs, 2], places in `ours` and `theirs`, sorted; and how far apart
    their pixels are: float32 [pairs], 0 to PIXELS_RMS. For each of ours the closest, CLOSEST of them or some more.

    Both: uint8 [items, height, width, channels]. Images of a single colour are passed over.
    """
    sides = [(_frequencies(images), np.flatnonzero(~blank(images))) for images in (ours, theirs)]
    pixels = int(np.prod(ours.shape[1:3]))
    none = np.zeros((0, 2), np.int64)
    pairs = np.unique(np.concatenate([none, *_candidates(*sides[0], *sides[1], pixels)]), axis=0)
    apart = _rms(ours, theirs, pairs)
    return pairs[apart <= PIXELS_RMS], apart[apart <= PIXELS_RMS]


def perceptual_hashes(images: np.ndarray) -> np.ndarray:
    """uint64 [items]: a bit for each of the 8x8 lowest frequencies of the discrete cosine transform of the grey image,
    without the mean: whether it is above their median, both rounded, as a frequency that is not there is not just zero
    (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1)."""
    return _hashes(_frequencies(images))


def blank(images: np.ndarray) -> np.ndarray:
    """bool [items]: whether all pixels of an image are the same. Most are told by a few of their pixels."""
    few = images[:, ::_APART, ::_APART]
    found = np.asarray((few == few[:, :1, :1]).all(axis=(1, 2, 3)))
    for item in np.flatnonzero(found):
        found[item] = (images[item] == images[item, 0, 0]).all()
    return found


def _frequencies(images: np.ndarray) -> np.ndarray:
    """float32 [items, 64]: sums of the grey image times the cosines of each frequency across and down."""
    height, width, channels = images.shape[1:]
    across = np.repeat(_cosines(width) / np.float32(channels), channels, axis=0)  # the channels' mean is grey
    down = _cosines(height)
    found = np.empty((len(images), _FREQUENCIES**2), np.float32)
    for part in _blocks(images):
        lines = images[part].astype(np.float32).reshape(-1, width * channels)
        rows = _product(lines, across).reshape(-1, height, _FREQUENCIES)
        found[part] = _product(rows.transpose(0, 2, 1).reshape(-1, height), down).reshape(-1, _FREQUENCIES**2)
    return found


def _product(lines: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """float32 [lines, 8], a few lines at a time: OpenBLAS takes a thread for each processor above that, and most of
    their time they wait for one another: of photographs of 288x288, six sevenths of it."""
    few = max(1, _ALONE // cosines.size)
    found = np.empty((len(lines), _FREQUENCIES), np.float32)
    whole = len(lines) - len(lines) % few
    found[:whole] = (lines[:whole].reshape(-1, few, lines.shape[1]) @ cosines).reshape(whole, _FREQUENCIES)
    found[whole:] = lines[whole:] @ cosines
    return found


def _cosines(size: int) -> np.ndarray:
    """float32 [size, 8]: the first frequencies after the mean."""
    return np.cos(np.pi * (np.arange(size)[:, None] + 0.5) * np.arange(1, _FREQUENCIES + 1) / size).astype(np.float32)


def _hashes(frequencies: np.ndarray) -> np.ndarray:
    rounded = frequencies.round()
    middle = np.partition(rounded, 31, axis=1)[:, 31:32]
    return np.packbits(rounded > middle, axis=1).view(np.uint64).ravel()


def _candidates(
    our_frequencies: np.ndarray, mine: np.ndarray, their_frequencies: np.ndarray, yours: np.ndarray, pixels: int
) -> Iterator[np.ndarray]:
    """Pairs out of the places `mine` and `yours` whose hashes differ in HASH_BITS at most, in blocks of int64 [pairs,
    2]; those alone whose frequencies allow for PIXELS_RMS, and of each of ours the closest.

    The distance of the frequencies, as an orthonormal transform has them, is at most that of the grey images, and that
    at most the one of all channels (Parseval, Jensen).
    """
    ours, theirs = _hashes(our_frequencies), _hashes(their_frequencies)
    shift = 0
    for bits in _BANDS:
        keys = [((hashes >> np.uint64(shift)) & np.uint64((1 << bits) - 1)) for hashes in (ours[mine], theirs[yours])]
        shift += bits
        order = np.argsort(keys[1], kind="stable")
        ordered = keys[1][order]
        first = np.searchsorted(ordered, keys[0], "left")
        count = np.minimum(np.searchsorted(ordered, keys[0], "right") - first, _COMMON)
        ends = np.cumsum(count)
        start = 0
        while start < len(mine):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS, "right")))
            many = count[start:stop]
            place = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first[start:stop], many)
            pairs = np.stack([np.repeat(mine[start:stop], many), yours[order[place]]], axis=1)
            pairs = pairs[np.bitwise_count(ours[pairs[:, 0]] ^ theirs[pairs[:, 1]]) <= HASH_BITS]
            yield _closest(our_frequencies, their_frequencies, pairs, pixels)
            start = stop


def _closest(ours: np.ndarray, theirs: np.ndarray, pairs: np.ndarray, pixels: int) -> np.ndarray:
    apart = np.linalg.norm(ours[pairs[:, 0]] - theirs[pairs[:, 1]], axis=1) * 2 / pixels
    pairs, apart = pairs[apart <= PIXELS_RMS * 1.001], apart[apart <= PIXELS_RMS * 1.001]  # but for rounding
    order = np.lexsort((apart, pairs[:, 0]))
    pairs = pairs[order]
    rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0], "left")
    return np.asarray(pairs[rank < CLOSEST])


def _rms(ours: np.ndarray, theirs: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """float32 [pairs]: root mean square difference of two images, pair by pair."""
    found = np.empty(len(pairs), np.float32)
    count = max(1, _BYTES // (8 * int(np.prod(ours.shape[1:]))))  # as float32, and twice
    for start in range(0, len(pairs), count):
        mine, yours = pairs[start : start + count].T
        difference = ours[mine].astype(np.float32) - theirs[yours]
        found[start : start + count] = np.sqrt(np.square(difference).mean(axis=(1, 2, 3)))
    return found


def _blocks(images: np.ndarray) -> Iterator[slice]:
    count = max(1, _BYTES // int(np.prod(images.shape[1:])))
    return (slice(start, start + count) for start in range(0, len(images), count))
