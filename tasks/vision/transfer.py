"""The networks that stand on backbones: a head on their features, and all of it as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.vision.architecture import Architecture
from tasks.vision.backbone import features
from tasks.vision.device import tf
from tasks.vision.families import prefix
from tasks.vision.images import ImageSpec
from tasks.vision.network import Network, Tensors

FIRST_RATE = 0.1  # of a backbone's first weights, as a share of the learning rate


class Head(Network):
    """One output for each class, on features that were brought to mean 0, and those of each backbone together to
    deviation 1.

    One deviation for all features of a backbone, and not one each, leaves those small that vary little: on photographs
    of hands and of groceries that was right for 1 to 2 of 100 images more (docs/photographs.md).

    Its variables, float32:

    features/mean: [width], of what it learned from; not learned by steps.
    features/deviation: [backbones], likewise.
    output/kernel: [width, classes]. output/bias: [classes].
    """

    dtype: type[np.generic] = np.float32

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        """widths: how many features of a picture each backbone makes; `width` is their sum."""
        width = sum(widths)
        super().__init__((width,), classes)
        self._widths = list(widths)
        self._add("features/mean", tf.zeros(width), learned=False)
        self._add("features/deviation", tf.ones(len(widths)), learned=False)
        self._add("output/kernel", tf.zeros((width, classes)))
        self._add("output/bias", tf.zeros(classes))

    def forward(self, images: tf.Tensor, weights: Tensors) -> tf.Tensor:
        """images: features, float32 [batch, width]."""
        standard = (images - weights["features/mean"]) / tf.repeat(weights["features/deviation"], self._widths)
        return standard @ weights["output/kernel"] + weights["output/bias"]

    def forward_training(self, images: tf.Tensor, weights: Tensors) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        return self.forward(images, weights), {}


@dataclass(frozen=True)
class Sight:
    """A backbone, and at what size it looks.

    tensors: as `architecture.folded` has them. looks_at: height and width of the pictures that it sees, in pixels.
    """

    architecture: Architecture
    tensors: Mapping[str, np.ndarray]
    looks_at: tuple[int, int]


class Whole(Head):
    """Backbones with the head on them: for fine-tuning, which moves all kernels and biases, and for export.

    A training computes the backbones in `precision`; weights, sums of gradients and predictions are float32. In a
    training the pictures may be smaller: each backbone then looks at them as much smaller as they are.

    Its variables are those of the head, and `backbone/...` for each of its architecture's `folded`, `backbone-2/...`
    for those of a second one: normalization of convolutions is folded into them, so its statistics are frozen.
    """

    dtype: type[np.generic] = np.uint8
    lanes = 4
    compiled = False
    longest = 20.0  # photographs: 10 to 45; a head that was hardly penalized: 300, which ends a pretrained network

    def __init__(
        self,
        spec: ImageSpec,
        classes: int,
        sights: Sequence[Sight],
        head: Mapping[str, np.ndarray],
        averaged: bool = False,
    ) -> None:
        """head: the tensors of a Head. averaged: whether features are the mean of those of a picture and of its mirror
        image."""
        super().__init__([each.architecture.features for each in sights], classes)
        self.assign(head)
        self.image_shape = (spec.height, spec.width, spec.channels)
        self._averaged = averaged
        self._sights = [(prefix(number), each) for number, each in enumerate(sights)]
        for top, sight in self._sights:
            for name in sight.architecture.folded:
                self._add(f"{top}{name}", tf.constant(sight.tensors[name]))

    @property
    def rates(self) -> dict[str, float]:
        """A backbone's first weights learn at FIRST_RATE, its last ones as the head does, those between evenly so (in
        the logarithm; Howard and Ruder, "Universal language model fine-tuning", 2018)."""
        return {
            f"{top}{name}": FIRST_RATE ** (1 - place / (len(sight.architecture.folded) - 1))
            for top, sight in self._sights
            for place, name in enumerate(sight.architecture.folded)
        }

    @property
    def widest(self) -> int:
        return max(super().widest, *(4 * each.architecture.widest(*each.looks_at) for _, each in self._sights))

    def forward(self, images: tf.Tensor, weights: Tensors) -> tf.Tensor:
        """images: uint8 [batch, height, width, channels]."""
        found = self._features(images, weights)
        if self._averaged:
            found = (found + self._features(tf.reverse(images, [2]), weights)) / 2
        return super().forward(found, weights)

    def forward_training(self, images: tf.Tensor, weights: Tensors) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """images: float32 [batch, any height, any width, channels], 0 to 255."""
        return super().forward(self._features(images, weights, tf.as_dtype(self.precision)), weights), {}

    def _features(self, images: tf.Tensor, weights: Tensors, dtype: tf.DType = tf.float32) -> tf.Tensor:
        share = images.shape[1] / self.image_shape[0]

        def of(top: str, sight: Sight) -> tf.Tensor:
            architecture = sight.architecture
            named = {
                name: tf.cast(weights[f"{top}{name}"], tf.float32 if name in architecture.exact else dtype)
                for name in architecture.folded
            }
            looks_at = architecture.looks_at(*(round(share * side) for side in sight.looks_at))
            return features(architecture, images, named, dtype, looks_at)

        return tf.concat([of(*each) for each in self._sights], axis=1)
