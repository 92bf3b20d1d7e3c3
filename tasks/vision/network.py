"""The networks: their variables and the forward pass, in plain TensorFlow."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tasks.vision.device import tf
from tasks.vision.errors import WeightsError
from tasks.vision.images import ImageSpec
from tasks.vision.initializers import glorot_uniform, he_normal
from tasks.vision.processor import Precision
from tasks.vision.recipes import Augmentation, Inputs

HIDDEN_UNITS = 20
SHIFTED = 1 / 28  # of an image's side: by so much `conv` moves it at most
COVERED = 2 / 7  # of an image's side: that of the square by which `conv` covers a part of every other one
EPSILON = 1e-3  # added to a variance before the division by its root

Tensors = Mapping[str, tf.Tensor]


class Network(tf.Module):
    """uint8 images in, logits out.

    weights: all variables by name, float32. Gradients move those that are `learned`; the others are the running
        statistics of normalization.
    classes: how many there are.
    image_shape: height, width, channels; of what takes features, their number alone.
    centered: whether it sees pixels from -1/2 to 1/2 instead of 0 to 1.
    precision: what a training computes convolutions in. Weights, sums and predictions are float32.
    shifted: by how many pixels a training moves an image at most.
    covered: the side in pixels of the square by which a training covers a part of every other image, 0 for none.
    mirrored: whether an image and its mirror image get the same logits, which are the mean of both.
    steadied: whether logits are the mean of those of an image and of the same image moved up and to the left, as a
        training moves it at most.
    """

    dtype: type[np.generic] = np.uint8
    """Of what goes in: uint8 images, or float32 features."""
    lanes = 1
    """How many equal parts of a batch are trained on side by side, each with one thread. The network decides it, not
    the machine, so that the number of processors changes no numbers."""
    compiled = True
    """Whether XLA compiles the training loop."""
    longest: float | None = None
    """How long the gradient of a step may be, over all weights together; None for no limit."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__(name="network")
        self.mirrored = self.steadied = False
        self.centered = False
        self.precision: Precision = "float32"
        self.shifted = self.covered = 0
        self.image_shape = shape
        self.classes = classes
        self.weights: dict[str, tf.Variable] = {}

    @property
    def learned(self) -> dict[str, tf.Variable]:
        return {name: weight for name, weight in self.weights.items() if weight.trainable}

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates of some weights by name, as shares of that of all others."""
        return {}

    @property
    def widest(self) -> int:
        """Bytes of the largest tensor that the forward pass makes of one image: its pixels as float32, unless a layer
        is wider."""
        return 4 * int(np.prod(self.image_shape))

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """uint8 [batch, height, width, channels] -> logits float32 [batch, classes]."""
        weights = {name: tf.convert_to_tensor(weight) for name, weight in self.weights.items()}
        logits = self._steady(images, weights)
        return (logits + self._steady(tf.reverse(images, [2]), weights)) / 2 if self.mirrored else logits

    def _steady(self, images: tf.Tensor, weights: Tensors) -> tf.Tensor:
        logits = self.forward(images, weights)
        if not self.steadied:
            return logits
        moved = images
        for axis, side in enumerate(self.image_shape[:2], start=1):
            moved = tf.gather(moved, np.minimum(np.arange(side) + self.shifted, side - 1), axis=axis)
        return (logits + self.forward(moved, weights)) / 2

    def forward(self, images: tf.Tensor, weights: Tensors) -> tf.Tensor:
        """The logits of the images as they are, neither mirrored nor moved.

        images: uint8 [batch, height, width, channels].
        weights: the values to compute with, by name.
        """
        raise NotImplementedError

    def forward_training(self, images: tf.Tensor, weights: Tensors) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The logits as a training sees them, and the statistics of this batch by the names of the running ones.

        images: uint8 [batch, height, width, channels].
        weights: values by name, as `turned` lays them out for the training loop.
        """
        raise NotImplementedError

    def turned(self, tensors: Tensors) -> dict[str, tf.Tensor]:
        """Weights, or an optimizer's state for them, in the layout that makes training fast. Applied twice, it gives
        the layout from before."""
        return dict(tensors)

    def tensors(self) -> dict[str, np.ndarray]:
        """A copy of all variables: name -> float32 array."""
        return {name: weight.numpy() for name, weight in self.weights.items()}

    def assign(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Set all variables. Raises WeightsError when names, dtypes or shapes are not this network's."""
        expected = {name: (tuple(weight.shape), weight.dtype.name) for name, weight in self.weights.items()}
        found = {name: (tensor.shape, tensor.dtype.name) for name, tensor in tensors.items()}
        if found != expected:
            odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            differences = "; ".join(
                f"{name}: expected {_kind_of(expected, name)}, found {_kind_of(found, name)}" for name in odd
            )
            raise WeightsError(
                f"these weights don't fit the network ({differences}); retrain, or use the weights made for it"
            )
        for name, weight in self.weights.items():
            weight.assign(tensors[name])

    def _add(self, name: str, value: tf.Tensor, learned: bool = True) -> None:
        self.weights[name] = tf.Variable(value, trainable=learned, name=name)


class Dense(Network):
    """The tutorial's network: flatten, 20 rectified units, one output for each class (784-20-10 for Fashion-MNIST).

    Its variables, float32:

    hidden/kernel: [pixels, 20], at first Glorot-uniform by `seed`.
    hidden/bias: [20], at first zero.
    output/kernel: [20, classes], at first Glorot-uniform by `seed`.
    output/bias: [classes], at first zero.
    """

    def __init__(self, spec: ImageSpec, classes: int, seed: int = 0) -> None:
        super().__init__((spec.height, spec.width, spec.channels), classes)
        pixels = int(np.prod(self.image_shape))
        shapes = {"hidden": (pixels, HIDDEN_UNITS), "output": (HIDDEN_UNITS, classes)}
        for index, (layer, shape) in enumerate(shapes.items()):
            self._add(f"{layer}/kernel", glorot_uniform(shape, (seed, index)))
            self._add(f"{layer}/bias", tf.zeros(shape[1:]))

    def forward(self, images: tf.Tensor, weights: Tensors) -> tf.Tensor:
        return self._logits(self._flat(images) @ weights["hidden/kernel"], weights)

    def forward_training(self, images: tf.Tensor, weights: Tensors) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        return self._logits(tf.matmul(self._flat(images), weights["hidden/kernel"], transpose_b=True), weights), {}

    def _flat(self, images: tf.Tensor) -> tf.Tensor:
        pixels = tf.reshape(tf.cast(images, tf.float32), [tf.shape(images)[0], -1]) * (1 / 255)
        if not self.centered:
            return pixels
        return (pixels - 0.5) * float(np.sqrt(28 * 28 / np.prod(self.image_shape)))

    def turned(self, tensors: Tensors) -> dict[str, tf.Tensor]:
        """`hidden/kernel` becomes [20, pixels]: its gradient then has long rows, and a step takes two thirds of the
        time."""
        return {name: tf.transpose(tensor) if name == "hidden/kernel" else tensor for name, tensor in tensors.items()}

    def _logits(self, sums: tf.Tensor, weights: Tensors) -> tf.Tensor:
        hidden = tf.nn.relu(sums + weights["hidden/bias"])
        return hidden @ weights["output/kernel"] + weights["output/bias"]


class Convolution(NamedTuple):
    """A convolution of 3x3 with what follows it.

    channels: how many it makes.
    pooled: whether the maximum of each 2x2 follows.
    residual: whether the input of the convolution before is added to what comes of this one.
    """

    channels: int
    pooled: bool = False
    residual: bool = False


def convolutions(width: int) -> tuple[Convolution, ...]:
    """Those of a `conv` of this width; of width 0 those of weights from before there was a width."""
    if not width:
        return Convolution(32, pooled=True), Convolution(64, pooled=True), Convolution(64), Convolution(128)
    first = Convolution(width, pooled=True), Convolution(2 * width, pooled=True)
    return *first, Convolution(4 * width), Convolution(4 * width), Convolution(4 * width, residual=True)


class Conv(Network):
    """Convolutions of 3x3, for images of any size.

    Each is normalized over its batch and rectified. The maximum of each channel over the image and one output for each
    class follow. The residual convolutions are those of He et al., "Deep residual learning" (2015), in the form of
    ResNet-9 (Page, "How to train your ResNet", 2018).

    Its variables, float32, with N from 1 on:

    convN/kernel: [3, 3, in, out], at first He-normal by `seed`.
    convN/scale, convN/offset: [out], at first one and zero.
    convN/mean, convN/variance: [out], the running statistics that prediction normalizes by; not learned.
    output/kernel: [out, classes], at first Glorot-uniform by `seed`.
    output/bias: [classes], at first zero.

    Normalization is over a lane's part of a batch. Ioffe and Szegedy, "Batch normalization" (2015); Hoffer et al.,
    "Train longer, generalize better" (2017) for parts of a batch.
    """

    lanes = 4
    compiled = False  # convolutions of oneDNN, which XLA doesn't call

    def __init__(self, spec: ImageSpec, classes: int, seed: int = 0, width: int = 0) -> None:
        """width: as `convolutions` takes it."""
        super().__init__((spec.height, spec.width, spec.channels), classes)
        self.layers = {f"conv{index + 1}": each for index, each in enumerate(convolutions(width))}
        before: int = spec.channels
        for index, (name, layer) in enumerate(self.layers.items()):
            self._add(f"{name}/kernel", he_normal((3, 3, before, layer.channels), (seed, index)))
            self._add(f"{name}/scale", tf.ones(layer.channels))
            self._add(f"{name}/offset", tf.zeros(layer.channels))
            self._add(f"{name}/mean", tf.zeros(layer.channels), learned=False)
            self._add(f"{name}/variance", tf.ones(layer.channels), learned=False)
            before = layer.channels
        self._add("output/kernel", glorot_uniform((before, classes), (seed, len(self.layers))))
        self._add("output/bias", tf.zeros(classes))

    @property
    def widest(self) -> int:
        """Bytes of what the first convolution makes of one image before it is pooled."""
        height, width, _ = self.image_shape
        return 4 * height * width * self.layers["conv1"].channels

    def forward(self, images: tf.Tensor, weights: Tensors) -> tf.Tensor:
        return self._forward(images, weights, None)

    def forward_training(self, images: tf.Tensor, weights: Tensors) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        statistics: dict[str, tf.Tensor] = {}
        return self._forward(images, weights, statistics), statistics

    def _forward(self, images: tf.Tensor, weights: Tensors, statistics: dict[str, tf.Tensor] | None) -> tf.Tensor:
        dtype = tf.float32 if statistics is None else tf.as_dtype(self.precision)
        features = earlier = tf.cast(tf.cast(images, tf.float32) * (1 / 255), dtype)
        for name, layer in self.layers.items():
            before, sums = features, tf.nn.conv2d(features, tf.cast(weights[f"{name}/kernel"], dtype), 1, "SAME")
            if layer.pooled:
                sums = tf.nn.max_pool2d(sums, 2, 2, "SAME")
            features = tf.nn.relu(_normalize(sums, weights, name, statistics))
            if layer.residual:
                features += earlier
            earlier = before
        highest = tf.cast(tf.reduce_max(features, [1, 2]), tf.float32)
        return highest @ weights["output/kernel"] + weights["output/bias"]


ARCHITECTURES = ("dense", "conv")


def make_network(
    architecture: str,
    spec: ImageSpec,
    classes: int,
    seed: int = 0,
    augmentation: Augmentation = "none",
    inputs: Inputs = "plain",
    width: int = 0,
) -> Network:
    """A network with its first weights.

    seed: decides the first weights.
    augmentation: `flips` makes the network mirrored, and a `conv` with a width steadied.
    inputs: `centered` makes the network centered.
    width: of `conv`.

    Raises WeightsError for an architecture that this Lookbook doesn't have.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise WeightsError(
            f"expected an architecture out of {known}, found {architecture!r}; a newer Lookbook knows it"
        )
    network = Conv(spec, classes, seed, width) if architecture == "conv" else Dense(spec, classes, seed)
    network.mirrored = augmentation == "flips"
    if architecture == "conv" and augmentation == "flips":
        side = min(spec.height, spec.width)
        network.shifted, network.covered = max(1, round(SHIFTED * side)), round(COVERED * side)
        network.steadied = width > 0
    network.centered = inputs == "centered"
    return network


def _normalize(features: tf.Tensor, weights: Tensors, layer: str, statistics: dict[str, tf.Tensor] | None) -> tf.Tensor:
    """Bring each channel to mean 0 and variance 1, then scale and offset it.

    features: float32 or bfloat16 [batch, height, width, channels]; what comes out is the same.
    statistics: None in prediction, which normalizes by the running statistics. A training normalizes by the statistics
        of these features, and they are added here.

    It is one operation, because it takes longer when written as six.
    """
    given = {"scale": weights[f"{layer}/scale"], "offset": weights[f"{layer}/offset"], "epsilon": EPSILON}
    if statistics is None:
        known = {"mean": weights[f"{layer}/mean"], "variance": weights[f"{layer}/variance"]}
        return tf.raw_ops.FusedBatchNormV3(x=features, **given, **known, is_training=False).y
    none = tf.zeros([0])
    found = tf.raw_ops.FusedBatchNormV3(x=features, **given, mean=none, variance=none, is_training=True)
    statistics[f"{layer}/mean"], statistics[f"{layer}/variance"] = found.batch_mean, found.batch_variance
    return found.y


def _kind_of(tensors: Mapping[str, tuple[tuple[int, ...], str]], name: str) -> str:
    """Dtype and shape of a tensor, for a person."""
    return "nothing" if name not in tensors else f"{tensors[name][1]} {list(tensors[name][0])}"
