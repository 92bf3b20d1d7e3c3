"""What a training tells while it goes on, what it needs to go on, and what it gives. Plain NumPy."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tasks.vision.metrics import Calibration
from tasks.vision.recipes import TrainingSettings


@dataclass(frozen=True)
class EpochProgress:
    """How far an epoch is.

    epoch: its number, from 1.
    batch, batches: how many batches are done, and how many the epoch has.
    items: how many items these batches had.
    loss, accuracy: means over these items, each seen before its step.
    """

    epoch: int
    batch: int
    batches: int
    items: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class EpochResult:
    """What an epoch came to.

    epoch: its number, from 1.
    loss, accuracy: means over the items that were learned from, each seen before its step.
    items: how many these were.
    validation_loss, validation_accuracy: of the held-out items, seen after the epoch; None without a validation share.
    """

    epoch: int
    loss: float
    accuracy: float
    items: int
    validation_loss: float | None = None
    validation_accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: what is None is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class State:
    """A training between two epochs: all that the rest of it depends on, so that it can go on in another process.

    settings: those of the training.
    tensors: float32 arrays named `weights/<name>`, `optimizer/<name>` and, where there is patience, `best/<name>`.
    history: the result of each finished epoch.
    seconds: how long each finished epoch took.
    """

    settings: TrainingSettings
    tensors: dict[str, np.ndarray]
    history: list[EpochResult]
    seconds: list[float]


@dataclass(frozen=True)
class Tried:
    """What a penalty came to on items that were not learned from.

    penalty: half the square of the weights counts so much, beside the sum of the losses.
    loss, accuracy: means over the items by their weights. loss_error: the loss's standard error.
    """

    penalty: float
    loss: float
    loss_error: float
    accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class OutOfFold:
    """What was answered of each item by a layer that had not learned from it.

    folds: int32 [items], which fold held an item out; -1 where none did, so that the layer has learned from it.
    probabilities: float32 [items, classes], as the network gives them.
    """

    folds: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Compared:
    """A fine-tuned network beside the frozen one, on items that neither has learned from. The confidence of both was
    made true first.

    items: how many these are.
    frozen_loss, tuned_loss: means over them, in nats.
    gain: the first less the second. gain_error: its standard error, item by item.
    frozen_hits, tuned_hits: how many each had right.
    """

    items: int
    frozen_loss: float
    tuned_loss: float
    gain: float
    gain_error: float
    frozen_hits: int
    tuned_hits: int

    @property
    def better(self) -> bool:
        """Whether the fine-tuned network's loss is lower by more than its standard error."""
        return self.gain > self.gain_error

    def __str__(self) -> str:
        points = 100 * (self.tuned_hits - self.frozen_hits) / self.items
        than = "more" if points >= 0 else "fewer"
        verdict = "took it" if self.better else "kept the frozen network"
        chance = "" if abs(self.gain) > self.gain_error else ", within chance"
        return (
            f"fine-tuned: {abs(points):.1f} points {than} right of {self.items:,} pictures that it had not seen, loss "
            f"{self.tuned_loss:.4f} instead of {self.frozen_loss:.4f} (+-{self.gain_error:.4f}){chance}: {verdict}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    tensors: name -> float32 array.
    history: the result of each epoch; none where a head was solved.
    tried: the penalties of a head that was solved, from the strongest on; penalty: the one that was taken.
    out_of_fold: of such a head.
    fine_tuned: what came of a fine-tuning, where one was asked for.
    epoch_seconds: how long each epoch took.
    best_epoch: the epoch whose weights the tensors are; the last one without patience.
    device: what it computed on.
    threads: how many threads an operation had.
    calibration: by what its confidence is made true, None where nothing was held out.
    """

    tensors: dict[str, np.ndarray]
    history: list[EpochResult]
    epoch_seconds: list[float]
    best_epoch: int
    device: str
    threads: int
    calibration: Calibration | None
    tried: tuple[Tried, ...] = ()
    penalty: float | None = None
    out_of_fold: OutOfFold | None = None
    fine_tuned: Compared | None = None
