"""EfficientNet-Lite0, as a list of layers: what its tensors are called, their shapes, and how normalization is folded.

The layers are those of Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019),
in Google's Lite variant (2020): ReLU6 everywhere, no squeeze-and-excite. Plain NumPy.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.vision.errors import WeightsError

STEM, HEAD, CLASSIFIER = "stem", "head", "classifier"
FEATURES = 1280  # outputs of `head`, averaged over the picture
IMAGENET = 1000  # classes of `classifier`
EPSILON = 1e-3  # added to a variance before the division by its root
SUBTRACT, DIVIDE = 127.0, 128.0  # pixels become (pixel - 127) / 128
NORMALIZED = ("scale", "offset", "mean", "variance")

_STEM_CHANNELS = 32
_STAGES = (  # repeats, side of the kernel, stride of the first, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

Kind = Literal["convolution", "depthwise"]


@dataclass(frozen=True)
class Layer:
    """A convolution without a bias, normalized.

    name: what its tensors' names begin with.
    kind: `depthwise` convolves each channel by itself.
    kernel: the shape of its kernel: height, width, in, out; of a depthwise one the last is 1.
    stride: in pixels, both ways.
    rectified: whether ReLU6 follows.
    """

    name: str
    kind: Kind
    kernel: tuple[int, int, int, int]
    stride: int = 1
    rectified: bool = True

    @property
    def channels(self) -> int:
        """Of its output."""
        return self.kernel[2] if self.kind == "depthwise" else self.kernel[3]


@dataclass(frozen=True)
class Block:
    """Layers one after the other. residual: whether their input is added to their output."""

    layers: tuple[Layer, ...]
    residual: bool = False


def _blocks() -> Iterator[Block]:
    yield Block((Layer(STEM, "convolution", (3, 3, 3, _STEM_CHANNELS), stride=2),))
    before, number = _STEM_CHANNELS, 0
    for repeats, side, first_stride, expansion, channels in _STAGES:
        for repeat in range(repeats):
            number += 1
            name, wide = f"block{number:02}", before * expansion
            stride = 1 if repeat else first_stride
            layers = (
                *([Layer(f"{name}/expand", "convolution", (1, 1, before, wide))] if expansion > 1 else []),
                Layer(f"{name}/depthwise", "depthwise", (side, side, wide, 1), stride),
                Layer(f"{name}/project", "convolution", (1, 1, wide, channels), rectified=False),
            )
            yield Block(layers, residual=stride == 1 and before == channels)
            before = channels
    yield Block((Layer(HEAD, "convolution", (1, 1, before, FEATURES)),))


BLOCKS = tuple(_blocks())
LAYERS = tuple(layer for block in BLOCKS for layer in block.layers)

SHAPES: dict[str, tuple[int, ...]] = {
    **{f"{layer.name}/kernel": layer.kernel for layer in LAYERS},
    **{f"{layer.name}/{each}": (layer.channels,) for layer in LAYERS for each in NORMALIZED},
    f"{CLASSIFIER}/kernel": (FEATURES, IMAGENET),
    f"{CLASSIFIER}/bias": (IMAGENET,),
}
"""Every tensor of a backbone by name, all of float32."""

FOLDED: dict[str, tuple[int, ...]] = {
    name: shape
    for layer in LAYERS
    for name, shape in ((f"{layer.name}/kernel", layer.kernel), (f"{layer.name}/bias", (layer.channels,)))
}
"""The tensors that are left when normalization is folded into the convolutions, without the classifier."""


PREFIX = "backbone/"
"""What the names of these tensors begin with in weights that hold a backbone of their own, moved by fine-tuning."""


def parted(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The tensors of a head, and those of the backbone that it brings, as FOLDED names them; none if it brings none.

    Raises WeightsError when some of these are there and others are not.
    """
    own = {name.removeprefix(PREFIX): each for name, each in tensors.items() if name.startswith(PREFIX)}
    if own and {name: each.shape for name, each in own.items()} != FOLDED:
        raise WeightsError(
            "expected all tensors of EfficientNet-Lite0, or none, found others; a newer Lookbook knows them"
        )
    return {name: each for name, each in tensors.items() if not name.startswith(PREFIX)}, own


def fold(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The kernels and biases that give what convolution and normalization by running statistics give.

    tensors: as SHAPES has them. Returns float32 arrays as FOLDED has them.
    """
    folded = {}
    for layer in LAYERS:
        scale, offset, mean, variance = (tensors[f"{layer.name}/{each}"].astype(np.float64) for each in NORMALIZED)
        factor = scale / np.sqrt(variance + EPSILON)
        kernel = tensors[f"{layer.name}/kernel"] * (factor[:, np.newaxis] if layer.kind == "depthwise" else factor)
        folded[f"{layer.name}/kernel"] = kernel.astype(np.float32)
        folded[f"{layer.name}/bias"] = (offset - mean * factor).astype(np.float32)
    return folded
