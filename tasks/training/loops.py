"""The loops of one training, each going on where an earlier run was: states are kept until all is published."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from artifacts.dataset import Dataset
from artifacts.errors import Corrupt
from artifacts.store import Store
from artifacts.training_state import TrainingStates
from tasks.reports.progress import TrainingProgress
from tasks.shared.deadline import Deadline
from tasks.vision.images import ImageSpec
from tasks.vision.processor import arithmetic
from tasks.vision.recipes import Device, Execution, TrainingSettings

if TYPE_CHECKING:
    from tasks.vision import training

"""Variables that make TensorFlow compute by other instructions, with other last bits (docs/training.md)."""
TRAINING_VERSION = 4
"""The version of the code that trains. It grows when the code's numbers change, so that no training goes on from a
state of older code."""


@dataclass
class Loops:
    """The loops of one training on the train split of `data`.

    execution, device: how they compute.
    progress: is shown how far they are.
    deadline: when they give up.
    """

    store: Store
    data: Dataset
    execution: Execution
    device: Device
    progress: TrainingProgress
    deadline: Deadline
    _states: list[TrainingStates] = field(default_factory=list)
    _epochs: int = 0

    def fit(
        self, images: np.ndarray, settings: TrainingSettings, stands_on: Mapping[str, Any] | None = None, **more: Any
    ) -> "training.Trained":
        """`tasks.vision.training.fit`, from where an earlier run of the same loop was.

        images: what is learned from, in the order of the train split.
        stands_on: what decides the numbers beside data and settings; None for nothing.
        more: what `fit` takes beside.

        Raises what `fit` raises, and DeadlineExceeded.
        """
        from tasks.vision.training import fit

        def on_progress(reached: "training.EpochProgress") -> None:
            self.progress.on_progress(replace(reached, epoch=before + reached.epoch))
            self.deadline.check(f"training, in epoch {reached.epoch} of {settings.epochs}")

        def on_epoch(result: "training.EpochResult", seconds: float) -> None:
            self.progress.on_epoch(replace(result, epoch=before + result.epoch), seconds)

        def on_state(state: "training.State") -> None:
            states.save(state.tensors, [result.to_dict() for result in state.history], state.seconds)

        before = self._epochs
        states = TrainingStates(self.store.disk, {**self._decided_by(settings), **(stands_on or {})})
        self._states.append(states)
        trained = fit(
            images,
            self.data.train.labels,
            classes=len(self.data.classes),
            spec=ImageSpec.from_dict(self.data.image_spec),
            settings=settings,
            execution=self.execution,
            on=self.device,
            on_progress=on_progress,
            on_epoch=on_epoch,
            on_state=on_state,
            resume=self._resumable(states, settings),
            **more,
        )
        self._epochs += len(trained.history)
        return trained

    def remove(self) -> None:
        """Remove all states: what came of them is published."""
        for states in self._states:
            states.remove()

    def _resumable(self, states: TrainingStates, settings: TrainingSettings) -> "training.State | None":
        """Where an earlier run was; None to start from the first weights. A damaged state is logged and removed."""
        from tasks.vision.training import EpochResult, State

        try:
            saved = states.load()
        except Corrupt as error:
            self.progress.tell(f"can't go on where an earlier run was, starting anew: {error}")
            states.remove()
            return None
        if saved is None:
            return None
        self.progress.tell(f"going on after epoch {len(saved.history)}, where an earlier run was")
        history = [EpochResult(**result) for result in saved.history]
        return State(settings, saved.tensors, history, saved.seconds)

    def _decided_by(self, settings: TrainingSettings) -> dict[str, Any]:
        """All that decides a training's bits, where nothing stands on anything."""
        from tasks.vision import device as devices

        return {
            "dataset": str(self.data.artifact.ref),
            "settings": settings.to_dict(),
            "execution": self.execution,
            "device": devices.describe(devices.choose(self.device)),
            "threads": devices.use_threads(1),
            "versions": {"numpy": np.__version__},
            "arithmetic": arithmetic(),
            "training": TRAINING_VERSION,
        }
