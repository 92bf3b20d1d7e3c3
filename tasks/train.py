"""The stage that turns a dataset into weights."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from prefect import get_run_logger, task
from prefect.runtime import deployment

from artifacts import dataset as datasets
from artifacts import weights
from artifacts.errors import Corrupt
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from artifacts.training_state import TrainingStates
from tasks.reports.progress import TrainingProgress, report_key
from tasks.shared.deadline import Deadline
from tasks.shared.retries import RETRIES
from tasks.shared.turns import turn
from tasks.vision.images import ImageSpec
from tasks.vision.recipes import SMALL_BATCH, Device, Execution, TrainingSettings, steps_of, too_few_steps
from tasks.vision.training_data import check_labels

if TYPE_CHECKING:
    from tasks.vision import training

CODE_PATHS = ("XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA")
"""Variables that make TensorFlow compute by other instructions, with other last bits (docs/training.md)."""
TRAINING_VERSION = 2
"""The version of the code that trains. It grows when the code's numbers change, so that no training goes on from a
state of older code."""


@task(
    name="train network",
    persist_result=False,
    description="Train from the first weights on; publish them with their history.",
    **RETRIES,
)
def train(dataset: str, settings: dict[str, Any], execution: Execution, device: Device, deadline: Deadline) -> str:
    """Train on a dataset, and return the ref of the published weights.

    dataset: the dataset's ref.
    settings: the fields of TrainingSettings.

    Runs of deployments take turns, and so do trainings on one GPU. Raises DeadlineExceeded.
    """
    logger = get_run_logger()
    configured = Settings()
    store, ref = Store(configured.store), Ref.parse(dataset)
    with (
        _alone(configured, store, device, deadline, logger.info),
        TrainingProgress(settings["epochs"], logger.info, report_key("train", ref.name, "progress")) as progress,
    ):
        published = train_weights(
            store, ref, TrainingSettings(**settings), execution, device, progress, deadline=deadline
        )
    logger.info("published %s", published)
    return str(published)


def train_weights(
    store: Store,
    dataset: Ref,
    settings: TrainingSettings,
    execution: Execution,
    device: Device,
    progress: TrainingProgress,
    deadline: Deadline,
) -> Ref:
    """Train on the train split of `dataset`, publish the weights, and return their ref.

    Equal settings and data give the version that they gave before. A training that was interrupted goes on where it
    was: its state is in the store's staging until the weights are published.

    Raises what `fit` raises, DeadlineExceeded, NotFound and Corrupt.
    """
    from tasks.vision.training import fit

    def on_progress(reached: "training.EpochProgress") -> None:
        progress.on_progress(reached)
        deadline.check(f"training, in epoch {reached.epoch} of {settings.epochs}")

    def on_state(state: "training.State") -> None:
        states.save(state.tensors, [result.to_dict() for result in state.history], state.seconds)

    started = time.perf_counter()
    data = datasets.load(store, dataset)
    check_labels(data.train.labels, data.classes)
    items = len(data.train.labels)
    if too_few_steps(settings, items):
        progress.tell(
            f"only {steps_of(settings, items)} steps of gradient descent; with {items:,} images a batch size of "
            f"{SMALL_BATCH} learns more"
        )
    states = TrainingStates(store.disk, _decided_by(dataset, settings, execution, device))
    trained = fit(
        data.train.images,
        data.train.labels,
        classes=len(data.classes),
        spec=ImageSpec.from_dict(data.image_spec),
        settings=settings,
        execution=execution,
        on=device,
        on_progress=on_progress,
        on_epoch=progress.on_epoch,
        on_state=on_state,
        resume=_resumable(states, settings, progress),
    )
    published = weights.save(
        store,
        dataset.name,
        tensors=trained.tensors,
        history=[result.to_dict() for result in trained.history],
        classes=data.classes,
        image_spec=data.image_spec,
        settings=settings.to_dict(),
        dataset=dataset,
        temperature=trained.temperature,
        made={
            "device": trained.device,
            "threads": trained.threads,
            "execution": execution,
            "seconds": round(time.perf_counter() - started, 3),
            "best_epoch": trained.best_epoch,
            "epoch_seconds": [round(seconds, 4) for seconds in trained.epoch_seconds],
        },
    )
    states.remove()
    if trained.best_epoch < len(trained.history) or len(trained.history) < settings.epochs:
        progress.tell(f"took the weights of epoch {trained.best_epoch}, the best of {len(trained.history)}")
    return published


def _resumable(
    states: TrainingStates, settings: TrainingSettings, progress: TrainingProgress
) -> "training.State | None":
    """Where an earlier run was; None to start from the first weights. A damaged state is logged and removed."""
    from tasks.vision.training import EpochResult, State

    try:
        saved = states.load()
    except Corrupt as error:
        progress.tell(f"can't go on where an earlier run was, starting anew: {error}")
        states.remove()
        return None
    if saved is None:
        return None
    progress.tell(f"going on after epoch {len(saved.history)}, where an earlier run was")
    history = [EpochResult(**result) for result in saved.history]
    return State(settings, saved.tensors, history, saved.seconds)


def _decided_by(dataset: Ref, settings: TrainingSettings, execution: Execution, device: Device) -> dict[str, Any]:
    """All that decides a training's bits."""
    from tasks.vision import device as devices

    return {
        "dataset": str(dataset),
        "settings": settings.to_dict(),
        "execution": execution,
        "device": devices.describe(devices.choose(device)),
        "threads": devices.use_threads(1),
        "versions": {"tensorflow": devices.tf.__version__, "numpy": np.__version__},
        "environment": {name: os.environ.get(name) for name in CODE_PATHS},
        "training": TRAINING_VERSION,
    }


@contextmanager
def _alone(
    settings: Settings, store: Store, device: Device, deadline: Deadline, log: Callable[[str], None]
) -> Iterator[None]:
    """Wait until no other run of a deployment trains on this store, and no other training uses this GPU."""
    from tasks.vision import device as devices

    with ExitStack() as stack:
        if deployment.id:
            lock = store.disk.local_path("staging/turns/training")
            stack.enter_context(turn(lock, "another training of a deployment to end", deadline, log))
        if devices.choose(device) != "/CPU:0":
            first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
            lock = settings.cache / f"gpu-{first}.lock"
            stack.enter_context(turn(lock, "another training on this GPU to end", deadline, log))
        yield
