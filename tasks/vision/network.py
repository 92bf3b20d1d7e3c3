"""The networks: their variables and the forward pass, in plain TensorFlow."""

from collections.abc import Mapping, Sequence

import numpy as np

from tasks.vision.device import tf
from tasks.vision.errors import WeightsError
from tasks.vision.images import ImageSpec

HIDDEN_UNITS = 20


class Network(tf.Module):
    """uint8 images in, logits out: flatten, 20 rectified units, one output a class (784-20-10 for Fashion-MNIST).

    The variables, by name: `hidden/kernel` float32 [pixels, 20], `hidden/bias` [20], `output/kernel` [20, classes],
    `output/bias` [classes]. Kernels start Glorot-uniform from `seed`, biases at zero.
    """

    def __init__(self, spec: ImageSpec, classes: int, seed: int = 0) -> None:
        super().__init__(name="network")
        self.image_shape = (spec.height, spec.width, spec.channels)
        pixels = int(np.prod(self.image_shape))
        shapes = {"hidden": (pixels, HIDDEN_UNITS), "output": (HIDDEN_UNITS, classes)}
        self.weights: dict[str, tf.Variable] = {}
        for index, (layer, shape) in enumerate(shapes.items()):
            self.weights[f"{layer}/kernel"] = tf.Variable(glorot_uniform(shape, (seed, index)), name=f"{layer}/kernel")
            self.weights[f"{layer}/bias"] = tf.Variable(tf.zeros(shape[1:]), name=f"{layer}/bias")

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """uint8 [batch, height, width, channels] -> logits float32 [batch, classes]."""
        return self.forward(images, {name: tf.convert_to_tensor(weight) for name, weight in self.weights.items()})

    @staticmethod
    def forward(images: tf.Tensor, weights: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The same with the weights given: a training loop carries them as values, which XLA keeps in registers."""
        pixels = tf.reshape(tf.cast(images, tf.float32), [tf.shape(images)[0], -1]) * (1 / 255)
        hidden = tf.nn.relu(pixels @ weights["hidden/kernel"] + weights["hidden/bias"])
        return hidden @ weights["output/kernel"] + weights["output/bias"]

    def tensors(self) -> dict[str, np.ndarray]:
        """A copy of all variables: name -> float32 array."""
        return {name: weight.numpy() for name, weight in self.weights.items()}

    def assign(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take over all variables. Raises WeightsError when names, dtypes or shapes are not this network's."""
        expected = {name: (tuple(weight.shape), weight.dtype.name) for name, weight in self.weights.items()}
        found = {name: (tensor.shape, tensor.dtype.name) for name, tensor in tensors.items()}
        if found != expected:
            odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            told = "; ".join(f"{name}: expected {_told(expected, name)}, found {_told(found, name)}" for name in odd)
            raise WeightsError(f"these weights don't fit the network ({told}); retrain, or use the weights made for it")
        for name, weight in self.weights.items():
            weight.assign(tensors[name])


def glorot_uniform(shape: Sequence[int], seed: tuple[int, int]) -> tf.Tensor:
    """float32 from U(-l, l), l = sqrt(6 / (fan in + fan out)); the same seed gives the same numbers everywhere.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010), equation 16.
    """
    limit = np.sqrt(6 / sum(shape))
    return tf.random.stateless_uniform(shape, seed, -limit, limit)


def _told(tensors: Mapping[str, tuple[tuple[int, ...], str]], name: str) -> str:
    return "nothing" if name not in tensors else f"{tensors[name][1]} {list(tensors[name][0])}"
