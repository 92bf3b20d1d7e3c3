"""What the pictures of a table have that those which the weights learned from have not, in sentences for people."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from artifacts import dataset as datasets
from artifacts.dataset import Dataset
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.shards import Part
from artifacts.store import Store
from tasks.scoring.drift import sampled
from tasks.scoring.job import Job
from tasks.shared.folders import opened
from tasks.shared.listing import to_bytes
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import Files, cut
from tasks.vision.stability import MUCH, shift

FAR = 1.25  # times as far from what was learned from as the test split is
_LOOKED_AT = 100  # pictures of the table
_BESIDE_EACH = 5  # pictures of the class that it was taken for
_COLOURED = 8  # levels between a picture's channels, on average over its pixels, from which it is one in colour
_FEW, _MANY = 0.05, 0.5  # shares of such pictures
_TIMES = 2  # as large, or as small, as the pictures that were learned from
_BRIGHTNESS = np.linspace(0, 256, 17)


class _Seen(NamedTuple):
    """Pictures of the table as they are now.

    pixels: uint8 [items, height, width, 3], at the size that the network sees.
    sides: int64 [items, 2], the width and the height of the file's picture.
    labels: what they were taken for.
    """

    pixels: np.ndarray
    sides: np.ndarray
    labels: list[str]


def differences(
    store: Store, settings: Settings, job: Job, parts: Sequence[Part], numbers: Mapping[str, float | None]
) -> dict[str, str]:
    """Sentences by what differs: `colour`, `size`, `brightness`, `distance`. None where nothing does, and where nothing
    is known of what was learned from.

    numbers: of the same table (`drift`).

    Each picture is compared with learned ones of the class that it was taken for, so that other shares of the classes
    are no difference. Brightness counts above MUCH and above chance (`shift`), where its mean is another one by more
    than 16 of 255: and so from that of learned ones of any class, as a weak model takes pictures for wrong ones.

    Raises FolderError.
    """
    try:
        learned = datasets.load(store, Ref.parse(job.dataset))
        found = dict(_found(_seen(store, settings, job, parts), learned, job))
    except (NotFound, Corrupt):
        return {}
    if (distance := numbers.get("distance")) is not None and distance > FAR:
        found["distance"] = (
            f"to the pretrained network these pictures look {distance:.2g} times as far from the training images as "
            "the test images do"
        )
    return found


def _found(seen: _Seen, learned: Dataset, job: Job) -> Iterator[tuple[str, str]]:
    if not seen.labels or not len(learned.train.labels):
        return
    drawn = learned.artifact.identity["settings"].get("source") == "idx"  # grey, and of the size that it is learned in
    beside = _beside(learned, seen.labels)
    ours, theirs = _coloured(seen.pixels), 0.0 if drawn else _coloured(beside) if job.spec.channels == 3 else None
    if theirs is not None and theirs < _FEW and ours > _MANY:
        yield "colour", f"{ours:.0%} of these pictures are in colour, those learned from are grey"
    if theirs is not None and theirs > _MANY and ours < _FEW:
        yield "colour", f"{1 - ours:.0%} of these pictures are grey, {theirs:.0%} of those learned from are in colour"
    width, height = np.median(seen.sides, axis=0)
    before = job.spec.width, job.spec.height
    if drawn and not 1 / _TIMES <= min(width, height) / min(before) <= _TIMES:
        yield (
            "size",
            f"these pictures have {width:.0f}x{height:.0f} pixels (median), those learned from {before[0]}x{before[1]}",
        )
    pixels = seen.pixels if job.spec.channels == 3 else seen.pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R 601-2
    now, then, ever = _brightness(pixels), _brightness(beside), _of_any_class(learned, len(beside))
    if _other(now, then) and _other(now, ever):
        yield (
            "brightness",
            f"the brightness of these pictures is {now.mean():.0f} of 255 on average, of those learned from for the "
            f"same classes {then.mean():.0f}",
        )


def _beside(learned: Dataset, labels: Sequence[str]) -> np.ndarray:
    """Training images of the same classes, the same ones each time: uint8 [images, height, width, channels]."""
    random, places = np.random.default_rng(0), []
    for label in sorted(set(labels)):
        of_class = np.flatnonzero(learned.train.labels == learned.classes.index(label))
        if len(of_class):
            places.append(random.choice(of_class, labels.count(label) * _BESIDE_EACH))
    return np.asarray(learned.train.images[np.sort(np.concatenate(places))])


def _of_any_class(learned: Dataset, count: int) -> np.ndarray:
    """The brightness of training images, the same ones each time: float64 [count]."""
    places = np.random.default_rng(0).integers(len(learned.train.labels), size=count)
    return np.array([learned.train.images[place].mean() for place in np.sort(places)])


def _brightness(images: np.ndarray) -> np.ndarray:
    """The mean of each image: float64 [images]."""
    means: np.ndarray = images.reshape(len(images), -1).mean(axis=1)
    return means


def _other(now: np.ndarray, before: np.ndarray) -> bool:
    """Whether brightness is another one than it was."""
    counts = (np.histogram(each, _BRIGHTNESS)[0] for each in (before, now))
    return bool(abs(now.mean() - before.mean()) > _BRIGHTNESS[1] and shift(*counts).above(MUCH))


def _coloured(images: np.ndarray) -> float:
    """The share of images in colour."""
    apart = images.max(axis=3).astype(np.int16) - images.min(axis=3)
    return float((apart.mean(axis=(1, 2)) > _COLOURED).mean())


def _seen(store: Store, settings: Settings, job: Job, parts: Sequence[Part]) -> _Seen:
    """Some of the predicted pictures, in colour, as far as they are still what was scored."""
    spec = replace(job.spec, channels=3)
    rows = sampled(store, parts, _LOOKED_AT)
    sizes = np.array([row["bytes"] for row in rows], np.int64)
    paths, times = [to_bytes(row["path"]) for row in rows], [row["mtime_ns"] for row in rows]
    whole = Files(paths, sizes.tolist(), times)
    requests = ((items, whole[items[0] : items[-1] + 1]) for items in cut(np.arange(len(rows)), sizes, spec))
    pixels, sides, labels = [], [], []
    with opened(settings, job.request.folder) as folder:
        if rows and folder.is_at(job.where):
            with DecoderPool(folder.descriptor, spec, job.limits, settings.max_image_seconds, 1) as pool:
                for items, decoded in folder.decode(pool, requests):
                    for at, item in enumerate(items.tolist()):
                        if at not in decoded.errors and decoded.sha256[at] == rows[item]["sha256"]:
                            pixels.append(decoded.pixels[at])
                            sides.append((decoded.width[at], decoded.height[at]))
                            labels.append(rows[item]["label"])
    return _Seen(np.array(pixels, np.uint8), np.array(sides, np.int64), labels)
