"""The networks that stand on a backbone: a head on its features, and both as a whole."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.vision import device
from tasks.vision.backbone import features
from tasks.vision.cross_validation import Chosen, cross_validate, fold_items, solve
from tasks.vision.device import tf
from tasks.vision.errors import WeightsError
from tasks.vision.images import ImageSpec
from tasks.vision.lite0 import FEATURES, FOLDED, PREFIX
from tasks.vision.network import Network, Tensors
from tasks.vision.trained import Tried
from tasks.vision.training_data import class_weights

LEAST_DEVIATION = 0.01  # of features that are nearly the same in all pictures: a division must not blow them up


class Head(Network):
    """One output for each class, on features that were brought to mean 0, and all together to deviation 1.

    One deviation for all features, and not one each, leaves those small that vary little: on photographs of hands and
    of groceries that was right for 1 to 2 of 100 images more (docs/photographs.md).

    Its variables, float32:

    features/mean: [FEATURES], of what it learned from; not learned.
    features/deviation: [1], likewise.
    output/kernel: [FEATURES, classes], at first zero: the loss is convex.
    output/bias: [classes], at first zero.
    """

    dtype: type[np.generic] = np.float32

    def __init__(self, classes: int) -> None:
        super().__init__((FEATURES,), classes)
        self._add("features/mean", tf.zeros(FEATURES), learned=False)
        self._add("features/deviation", tf.ones(1), learned=False)
        self._add("output/kernel", tf.zeros((FEATURES, classes)))
        self._add("output/bias", tf.zeros(classes))

    def forward(self, images: tf.Tensor, weights: Tensors) -> tf.Tensor:
        """images: features, float32 [batch, FEATURES]."""
        standard = (images - weights["features/mean"]) / weights["features/deviation"]
        return standard @ weights["output/kernel"] + weights["output/bias"]

    def forward_training(self, images: tf.Tensor, weights: Tensors) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        return self.forward(images, weights), {}


class Whole(Head):
    """The backbone with the head on it: for fine-tuning, which moves all kernels and biases, and for export.

    It computes in float32: a step in bfloat16 took twice as long (TensorFlow 2.21, 2-core Intel Xeon).

    Its variables are those of the head, and `backbone/...` for each of `lite0.FOLDED`: normalization is folded into
    them, so its statistics are frozen.
    """

    dtype: type[np.generic] = np.uint8
    lanes = 4
    compiled = False

    def __init__(
        self,
        spec: ImageSpec,
        classes: int,
        folded: Mapping[str, np.ndarray],
        head: Mapping[str, np.ndarray],
    ) -> None:
        """folded: as `lite0.FOLDED` has them; head: the tensors of a Head."""
        super().__init__(classes)
        self.assign(head)
        self.image_shape = (spec.height, spec.width, spec.channels)
        for name in FOLDED:
            self._add(f"{PREFIX}{name}", tf.constant(folded[name]))

    @property
    def widest(self) -> int:
        """Bytes of what the first expansion makes of one image: 96 channels at half the size."""
        height, width, _ = self.image_shape
        return 4 * (height // 2) * (width // 2) * 96

    def forward(self, images: tf.Tensor, weights: Tensors) -> tf.Tensor:
        """images: uint8 [batch, height, width, channels]."""
        backbone = {name: weights[f"{PREFIX}{name}"] for name in FOLDED}
        return super().forward(features(images, backbone), weights)


@dataclass(frozen=True)
class Solved:
    """A head at its optimum.

    tensors: those of a Head.
    found: what cross-validation made of the penalties.
    """

    tensors: dict[str, np.ndarray]
    found: Chosen


def solve_head(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    widths: Sequence[int],
    first: np.ndarray,
    balanced: bool = False,
    seed: int = 0,
    on_tried: Callable[[Tried], None] = lambda tried: None,
) -> Solved:
    """The head with the least loss and penalty on features; cross-validation chooses the penalty.

    features: float32 [items, the sum of widths].
    labels: int32 [items], 0 to classes - 1.
    widths: of each backbone, how many of the features are its own.
    first: int64 [items], for each item the first one with the same picture.
    balanced: whether every class counts the same, however few items it has.
    seed: decides the folds.
    on_tried: is told of each penalty.

    The same arguments give the same bits, whatever the number of processors. Raises WeightsError where features are no
    numbers.
    """
    if not np.isfinite(features).all():
        raise WeightsError("expected features that are numbers, found NaN or infinity; stand on another backbone")
    device.use_threads(1)
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    edges = np.cumsum([0, *widths])
    variances = features.var(axis=0, dtype=np.float64)
    deviation = np.array(
        [np.sqrt(variances[start:stop].mean()) for start, stop in itertools.pairwise(edges)], np.float32
    )
    deviation = np.maximum(deviation, LEAST_DEVIATION)
    standard = (features - mean) / np.repeat(deviation, list(widths))
    weights = class_weights(labels, classes)[labels] if balanced else np.ones(len(labels), np.float32)
    with tf.device("/CPU:0"):
        found = cross_validate(standard, labels, weights, fold_items(labels, first, seed), classes, on_tried)
        kernel, bias = solve(standard, labels, weights, classes, found)
    tensors = {"features/mean": mean, "features/deviation": deviation, "output/kernel": kernel, "output/bias": bias}
    return Solved(tensors, found)
