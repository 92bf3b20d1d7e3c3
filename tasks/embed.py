"""The stage that makes features of a dataset's pictures, for a network that stands on a pretrained one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from prefect import get_run_logger, task

from artifacts import dataset as datasets
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.reports.progress import FolderProgress, report_key, tell, warn
from tasks.requests import RunOn
from tasks.shared.deadline import Deadline
from tasks.shared.embedding import Embedding, View, embed, missing_features
from tasks.shared.remote_embedding import embed_on_cluster
from tasks.shared.retries import RETRIES
from tasks.shared.training_turn import training_turn
from tasks.shared.views import views_for
from tasks.shared.watching import Watch
from tasks.vision.duplicates import contents_of
from tasks.vision.images import ImageSpec
from tasks.vision.recipes import Device, TrainingSettings


@task(
    name="embed pictures",
    persist_result=False,
    description="Make features of the pictures that have none yet, with the pretrained network; they are kept.",
    **RETRIES,
)
def embed_pictures(dataset: str, settings: TrainingSettings, device: Device, run_on: RunOn, deadline: Deadline) -> None:
    """Put the features of a dataset's pictures on record, those of both sides.

    dataset: the dataset's ref.

    Raises CheckpointError, NotFound, Corrupt, StoreError, DeviceError, ClusterError and DeadlineExceeded.
    """
    configured = Settings()
    store, ref = Store(configured.store), Ref.parse(dataset)
    logger = get_run_logger()
    with training_turn(configured, store, device, deadline, logger.info):
        if run_on == "here":
            embed_dataset(store, ref, settings, device, deadline, logger.info)
        else:
            watch = Watch(tell=partial(tell, log=logger.info), warn=partial(warn, log=logger.warning))
            elsewhere = partial(embed_on_cluster, configured, store, ref)
            embed_dataset(store, ref, settings, device, deadline, logger.info, elsewhere, watch)


def embed_dataset(
    store: Store,
    dataset: Ref,
    settings: TrainingSettings,
    device: Device,
    deadline: Deadline,
    log: Callable[[str], None],
    elsewhere: Callable[[Embedding, Sequence[tuple[View, np.ndarray]], Watch], None] | None = None,
    watch: Watch | None = None,
) -> None:
    """What the stage does, without Prefect.

    elsewhere: has the missing features of views put on record by other machines; `watch` hears of these. Their
    processors don't give a GPU's last bits: where there is one here, it makes all of them.
    """
    data = datasets.load(store, dataset)
    views = views_for(store, ImageSpec.from_dict(data.image_spec), settings, device, partial(tell, log=log))
    if elsewhere and (place := views.embeddings[0].place) != "/CPU:0":
        tell(f"embedding here, on {place}: the processors of a cluster would give other features", log)
        elsewhere = None
    images = {"train": data.train.images, "test": data.test.images}
    contents = {side: contents_of(each) for side, each in images.items()}
    looks = [View(side, mirrored) for mirrored in ((False, True) if views.mirrored else (False,)) for side in images]
    pictures = sum(len(images[look.side]) for look in looks) * len(views.embeddings)
    with FolderProgress("embedding", pictures, report_key("embed", dataset.name, "progress"), "pictures") as progress:

        def on_pictures(pictures: int, errors: int, known: int) -> None:
            progress(pictures, errors, known)
            deadline.check(f"embedding the pictures of {dataset}")

        for embedding in views.embeddings:
            if elsewhere:
                missing = []
                for look in looks:
                    items = missing_features(store, embedding, contents[look.side], look.mirrored)
                    known = len(images[look.side]) - len(items)
                    on_pictures(known, 0, known)
                    missing.append((look, items))
                watch = replace(watch or Watch(), on_rows=on_pictures, on_rates=progress.on_rates)
                elsewhere(embedding, missing, watch)
            told = watch.on_life if watch else on_pictures
            for look in looks:
                embed(store, embedding, images[look.side], look.mirrored, told, contents[look.side])
