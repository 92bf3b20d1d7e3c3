"""The stage that turns a dataset into weights."""

import time
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task

from artifacts import dataset as datasets
from artifacts import weights
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.reports.progress import TrainingProgress
from tasks.vision.images import ImageSpec

if TYPE_CHECKING:
    from tasks.vision.training import Device, Execution, TrainingSettings


@task(
    name="train network",
    persist_result=False,
    description="Train from the first weights on; publish them with their history.",
)
def train(dataset: str, settings: dict[str, Any], execution: "Execution", device: "Device") -> str:
    """The ref of the published weights. `settings` are the fields of TrainingSettings."""
    from tasks.vision.training import TrainingSettings

    logger = get_run_logger()
    with TrainingProgress(epochs=settings["epochs"], log=logger.info) as progress:
        ref = train_weights(
            Store(Settings().store), Ref.parse(dataset), TrainingSettings(**settings), execution, device, progress
        )
    logger.info("published %s", ref)
    return str(ref)


def train_weights(
    store: Store,
    dataset: Ref,
    settings: "TrainingSettings",
    execution: "Execution",
    device: "Device",
    progress: TrainingProgress,
) -> Ref:
    """Train on the train split of `dataset` and publish; equal settings and data give the version they gave before.

    Raises what `fit` raises, NotFound and Corrupt.
    """
    from tasks.vision.training import fit

    started = time.perf_counter()
    data = datasets.load(store, dataset)
    trained = fit(
        data.train.images,
        data.train.labels,
        classes=len(data.classes),
        spec=ImageSpec.from_dict(data.image_spec),
        settings=settings,
        execution=execution,
        on=device,
        on_progress=progress.on_progress,
        on_epoch=progress.on_epoch,
    )
    return weights.save(
        store,
        dataset.name,
        tensors=trained.tensors,
        history=trained.history,
        classes=data.classes,
        image_spec=data.image_spec,
        settings=settings.to_dict(),
        dataset=dataset,
        made={
            "device": trained.device,
            "threads": trained.threads,
            "execution": execution,
            "seconds": round(time.perf_counter() - started, 3),
            "epoch_seconds": [round(seconds, 4) for seconds in trained.epoch_seconds],
        },
    )
