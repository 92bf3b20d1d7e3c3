"""Prediction in padded batches of one size.

So there is one trace, and the numbers of a row don't depend on its neighbours.
"""

import numpy as np

from tasks.vision.device import tf
from tasks.vision.network import Network

BATCH, LEAST_BATCH = 256, 4
BATCH_BYTES = 128 << 20  # of the widest layer: 256 images of 64x64 by `conv`, which then takes 0.4 GB


def batch_of(network: Network) -> int:
    """How many images `network` predicts at once.

    256, or for large images a smaller power of two, 4 or more, so that the widest layer takes BATCH_BYTES at most.

    The network decides it, not the data, so that a row's numbers are the same in any table. Batches of 256, 128, 64,
    32, 16 and 4 gave the same bits for images of 28x28 to 128x128 by both networks; batches of 1 did not (TensorFlow
    2.21, 2-core Intel Xeon).
    """
    batch = BATCH
    while batch > LEAST_BATCH and batch * network.widest > BATCH_BYTES:
        batch //= 2
    return batch


class Predictor:
    """Probabilities from a network: the softmax of its logits.

    temperature: above 0; the logits are divided by it.
    batch: how many images are predicted at once.
    """

    def __init__(self, network: Network, temperature: float = 1.0) -> None:
        self.network = network
        self.batch = batch_of(network)
        self._run = tf.function(lambda images: tf.nn.softmax(network(images) / temperature), autograph=False)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The probabilities of images: float32 [items, classes]; each row sums to 1.

        images: uint8 [items, height, width, channels], 0-255; or float32 [items, features], as the network takes them.
        """
        probabilities = np.empty((len(images), self.network.classes), np.float32)
        batch = np.zeros((self.batch, *self.network.image_shape), self.network.dtype)
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            batch[: len(part)] = part
            probabilities[start : start + len(part)] = self._run(tf.constant(batch)).numpy()[: len(part)]
        return probabilities
