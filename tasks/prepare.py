"""The stage that makes a dataset artifact: out of a data set's own files, or of a folder of pictures."""

import time
from contextlib import suppress
from typing import Any

from prefect import task

from artifacts import dataset as datasets
from artifacts.documents import digest, seal, unseal
from artifacts.errors import AlreadyExists, NotFound
from artifacts.predictions import PASSING_ERRORS
from artifacts.refs import Ref, check_name
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.deadline import Deadline
from tasks.labelled import TEST_SHARE, entries_of, gather
from tasks.listing import digest_entries
from tasks.reports.progress import DownloadProgress, PicturesProgress, report_key
from tasks.retries import RETRIES
from tasks.vision.images import ImageSpec
from tasks.vision.sources import DATASETS, IdxDataset, LabelledImages, fetch, split

PREPARATION = 1  # raise it when the same files give another dataset: earlier preparations are then made anew
SPEC = ImageSpec(height=28, width=28, channels=1)  # of pictures from a folder: what the small network can tell apart


@task(
    name="prepare dataset",
    persist_result=False,
    description="Find or download the data set, or read the folder of pictures; publish it as an Arrow dataset.",
    **RETRIES,
)
def prepare(dataset: str, images: str | None, name: str, deadline: Deadline) -> str:
    """The ref of the published dataset: of `images` (root:sub/path, called `name`), or else of the data set."""
    settings = Settings()
    store = Store(settings.store)
    if images is None:
        return str(prepare_dataset(store, DATASETS[dataset], settings, name))
    return str(prepare_folder(store, settings, images, name, deadline))


def prepare_folder(store: Store, settings: Settings, folder: str, name: str, deadline: Deadline) -> Ref:
    """Publish the pictures of `root:sub/path`, a folder a class. What was listed like this before is not read again.

    Raises FolderError, TooFewPictures and DeadlineExceeded.
    """
    started = time.perf_counter()
    check_name(name)
    entries = entries_of(settings, folder)
    described: dict[str, Any] = {"name": name, "image_spec": SPEC.to_dict(), "preparation": PREPARATION}
    described["limits"] = [settings.max_image_bytes, settings.max_image_pixels]
    key = f"staging/prepared/{digest({**described, 'listed': digest_entries(entries)})}.json"
    if (known := _prepared(store, key)) is not None:
        return known
    store.prepare()
    with PicturesProgress("reading", len(entries), report_key("prepare", name, "progress")) as progress:

        def on_rows(rows: int, errors: int, reused: int) -> None:
            progress(rows, errors, reused)
            deadline.check(f"reading the pictures of {folder}")

        found = gather(settings, folder, entries, SPEC, on_rows)
    ref = datasets.save(
        store,
        name,
        train=_to_split(found.train),
        test=_to_split(found.test),
        classes=found.classes,
        image_spec=SPEC.to_dict(),
        settings={"source": "folder", "preparation": PREPARATION, "test_share": round(TEST_SHARE, 6)},
        inputs={"pictures": f"sha256:{found.contents}"},
        bad=found.bad,
        made={"folder": folder, "seconds": round(time.perf_counter() - started, 3)},
    )
    if any(why.partition(":")[0] in PASSING_ERRORS for why in found.bad.values()):
        return ref  # what could not be read may be readable next time
    return _remember(store, key, ref)


def prepare_dataset(store: Store, source: IdxDataset, settings: Settings, name: str) -> Ref:
    """Publish `source` as `name`; where that was done before, pinned digests tell, and nothing is read."""
    inputs = {file.name: f"sha256:{file.sha256}" for file in source.files}
    described = {"name": name, "classes": source.classes, "image_spec": source.image_spec.to_dict()}
    key = f"staging/prepared/{digest({**described, 'inputs': inputs, 'preparation': PREPARATION})}.json"
    if (known := _prepared(store, key)) is not None:
        return known
    started = time.perf_counter()
    store.prepare()
    with DownloadProgress() as on_bytes:
        contents = fetch(source, settings.cache, settings.dataset_mirror, on_bytes)
    ref = datasets.save(
        store,
        name,
        train=_to_split(split(source, contents, "train")),
        test=_to_split(split(source, contents, "test")),
        classes=source.classes,
        image_spec=source.image_spec.to_dict(),
        settings={"source": "idx", "preparation": PREPARATION},
        inputs=inputs,
        made={"seconds": round(time.perf_counter() - started, 3)},
    )
    return _remember(store, key, ref)


def _prepared(store: Store, key: str) -> Ref | None:
    """The dataset that is on record under `key`, if it is still there."""
    with suppress(NotFound):
        ref = Ref.parse(unseal(store.disk.read(key), key)["dataset"])
        return datasets.load(store, ref).artifact.ref
    return None


def _remember(store: Store, key: str, ref: Ref) -> Ref:
    with suppress(AlreadyExists):
        store.disk.create(key, seal({"dataset": str(ref)}))
    return ref


def _to_split(labelled: LabelledImages) -> datasets.Split:
    return datasets.Split(labelled.images, labelled.labels, labelled.sources)
