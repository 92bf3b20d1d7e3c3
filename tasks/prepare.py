"""The stage that makes a dataset artifact out of a data set's own files."""

import time
from contextlib import suppress

from prefect import task

from artifacts import dataset as datasets
from artifacts.documents import digest, seal, unseal
from artifacts.errors import AlreadyExists, NotFound
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.reports.progress import DownloadProgress
from tasks.vision.sources import DATASETS, IdxDataset, LabelledImages, fetch, split

PREPARATION = 1  # raise it when the same files give another dataset: earlier preparations are then made anew


@task(
    name="prepare dataset",
    persist_result=False,
    description="Download the data set, or find it, and publish it as an Arrow dataset.",
)
def prepare(dataset: str) -> str:
    """The ref of the published dataset."""
    settings = Settings()
    return str(prepare_dataset(Store(settings.store), DATASETS[dataset], settings))


def prepare_dataset(store: Store, source: IdxDataset, settings: Settings) -> Ref:
    """Publish `source`, or find that it is published: pinned digests make it the same version, with nothing read."""
    inputs = {file.name: f"sha256:{file.sha256}" for file in source.files}
    described = {"name": source.name, "classes": source.classes, "image_spec": source.image_spec.to_dict()}
    key = f"staging/prepared/{digest({**described, 'inputs': inputs, 'preparation': PREPARATION})}.json"
    with suppress(NotFound):
        ref = Ref.parse(unseal(store.disk.read(key), key)["dataset"])
        return datasets.load(store, ref).artifact.ref
    started = time.perf_counter()
    store.prepare()
    with DownloadProgress() as on_bytes:
        contents = fetch(source, settings.cache, settings.dataset_mirror, on_bytes)
    ref = datasets.save(
        store,
        source.name,
        train=_to_split(split(source, contents, "train")),
        test=_to_split(split(source, contents, "test")),
        classes=source.classes,
        image_spec=source.image_spec.to_dict(),
        settings={"source": "idx", "preparation": PREPARATION},
        inputs=inputs,
        made={"seconds": round(time.perf_counter() - started, 3)},
    )
    with suppress(AlreadyExists):
        store.disk.create(key, seal({"dataset": str(ref)}))
    return ref


def _to_split(labelled: LabelledImages) -> datasets.Split:
    return datasets.Split(labelled.images, labelled.labels, labelled.sources)
