"""Networks of convolutions, as lists of layers: what their tensors are called, their shapes, and how normalization is
folded. Plain NumPy."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from tasks.vision.architecture import Architecture, Arrays, Layout, Shapes

if TYPE_CHECKING:
    from tasks.vision.device import tf
    from tasks.vision.network import Tensors

CLASSIFIER = "classifier"
NORMALIZED = ("scale", "offset", "mean", "variance")
_NORMALIZED = dict(zip(NORMALIZED, ("weight", "bias", "running_mean", "running_var"), strict=True))  # PyTorch's names


@dataclass(frozen=True)
class Layer:
    """A convolution without a bias, normalized.

    name: what its tensors' names begin with.
    kind: `depthwise` convolves each channel by itself.
    kernel: the shape of its kernel: height, width, in, out; of a depthwise one the last is 1.
    stride: in pixels, both ways.
    rectified: whether it is.
    """

    name: str
    kind: Literal["convolution", "depthwise"]
    kernel: tuple[int, int, int, int]
    stride: int = 1
    rectified: bool = True

    @property
    def channels(self) -> int:
        """Of its output."""
        return self.kernel[2] if self.kind == "depthwise" else self.kernel[3]


@dataclass(frozen=True)
class Block:
    """Layers one after the other.

    residual: whether their input is added to their output.
    averages: whether their input is averaged over the picture first.
    """

    layers: tuple[Layer, ...]
    residual: bool = False
    averages: bool = False


@dataclass(frozen=True)
class Names:
    """What PyTorch's modules are called in the checkpoints of somebody.

    whose: whose names these are.
    layers: a layer's name -> the modules of its convolution and of its normalization.
    classifier: the module of the classifier.
    """

    whose: str
    layers: Mapping[str, tuple[str, str]]
    classifier: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolutional(Architecture):
    """Blocks of convolutions; what the last one makes is averaged over the picture.

    blocks: in order.
    names: of the checkpoints that can be read, beside our own.
    epsilon: added to a variance before the division by its root.
    padding: what a layer with a stride sees beyond the borders: `same` is TensorFlow's way, `symmetric` is PyTorch's.
    rectifier: what is done to the output of a layer that is rectified.
    keeps_classifier: whether the classifier of ImageNet's 1000 classes is kept where a checkpoint has it.
    """

    blocks: tuple[Block, ...]
    names: tuple[Names, ...]
    epsilon: float
    padding: Literal["same", "symmetric"]
    rectifier: Literal["relu", "relu6"]
    keeps_classifier: bool

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer for block in self.blocks for layer in block.layers)

    @cached_property
    def shapes(self) -> Shapes:
        return {
            **{f"{layer.name}/kernel": layer.kernel for layer in self.layers},
            **{f"{layer.name}/{each}": (layer.channels,) for layer in self.layers for each in NORMALIZED},
        }

    @cached_property
    def classifier(self) -> Shapes:
        """The tensors that a backbone has beside `shapes` where its classifier is kept."""
        return {f"{CLASSIFIER}/kernel": (self.features, 1000), f"{CLASSIFIER}/bias": (1000,)}

    @cached_property
    def folded(self) -> Shapes:
        """Normalization is folded into the convolutions."""
        return {
            name: shape
            for layer in self.layers
            for name, shape in ((f"{layer.name}/kernel", layer.kernel), (f"{layer.name}/bias", (layer.channels,)))
        }

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        ours = Layout("Lookbook", self.shapes, frozenset(self.classifier), self._with_classifier)
        return (ours, *(self._layout(names) for names in self.names))

    def fold(self, tensors: Arrays) -> dict[str, np.ndarray]:
        """The kernels and biases that give what convolution and normalization by running statistics give."""
        folded = {}
        for layer in self.layers:
            scale, offset, mean, variance = (tensors[f"{layer.name}/{each}"].astype(np.float64) for each in NORMALIZED)
            factor = scale / np.sqrt(variance + self.epsilon)
            kernel = tensors[f"{layer.name}/kernel"] * (factor[:, np.newaxis] if layer.kind == "depthwise" else factor)
            folded[f"{layer.name}/kernel"] = kernel.astype(np.float32)
            folded[f"{layer.name}/bias"] = (offset - mean * factor).astype(np.float32)
        return folded

    def forward(self, images: "tf.Tensor", weights: "Tensors", dtype: "tf.DType") -> "tf.Tensor":
        from tasks.vision.convolving import convolve

        return convolve(images, weights, dtype, self)

    def widest(self, height: int, width: int) -> int:
        most = 0
        for block in self.blocks:
            height, width = (1, 1) if block.averages else (height, width)
            for layer in block.layers:
                height, width = -(-height // layer.stride), -(-width // layer.stride)
                most = max(most, height * width * layer.channels)
        return most

    def _layout(self, names: Names) -> Layout:
        theirs = {}
        for layer in self.layers:
            convolution, normalization = names.layers[layer.name]
            theirs[f"{layer.name}/kernel"] = f"{convolution}.weight"
            theirs |= {f"{layer.name}/{ours}": f"{normalization}.{each}" for ours, each in _NORMALIZED.items()}
        classifier = {
            f"{CLASSIFIER}/kernel": f"{names.classifier}.weight",
            f"{CLASSIFIER}/bias": f"{names.classifier}.bias",
        }
        counters = {f"{normalization}.num_batches_tracked" for _, normalization in names.layers.values()}

        def converted(tensors: Arrays) -> dict[str, np.ndarray]:
            found = {ours: name for ours, name in {**theirs, **classifier}.items() if name in tensors}
            return self._with_classifier({ours: _from_torch(ours, tensors[name]) for ours, name in found.items()})

        shapes = {name: _in_torch(ours, self.shapes[ours]) for ours, name in theirs.items()}
        return Layout(names.whose, shapes, frozenset(counters | set(classifier.values())), converted)

    def _with_classifier(self, tensors: Arrays) -> dict[str, np.ndarray]:
        """Without the classifier, unless it is kept and all there."""
        kept = self.keeps_classifier and all(
            name in tensors and tensors[name].shape == shape for name, shape in self.classifier.items()
        )
        return {name: each for name, each in tensors.items() if kept or name not in self.classifier}


def _from_torch(name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor of PyTorch's layout, in which kernels are [out, in, height, width], in ours."""
    if name == f"{CLASSIFIER}/kernel":
        tensor = tensor.T
    elif tensor.ndim == 4:
        tensor = tensor.transpose((2, 3, 0, 1) if name.endswith("depthwise/kernel") else (2, 3, 1, 0))
    return np.ascontiguousarray(tensor)


def _in_torch(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 4:
        return shape
    height, width, before, after = shape
    depthwise = name.endswith("depthwise/kernel")
    return (before, after, height, width) if depthwise else (after, before, height, width)
