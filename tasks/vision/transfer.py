"""The networks that stand on a backbone: a head on its features, and both as a whole."""

from collections.abc import Mapping

import numpy as np

from tasks.vision.architecture import Architecture
from tasks.vision.backbone import features
from tasks.vision.device import tf
from tasks.vision.families import PREFIX
from tasks.vision.images import ImageSpec
from tasks.vision.network import Network, Tensors

LEAST_DEVIATION = 0.01  # of features that are nearly the same in all pictures: a division must not blow them up


class Head(Network):
    """One output for each class, on features that were brought to mean 0, and all together to deviation 1.

    One deviation for all features, and not one each, leaves those small that vary little: on photographs of hands and
    of groceries that was right for 1 to 2 of 100 images more (docs/photographs.md).

    Its variables, float32:

    features/mean: [width], of what it learned from; not learned.
    features/deviation: [1], likewise.
    output/kernel: [width, classes], at first zero: the loss is convex.
    output/bias: [classes], at first zero.
    """

    dtype: type[np.generic] = np.float32

    def __init__(self, width: int, classes: int) -> None:
        """width: how many features a picture has."""
        super().__init__((width,), classes)
        self._add("features/mean", tf.zeros(width), learned=False)
        self._add("features/deviation", tf.ones(1), learned=False)
        self._add("output/kernel", tf.zeros((width, classes)))
        self._add("output/bias", tf.zeros(classes))

    def forward(self, images: tf.Tensor, weights: Tensors) -> tf.Tensor:
        """images: features, float32 [batch, width]."""
        standard = (images - weights["features/mean"]) / weights["features/deviation"]
        return standard @ weights["output/kernel"] + weights["output/bias"]

    def forward_training(self, images: tf.Tensor, weights: Tensors) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        return self.forward(images, weights), {}


class Whole(Head):
    """The backbone with the head on it: for fine-tuning, which moves all kernels and biases, and for export.

    It computes in float32: a step in bfloat16 took twice as long (TensorFlow 2.21, 2-core Intel Xeon).

    Its variables are those of the head, and `backbone/...` for each of its architecture's `folded`: normalization of
    convolutions is folded into them, so its statistics are frozen.
    """

    dtype: type[np.generic] = np.uint8
    lanes = 4
    compiled = False

    def __init__(
        self,
        spec: ImageSpec,
        classes: int,
        architecture: Architecture,
        folded: Mapping[str, np.ndarray],
        head: Mapping[str, np.ndarray],
        looks_at: tuple[int, int] | None = None,
    ) -> None:
        """folded: as `architecture.folded` has them; head: the tensors of a Head; looks_at: as `features` has it."""
        super().__init__(architecture.features, classes)
        self.assign(head)
        self.image_shape = (spec.height, spec.width, spec.channels)
        self._architecture = architecture
        self._looks_at = looks_at or (spec.height, spec.width)
        for name in architecture.folded:
            self._add(f"{PREFIX}{name}", tf.constant(folded[name]))

    @property
    def widest(self) -> int:
        return max(super().widest, 4 * self._architecture.widest(*self._looks_at))

    def forward(self, images: tf.Tensor, weights: Tensors) -> tf.Tensor:
        """images: uint8 [batch, height, width, channels]."""
        backbone = {name: weights[f"{PREFIX}{name}"] for name in self._architecture.folded}
        found = features(self._architecture, images, backbone, looks_at=self._looks_at)
        return super().forward(found, weights)


def head_on(features: np.ndarray, classes: int) -> Head:
    """A head with its first weights, and mean and deviation of the features to learn from.

    features: float32 [items, width].
    """
    head = Head(features.shape[1], classes)
    head.weights["features/mean"].assign(features.mean(axis=0, dtype=np.float64).astype(np.float32))
    deviation = np.sqrt(features.var(axis=0, dtype=np.float64).mean())
    head.weights["features/deviation"].assign([max(deviation, LEAST_DEVIATION)])
    return head
