"""A pretrained network by hand: pictures in, features out."""

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from tasks.vision import device
from tasks.vision.architecture import Architecture
from tasks.vision.device import tf
from tasks.vision.network import Tensors
from tasks.vision.processor import Precision
from tasks.vision.resampling import resampling

BATCH, GPU_BATCH = 8, 64  # pictures that a thread embeds at once; 4 to 16 are as fast (2-core Intel Xeon)


def features(
    architecture: Architecture,
    images: tf.Tensor,
    weights: Tensors,
    dtype: tf.DType = tf.float32,
    looks_at: tuple[int, int] | None = None,
) -> tf.Tensor:
    """What a backbone makes of pictures: float32 [batch, architecture.features].

    images: uint8 [batch, height, width, 3 or 1], or float32 of the same range, 0 to 255.
    weights: as `architecture.folded` names them, of `dtype`, in which products are computed, or float32 where
        they are `exact`.
    looks_at: height and width to which the pictures are resized first, bilinearly and antialiased; by default the
        pictures' own. Both are multiples of `architecture.multiple`.
    """
    pixels = tf.cast(images, tf.float32)
    if looks_at not in (None, tuple(images.shape[1:3])):
        pixels = resize(pixels, *looks_at)
    if images.shape[3] == 1:
        pixels = tf.repeat(pixels, 3, axis=3)
    scaled = (pixels - architecture.subtract) * (1 / np.asarray(architecture.divide, np.float32))
    return architecture.forward(scaled, weights, dtype)


def resize(images: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """float32 [batch, any height, any width, channels] -> float32 [batch, height, width, channels], by the matrices of
    `resampling`. Along the width the pictures are turned first: that takes less than half of the time."""
    for side, axis in ((height, 1), (width, 2)):
        if images.shape[axis] != side:
            turned = images if axis == 1 else tf.transpose(images, [0, 2, 1, 3])
            _, lines, others, channels = turned.shape
            matrix = tf.constant(resampling(lines, side, "linear"))
            resized = tf.reshape(
                matrix @ tf.reshape(turned, [-1, lines, others * channels]), [-1, side, others, channels]
            )
            images = resized if axis == 1 else tf.transpose(resized, [0, 2, 1, 3])
    return images


class Embedder:
    """Features of pictures, a batch at a time on every processor.

    One thread computes a batch, and batches have one size: so neither the number of processors nor a picture's
    neighbours change its numbers. `width` is how many there are of a picture.

    architecture: of the backbone.
    tensors: as `architecture.folded` has them.
    precision: what products are computed in.
    place: the TensorFlow device.
    processors: how many batches are computed at once; by default one a processor.
    looks_at: height and width to which pictures are resized first, as `features` has it.
    """

    def __init__(
        self,
        architecture: Architecture,
        tensors: Mapping[str, np.ndarray],
        precision: Precision,
        place: str = "/CPU:0",
        processors: int | None = None,
        looks_at: tuple[int, int] | None = None,
    ) -> None:
        device.use_threads(1)
        dtype = tf.as_dtype(precision)
        self.width = architecture.features
        self._place = place
        on_gpu = place != "/CPU:0"
        self.batch = GPU_BATCH if on_gpu else BATCH
        self._workers = 1 if on_gpu else processors or os.cpu_count() or 1
        with tf.device(place):
            weights = {
                name: tf.cast(tf.constant(tensors[name]), tf.float32 if name in architecture.exact else dtype)
                for name in architecture.folded
            }

            def run(images: tf.Tensor, mirrored: bool) -> tf.Tensor:
                images = tf.reverse(images, [2]) if mirrored else images
                return features(architecture, images, weights, dtype, looks_at)

            self._run = tf.function(run, autograph=False)
        self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="embed")

    def __call__(self, images: np.ndarray, mirrored: bool = False) -> np.ndarray:
        """The features of pictures: float32 [items, width].

        images: uint8 [items, height, width, channels], 0-255.
        mirrored: whether their mirror images are embedded.
        """
        found = np.empty((len(images), self.width), np.float32)
        for part, embedded in self.embed(images, np.arange(len(images)), mirrored):
            found[part] = embedded
        return found

    def seconds_a_picture(self, shape: tuple[int, ...]) -> float:
        """How long a picture takes when there are many, tried on black ones. shape: height, width and channels."""
        black = np.zeros((2 * self.batch * self._workers, *shape), np.uint8)
        self(black[: self.batch])
        started = time.perf_counter()
        self(black)
        return (time.perf_counter() - started) / len(black)

    def embed(
        self, images: np.ndarray, items: np.ndarray, mirrored: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The features of some pictures, in order: items of a batch, and float32 [items, width].

        images: uint8 [all, height, width, channels], also a memory map: a few batches are read at a time.
        items: int64, which of them.
        mirrored: whether their mirror images are embedded.
        """
        parts = (items[start : start + self.batch] for start in range(0, len(items), self.batch))
        waiting: deque[tuple[np.ndarray, Future[np.ndarray]]] = deque()
        for part in parts:
            waiting.append((part, self._threads.submit(self._embed, images, part, mirrored)))
            if len(waiting) > 2 * self._workers:
                yield _done(*waiting.popleft())
        for each in waiting:
            yield _done(*each)

    def _embed(self, images: np.ndarray, part: np.ndarray, mirrored: bool) -> np.ndarray:
        batch = images[part]  # the one copy: copying more than that took a tenth of the time
        if len(part) < self.batch:
            batch = np.concatenate([batch, np.zeros((self.batch - len(part), *batch.shape[1:]), np.uint8)])
        with tf.device(self._place):
            given = tf.constant(batch)
            graph = self._run.get_concrete_function(given, mirrored)  # TensorFlow warns of many that are called alike
            embedded: np.ndarray = graph(given).numpy()
        return embedded[: len(part)]


def _done(part: np.ndarray, embedded: "Future[np.ndarray]") -> tuple[np.ndarray, np.ndarray]:
    return part, embedded.result()
