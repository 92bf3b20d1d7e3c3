"""The batches of a training: an epoch's order, learning rates and flips, and chunks of batches on the device."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tasks.vision.device import tf
from tasks.vision.recipes import TrainingSettings
from tasks.vision.schedules import make_schedule

CHUNK_STEPS = 100  # at most so many steps a graph call: often enough for a display, rare enough that the call is free
CHUNK_BYTES = 5 << 20  # and about so many of images, which stay in the processor's cache
BLEND = 0.1  # how far a step moves the running statistics, once there were ten
_FLIPS, _CROPS, _SHIFTS, _COVERS = (1 << each for each in (33, 34, 35, 36))  # so that each has seeds of its own
SHARES = (0.7, 0.85)  # of the first and the second half of the epochs
_COVERED = 0.5  # share of the images of an epoch of which a part is covered
_LEAST_SIDE = 0.7  # share of an image's height and width that a crop shows at least


@dataclass(frozen=True)
class EpochBatches:
    """Which items are in which batch of an epoch, and how each batch is learned from.

    order: int64 [batches, width], indices of images; the width is the batch size, or a little more so that lanes are
        equal.
    flips: bool [batches, width], which images are mirrored.
    counts: int32 [batches], how many items of each batch count; the others are padding.
    rates: float32 [batches], the learning rate of each step.
    blends: float32 [batches], how far each step moves the running statistics to those of its batch, 0 to 1.
    shifts: int64 [batches, width, 2], by how many pixels each image is moved down and to the right; None where none is.
    covers: float32 [batches, width, 2], the middle of the square that covers a part of each image, from its top and its
        left as shares of its height and width, and -1 where nothing is covered; None where no image has one.
    crops: float32 [batches, width, 4], the part of each image that is shown: top, left, bottom and right, as shares of
        its height and width; None where all of it is.
    """

    order: np.ndarray
    flips: np.ndarray
    counts: np.ndarray
    rates: np.ndarray
    blends: np.ndarray
    shifts: np.ndarray | None = None
    covers: np.ndarray | None = None
    crops: np.ndarray | None = None


@dataclass(frozen=True)
class Chunk:
    """Up to CHUNK_STEPS batches on the device, padded to one shape so that there is one trace.

    images: uint8 [batches, width, height, width, channels], 0-255.
    labels: int32 [batches, width].
    flips, counts, rates, blends, crops: as in EpochBatches.
    steps: int32, how many of the batches count; the others are padding.
    share: to what share of an image's height and width its crop is resized.
    """

    images: tf.Tensor
    labels: tf.Tensor
    flips: tf.Tensor
    counts: tf.Tensor
    rates: tf.Tensor
    blends: tf.Tensor
    steps: tf.Tensor
    crops: tf.Tensor | None = None
    share: float = 1.0


def share_of_side(epoch: int, epochs: int) -> float:
    """To what share of an image's height and width its crops are resized in an epoch (the first is 1).

    Small ones first, which take less time (Tan and Le, "EfficientNetV2: Smaller Models and Faster Training", 2021,
    section 4). Never to all of it: things look larger in a crop than in the whole picture that is predicted (Touvron et
    al., "Fixing the train-test resolution discrepancy", 2019).
    """
    return SHARES[(epoch - 1) * len(SHARES) // epochs]


def shuffle_epoch(
    items: np.ndarray,
    settings: TrainingSettings,
    epoch: int,
    lanes: int = 1,
    shifted: int = 0,
    covered: bool = False,
    cropped: bool = False,
) -> EpochBatches:
    """The batches of an epoch, with each item once.

    items: int64 [items], indices of the images to learn from.
    epoch: 1 or more.
    lanes: in how many equal parts a batch is cut.
    shifted: by how many pixels an image is moved at most, otherwise in each epoch.
    covered: whether a part of every other image is covered, other ones in each epoch.
    cropped: whether a part of each image is shown, another one in each epoch.

    The order depends on the seed and the epoch alone. Whether an image is mirrored, how it is moved, and which part of
    it is covered or shown, depends on these and its index. An image that is mirrored in one epoch isn't in the next: so
    two epochs show all that there is to see (Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, section
    3.6). The padding of a short batch is images of the same epoch.
    """
    size = settings.batch_size
    batches = -(-len(items) // size)
    width = _batch_width(size, lanes)
    shuffled = np.random.default_rng([settings.seed, epoch]).permutation(items)
    order = np.resize(shuffled, (batches, width))
    order[:, :size] = np.resize(shuffled, (batches, size))
    counts = np.full(batches, size, np.int32)
    counts[-1] = len(items) - (batches - 1) * size
    mirrored = np.random.default_rng([settings.seed, _FLIPS]).random(items.max() + 1) < 0.5
    if epoch % 2 == 0:
        mirrored = ~mirrored
    steps = np.arange((epoch - 1) * batches, epoch * batches)
    return EpochBatches(
        order=order,
        flips=mirrored[order],
        counts=counts,
        rates=learning_rates(settings, batches, epoch),
        blends=np.maximum(BLEND, 1 / (1 + steps)).astype(np.float32),
        shifts=_shifts(settings.seed, epoch, items.max() + 1, shifted)[order] if shifted else None,
        covers=_covers(settings.seed, epoch, items.max() + 1)[order] if covered else None,
        crops=_crops(settings.seed, epoch, items.max() + 1)[order] if cropped else None,
    )


def _shifts(seed: int, epoch: int, items: int, most: int) -> np.ndarray:
    """By how many pixels each of so many images is moved: int64 [items, 2], -most to most, down and to the right."""
    return np.random.default_rng([seed, _SHIFTS, epoch]).integers(-most, most + 1, (items, 2))


def _shift(images: np.ndarray, shifts: np.ndarray) -> None:
    """Move each image in its place; the pixels of its edge go on where it has left.

    images: uint8 [..., height, width, channels].
    shifts: int64 [..., 2], down and to the right.
    """
    height, width = images.shape[-3:-1]
    for down, right in np.unique(shifts.reshape(-1, 2), axis=0):
        those = (shifts == (down, right)).all(-1)
        rows, columns = (
            np.clip(np.arange(height) - down, 0, height - 1),
            np.clip(np.arange(width) - right, 0, width - 1),
        )
        images[those] = images[those][:, rows][:, :, columns]


def _covers(seed: int, epoch: int, items: int) -> np.ndarray:
    """Where a square covers each of so many images: float32 [items, 2], as `EpochBatches` has it."""
    drawn = np.random.default_rng([seed, _COVERS, epoch]).random((items, 3), np.float32)
    return np.where(drawn[:, :1] < _COVERED, drawn[:, 1:], np.float32(-1))


def _cover(images: np.ndarray, middles: np.ndarray, side: int) -> None:
    """Make a square of each image black, in its place; what of the square is beyond the image is left out.

    images: uint8 [..., height, width, channels].
    middles: float32 [..., 2], as `EpochBatches` has them.
    side: of the square, in pixels.
    """
    height, width = images.shape[-3:-1]
    corners = np.round(middles * (height, width) - side / 2).astype(int).reshape(-1, 2)
    flat = images.reshape(-1, *images.shape[-3:])
    for index in np.flatnonzero(middles.reshape(-1, 2)[:, 0] >= 0):
        top, left = corners[index]
        flat[index, max(top, 0) : top + side, max(left, 0) : left + side] = 0


def _crops(seed: int, epoch: int, items: int) -> np.ndarray:
    """A part of each of so many images: float32 [items, 4], top, left, bottom and right."""
    drawn = np.random.default_rng([seed, _CROPS, epoch]).random((items, 4))
    sides = _LEAST_SIDE + (1 - _LEAST_SIDE) * drawn[:, :2]
    start = (1 - sides) * drawn[:, 2:]
    return np.concatenate([start, start + sides], axis=1).astype(np.float32)


def learning_rates(settings: TrainingSettings, batches: int, epoch: int) -> np.ndarray:
    """The learning rate of every step of an epoch (the first is 1): float32 [batches]."""
    schedule = make_schedule(settings, settings.epochs * batches)
    with tf.device("/CPU:0"):
        steps = tf.range((epoch - 1) * batches, epoch * batches, dtype=tf.float64)
        return np.asarray(schedule(steps), np.float32)


def make_chunks(
    images: np.ndarray,
    labels: np.ndarray,
    items: np.ndarray,
    settings: TrainingSettings,
    *,
    first_epoch: int = 1,
    lanes: int = 1,
    shifted: int = 0,
    covered: int = 0,
    cropped: bool = False,
    place: str = "/CPU:0",
) -> Iterator[Chunk]:
    """The chunks of all epochs from `first_epoch` on; a chunk never holds batches of two epochs.

    images: uint8 [all, height, width, channels]; also a memory map: only a chunk's images are read at a time.
    labels: int32 [all].
    items: int64 [items], indices of the images to learn from.
    shifted, cropped: as in `shuffle_epoch`.
    covered: the side in pixels of the squares that cover a part of every other image; 0 for none.
    place: the TensorFlow device that the chunks are copied to.
    """
    width = _batch_width(settings.batch_size, lanes)
    steps = max(1, min(CHUNK_STEPS, CHUNK_BYTES // (width * images[0].nbytes)))
    pixels = np.zeros((steps, width, *images.shape[1:]), images.dtype)  # one buffer for all: new pages cost more
    for epoch in range(first_epoch, settings.epochs + 1):
        batches = shuffle_epoch(items, settings, epoch, lanes, shifted, covered > 0, cropped)
        for start in range(0, len(batches.order), steps):
            part = slice(start, start + steps)
            order = batches.order[part]
            np.take(images, order, axis=0, out=pixels[: len(order)], mode="clip")  # unlike "raise", without a copy
            if batches.shifts is not None:
                _shift(pixels[: len(order)], batches.shifts[part])
            if batches.covers is not None:
                _cover(pixels[: len(order)], batches.covers[part], covered)
            with tf.device(place):
                chunk = Chunk(
                    images=tf.constant(pixels),
                    labels=_padded(labels[order], steps),
                    flips=_padded(batches.flips[part], steps),
                    counts=_padded(batches.counts[part], steps),
                    rates=_padded(batches.rates[part], steps),
                    blends=_padded(batches.blends[part], steps),
                    steps=tf.constant(len(order)),
                    crops=None if batches.crops is None else _padded(batches.crops[part], steps),
                    share=share_of_side(epoch, settings.epochs) if cropped else 1.0,
                )
            yield chunk


def one_ahead(chunks: Iterator[Chunk]) -> Generator[Chunk, None, None]:
    """The same chunks. A thread makes the next one while the caller works on the one before."""
    with ThreadPoolExecutor(1, thread_name_prefix="chunks") as thread:
        coming = thread.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = thread.submit(next, chunks, None)
            yield chunk


def _batch_width(batch_size: int, lanes: int) -> int:
    """How many images a batch has so that its lanes are equal."""
    return -(-batch_size // lanes) * lanes


def _padded(values: np.ndarray, steps: int) -> tf.Tensor:
    return tf.constant(np.pad(values, [(0, steps - len(values))] + [(0, 0)] * (values.ndim - 1)))
