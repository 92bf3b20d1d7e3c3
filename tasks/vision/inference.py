"""Prediction in padded batches of one size: one trace, and a row's numbers don't depend on its neighbours."""

import numpy as np

from tasks.vision.device import tf
from tasks.vision.network import Network

BATCH, LEAST_BATCH = 256, 4
BATCH_BYTES = 128 << 20  # of the widest layer: 256 images of 64x64 by `conv`, which then takes 0.4 GB


def batch_of(network: Network) -> int:
    """How many images `network` predicts at once: 256, or for large images a smaller power of two, so that its widest
    layer takes BATCH_BYTES at most; 4 or more.

    It is the network's and not the data's, so that the numbers are, too. Of 256, 128, 64, 32, 16 and 4 each gave the
    same bits for images of 28x28 to 128x128 by both networks; 1 did not (TensorFlow 2.21, 2-core Intel Xeon).
    """
    batch = BATCH
    while batch > LEAST_BATCH and batch * network.widest > BATCH_BYTES:
        batch //= 2
    return batch


class Predictor:
    """Probabilities from a network, by softmax over its logits divided by the `temperature`. `batch`: how many images
    it predicts at once."""

    def __init__(self, network: Network, temperature: float = 1.0) -> None:
        self.network = network
        self.batch = batch_of(network)
        self._run = tf.function(lambda images: tf.nn.softmax(network(images) / temperature), autograph=False)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [items, height, width, channels] -> float32 [items, classes], each row summing to 1."""
        probabilities = np.empty((len(images), self.network.classes), np.float32)
        batch = np.zeros((self.batch, *self.network.image_shape), np.uint8)
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            batch[: len(part)] = part
            probabilities[start : start + len(part)] = self._run(tf.constant(batch)).numpy()[: len(part)]
        return probabilities
