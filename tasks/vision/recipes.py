"""What decides the numbers of a training, and what it is for each architecture unless somebody says otherwise.

No TensorFlow and no NumPy here: a command line's `--help` and a run form read it, too.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from tasks.vision.errors import SettingsError
from tasks.vision.minutes import WIDE_MINUTES, epochs_within, width_within
from tasks.vision.setting import Limits, Setting, check, declared

Architecture = Literal["dense", "conv", "transfer"]
Schedule = Literal["linear", "constant", "one-cycle"]
Optimizer = Literal["sgd", "momentum", "nesterov"]
Augmentation = Literal["none", "flips"]
Inputs = Literal["plain", "centered"]
ClassWeights = Literal["none", "balanced"]
Execution = Literal["graph", "eager"]
Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class TrainingSettings:
    """What decides the numbers of a training.

    `inputs` follows from the data: `plain` are pixels from 0 to 1, `centered` ones from -1/2 to 1/2, scaled so that an
    image of any size is as strong an input as one of 28x28 (`dense` alone: `conv` normalizes). `width` follows from
    `minutes`: the channels of the first convolution of `conv`, 0 in weights from before there was a width.
    """

    architecture: Annotated[
        Architecture,
        "The network. dense has one hidden layer of 20 units and is trained in seconds; conv is a small convolutional "
        "network, better and minutes slower; transfer stands on a network that has learned from a million photographs, "
        "and is the best one for photographs.",
    ] = "dense"
    epochs: Annotated[
        int,
        Limits(ge=1, le=10_000),
        "How often every training image is seen. More takes longer, and is better up to a point.",
    ] = 20
    batch_size: Annotated[
        int,
        Limits(ge=1, le=65_536),
        "Images in a step of gradient descent, at most as many as there are to train on; with few pictures 32 or less.",
    ] = 64
    learning_rate: Annotated[
        float,
        Limits(gt=0),
        "The largest step size of gradient descent. If it is too high, the training diverges and says so.",
    ] = 0.1
    schedule: Annotated[
        Schedule,
        "linear lowers the learning rate to zero over the training, constant keeps it, one-cycle raises it for a fifth "
        "of the training and lowers it to zero.",
    ] = "linear"
    optimizer: Annotated[
        Optimizer,
        "sgd is plain gradient descent; with momentum and nesterov each step also continues in the direction of the "
        "last ones.",
    ] = "sgd"
    weight_decay: Annotated[float, Limits(ge=0, le=1), "How strongly the weights of kernels are drawn to zero."] = 0.0
    label_smoothing: Annotated[
        float, Limits(ge=0, lt=1), "Share of the right answer that is spread evenly over all classes."
    ] = 0.0
    augmentation: Annotated[
        Augmentation,
        "flips mirrors each image in every other epoch, and predicts the mean over an image and its mirror image; conv "
        "also moves images by up to a 28th of their side. Not for pictures of writing.",
    ] = "none"
    inputs: Inputs = "plain"
    validation: Annotated[
        float,
        Limits(ge=0, le=0.5),
        "Share of the training images of each class that is held out, to watch the training.",
    ] = 0.0
    patience: Annotated[
        int,
        Limits(ge=0, le=10_000),
        "The training ends, with the weights of its best epoch, after so many epochs without a lower loss on the "
        "images that are held out. 0 never ends it.",
    ] = 0
    seed: Annotated[
        int,
        Limits(ge=0, lt=2**31),
        "Decides the first weights, the order of the images and which of them are held out. The same seed gives the "
        "same weights.",
    ] = 0

    class_weights: Annotated[
        ClassWeights,
        "balanced lets every class count as much as any other in the training, however few images it has.",
    ] = "none"
    precision: Annotated[
        Literal["auto", "float32"],
        "What transfer's pretrained network and the training of conv compute in. auto takes bfloat16 where the "
        "processor has instructions for it, which is up to twice as fast; float32 gives the same numbers on more "
        "machines.",
    ] = "auto"
    minutes: Annotated[
        int | None,
        Limits(ge=1, le=10_000),
        "About how many minutes the training may take on two processors. conv takes as many epochs as fit, unless "
        f"epochs are given, and from {WIDE_MINUTES} minutes on a wider network.",
    ] = None
    width: int = 0
    fine_tune: Annotated[
        int,
        Limits(ge=0, le=1_000),
        "Epochs in which transfer's whole network learns, after its last layer has. Better, and minutes an epoch.",
    ] = 0

    def to_dict(self) -> dict[str, Any]:
        """As weights have it. What was not there when the first weights were published is left out where it has its
        default: so trainings that are equal keep their version. `minutes` is never there: the epochs and the width that
        follow from them are."""
        later = {"class_weights": "none", "precision": "auto", "fine_tune": 0, "width": 0}
        values = {name: value for name, value in asdict(self).items() if name != "minutes"}
        return {name: value for name, value in values.items() if name not in later or value != later[name]}

    def check(self) -> None:
        """Raises SettingsError for settings that can't work on any data."""
        check(self)
        if self.patience and not self.validation:
            raise SettingsError(
                f"expected a validation share for a patience of {self.patience} epochs, found none; 0.1 is a usual one"
            )
        if self.patience >= self.epochs and self.patience:
            raise SettingsError(
                f"expected a patience below the {self.epochs} epochs, found {self.patience}: it would never end one"
            )
        if self.fine_tune and self.architecture != "transfer":
            raise SettingsError(
                f"expected the architecture transfer for fine-tuning, found {self.architecture}, which learns as a "
                "whole in any case"
            )


DENSE = TrainingSettings()
"""86.6% on Fashion-MNIST's test images, loss 0.379: median of seeds 0 to 4 (benchmarks/retrain.py). The whole command
takes 12 to 17 s on a 2-core AMD EPYC."""
CONV = TrainingSettings(
    architecture="conv",
    epochs=16,
    batch_size=256,
    learning_rate=0.2,
    schedule="one-cycle",
    optimizer="nesterov",
    weight_decay=1e-3,
    label_smoothing=0.1,
    augmentation="flips",
    minutes=5,
    width=32,
)
"""Chosen on 10,000 of Fashion-MNIST's training images: 94.2% with 14 epochs, 470 s of processors on a 2-core AMD EPYC
with AVX512_BF16; TensorFlow 2.21, November 2026 (docs/training.md; benchmarks/conv.py)."""
TRANSFER = TrainingSettings(
    architecture="transfer",
    epochs=30,
    batch_size=64,
    learning_rate=0.01,
    schedule="one-cycle",
    optimizer="nesterov",
    weight_decay=2e-2,
    label_smoothing=0.1,
    validation=0.1,
)
"""Chosen on held-out images of three public sets (docs/photographs.md), where it is within a point of the best that was
tried from 10 pictures a class to all."""
RECIPES: dict[Architecture, TrainingSettings] = {"dense": DENSE, "conv": CONV, "transfer": TRANSFER}

IMAGE_SIZE = 64  # pixels, to which pictures are scaled unless somebody says otherwise
TRANSFER_IMAGE_SIZE = 288  # for transfer: 2 of 100 photographs of groceries more than with 224 (docs/photographs.md)
LEAST_PHOTOGRAPH = 64  # pixels of a side, from which on pictures of one's own are taken for photographs


def recommended(side: int | None) -> Architecture:
    """The architecture unless somebody says otherwise.

    side: pixels of the shorter side of a usual picture of one's own; None for a data set.
    """
    return "transfer" if side is not None and side >= LEAST_PHOTOGRAPH else "dense"


def learns_again(settings: TrainingSettings) -> bool:
    """Whether a head that was watched on held-out images is trained once more, from all of them: it takes a second, and
    is right for 0.2 to 0.7 of 100 images more (docs/photographs.md)."""
    alone = settings.architecture == "transfer" and not settings.fine_tune
    return alone and settings.validation > 0 and not settings.patience


def epochs_of(settings: TrainingSettings) -> int:
    """Epochs of a whole training."""
    return settings.epochs * (2 if learns_again(settings) else 1) + settings.fine_tune


FINE_TUNE_BATCH = 32


def fine_tuning(settings: TrainingSettings) -> TrainingSettings:
    """Of the fine-tuning that follows a training of the last layer."""
    return replace(
        settings,
        epochs=settings.fine_tune,
        batch_size=min(settings.batch_size, FINE_TUNE_BATCH),
        learning_rate=3e-4,
        schedule="one-cycle",
        optimizer="nesterov",
        weight_decay=1e-4,
        label_smoothing=0.1,
        augmentation="flips",
        patience=0,
    )


def _asked(setting: Setting) -> Setting:
    """As somebody is asked for it: where the recipes differ, None stands for that of the architecture."""
    values = {architecture: getattr(recipe, setting.name) for architecture, recipe in RECIPES.items()}
    if setting.name == "architecture":
        recommendation = f"transfer for pictures of your own of {LEAST_PHOTOGRAPH} pixels or more, and dense for others"
        return replace(setting, optional=True, default=None, recipes=recommendation)
    if len({*values.values()}) == 1:
        return setting
    recipes = ", ".join(f"{architecture} {value}" for architecture, value in values.items() if value is not None)
    return replace(setting, optional=True, default=None, recipes=recipes)


TRAINING = tuple(_asked(setting) for setting in declared(TrainingSettings) if setting.text)
"""The settings of a training that somebody may be asked for."""


FEW_IMAGES, FEW_STEPS, SMALL_BATCH = 10_000, 300, 32
"""`conv` on 1,000 images reached 57% with 48 steps of 256, and 84% with 384 of 32 (docs/training.md)."""


ENOUGH_TO_HOLD_OUT = 500
"""With fewer images a tenth of them has too few mistakes to fit a temperature by, and is missed in the training."""


CONV_BATCH_PIXELS = 1 << 22
"""Pixels of all images of a batch, at most: `conv` takes some 320 bytes for each (benchmarks/memory.py), 1.4 GB."""


def settings_for(
    architecture: Architecture | None = None,
    per_class: Iterable[int] | None = None,
    pictures: bool = False,
    pixels: int | None = None,
    **given: Any,
) -> TrainingSettings:
    """The architecture's recipe, with what is given, and not None, in its place.

    architecture: None for the recommended one: of pictures by their size, where that is known.
    per_class: how many images of each class there are, where that is known: with few of them to learn from a batch size
    that isn't given is SMALL_BATCH, and never more than there are. pixels: of one image, where that is known: a batch
    size that isn't given fits memory. pictures: whether they are somebody's own, of any
    size and brightness, and not light on black as Fashion-MNIST's: on bright pictures of 64x64 in colour `dense` with
    plain inputs came to 10% of ten classes, and to 84% with centered ones (5,000 images; docs/training.md).
    """
    architecture = architecture or recommended(round(pixels**0.5) if pictures and pixels else None)
    settings = replace(RECIPES[architecture], **{name: value for name, value in given.items() if value is not None})
    if pictures and architecture == "dense":
        settings = replace(settings, inputs="centered")
    per_class = None if per_class is None else list(per_class)
    if architecture == "conv" and (minutes := settings.minutes):
        settings = replace(settings, width=width_within(minutes))
        if per_class and pixels and given.get("epochs") is None:
            settings = replace(settings, epochs=epochs_within(minutes, settings.width, sum(per_class) * pixels))
    if per_class is None:
        return settings
    if architecture == "transfer" and given.get("validation") is None and sum(per_class) < ENOUGH_TO_HOLD_OUT:
        settings = replace(settings, validation=0.0)
    if given.get("batch_size") is not None:
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
