"""Labelled files -> the two sides of a dataset: decoded by the scoring path's pool, or taken over from before."""

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from artifacts.dataset import Dataset, Split
from artifacts.errors import LookbookError
from artifacts.predictions import PASSING_ERRORS
from artifacts.preparations import Read
from artifacts.settings import Settings
from tasks.labelled import SIDES, Labelled, Side, split_table
from tasks.listing import folder_path, open_folder, to_text
from tasks.vision.decoding import DecoderPool, Files, cut, default_processes
from tasks.vision.images import ImageSpec, Limits

TEST_SHARE = 1 / 7  # as Fashion-MNIST's
_COPIED = 2 << 20  # bytes at a time
_SHOWN = 5
_NO_FILE = "unsupported: the entry is no regular file but a link, a pipe or a device"


class TooFewPictures(LookbookError):
    """A folder whose readable pictures are not enough to train on and to test with."""


class TooManyBad(LookbookError):
    """A folder with more files that can't be learned from than are tolerated."""


@dataclass(frozen=True)
class Gathered:
    """pixels: uint8 [files, height, width, channels], of every file that is not bad; files: what was read of each;
    decoded: how many were, and not taken over."""

    pixels: np.ndarray
    files: list[Read]
    decoded: int


@dataclass(frozen=True)
class Sides:
    """train, test: the sides of a dataset; contents: SHA-256 over paths, labels and contents of what is on them; bad:
    path -> why a file is on neither; copies: how many files have the content of another one on their side."""

    train: Split
    test: Split
    contents: str
    bad: dict[str, str]
    copies: int


def gather(
    settings: Settings,
    images: str,
    labelled: Labelled,
    spec: ImageSpec,
    before: Sequence[Read],
    dataset: Dataset | None,
    scratch: Path,
    on_rows: Callable[[int, int, int], None],
) -> Gathered:
    """Decode the files, but for those that were read `before` and whose pixels are in `dataset`.

    A file of the same path, size and time is known; where only the time differs, its content decides. `scratch`: a
    folder for the pixels, which are a memory map. `on_rows` is told how many more are done, bad, and taken over.
    """
    entries = labelled.entries
    known = _Known(before, dataset)
    pixels = _memory_map(scratch / "pixels", (len(entries), spec.height, spec.width, spec.channels))
    files: list[Read | None] = [known.file(each.path, each.size, each.mtime_ns) for each in entries]
    for item, entry in enumerate(entries):
        if not entry.regular:
            files[item] = Read(entry.path, entry.size, entry.mtime_ns, None, _NO_FILE)
        elif (file := files[item]) and file.sha256 and not file.bad:
            pixels[item] = known.pixels(file.sha256)
    wanted = np.array([item for item, file in enumerate(files) if file is None], np.int64)
    on_rows(len(entries) - len(wanted), sum(bool(file and file.bad) for file in files), len(entries) - len(wanted))
    asked: deque[np.ndarray] = deque()

    def requests() -> Iterator[Files]:
        for items in cut(wanted, np.array([each.size for each in entries], np.int64)):
            asked.append(items)
            chosen = [entries[item] for item in items]
            contents = [known.content(each.path, each.size) for each in chosen]
            yield Files(
                [each.path for each in chosen],
                [each.size for each in chosen],
                [each.mtime_ns for each in chosen],
                {place: sha256 for place, sha256 in enumerate(contents) if sha256},
            )

    decoded = 0
    if len(wanted):
        top = open_folder(settings, split_table(images)[0])
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
        try:
            processes = settings.decoders or default_processes()
            with DecoderPool(top, spec, limits, settings.max_image_seconds, processes) as pool:
                for pictures in pool.decode(requests()):
                    items = asked.popleft()
                    pixels[items] = pictures.pixels
                    for place, item in enumerate(items.tolist()):
                        sha256 = pictures.sha256[place]
                        bad = ": ".join(pictures.errors[place]) if place in pictures.errors else None
                        entry = entries[item]
                        files[item] = Read(entry.path, entry.size, entry.mtime_ns, sha256, bad)
                        if place in pictures.same:
                            pixels[item] = known.pixels(str(sha256))
                    decoded += len(items) - len(pictures.same)
                    on_rows(len(items), len(pictures.errors), len(pictures.same))
        finally:
            os.close(top)
    return Gathered(pixels, [file for file in files if file], decoded)


class _Known:
    """What was read before, as far as the pixels of it are there."""

    def __init__(self, before: Sequence[Read], dataset: Dataset | None) -> None:
        self._sides = [dataset.train, dataset.test] if dataset else []
        self._places = {
            sha256: (side, place)
            for side in self._sides
            if side.sha256 is not None
            for place, sha256 in enumerate(map(str, side.sha256))
        }
        self._files = {
            each.path: each
            for each in before
            if (each.bad and each.bad.partition(":")[0] not in PASSING_ERRORS) or each.sha256 in self._places
        }

    def file(self, path: bytes, size: int, mtime_ns: int) -> Read | None:
        found = self._files.get(path)
        return found if found and found[1:3] == (size, mtime_ns) else None

    def content(self, path: bytes, size: int) -> str | None:
        """The SHA-256 that the file had, when it may still have it."""
        found = self._files.get(path)
        return found.sha256 if found and found.size == size and not found.bad else None

    def pixels(self, sha256: str) -> np.ndarray:
        side, place = self._places[sha256]
        return np.asarray(side.images[place])


def assign(labelled: Labelled, gathered: Gathered, seed: int, scratch: Path) -> Sides:
    """Put every file that can be learned from on its side, in the order of the paths.

    Unless folder or table say the side, a picture's content and the `seed` decide, so it stays there when others
    arrive, and equal pictures are never on both. One content under several labels is learned from under none; one that
    is on both of the sides that were given is only tested with.
    """
    bad = dict(labelled.bad)
    paths = [to_text(each.path) for each in labelled.entries]
    label_of: dict[str | None, str] = {}
    conflicting: dict[str | None, set[str]] = {}
    for path, label, file in zip(paths, labelled.labels, gathered.files, strict=True):
        if file.bad:
            bad[path] = file.bad
        elif label_of.setdefault(file.sha256, label) != label:
            conflicting.setdefault(file.sha256, {label_of[file.sha256]}).add(label)
    good = [item for item, file in enumerate(gathered.files) if not file.bad]
    for item in good:
        if several := conflicting.get(gathered.files[item].sha256):
            bad[paths[item]] = f"conflicting: the same content is labelled {' and '.join(sorted(several))}"
    good = [item for item in good if gathered.files[item].sha256 not in conflicting]
    side_of = _drawn(labelled, gathered, good, seed)
    tested = {gathered.files[item].sha256: paths[item] for item in reversed(good) if side_of[item] == "test"}
    chosen: dict[Side, list[int]] = {side: [] for side in SIDES}
    for item in good:
        if side_of[item] == "train" and (other := tested.get(gathered.files[item].sha256)):
            bad[paths[item]] = f"duplicate: {other}, which is tested with, has the same content"
        else:
            chosen[side_of[item]].append(item)
    places = {name: place for place, name in enumerate(labelled.classes)}
    labels = np.array([places[label] for label in labelled.labels], np.int32)
    train, test = (
        Split(
            _taken(gathered.pixels, items, scratch / side),
            labels[items],
            [paths[item] for item in items],
            [str(gathered.files[item].sha256) for item in items],
        )
        for side, items in chosen.items()
    )
    lines = (
        f"{paths[item]}\0{labelled.labels[item]}\0{gathered.files[item].sha256}\n"
        for item in sorted(chosen["train"] + chosen["test"])
    )
    contents = hashlib.sha256("".join(lines).encode()).hexdigest()
    copies = sum(len(items) - len({gathered.files[item].sha256 for item in items}) for items in chosen.values())
    return Sides(train, test, contents, dict(sorted(bad.items())), copies)


def _drawn(labelled: Labelled, gathered: Gathered, items: list[int], seed: int) -> dict[int, Side]:
    """The side of each item: as given, or drawn by its content.

    A class none of whose contents was drawn for a side gives it the one that came closest: as more of them arrive, it
    goes back where it was drawn for.
    """
    draws = {item: draw(str(gathered.files[item].sha256), seed) for item in items if not labelled.sides[item]}
    sides = {item: labelled.sides[item] or ("test" if draws[item] < TEST_SHARE else "train") for item in items}
    of_class: dict[str, list[int]] = {}
    for item in items:
        of_class.setdefault(labelled.labels[item], []).append(item)
    for members in of_class.values():
        mine = [item for item in members if item in draws]
        contents = {gathered.files[item].sha256 for item in members}
        for side, closest in (("test", min), ("train", max)):
            if mine and len(contents) > 1 and all(sides[item] != side for item in members):
                content = gathered.files[closest(mine, key=draws.__getitem__)].sha256
                sides.update({item: cast(Side, side) for item in mine if gathered.files[item].sha256 == content})
    return sides


def draw(sha256: str, seed: int) -> float:
    """0 to 1, equally likely, by a content (its SHA-256, hex) and the seed: below TEST_SHARE it is for testing."""
    return int.from_bytes(hashlib.sha256(f"{seed} {sha256}".encode()).digest()[:6]) / (1 << 48)


def check_bad(settings: Settings, images: str, bad: Mapping[str, str], items: int, most: float) -> None:
    """Raises TooManyBad when more than the share `most` of the files can't be learned from; `items`: how many can."""
    files = len(bad) + items
    if len(bad) > most * files:
        shown = "; ".join(f"{path} ({why})" for path, why in list(bad.items())[:_SHOWN])
        raise TooManyBad(
            f"expected at most {100 * most:.3g}% of the files in {folder_path(settings, images)} not to be learned "
            f"from (max_bad), found {len(bad):,} of {files:,}: {shown}{'; ...' if len(bad) > _SHOWN else ''}; mend or "
            "remove them, or let more pass (--max-bad)"
        )


def check_sides(classes: Sequence[str], train: Split, test: Split) -> None:
    """Raises TooFewPictures unless each class has pictures on both sides."""
    for doing, split in (("train on", train), ("test with", test)):
        counts = np.bincount(split.labels, minlength=len(classes))
        if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
            raise TooFewPictures(
                f"expected pictures of every class to {doing}, none of {', '.join(missing)} found among "
                f"{len(split.labels):,}; a class needs two of different content, one for each side: add more of them, "
                "or remove the class"
            )


def _taken(pixels: np.ndarray, items: list[int], path: Path) -> np.ndarray:
    """Some of the images, as a memory map."""
    images = _memory_map(path, (len(items), *pixels.shape[1:]))
    count = max(1, _COPIED // math.prod(pixels.shape[1:]))
    for start in range(0, len(items), count):
        part = items[start : start + count]
        images[start : start + len(part)] = pixels[part]
    return images


def _memory_map(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 on the disk, all zero: more of them than memory holds do no harm. Raises OSError when they don't fit there:
    a full disk that shows only when a page is written kills the process."""
    if not shape[0]:
        return np.zeros(shape, np.uint8)
    with open(path, "xb") as file:
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))
    return np.asarray(np.memmap(path, np.uint8, "r+", shape=shape))
