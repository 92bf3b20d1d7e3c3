"""A pretrained network by hand: pictures in, features out."""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from tasks.vision import device
from tasks.vision.device import tf
from tasks.vision.lite0 import BLOCKS, DIVIDE, FEATURES, FOLDED, SUBTRACT, Layer
from tasks.vision.network import Tensors
from tasks.vision.processor import Precision

BATCH, GPU_BATCH = 8, 64  # pictures that a thread embeds at once; 4 to 16 are as fast (2-core Intel Xeon)


def features(images: tf.Tensor, weights: Tensors, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """What EfficientNet-Lite0 makes of pictures, averaged over each picture.

    images: uint8 [batch, height, width, 3 or 1], or float32 of the same range, 0 to 255.
    weights: as `lite0.FOLDED` names them, of `dtype`, in which the convolutions are computed.

    Returns float32 [batch, FEATURES], 0 to 6.
    """
    if images.shape[3] == 1:
        images = tf.repeat(images, 3, axis=3)
    passed = tf.cast((tf.cast(images, tf.float32) - SUBTRACT) * (1 / DIVIDE), dtype)
    for block in BLOCKS:
        before = passed
        for layer in block.layers:
            passed = _convolve(passed, layer, weights)
        if block.residual:
            passed += before
    return tf.reduce_mean(tf.cast(passed, tf.float32), [1, 2])


def _convolve(images: tf.Tensor, layer: Layer, weights: Tensors) -> tf.Tensor:
    kernel = weights[f"{layer.name}/kernel"]
    if layer.kind == "depthwise":
        sums = tf.nn.depthwise_conv2d(images, kernel, [1, layer.stride, layer.stride, 1], "SAME")
    else:
        sums = tf.nn.conv2d(images, kernel, layer.stride, "SAME")
    sums = tf.nn.bias_add(sums, weights[f"{layer.name}/bias"])
    return tf.nn.relu6(sums) if layer.rectified else sums


class Embedder:
    """Features of pictures, a batch at a time on every processor.

    One thread computes a batch, and batches have one size: so neither the number of processors nor a picture's
    neighbours change its numbers.

    tensors: as `lite0.FOLDED` has them.
    precision: what the convolutions are computed in.
    place: the TensorFlow device.
    processors: how many batches are computed at once; by default one a processor.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        precision: Precision,
        place: str = "/CPU:0",
        processors: int | None = None,
    ) -> None:
        device.use_threads(1)
        dtype = tf.as_dtype(precision)
        self._place = place
        on_gpu = place != "/CPU:0"
        self.batch = GPU_BATCH if on_gpu else BATCH
        self._workers = 1 if on_gpu else processors or os.cpu_count() or 1
        with tf.device(place):
            weights = {name: tf.cast(tf.constant(tensors[name]), dtype) for name in FOLDED}

            def run(images: tf.Tensor, mirrored: bool) -> tf.Tensor:
                return features(tf.reverse(images, [2]) if mirrored else images, weights, dtype)

            self._run = tf.function(run, autograph=False)
        self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="embed")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The features of pictures: float32 [items, FEATURES].

        images: uint8 [items, height, width, channels], 0-255.
        """
        found = np.empty((len(images), FEATURES), np.float32)
        for part, embedded in self.embed(images, np.arange(len(images))):
            found[part] = embedded
        return found

    def embed(
        self, images: np.ndarray, items: np.ndarray, mirrored: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The features of some pictures, in order: items of a batch, and float32 [items, FEATURES].

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
            embedded: np.ndarray = self._run(tf.constant(batch), mirrored).numpy()
        return embedded[: len(part)]


def _done(part: np.ndarray, embedded: "Future[np.ndarray]") -> tuple[np.ndarray, np.ndarray]:
    return part, embedded.result()
