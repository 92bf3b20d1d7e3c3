"""What runs are asked for: a frozen request each, made once. Every setting stands here, or in `tasks.vision.recipes`.

No Prefect, no NumPy and no pydantic here: a command line's `--help` reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tasks.vision.recipes import IMAGE_SIZE, TRAINING, TRANSFER_IMAGE_SIZE, Device, Execution
from tasks.vision.setting import Limits

Color = Literal["rgb", "grey"]
Deep = Literal["upper", "range"]

FOLDERS = ("folder", "images")
"""The settings that name a place: a path on a command line, root:sub/path in a form."""


@dataclass(frozen=True)
class Data:
    """What to learn from."""

    dataset: Annotated[
        Literal["fashion-mnist"],
        "The data set to train on, unless there are pictures of your own.",
    ] = "fashion-mnist"
    images: Annotated[
        str | None,
        "Pictures of your own: a folder with a folder for each class, or with train and test that have one for each "
        "class, or a table (.csv, .parquet) with the columns path and label. Unless it says otherwise, about one "
        "picture in seven, chosen by its content, is kept for testing.",
    ] = None
    name: Annotated[
        str | None,
        "What the dataset, the weights and their champion are called. By default the name of the data set, or of the "
        "folder.",
    ] = None


@dataclass(frozen=True)
class PictureSettings:
    """How a folder of pictures becomes a dataset."""

    image_size: Annotated[
        int | None,
        Limits(ge=8, le=512),
        "Height and width, in pixels, to which the pictures of a folder are scaled. By default "
        f"{TRANSFER_IMAGE_SIZE} for transfer, and {IMAGE_SIZE} for other architectures.",
    ] = None
    color: Annotated[Color, "What the network sees of the pictures of a folder: colour (rgb) or brightness (grey)."] = (
        "rgb"
    )
    background: Annotated[
        int,
        Limits(ge=0, le=255),
        "What transparent pixels of a folder's pictures become: 0 is black, 255 white. Dark strokes on a transparent "
        "ground are seen on a light one only.",
    ] = 0
    deep: Annotated[
        Deep,
        "How 16-bit grey pictures of a folder become 8 bits: upper keeps the upper 8, range stretches each picture "
        "from its darkest to its lightest pixel: for 12-bit and thermal cameras.",
    ] = "upper"
    max_bad: Annotated[
        float,
        Limits(ge=0, le=1),
        "Largest share of a folder's files that may be left out because they can't be read, have no class or have "
        "several. With more of them the run stops.",
    ] = 0.01
    split_seed: Annotated[
        int,
        Limits(ge=0, lt=2**31),
        "Decides which pictures of a folder are kept for testing. Models of different seeds can't be compared.",
    ] = 0
    labels: Annotated[
        str | None,
        "Learn also from what people said of pictures (lookbook review): the name of the tables that showed them. "
        "Their word beats the folder's label, and pictures from elsewhere join it.",
    ] = None
    new_classes: Annotated[
        bool, "Learn also the classes that only people's labels have. Without this such labels are left out."
    ] = False


@dataclass(frozen=True)
class Gate:
    """What a challenger must pass to become champion."""

    minimum_accuracy: Annotated[
        float, Limits(ge=0, le=1), "Accuracy on the test images below which no model is promoted."
    ] = 0.0
    significance: Annotated[
        float,
        Limits(gt=0, le=1),
        "Chance of promoting a model that is only as good as the champion, by McNemar's exact test. With 1 any gain "
        "promotes.",
    ] = 0.05
    max_recall_drop: Annotated[
        float,
        Limits(ge=0, le=1),
        "How far the recall of any class may fall below the champion's, where the fall is beyond chance or more than "
        "half of the class. With 1 it may fall to nothing.",
    ] = 0.1


RunOn = Annotated[
    Literal["here", "cluster"],
    "here works in this run's own process; cluster has pictures decoded, embedded and scored by all nodes of the Ray "
    "cluster that LOOKBOOK_CLUSTER names, with the same results.",
]


@dataclass(frozen=True)
class Computing:
    """How the training computes."""

    execution: Annotated[
        Execution, "graph compiles the training loop; eager runs it step by step, for debugging, many times slower."
    ] = "graph"
    device: Annotated[Device, "auto takes a GPU where there is one; gpu fails at once where there is none."] = "auto"
    run_on: RunOn = "here"


DeadlineHours = Annotated[
    float,
    Limits(gt=0, le=720),
    "Hours after which the run gives up, waiting included. What is finished stays, and the next run goes on there.",
]


@dataclass(frozen=True)
class RetrainRequest:
    """A whole retraining. training: what is given of TrainingSettings; the rest is the architecture's recipe."""

    data: Data
    pictures: PictureSettings
    training: Annotated[Mapping[str, Any], TRAINING]
    gate: Gate
    computing: Computing
    train_on: Annotated[
        Literal["here", "gpu pool"],
        "here trains in this run's own process; gpu pool trains in a run of train/for-a-retraining, for "
        "which this run waits. Both workers need the same store.",
    ] = "here"
    because: Annotated[
        str | None, "Why this run was started, for its name and its report; an automation fills it in."
    ] = None
    if_unchanged: Annotated[
        Literal["train", "stop"],
        "What to do when the data, the settings and the gate are those of the last retraining: train all the same, "
        "which gives the same weights, or stop and say that nothing changed.",
    ] = "train"
    deadline_hours: DeadlineHours = 12


@dataclass(frozen=True)
class TrainRequest:
    """A training alone. training: as of a RetrainRequest."""

    dataset: Annotated[str, "A dataset's ref, like datasets/fashion-mnist@42ca18a78fda8289, or its first digits."]
    training: Annotated[Mapping[str, Any], TRAINING]
    computing: Computing
    deadline_hours: DeadlineHours = 12


@dataclass(frozen=True)
class ScoreRequest:
    """A scoring of a folder."""

    folder: Annotated[str, "The folder of pictures, with all that is below it."]
    weights: Annotated[
        str, "The weights that predict: champion, NAME@champion, or a ref like weights/fashion-mnist@3f9a1c20d4b7e815."
    ] = "champion"
    name: Annotated[str | None, "What the predictions are called. By default the name of the folder."] = None
    invert: Annotated[bool, "For dark objects on a light background, as Fashion-MNIST shows light ones on black."] = (
        False
    )
    uncalibrated: Annotated[
        bool,
        "Leave the probabilities as the network gives them: the softmax of its logits. Without this they are scaled by "
        "the weights' temperature, so that a confidence of 80% is right four times in five.",
    ] = False
    calibrated: Annotated[bool, ""] = False  # what schedules and scripts of an earlier Lookbook say; it is so anyway
    limit: Annotated[int | None, Limits(ge=1), "Score only the first entries, as many as this, for a trial."] = None
    fresh: Annotated[
        bool,
        "Score everything anew, whatever was scored before. After an interruption it goes on with what it had "
        "finished, if it is started again within a day.",
    ] = False
    max_errors: Annotated[
        float,
        Limits(ge=0, le=1),
        "Largest share of the entries without a prediction for a reason that may pass: missing, changed, unreadable, "
        "timeout or crashed. Above it the run fails, and the newest table stays the one that was.",
    ] = 0.5
    run_on: RunOn = "here"
    groups: Annotated[
        int,
        Limits(ge=1, le=100),
        "How many runs share the folder: this one, and runs of group/for-a-scoring on other workers, which "
        "must have the same store, roots and software.",
    ] = 1
    deadline_hours: DeadlineHours = 12


@dataclass(frozen=True)
class GroupRequest:
    """A part of a scoring that another run has begun."""

    scoring: Annotated[str, "What the run that asks has left in the store: 64 hexadecimal digits."]
    group: Annotated[int, Limits(ge=2, le=100), "Which of the groups this is; the run that asks is the first one."]
    groups: Annotated[int, Limits(ge=2, le=100), "How many there are."]
    deadline_hours: DeadlineHours = 12


@dataclass(frozen=True)
class CollectRequest:
    """What of a store is kept, and whether the rest goes."""

    remove: Annotated[bool, "Remove what goes. Without this nothing is removed: what would go is shown."] = False
    keep: Annotated[
        int,
        Limits(ge=1),
        "How many champions of each name stay, the newest ones, with all that they were made from and measured by.",
    ] = 5
    keep_predictions: Annotated[int, Limits(ge=1), "How many tables of each name stay, the newest ones."] = 30
    older_than: Annotated[
        str | None,
        "Remove nothing that is younger than this, like 90d or 12w. Tables then go by their age alone, not by their "
        "number; the latest one of each name stays.",
    ] = None
    grace: Annotated[
        str,
        "How long what is new stays in any case, and what a run needs after its last sign of life, like 24h; an hour "
        "(1h) at least.",
    ] = "24h"
    only: Annotated[
        Literal["all", "models", "tables", "leftovers"],
        "What may go: models (datasets, weights, evaluations), tables of predictions, leftovers (what runs left that "
        "are over), or all of it.",
    ] = "all"
    deadline_hours: DeadlineHours = 12
