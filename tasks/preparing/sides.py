"""Files that were read -> the two sides of a dataset: what is learned from, and what is tested with."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from artifacts.dataset import Side
from artifacts.decoded import Place
from artifacts.errors import LookbookError
from tasks.preparing.labelled import Labelled
from tasks.preparing.layout import SIDES, SideName
from tasks.preparing.pictures import FilesRead
from tasks.reports.numbers import many
from tasks.shared.listing import to_text
from tasks.vision.duplicates import blank
from tasks.vision.images import ImageSpec

TEST_SHARE = 1 / 7  # as Fashion-MNIST's
SIDES_BY = "contents"  # what `assign` and labels go by; of earlier Lookbooks, "pixels", and nothing for files' bytes
DUPLICATE, BLANK = "duplicate", "blank"  # what begins the reason why a file that nothing is wrong with is on no side


def unseen(background: int) -> str:
    """What may show more of pictures that are of a single colour. background: what transparent pixels became, 0-255."""
    return (
        f"--background {0 if background > 127 else 255} shows what is drawn on a transparent ground, and --deep range "
        "what 16-bit grey has in a part of its range"
    )


class TooFewPictures(LookbookError):
    """A folder whose readable pictures are not enough to train on and to test with."""


@dataclass(frozen=True)
class Sides:
    """The sides of a dataset.

    train, test: what is learned from, and what is tested with.
    contents: SHA-256 (hex) over paths, labels and contents of what is on them.
    bad: path -> why a file of the folder is on neither.
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
    their files are (`pictures.contents_in`). One content under several labels is learned from under none; one that is
    on both of the sides that were given is only tested with.
    """
    bad = dict(labelled.bad)
    paths = [to_text(each.path) for each in labelled.entries]
    bad |= {path: file.bad for path, file in zip(paths, read.files, strict=True) if file.bad}
    items_of: dict[bytes, list[int]] = {}
    for item, file in enumerate(read.files):
        if not file.bad:
            items_of.setdefault(read.contents[str(file.sha256)], []).append(item)
    for content, items in list(items_of.items()):
        if len(several := {labelled.labels[item] for item in items}) > 1:
            bad |= dict.fromkeys((paths[item] for item in items), _under_several(several, read, items[0]))
            del items_of[content]
    side_of = _drawn(labelled, read, items_of, seed)
    chosen: dict[SideName, list[int]] = {side: [] for side in SIDES}
    for content, items in items_of.items():
        side = side_of[content]
        there = [item for item in items if labelled.sides[item] in (side, None)]
        chosen[side] += there
        for item in set(items).difference(there):
            bad[paths[item]] = f"{DUPLICATE}: {paths[there[0]]}, which is tested with, has the same content"
    copies = sum(len(chosen[side]) for side in SIDES) - len(items_of)
    places = {name: place for place, name in enumerate(labelled.classes)}
    labels = np.array([places[label] for label in labelled.labels], np.int32)
    train, test = (
        Side(
            _Placed([read.places[str(read.files[item].sha256)] for item in items], spec),
            labels[items],
            [paths[item] for item in items],
            [str(read.files[item].sha256) for item in items],
        )
        for items in map(sorted, chosen.values())
    )
    lines = (
        f"{paths[item]}\0{labelled.labels[item]}\0{read.files[item].sha256}\n"
        for item in sorted(chosen["train"] + chosen["test"])
    )
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return Sides(train, test, digest, dict(sorted(bad.items())), copies)


def _under_several(labels: set[str], read: FilesRead, item: int) -> str:
    """Why a content with several labels is learned from under none. No label of a single colour is wrong."""
    names = " and ".join(sorted(labels))
    images, place = read.places[str(read.files[item].sha256)]
    if blank(images[place : place + 1])[0]:
        return f"{BLANK}: of a single colour, and labelled {names}"
    return f"conflicting: the same content is labelled {names}"


def _drawn(
    labelled: Labelled, read: FilesRead, items_of: Mapping[bytes, Sequence[int]], seed: int
) -> dict[bytes, SideName]:
    """The side of each content: the one that was given to any of its files, test before train, or else drawn.

    items_of: content -> its files, which have one label.

    What has one file is drawn by the SHA-256 of that, and so is where it was before its pixels were looked at. Of
    several files the smallest SHA-256 decides, so that a content with many copies is as likely to be tested with; of
    the folder's own, if it has one, so that what people label elsewhere moves none of them.

    A class none of whose contents is on a side gives it the one that came closest to being drawn for it: as more of
    them arrive, it goes back where it was drawn for.
    """
    own = len(labelled.entries) - labelled.elsewhere
    sides: dict[bytes, SideName] = {}
    lots: dict[bytes, float] = {}
    of_class: dict[str, list[bytes]] = {}
    for content, items in items_of.items():
        of_class.setdefault(labelled.labels[items[0]], []).append(content)
        given = {labelled.sides[item] for item in items}
        if "test" in given or "train" in given:
            sides[content] = "test" if "test" in given else "train"
        else:
            deciding = min((item >= own, str(read.files[item].sha256)) for item in items)[1]
            lots[content] = lot(deciding, seed)
            sides[content] = "test" if lots[content] < TEST_SHARE else "train"
    for members in of_class.values():
        drawn = [content for content in members if content in lots]
        for side, closest in zip(SIDES[::-1], (min, max), strict=True):  # test, with the smallest lots, and then train
            if drawn and len(members) > 1 and all(sides[content] != side for content in members):
                sides[closest(drawn, key=lots.__getitem__)] = side
    return sides


def lot(sha256: str, seed: int) -> float:
    """0 to 1, equally likely, by a content (its SHA-256, hex) and the seed: below TEST_SHARE it is for testing."""
    return int.from_bytes(hashlib.sha256(f"{seed} {sha256}".encode()).digest()[:6]) / (1 << 48)


def check_sides(
    classes: Sequence[str], train: Side, test: Side, bad: Mapping[str, str] | None = None, background: int = 0
) -> None:
    """Raises TooFewPictures unless each class has pictures on both sides. bad: path -> why a file is on neither;
    background: what transparent pixels became, 0-255."""
    blanks = sum(why.partition(":")[0] == BLANK for why in (bad or {}).values())
    besides = f". {many(blanks, 'file')} are left out, of a single colour: {unseen(background)}" if blanks else ""
    for doing, side in (("train on", train), ("test with", test)):
        counts = np.bincount(side.labels, minlength=len(classes))
        if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
            raise TooFewPictures(
                f"expected pictures of every class to {doing}, none of {', '.join(missing)} found among "
                f"{len(side.labels):,}; a class needs two of different content, one for each side: add more of them, "
                f"or remove the class{besides}"
            )
