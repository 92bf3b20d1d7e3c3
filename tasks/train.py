"""The stage that turns a dataset into weights."""

import time
from typing import Any

import numpy as np
from prefect import get_run_logger, task

from artifacts import dataset as datasets
from artifacts import weights
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.reports.progress import TrainingProgress, report_key
from tasks.shared.deadline import Deadline
from tasks.shared.retries import RETRIES
from tasks.shared.training_turn import training_turn
from tasks.shared.views import Views, views_for
from tasks.training.choosing import Choice
from tasks.training.loops import Loops
from tasks.training.transferring import transfer
from tasks.vision.images import ImageSpec
from tasks.vision.recipes import SMALL_BATCH, Device, Execution, TrainingSettings, steps_of, too_few_steps
from tasks.vision.trained import Trained
from tasks.vision.training_data import check_labels


@task(
    name="train network",
    persist_result=False,
    description="Train from the first weights on; publish them with their history.",
    **RETRIES,
)
def train(
    dataset: str,
    settings: TrainingSettings,
    execution: Execution,
    device: Device,
    deadline: Deadline,
    choice: Choice | None = None,
) -> str:
    """Train on a dataset, and return the ref of the published weights.

    dataset: the dataset's ref.
    choice: why the settings name the backbone that they do.

    Runs of deployments take turns, and so do trainings on one GPU. Raises DeadlineExceeded.
    """
    logger = get_run_logger()
    configured = Settings()
    store, ref = Store(configured.store), Ref.parse(dataset)
    with (
        training_turn(configured, store, device, deadline, logger.info),
        TrainingProgress(settings.epochs_in_all, logger.info, report_key("train", ref.name, "progress")) as progress,
    ):
        published = train_weights(store, ref, settings, execution, device, progress, deadline, choice)
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
    choice: Choice | None = None,
) -> Ref:
    """Train on the train split of `dataset`, publish the weights, and return their ref.

    Equal settings and data give the version that they gave before. A training that was interrupted goes on where it
    was: its state is in the store's staging until the weights are published.

    Raises what `fit` raises, DeadlineExceeded, NotFound and Corrupt; CheckpointError where there is no pretrained
    network to stand on.
    """
    started = time.perf_counter()
    data = datasets.load(store, dataset)
    check_labels(data.train.labels, data.classes)
    items = len(data.train.labels)
    if too_few_steps(settings, items):
        progress.tell(
            f"only {steps_of(settings, items)} steps of gradient descent; with {items:,} images a batch size of "
            f"{SMALL_BATCH} learns more"
        )
    loops = Loops(store, data, execution, device, progress, deadline)
    views = None
    if settings.architecture == "transfer":
        views = views_for(store, ImageSpec.from_dict(data.image_spec), settings, device, progress.tell)
        trained = transfer(loops, settings, views)
    else:
        trained = loops.fit(data.train.images, settings)
    published = weights.save(
        store,
        dataset.name,
        tensors=trained.tensors,
        history=[result.to_dict() for result in trained.history],
        classes=data.classes,
        image_spec=data.image_spec,
        settings=settings.to_dict(),
        dataset=dataset,
        calibration=trained.calibration.to_dict() if trained.calibration else None,
        **(_stands_on(views, trained) if views else {}),
        made={
            "device": trained.device,
            "threads": trained.threads,
            "execution": execution,
            "seconds": round(time.perf_counter() - started, 3),
            "best_epoch": trained.best_epoch,
            "epoch_seconds": [round(seconds, 4) for seconds in trained.epoch_seconds],
            **({"choice": choice.to_dict()} if choice else {}),
            **({"fine_tuned": {**tuned.to_dict(), "said": str(tuned)}} if (tuned := trained.fine_tuned) else {}),
        },
    )
    loops.remove()
    if settings.validation and trained.calibration is None:
        progress.tell(
            f"a share of {settings.validation:g} holds out no image of any class, as copies of an image stay together: "
            "these weights have no temperature"
        )
    if trained.best_epoch < len(trained.history) or 0 < len(trained.history) < settings.epochs_in_all:
        progress.tell(f"took the weights of epoch {trained.best_epoch}, the best of {len(trained.history)}")
    return published


def _stands_on(views: Views, trained: Trained) -> dict[str, Any]:
    """What weights say of the pretrained networks below them, and of the head's penalty."""
    told: dict[str, Any] = {
        "views": [weights.View(each.backbone.ref, each.looks_at[0]) for each in views.embeddings],
        "mirrored": views.mirrored,
        "precision": views.embeddings[0].precision,
    }
    if trained.penalty is not None:
        told["penalties"] = weights.Penalties([each.to_dict() for each in trained.tried], trained.penalty)
    if (answered := trained.out_of_fold) is not None:
        items = np.flatnonzero(answered.folds >= 0)
        told["out_of_fold"] = weights.OutOfFold(items, answered.folds[items], answered.probabilities[items])
    return told
