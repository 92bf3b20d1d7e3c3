"""What a pretrained network is to those that stand on it: tensors, and a way from pictures to features. Plain NumPy;
what computes imports TensorFlow when it is called."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.vision.errors import WeightsError

if TYPE_CHECKING:
    from tasks.vision.device import tf
    from tasks.vision.network import Tensors

Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

IMAGENET_MEAN = (255 * 0.485, 255 * 0.456, 255 * 0.406)  # of the pixels of its pictures, 0 to 255: red, green, blue
IMAGENET_DEVIATION = (255 * 0.229, 255 * 0.224, 255 * 0.225)


@dataclass(frozen=True)
class Layout:
    """How the checkpoints of somebody hold the tensors of an architecture.

    whose: whose names these are, as a message tells it.
    shapes: the tensors that must be there, by their names.
    spare: names of tensors that may be there and decide no feature: counters, a classifier.
    converted: tensors by their names -> tensors by ours, as `Architecture.shapes` has them.
    """

    whose: str
    shapes: Shapes
    spare: frozenset[str]
    converted: Callable[[Arrays], dict[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """A pretrained network without its numbers.

    name: what settings and people call it.
    title: what its authors call it.
    features: how many numbers it makes of a picture.
    side: of the pictures that it was trained with, in pixels.
    multiple: the height and the width of a picture are multiples of it.
    subtract, divide: a pixel of 0 to 255 becomes (pixel - subtract) / divide; one number for all channels, or three.
    licence: of the weights that its authors published.
    citation: whose work it is.
    """

    name: str
    title: str
    features: int
    side: int
    multiple: int = 1
    subtract: float | tuple[float, float, float]
    divide: float | tuple[float, float, float]
    licence: str = "Apache-2.0"
    citation: str

    def looks_at(self, height: int, width: int, side: int | None = None) -> tuple[int, int]:
        """The height and the width at which pictures of this size are looked at.

        side: of both; by default the pictures' own, rounded down to what the network can look at.

        Raises WeightsError for a side that it can't look at.
        """
        if side is not None and (side < self.multiple or side % self.multiple):
            raise WeightsError(
                f"expected a side that is a multiple of {self.multiple} pixels for {self.title}, found {side}; take "
                f"{max(side // self.multiple, 1) * self.multiple}"
            )
        height, width = (side, side) if side is not None else (height, width)
        return max(height // self.multiple, 1) * self.multiple, max(width // self.multiple, 1) * self.multiple

    @property
    @abstractmethod
    def shapes(self) -> Shapes:
        """The tensors of a backbone in the store, all of float32."""

    @property
    @abstractmethod
    def folded(self) -> Shapes:
        """The tensors that `forward` computes with, all of float32. No other architecture has the same ones."""

    @property
    def exact(self) -> frozenset[str]:
        """Which of `folded` stay float32, whatever products are computed in."""
        return frozenset()

    @property
    @abstractmethod
    def layouts(self) -> tuple[Layout, ...]:
        """The checkpoints that can be read."""

    @abstractmethod
    def fold(self, tensors: Arrays) -> dict[str, np.ndarray]:
        """The fewest tensors that give the same features. tensors: as `shapes` has them. Returns float32 arrays as
        `folded` has them."""

    @abstractmethod
    def forward(self, images: "tf.Tensor", weights: "Tensors", dtype: "tf.DType") -> "tf.Tensor":
        """Features: float32 [batch, features].

        images: float32 [batch, height, width, 3], scaled; height and width are multiples of `multiple`.
        weights: as `folded` has them, of `dtype`, in which products are computed, but for those that are `exact`.
        """

    @abstractmethod
    def widest(self, height: int, width: int) -> int:
        """How many numbers the largest tensor has that `forward` makes of one picture."""
