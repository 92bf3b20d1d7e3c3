"""What decides the numbers of a training, and what it is for each architecture unless somebody says otherwise.

No TensorFlow and no NumPy here: a command line's `--help` and a run form read it, too.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from tasks.vision.errors import SettingsError

Architecture = Literal["dense", "conv"]
Schedule = Literal["linear", "constant", "one-cycle"]
Optimizer = Literal["sgd", "momentum", "nesterov"]
Augmentation = Literal["none", "flips"]
Inputs = Literal["plain", "centered"]
Execution = Literal["graph", "eager"]
Color = Literal["rgb", "grey"]
Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class TrainingSettings:
    """What decides the numbers of a training.

    epochs and batch_size: 1 or more; learning_rate: above 0, at its highest; schedule: `linear` falls from the learning
    rate to zero over all steps, `constant` stays, `one-cycle` rises to it and falls again; weight_decay: 0 or more, of
    kernels; label_smoothing: 0 to below 1, the share of the target that is spread over all classes; augmentation:
    `flips` mirrors each image with probability one half, drawn anew each epoch, and prediction is the mean over an
    image and its mirror image; inputs: `plain` are pixels from 0 to 1, `centered` ones from -1/2 to 1/2, scaled so that
    an image of any size is as strong an input as one of 28x28 (`dense` alone: `conv` normalizes); validation: 0 to 0.5,
    the share of each class that is held out to look at; patience: epochs without a lower validation loss after which
    the training ends and the best epoch is taken, 0 for never; seed: of the first weights, every epoch's order and
    flips, and the held-out share.
    """

    architecture: Architecture = "dense"
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.1
    schedule: Schedule = "linear"
    optimizer: Optimizer = "sgd"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    augmentation: Augmentation = "none"
    inputs: Inputs = "plain"
    validation: float = 0.0
    patience: int = 0
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def check(self) -> None:
        """Raises SettingsError for settings that can't work on any data."""
        for name, kind in (
            ("architecture", Architecture),
            ("schedule", Schedule),
            ("optimizer", Optimizer),
            ("augmentation", Augmentation),
            ("inputs", Inputs),
        ):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise SettingsError(f"expected {name} to be one of {known}, found {getattr(self, name)!r}")
        for name, minimum in (("epochs", 1), ("batch_size", 1), ("patience", 0), ("seed", 0)):
            if getattr(self, name) < minimum:
                raise SettingsError(f"expected {name} of {minimum} or more, found {getattr(self, name)}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise SettingsError(f"expected a learning_rate above 0, found {self.learning_rate}; 0.1 is a usual one")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise SettingsError(
                f"expected a weight_decay of 0 or more, found {self.weight_decay}; 0.0005 is a usual one"
            )
        if not 0 <= self.label_smoothing < 1:
            raise SettingsError(f"expected a label_smoothing from 0 to below 1, found {self.label_smoothing}")
        if not 0 <= self.validation <= 0.5:
            raise SettingsError(f"expected a validation share from 0 to 0.5, found {self.validation}")
        if self.patience and not self.validation:
            raise SettingsError(
                f"expected a validation share for a patience of {self.patience} epochs, found none; 0.1 is a usual one"
            )
        if self.patience >= self.epochs and self.patience:
            raise SettingsError(
                f"expected a patience below the {self.epochs} epochs, found {self.patience}: it would never end one"
            )


DENSE = TrainingSettings()
"""86.6% on Fashion-MNIST's test images, loss 0.379: median of seeds 0 to 4 (benchmarks/retrain.py). The whole command
takes 12 to 17 s on a 2-core AMD EPYC."""
CONV = TrainingSettings(
    architecture="conv",
    epochs=12,
    batch_size=256,
    learning_rate=0.2,
    schedule="one-cycle",
    optimizer="nesterov",
    weight_decay=1e-3,
    label_smoothing=0.1,
    augmentation="flips",
)
"""93.8% on Fashion-MNIST's test images, loss 0.260: median of seeds 0 to 2, 93.77% to 93.85% (benchmarks/conv.py). The
whole command takes 248 to 282 s on a 2-core AMD EPYC, an epoch 20 s; TensorFlow 2.21, November 2026. Chosen on 10,000
of the training images."""
RECIPES: dict[Architecture, TrainingSettings] = {"dense": DENSE, "conv": CONV}


FEW_IMAGES, FEW_STEPS, SMALL_BATCH = 10_000, 300, 32
"""`conv` on 1,000 images reached 57% with 48 steps of 256, and 84% with 384 of 32 (docs/training.md)."""


CONV_BATCH_PIXELS = 1 << 22
"""Pixels of all images of a batch, at most: `conv` takes some 320 bytes for each (benchmarks/memory.py), 1.4 GB."""


def settings_for(
    architecture: Architecture,
    per_class: Iterable[int] | None = None,
    pictures: bool = False,
    pixels: int | None = None,
    **given: Any,
) -> TrainingSettings:
    """The architecture's recipe, with what is given, and not None, in its place.

    per_class: how many images of each class there are, where that is known: with few of them to learn from a batch size
    that isn't given is SMALL_BATCH, and never more than there are. pixels: of one image, where that is known: a batch
    size that isn't given fits memory. pictures: whether they are somebody's own, of any
    size and brightness, and not light on black as Fashion-MNIST's: on bright pictures of 64x64 in colour `dense` with
    plain inputs came to 10% of ten classes, and to 84% with centered ones (5,000 images; docs/training.md).
    """
    settings = replace(RECIPES[architecture], **{name: value for name, value in given.items() if value is not None})
    if pictures and architecture == "dense":
        settings = replace(settings, inputs="centered")
    if per_class is None or given.get("batch_size") is not None:
        return settings
    items = sum(count - round(settings.validation * count) for count in per_class)
    size = min(SMALL_BATCH if too_few_steps(settings, items) else settings.batch_size, items)
    if pixels and architecture == "conv":
        size = min(size, CONV_BATCH_PIXELS // pixels)
    return replace(settings, batch_size=size)


def steps_of(settings: TrainingSettings, items: int) -> int:
    """Steps of gradient descent of a whole training."""
    return settings.epochs * -(-items // settings.batch_size)


def too_few_steps(settings: TrainingSettings, items: int) -> bool:
    """Whether so few images make so few steps that smaller batches learn more."""
    few = items < FEW_IMAGES and steps_of(settings, items) < FEW_STEPS
    return few and settings.batch_size > SMALL_BATCH
