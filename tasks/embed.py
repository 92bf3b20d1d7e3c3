"""The stage that makes features of a dataset's pictures, for a network that stands on a pretrained one."""

from collections.abc import Callable
from functools import partial

from prefect import get_run_logger, task

from artifacts import dataset as datasets
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.reports.progress import FolderProgress, report_key, tell
from tasks.shared.deadline import Deadline
from tasks.shared.embedding import embed, embedding_for
from tasks.shared.retries import RETRIES
from tasks.shared.training_turn import training_turn
from tasks.vision.recipes import Device, TrainingSettings


@task(
    name="embed pictures",
    persist_result=False,
    description="Make features of the pictures that have none yet, with the pretrained network; they are kept.",
    **RETRIES,
)
def embed_pictures(dataset: str, settings: TrainingSettings, device: Device, deadline: Deadline) -> None:
    """Put the features of a dataset's pictures on record, those of both sides.

    dataset: the dataset's ref.

    Raises CheckpointError, NotFound, Corrupt, StoreError, DeviceError and DeadlineExceeded.
    """
    configured = Settings()
    store, ref = Store(configured.store), Ref.parse(dataset)
    logger = get_run_logger()
    with training_turn(configured, store, device, deadline, logger.info):
        embed_dataset(store, ref, settings, device, deadline, logger.info)


def embed_dataset(
    store: Store,
    dataset: Ref,
    settings: TrainingSettings,
    device: Device,
    deadline: Deadline,
    log: Callable[[str], None],
) -> None:
    """What the stage does, without Prefect."""
    data = datasets.load(store, dataset)
    embedding = embedding_for(store, data, settings, device, partial(tell, log=log))
    mirrored = settings.augmentation == "flips"
    views = [(data.train.images, False), (data.test.images, False), *([(data.train.images, True)] if mirrored else [])]
    pictures = sum(len(images) for images, _ in views)
    with FolderProgress("embedding", pictures, report_key("embed", dataset.name, "progress"), "pictures") as progress:

        def on_pictures(pictures: int, errors: int, known: int) -> None:
            progress(pictures, errors, known)
            deadline.check(f"embedding the pictures of {dataset}")

        for images, is_mirrored in views:
            embed(store, embedding, images, is_mirrored, on_pictures)
