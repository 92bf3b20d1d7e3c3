"""Labelled files -> the two sides of a dataset: decoded by the scoring path's pool, or taken over from before."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from artifacts.dataset import Dataset, Side
from artifacts.decoded import Decoded, Place
from artifacts.errors import LookbookError
from artifacts.predictions import PASSING_ERRORS
from artifacts.preparations import Read
from artifacts.settings import Settings
from tasks.preparing.labelled import SIDES, Labelled, SideName, split_table
from tasks.shared.folders import opened
from tasks.shared.listing import Entry, folder_place, to_text
from tasks.shared.watching import OnRows
from tasks.vision.decoding import DecoderPool, default_processes
from tasks.vision.files import Files, cut
from tasks.vision.images import ImageSpec, Limits

TEST_SHARE = 1 / 7  # as Fashion-MNIST's
_SHOWN = 5
_NO_FILE = "unsupported: the entry is no regular file but a link, a pipe or a device"


class TooFewPictures(LookbookError):
    """A folder whose readable pictures are not enough to train on and to test with."""


class TooManyBad(LookbookError):
    """A folder with more files that can't be learned from than are tolerated."""


@dataclass(frozen=True)
class FilesRead:
    """What was read of a folder's files.

    files: one for each, in order.
    places: SHA-256 (hex) -> where the image is, of each file that is not bad.
    decoded: how many were decoded, and not taken over.
    """

    files: list[Read]
    places: Mapping[str, Place]
    decoded: int


@dataclass(frozen=True)
class Sides:
    """The sides of a dataset.

    train, test: what is learned from, and what is tested with.
    contents: SHA-256 (hex) over paths, labels and contents of what is on them.
    bad: path -> why a file is on neither.
    copies: how many files have the content of another one on their side.
    """

    train: Side
    test: Side
    contents: str
    bad: dict[str, str]
    copies: int


def read_files(
    settings: Settings,
    images: str,
    labelled: Labelled,
    spec: ImageSpec,
    before: Sequence[Read],
    dataset: Dataset | None,
    decoded: Decoded,
    on_rows: OnRows,
    elsewhere: Callable[[list[Entry]], int] | None = None,
) -> FilesRead:
    """Decode the files, but for those that were read `before` and whose pixels are in `dataset`, or were `decoded` and
    not published; what is new is added there.

    A file of the same path, size and time is known; where only the time differs, its content decides.

    elsewhere: has files decoded by other machines, and told; returns how many. What these could not read for a reason
    that may pass is read here, too.
    """
    entries = labelled.entries
    known = _Known(before, dataset, decoded)
    files = known.all_files(entries)
    wanted = np.array([item for item, file in enumerate(files) if file is None], np.int64)
    on_rows(len(entries) - len(wanted), sum(bool(file and file.bad) for file in files), len(entries) - len(wanted))
    count = 0
    if elsewhere and len(wanted):
        count += elsewhere([entries[item] for item in wanted])
        decoded.take_over_all()
        known = _Known(before, dataset, decoded)
        files = known.all_files(entries)
        wanted = np.array([item for item, file in enumerate(files) if file is None], np.int64)

    def requests() -> Iterator[tuple[list[int], Files]]:
        for items in cut(wanted, np.array([each.size for each in entries], np.int64), spec):
            chosen = [entries[item] for item in items]
            contents = [known.content(each.path, each.size) for each in chosen]
            yield (
                items.tolist(),
                Files(
                    [each.path for each in chosen],
                    [each.size for each in chosen],
                    [each.mtime_ns for each in chosen],
                    {place: sha256 for place, sha256 in enumerate(contents) if sha256},
                ),
            )

    if len(wanted):
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
        processes = settings.decoders or default_processes()
        with (
            opened(settings, split_table(images)[0]) as top,
            decoded,
            DecoderPool(top.descriptor, spec, limits, settings.max_image_seconds, processes) as pool,
        ):
            for items, found in top.decode(pool, requests()):
                new, places, same = [], [], set(found.same)
                for place, item in enumerate(items):
                    entry = entries[item]
                    bad = ": ".join(found.errors[place]) if place in found.errors else None
                    files[item] = file = Read(entry.path, entry.size, entry.mtime_ns, found.sha256[place], bad)
                    if place not in same:
                        new.append(file)
                        places.append(place)
                decoded.add_files(new, found.pixels[places])
                if elsewhere:
                    on_rows(0, 0, 0)
                else:
                    count += len(new)
                    on_rows(len(items), len(found.errors), len(same))
    return FilesRead([file for file in files if file], {**known.places, **decoded.places}, count)


def places_in(dataset: Dataset) -> dict[str, Place]:
    """SHA-256 (hex) of a file -> where its image is."""
    return {
        sha256: (side.images, place)
        for side in (dataset.train, dataset.test)
        if side.sha256 is not None
        for place, sha256 in enumerate(map(str, side.sha256))
    }


class _Known:
    """What was read before, as far as the pixels of it are there. places: SHA-256 -> where."""

    def __init__(self, before: Sequence[Read], dataset: Dataset | None, decoded: Decoded) -> None:
        self.places = (places_in(dataset) if dataset else {}) | decoded.places
        self._files = {
            each.path: each
            for each in (*before, *decoded.files)
            if (each.bad and each.bad.partition(":")[0] not in PASSING_ERRORS) or each.sha256 in self.places
        }

    def all_files(self, entries: Sequence[Entry]) -> list[Read | None]:
        """What is known of each entry."""
        return [
            self._file(each) if each.regular else Read(each.path, each.size, each.mtime_ns, None, _NO_FILE)
            for each in entries
        ]

    def _file(self, entry: Entry) -> Read | None:
        found = self._files.get(entry.path)
        return found if found and found[1:3] == (entry.size, entry.mtime_ns) else None

    def content(self, path: bytes, size: int) -> str | None:
        """The SHA-256 that the file had, when it may still have it."""
        found = self._files.get(path)
        return found.sha256 if found and found.size == size and not found.bad else None


class _Placed:
    """Images that stay where they are until they are written."""

    def __init__(self, places: Sequence[Place], spec: ImageSpec) -> None:
        self._places = places
        self.shape = (len(places), spec.height, spec.width, spec.channels)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (images[place] for images, place in self._places)


def assign(labelled: Labelled, read: FilesRead, spec: ImageSpec, seed: int) -> Sides:
    """Put every file that can be learned from on its side, in the order of the paths.

    Unless folder or table say the side, a picture's content and the `seed` decide, so it stays there when others
    arrive, and equal pictures are never on both. One content under several labels is learned from under none; one that
    is on both of the sides that were given is only tested with.
    """
    bad = dict(labelled.bad)
    paths = [to_text(each.path) for each in labelled.entries]
    label_of: dict[str | None, str] = {}
    conflicting: dict[str | None, set[str]] = {}
    for path, label, file in zip(paths, labelled.labels, read.files, strict=True):
        if file.bad:
            bad[path] = file.bad
        elif label_of.setdefault(file.sha256, label) != label:
            conflicting.setdefault(file.sha256, {label_of[file.sha256]}).add(label)
    good = [item for item, file in enumerate(read.files) if not file.bad]
    for item in good:
        if several := conflicting.get(read.files[item].sha256):
            bad[paths[item]] = f"conflicting: the same content is labelled {' and '.join(sorted(several))}"
    good = [item for item in good if read.files[item].sha256 not in conflicting]
    side_of = _drawn(labelled, read, good, seed)
    tested = {read.files[item].sha256: paths[item] for item in reversed(good) if side_of[item] == "test"}
    chosen: dict[SideName, list[int]] = {side: [] for side in SIDES}
    for item in good:
        if side_of[item] == "train" and (other := tested.get(read.files[item].sha256)):
            bad[paths[item]] = f"duplicate: {other}, which is tested with, has the same content"
        else:
            chosen[side_of[item]].append(item)
    places = {name: place for place, name in enumerate(labelled.classes)}
    labels = np.array([places[label] for label in labelled.labels], np.int32)
    train, test = (
        Side(
            _Placed([read.places[str(read.files[item].sha256)] for item in items], spec),
            labels[items],
            [paths[item] for item in items],
            [str(read.files[item].sha256) for item in items],
        )
        for items in chosen.values()
    )
    lines = (
        f"{paths[item]}\0{labelled.labels[item]}\0{read.files[item].sha256}\n"
        for item in sorted(chosen["train"] + chosen["test"])
    )
    contents = hashlib.sha256("".join(lines).encode()).hexdigest()
    copies = sum(len(items) - len({read.files[item].sha256 for item in items}) for items in chosen.values())
    return Sides(train, test, contents, dict(sorted(bad.items())), copies)


def _drawn(labelled: Labelled, read: FilesRead, items: list[int], seed: int) -> dict[int, SideName]:
    """The side of each item: as given, or drawn by its content.

    A class none of whose contents was drawn for a side gives it the one that came closest: as more of them arrive, it
    goes back where it was drawn for.
    """
    lots = {item: lot(str(read.files[item].sha256), seed) for item in items if not labelled.sides[item]}
    sides = {item: labelled.sides[item] or ("test" if lots[item] < TEST_SHARE else "train") for item in items}
    of_class: dict[str, list[int]] = {}
    for item in items:
        of_class.setdefault(labelled.labels[item], []).append(item)
    for members in of_class.values():
        mine = [item for item in members if item in lots]
        contents = {read.files[item].sha256 for item in members}
        for side, closest in (("test", min), ("train", max)):
            if mine and len(contents) > 1 and all(sides[item] != side for item in members):
                content = read.files[closest(mine, key=lots.__getitem__)].sha256
                sides.update({item: cast(SideName, side) for item in mine if read.files[item].sha256 == content})
    return sides


def lot(sha256: str, seed: int) -> float:
    """0 to 1, equally likely, by a content (its SHA-256, hex) and the seed: below TEST_SHARE it is for testing."""
    return int.from_bytes(hashlib.sha256(f"{seed} {sha256}".encode()).digest()[:6]) / (1 << 48)


def check_bad(settings: Settings, images: str, bad: Mapping[str, str], items: int, most: float) -> None:
    """Raises TooManyBad when more than the share `most` of the files can't be learned from; `items`: how many can."""
    files = len(bad) + items
    if len(bad) > most * files:
        shown = "; ".join(f"{path} ({why})" for path, why in list(bad.items())[:_SHOWN])
        raise TooManyBad(
            f"expected at most {100 * most:.3g}% of the files in {folder_place(settings, images)} not to be learned "
            f"from (max_bad), found {len(bad):,} of {files:,}: {shown}{'; ...' if len(bad) > _SHOWN else ''}; mend or "
            "remove them, or let more pass (--max-bad)"
        )


def check_sides(classes: Sequence[str], train: Side, test: Side) -> None:
    """Raises TooFewPictures unless each class has pictures on both sides."""
    for doing, side in (("train on", train), ("test with", test)):
        counts = np.bincount(side.labels, minlength=len(classes))
        if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
            raise TooFewPictures(
                f"expected pictures of every class to {doing}, none of {', '.join(missing)} found among "
                f"{len(side.labels):,}; a class needs two of different content, one for each side: add more of them, "
                "or remove the class"
            )
