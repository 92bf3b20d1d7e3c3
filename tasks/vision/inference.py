"""Prediction in padded batches of one size: one trace, and a row's numbers don't depend on its neighbours."""

import numpy as np

from tasks.vision.device import tf
from tasks.vision.network import Network

BATCH = 256


class Predictor:
    """Probabilities from a network, by softmax over its logits divided by the `temperature`."""

    def __init__(self, network: Network, temperature: float = 1.0) -> None:
        self.network = network
        self._run = tf.function(lambda images: tf.nn.softmax(network(images) / temperature), autograph=False)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [items, height, width, channels] -> float32 [items, classes], each row summing to 1."""
        probabilities = np.empty((len(images), self.network.classes), np.float32)
        batch = np.zeros((BATCH, *self.network.image_shape), np.uint8)
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            batch[: len(part)] = part
            probabilities[start : start + len(part)] = self._run(tf.constant(batch)).numpy()[: len(part)]
        return probabilities
