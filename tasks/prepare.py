"""The stage that makes a dataset artifact: out of a data set's own files, or of a folder of pictures."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Literal

import PIL
from PIL import features
from prefect import get_run_logger, task

from artifacts import dataset as datasets
from artifacts.dataset import Dataset, Split
from artifacts.decoded import Decoded, forget
from artifacts.documents import digest
from artifacts.errors import Corrupt, NotFound
from artifacts.predictions import PASSING_ERRORS
from artifacts.preparations import Preparations
from artifacts.refs import Ref, check_name
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.preparing.checks import check, sentence
from tasks.preparing.labelled import EMPTY, list_labelled
from tasks.preparing.learned import learned_before, sides_in
from tasks.preparing.pictures import check_bad, read_files
from tasks.preparing.remote import read_on_cluster
from tasks.preparing.said import words_of
from tasks.preparing.sides import BLANK, DUPLICATE, SIDES_BY, TEST_SHARE, assign, check_sides
from tasks.preparing.teaching import LEFT_OUT, Outcome, Taught, teach
from tasks.reports.progress import DownloadProgress, FolderProgress, report_key, tell, warn
from tasks.requests import Color, Data, PictureSettings, RunOn
from tasks.shared.deadline import Deadline
from tasks.shared.listing import folder_place, to_bytes
from tasks.shared.litter import is_no_picture
from tasks.shared.retries import RETRIES
from tasks.shared.watching import Watch
from tasks.vision.images import DECODING, ImageSpec
from tasks.vision.recipes import IMAGE_SIZE
from tasks.vision.sources import DATASETS, IdxDataset, LabelledImages, fetch, read_side

PREPARATION = 2  # raise it when the same files give another dataset: earlier preparations are then made anew
CHANNELS: dict[Color, Literal[1, 3]] = {"rgb": 3, "grey": 1}


@task(
    name="prepare dataset",
    persist_result=False,
    description="Find or download the data set, or read the folder of pictures; publish it as an Arrow dataset.",
    **RETRIES,
)
def prepare(data: Data, pictures: PictureSettings, name: str, run_on: RunOn, deadline: Deadline) -> str:
    """The ref of the published dataset: of `data.images` where there are any, or else of the data set. It is called
    `name`. What is odd about it is a warning."""
    settings = Settings()
    store = Store(settings.store)
    logger = get_run_logger()
    if data.images:
        watch = Watch(tell=partial(tell, log=logger.info), warn=partial(warn, log=logger.warning))
        elsewhere = partial(read_on_cluster, settings, store, data.images) if run_on == "cluster" else None
        ref = prepare_folder(store, settings, data.images, pictures, name, deadline, elsewhere, watch)
    else:
        ref = prepare_dataset(store, DATASETS[data.dataset], settings, name)
    for finding in datasets.load(store, ref).findings:
        warn(sentence(finding), logger.warning)
    return str(ref)


def prepare_folder(
    store: Store,
    settings: Settings,
    images: str,
    pictures: PictureSettings,
    name: str,
    deadline: Deadline,
    elsewhere: Callable[..., int] | None = None,
    watch: Watch | None = None,
) -> Ref:
    """Publish labelled pictures. `images`: root:sub/path of a folder or a table.

    What was listed like this before is not read again. Otherwise only those files are read that are new, or that could
    not be read for a reason that may have passed.

    elsewhere: has files read by other machines; `watch` hears of these.

    Raises FolderError, LabelError, TooManyBad, TooFewPictures, BlankPictures and DeadlineExceeded.
    """
    started = time.perf_counter()
    check_name(name)
    labelled = list_labelled(settings, images)
    said = words_of(store, pictures.labels, pictures.new_classes) if pictures.labels else None
    listed = digest([SIDES_BY, labelled.digest, *([said.digest] if said else [])])
    check_bad(
        settings, images, _at_fault(labelled.bad), len(labelled.entries), pictures.max_bad
    )  # before hours of work
    size = pictures.image_size or IMAGE_SIZE
    spec = ImageSpec(size, size, CHANNELS[pictures.color], background=pictures.background, deep=pictures.deep)
    decided_by = {
        "name": name,
        "folder": folder_place(settings, images),
        "image_spec": spec.to_dict(),
        "limits": [settings.max_image_bytes, settings.max_image_pixels],
        "split_seed": pictures.split_seed,
        "preparation": PREPARATION,
        "decoding": DECODING,
        "libraries": [PIL.__version__, features.version("libjpeg_turbo") or features.version("jpg")],
    }
    preparations = Preparations(store.disk, decided_by)
    earlier = preparations.newest()
    before = _published(store, earlier.dataset) if earlier else None
    passed = not any(kind in PASSING_ERRORS for kind in _reasons(before)) if before else False
    if earlier and before and passed and earlier.listed == listed:
        items = sum(side["items"] for side in before.artifact.facts["counts"].values())
        check_bad(settings, images, _at_fault(before.bad), items, pictures.max_bad)
        forget(store.disk, decided_by)
        return earlier.dataset
    store.prepare()
    decoded = Decoded(store.disk, decided_by, (spec.height, spec.width, spec.channels))
    with FolderProgress("reading", len(labelled.entries), report_key("prepare", name, "progress")) as progress:

        def on_rows(rows: int, errors: int, reused: int) -> None:
            progress(rows, errors, reused)
            deadline.check(f"reading the pictures of {images}")

        def on_life(*_: int) -> None:  # of pictures that are no entries of this folder
            on_rows(0, 0, 0)

        files = earlier.files() if earlier and before else []
        asked = None
        if elsewhere:
            watch = replace(watch or Watch(), on_rows=on_rows, on_rates=progress.on_rates)
            asked = partial(elsewhere, spec=spec, decided_by=decided_by, watch=watch)
        read = read_files(settings, images, labelled, spec, files, before, decoded, on_rows, asked)
        kept, files_of_folder = [decoded], read.files
        newest = _newest(store, name)
        taught: Taught | None = None
        if said:

            def decoded_of(where: str) -> Decoded:
                return Decoded(store.disk, {**decided_by, "folder": where}, (spec.height, spec.width, spec.channels))

            asked_for = {sha256 for sha256 in said.words if sha256 not in read.places}
            places, sides_before = learned_before(store, name, spec.to_dict(), pictures.split_seed, asked_for)
            sides_before |= sides_in(newest, spec.to_dict(), pictures.split_seed)
            known = {**places, **read.places}
            taught = teach(
                settings, said, labelled, read, spec, pictures.new_classes, known, sides_before, decoded_of, on_life
            )
            labelled, read = taught.labelled, taught.read
            kept += taught.decoded
    sides = assign(labelled, read, spec, pictures.split_seed)
    placed = {sha256 for side in (sides.train, sides.test) for sha256 in side.sha256 or ()}
    outcome = taught.outcome(placed, sides.bad) if taught else Outcome(None, [])
    check_bad(
        settings, images, _at_fault(sides.bad), len(sides.train.labels) + len(sides.test.labels), pictures.max_bad
    )
    check_sides(labelled.classes, sides.train, sides.test, sides.bad, spec.background)
    ref = datasets.save(
        store,
        name,
        train=sides.train,
        test=sides.test,
        classes=labelled.classes,
        image_spec=spec.to_dict(),
        settings={
            "source": "pictures",
            "preparation": PREPARATION,
            "test_share": round(TEST_SHARE, 6),
            "split_seed": pictures.split_seed,
            **({"labels": pictures.labels} if said else {}),
        },
        inputs={"pictures": f"sha256:{sides.contents}"},
        bad=sides.bad,
        labels=outcome.rows,
        findings=lambda train, test: check(
            train,
            test,
            labelled.classes,
            bad=sides.bad,
            copies=sides.copies,
            before=newest,
            labels=outcome.findings,
            background=spec.background,
        ),
        made={
            "folder": folder_place(settings, images),
            "decoded": read.decoded,
            "seconds": round(time.perf_counter() - started, 3),
        },
    )
    preparations.save(listed, ref, files_of_folder)
    for each in kept:
        each.remove()
    return ref


def prepare_dataset(store: Store, source: IdxDataset, settings: Settings, name: str) -> Ref:
    """Publish `source` as `name`; where that was done before, pinned digests tell, and nothing is read."""
    inputs = {file.name: f"sha256:{file.sha256}" for file in source.files}
    described = {"name": name, "classes": source.classes, "image_spec": source.image_spec.to_dict()}
    preparations = Preparations(store.disk, {**described, "preparation": PREPARATION})
    earlier = preparations.newest()
    if earlier and earlier.listed == digest(inputs) and _published(store, earlier.dataset):
        return earlier.dataset
    started = time.perf_counter()
    store.prepare()
    with DownloadProgress() as on_bytes:
        contents = fetch(source, settings.cache, settings.dataset_mirror, on_bytes)
    train, test = (_to_split(read_side(source, contents, side)) for side in ("train", "test"))
    newest = _newest(store, name)
    ref = datasets.save(
        store,
        name,
        train=train,
        test=test,
        classes=source.classes,
        image_spec=source.image_spec.to_dict(),
        settings={"source": "idx", "preparation": PREPARATION},
        inputs=inputs,
        findings=lambda train, test: check(train, test, source.classes, before=newest),
        made={"seconds": round(time.perf_counter() - started, 3)},
    )
    preparations.save(digest(inputs), ref)
    return ref


def _reasons(dataset: Dataset) -> Iterator[str]:
    """Why files, and labels of people's, could not be learned from, in a word each."""
    yield from (why.partition(":")[0] for why in dataset.bad.values())
    yield from (str(row["use"]) for row in dataset.labels)


def _at_fault(bad: Mapping[str, str]) -> dict[str, str]:
    """Without what is no bad picture: files that people's words keep out, or another file; folders without pictures;
    and files that say by their names that they are none."""
    fine = (LEFT_OUT, DUPLICATE, BLANK, EMPTY)
    return {
        path: why
        for path, why in bad.items()
        if why.partition(":")[0] not in fine and not is_no_picture(to_bytes(path))
    }


def _published(store: Store, ref: Ref) -> Dataset | None:
    """The dataset, if it is still there, and whole; then it stays until this run needs it by itself."""
    with suppress(Corrupt, NotFound):
        if store.claim(ref):
            dataset = datasets.load(store, ref)
            dataset.check_lists()
            return _sound(dataset)
    return None


def _newest(store: Store, name: str) -> Dataset | None:
    """The version of the dataset that was published last; None when there is none that can be read."""
    found: list[Dataset] = []
    for ref in store.refs("datasets", name):
        with suppress(NotFound, Corrupt):
            found.append(datasets.load(store, ref))
    return _sound(max(found, key=lambda each: str(each.artifact.manifest["provenance"]["created"]), default=None))


def _sound(dataset: Dataset | None) -> Dataset | None:
    """The dataset, if its images are what was published: one that is damaged is no reason not to make another."""
    with suppress(Corrupt):
        if dataset and len(dataset.train.labels) and len(dataset.test.labels):
            return dataset
    return None


def _to_split(labelled: LabelledImages) -> Split:
    return Split(labelled.images, labelled.labels, labelled.sources)
