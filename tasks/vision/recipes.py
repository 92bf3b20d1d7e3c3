"""What decides the numbers of a training, and what it is for each architecture unless somebody says otherwise.

No TensorFlow and no NumPy here: a command line's `--help` and a run form read it, too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from tasks.vision.errors import SettingsError
from tasks.vision.minutes import WIDE_MINUTES, epochs_within, width_within
from tasks.vision.setting import Limits, Setting, check, declared

Architecture = Literal["dense", "conv", "transfer"]
Schedule = Literal["linear", "constant", "one-cycle"]
Optimizer = Literal["sgd", "momentum", "nesterov"]
Augmentation = Literal["none", "flips", "auto"]
Inputs = Literal["plain", "centered"]
ClassWeights = Literal["none", "balanced"]
Execution = Literal["graph", "eager"]
AUTO = "auto"
Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class TrainingSettings:
    """What decides the numbers of a training.

    `chosen_with` is how many training images there were when the backbone was chosen, 0 where it was named. `inputs`
    follows from the data: `plain` are pixels from 0 to 1, `centered` ones from -1/2 to 1/2, scaled so that an image of
    any size is as strong an input as one of 28x28 (`dense` alone: `conv` normalizes). `width` follows from `minutes`:
    the channels of the first convolution of `conv`, 0 in weights from before there was a width.
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
        "also moves images by up to a 28th of their side, covers a part of every other one, and predicts the mean over "
        "moved ones, too. Not for pictures of writing. For transfer it is the mean over an image and its mirror image "
        "in the training, too, and auto lets cross-validation decide.",
    ] = "none"
    inputs: Inputs = "plain"
    validation: Annotated[
        float,
        Limits(ge=0, le=0.5),
        "Share of the training images of each class that is held out, to watch the training and to make confidence "
        "true.",
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
        f"epochs are given, and from {WIDE_MINUTES} minutes on a wider network. For transfer, auto chooses no backbone "
        "with which the pictures take longer to embed.",
    ] = None
    width: int = 0
    fine_tune: Annotated[
        int,
        Limits(ge=0, le=1_000),
        "Epochs in which transfer's whole networks learn, after its last layer has; 3 are usual, and take minutes. "
        "What comes of it is taken only where it is better on a fifth of the pictures, which it has not seen.",
    ] = 0

    backbone: Annotated[
        str | None,
        "The pretrained network that transfer stands on: its name (lookbook backbone list), with a colon and pixels "
        "where it looks at smaller pictures, two of them joined by a plus; or auto, which tries all that there are on "
        "a sample, and takes what does best. By default the champion's, and auto where there is none, or where there "
        "are twice as many pictures as when it was chosen.",
    ] = None
    chosen_with: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As weights have it. What decides nothing is left out, and what was not there when the first weights were
        published where it has its default: so trainings that are equal keep their version. `minutes` is never there:
        what follows from them is."""
        later = {
            "class_weights": "none", "precision": "auto", "fine_tune": 0, "width": 0, "backbone": None, "chosen_with": 0
        }  # fmt: skip
        idle = (*STEPS, "minutes") if self.architecture == "transfer" else ("minutes",)
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in idle and (name not in later or value != later[name])
        }

    @property
    def epochs_in_all(self) -> int:
        """Of the whole training: each network that transfer stands on is fine-tuned by itself."""
        return self.fine_tune * (1 + (self.backbone or "").count("+")) or self.epochs

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
        if self.augmentation == AUTO and self.architecture != "transfer":
            raise SettingsError(
                f"expected flips or none for the augmentation of {self.architecture}, found auto, which is for transfer"
            )
        if self.backbone is not None and self.architecture != "transfer":
            raise SettingsError(
                f"expected the architecture transfer for the backbone {self.backbone}, found {self.architecture}, "
                "which stands on none"
            )
        if self.fine_tune and self.architecture != "transfer":
            raise SettingsError(
                f"expected the architecture transfer for fine-tuning, found {self.architecture}, which learns as a "
                "whole in any case"
            )


DENSE = TrainingSettings()
"""86.7% on Fashion-MNIST's test images, loss 0.377: median of seeds 0 to 4 (benchmarks/retrain.py). The whole command
takes 12 to 17 s on a 2-core AMD EPYC."""
CONV = TrainingSettings(
    architecture="conv",
    epochs=18,
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
"""93.9% on Fashion-MNIST's test images, loss 0.180, with 502 s of processors: median of seeds 0 to 2, on a 2-core AMD
EPYC with AVX512_BF16; TensorFlow 2.21, November 2026 (benchmarks/conv.py). Chosen on 10,000 of the training images."""
TRANSFER = TrainingSettings(architecture="transfer", augmentation="auto", minutes=10)
"""Its head is solved to its optimum: the settings of steps (STEPS) change nothing."""
RECIPES: dict[Architecture, TrainingSettings] = {"dense": DENSE, "conv": CONV, "transfer": TRANSFER}
STEPS = (
    "epochs", "batch_size", "learning_rate", "schedule", "optimizer", "weight_decay", "label_smoothing", "inputs",
    "validation", "patience",
)  # fmt: skip
"""The settings of steps of gradient descent, and of what is watched meanwhile: `transfer` has none of its own."""

IMAGE_SIZE = 64  # pixels, to which pictures are scaled unless somebody says otherwise
TRANSFER_IMAGE_SIZE = 288  # for transfer: 2 of 100 photographs of groceries more than with 224 (docs/photographs.md)
LEAST_PHOTOGRAPH = 64  # pixels of a side, from which on pictures of one's own are taken for photographs


def recommended(side: int | None) -> Architecture:
    """The architecture unless somebody says otherwise.

    side: pixels of the shorter side of a usual picture of one's own; None for a data set.
    """
    return "transfer" if side is not None and side >= LEAST_PHOTOGRAPH else "dense"


FINE_TUNE_BATCH = 32


def fine_tuning(settings: TrainingSettings, items: int) -> TrainingSettings:
    """Of the fine-tuning that follows when the head is solved. items: how many there are to learn from."""
    return replace(
        settings,
        epochs=settings.fine_tune,
        batch_size=min(items, FINE_TUNE_BATCH),
        learning_rate=3e-3,
        schedule="one-cycle",
        optimizer="nesterov",
        weight_decay=1e-4,
        augmentation="flips",
    )


HELD_OUT_SHARE, HELD_OUT_ITEMS, ENOUGH_TO_HOLD_OUT = 0.1, 2_000, 500
"""A tenth of the images, but 2,000 at most, gives the temperature (docs/training.md has what that costs). Of fewer
than 500 images every one is missed in the training."""
_HELD_OUT = (
    f"none for transfer and of fewer than {ENOUGH_TO_HOLD_OUT} images, else a tenth, or {HELD_OUT_ITEMS:,} images"
)


def without_effect(architecture: Architecture, given: Mapping[str, Any]) -> list[str]:
    """The names of what is given, and not None, and changes nothing for the architecture."""
    return [name for name in STEPS if architecture == "transfer" and given.get(name) not in (None, _UNLESS_GIVEN[name])]


def _asked(setting: Setting) -> Setting:
    """As somebody is asked for it: where the recipes differ, None stands for that of the architecture."""
    values = {
        architecture: getattr(recipe, setting.name)
        for architecture, recipe in RECIPES.items()
        if not (architecture == "transfer" and setting.name in STEPS)
    }
    if setting.name == "architecture":
        recommendation = f"transfer for pictures of your own of {LEAST_PHOTOGRAPH} pixels or more, and dense for others"
        return replace(setting, optional=True, default=None, recipes=recommendation)
    if setting.name == "validation":
        return replace(setting, optional=True, default=None, recipes=_HELD_OUT)
    if len({*values.values()}) == 1:
        return setting
    recipes = ", ".join(f"{architecture} {value}" for architecture, value in values.items() if value is not None)
    return replace(setting, optional=True, default=None, recipes=recipes)


TRAINING = tuple(_asked(setting) for setting in declared(TrainingSettings) if setting.text)
"""The settings of a training that somebody may be asked for."""


_UNLESS_GIVEN = {setting.name: setting.default for setting in TRAINING} | {"inputs": TRANSFER.inputs}

FEW_IMAGES, FEW_STEPS, SMALL_BATCH = 10_000, 300, 32
"""`conv` on 1,000 images reached 81% in 60 epochs of batches of 256, and 87% with batches of 32 (docs/training.md)."""


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
    plain inputs came to 10% of ten classes, and to 84% with centered ones (5,000 images; docs/training.md). A
    validation share that isn't given holds out what makes confidence true, where there are ENOUGH_TO_HOLD_OUT images;
    `transfer` needs none for that.
    """
    architecture = architecture or recommended(round(pixels**0.5) if pictures and pixels else None)
    idle = without_effect(architecture, given)
    wanted = {name: value for name, value in given.items() if value is not None and name not in idle}
    settings = replace(RECIPES[architecture], **wanted)
    if pictures and architecture == "dense":
        settings = replace(settings, inputs="centered")
    per_class = None if per_class is None else list(per_class)
    if architecture == "conv" and (minutes := settings.minutes):
        settings = replace(settings, width=width_within(minutes))
        if per_class and pixels and given.get("epochs") is None:
            settings = replace(settings, epochs=epochs_within(minutes, settings.width, sum(per_class) * pixels))
    if per_class is None:
        return settings
    if architecture == "transfer":
        return settings
    if given.get("validation") is None:
        settings = replace(settings, validation=_held_out(per_class, given.get("batch_size") or 1))
    if given.get("batch_size") is not None:
        return settings
    items = sum(count - round(settings.validation * count) for count in per_class)
    size = min(SMALL_BATCH if too_few_steps(settings, items) else settings.batch_size, items)
    if pixels and architecture == "conv":
        size = min(size, CONV_BATCH_PIXELS // pixels)
    return replace(settings, batch_size=size)


def _held_out(per_class: Sequence[int], batch: int) -> float:
    """The share that is held out unless somebody says otherwise, to two digits; none where fewer would be left than a
    batch that was asked for."""
    items = sum(per_class)
    if items < ENOUGH_TO_HOLD_OUT:
        return 0.0
    share = float(f"{min(HELD_OUT_SHARE, HELD_OUT_ITEMS / items):.2g}")
    held_out = sum(round(share * count) for count in per_class)
    enough = held_out >= HELD_OUT_SHARE * ENOUGH_TO_HOLD_OUT / 2  # of small classes it is no image
    return share if enough and batch <= items - held_out else 0.0


def steps_of(settings: TrainingSettings, items: int) -> int:
    """Steps of gradient descent of a whole training."""
    return settings.epochs * -(-items // settings.batch_size)


def too_few_steps(settings: TrainingSettings, items: int) -> bool:
    """Whether so few images make so few steps that smaller batches learn more."""
    few = items < FEW_IMAGES and steps_of(settings, items) < FEW_STEPS
    return settings.architecture != "transfer" and few and settings.batch_size > SMALL_BATCH
