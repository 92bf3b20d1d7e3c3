"""Files that were read -> the two sides of a dataset: what is learned from, and what is tested with."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from artifacts.dataset import Side
from artifacts.decoded import Place
from artifacts.errors import LookbookError
from tasks.preparing.labelled import SIDES, Labelled, SideName
from tasks.preparing.pictures import FilesRead
from tasks.shared.listing import to_text
from tasks.vision.duplicates import contents_of
from tasks.vision.images import ImageSpec

TEST_SHARE = 1 / 7  # as Fashion-MNIST's
SIDES_BY = "pixels"  # what `assign` goes by; of an earlier Lookbook, the bytes of files


class TooFewPictures(LookbookError):
    """A folder whose readable pictures are not enough to train on and to test with."""


@dataclass(frozen=True)
class Sides:
    """The sides of a dataset.

    train, test: what is learned from, and what is tested with.
    contents: SHA-256 (hex) over paths, labels and contents of what is on them.
    bad: path -> why a file is on neither.
    copies: how many files have the pixels of another one on their side.
    """

    train: Side
    test: Side
    contents: str
    bad: dict[str, str]
    copies: int


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
    arrive, and equal pictures are never on both. Equal are those whose pixels are, as the network sees them, whatever
    their files are: of several files the one with the smallest SHA-256 decides. One content under several labels is
    learned from under none; one that is on both of the sides that were given is only tested with.
    """
    bad = dict(labelled.bad)
    paths = [to_text(each.path) for each in labelled.entries]
    bad |= {path: file.bad for path, file in zip(paths, read.files, strict=True) if file.bad}
    contents = _contents(read, [item for item, file in enumerate(read.files) if not file.bad])
    labels_of: dict[bytes, set[str]] = {}
    for item, content in contents.items():
        labels_of.setdefault(content, set()).add(labelled.labels[item])
    for item, content in contents.items():
        if len(several := labels_of[content]) > 1:
            bad[paths[item]] = f"conflicting: the same content is labelled {' and '.join(sorted(several))}"
    contents = {item: content for item, content in contents.items() if len(labels_of[content]) == 1}
    side_of = _drawn(labelled, read, contents, seed)
    tested = {content: paths[item] for item, content in reversed(contents.items()) if side_of[item] == "test"}
    chosen: dict[SideName, list[int]] = {side: [] for side in SIDES}
    for item, content in contents.items():
        if side_of[item] == "train" and (other := tested.get(content)):
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
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    copies = sum(len(items) - len({contents[item] for item in items}) for items in chosen.values())
    return Sides(train, test, digest, dict(sorted(bad.items())), copies)


def _contents(read: FilesRead, items: Sequence[int]) -> dict[int, bytes]:
    """Item -> the SHA-256 of its pixels. Each file's content is looked at once."""
    files = {str(read.files[item].sha256) for item in items}
    places = {sha256: read.places[sha256] for sha256 in files}
    digests = dict(zip(places, contents_of([images[place] for images, place in places.values()]), strict=True))
    return {item: digests[str(read.files[item].sha256)] for item in items}


def _drawn(labelled: Labelled, read: FilesRead, contents: Mapping[int, bytes], seed: int) -> dict[int, SideName]:
    """The side of each item: as given, or drawn by its content. contents: item -> the SHA-256 of its pixels.

    What has one file is drawn by the SHA-256 of that, and so is where it was before its pixels were looked at. Of
    several files the smallest SHA-256 decides, so that a content with many copies is as likely to be tested with.

    A class none of whose contents was drawn for a side gives it the one that came closest: as more of them arrive, it
    goes back where it was drawn for.
    """
    deciding: dict[bytes, str] = {}
    for item, content in contents.items():
        if not labelled.sides[item]:
            sha256 = str(read.files[item].sha256)
            deciding[content] = min(sha256, deciding.get(content, sha256))
    lots = {item: lot(deciding[content], seed) for item, content in contents.items() if not labelled.sides[item]}
    sides = {item: labelled.sides[item] or ("test" if lots[item] < TEST_SHARE else "train") for item in contents}
    of_class: dict[str, list[int]] = {}
    for item in contents:
        of_class.setdefault(labelled.labels[item], []).append(item)
    for members in of_class.values():
        mine = [item for item in members if item in lots]
        several = len({contents[item] for item in members}) > 1
        for side, closest in (("test", min), ("train", max)):
            if mine and several and all(sides[item] != side for item in members):
                content = contents[closest(mine, key=lots.__getitem__)]
                sides.update({item: cast(SideName, side) for item in mine if contents[item] == content})
    return sides


def lot(sha256: str, seed: int) -> float:
    """0 to 1, equally likely, by a content (its SHA-256, hex) and the seed: below TEST_SHARE it is for testing."""
    return int.from_bytes(hashlib.sha256(f"{seed} {sha256}".encode()).digest()[:6]) / (1 << 48)


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
