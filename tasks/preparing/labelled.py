"""Which files are learned from, with which label and on which side: a folder for each class, `train/` and `test/` with
such folders in each, or a table (CSV, Parquet) of paths and labels."""

import hashlib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from artifacts.settings import Settings
from tasks.preparing.layout import SIDES, LabelError, SideName, depth_of_classes
from tasks.shared.folders import opened
from tasks.shared.listing import (
    Entry,
    FolderError,
    allow_folder,
    digest_entries,
    folder_place,
    is_url,
    real_path,
    to_text,
)
from tasks.shared.litter import is_hidden, is_litter, is_no_picture
from tasks.shared.paths import Near, SeveralPaths, addresses, exact, spellings
from tasks.shared.tables import UNREADABLE, read_table

TABLES = (".csv", ".parquet")
EMPTY = "empty"  # what begins the reason why a folder is no class
_COLUMNS = ("path", "label", "split")


@dataclass(frozen=True)
class Labelled:
    """Files with their labels, sorted by path.

    sides: where the folder or the table says it, otherwise None, and a file's content decides; bad: path -> why it
    can't be learned from; digest: of everything that was looked at; elsewhere: how many of them, the last ones, are not
    the folder's, but pictures that people labelled elsewhere.
    """

    entries: list[Entry]
    labels: list[str]
    sides: list[SideName | None]
    bad: dict[str, str]
    digest: str
    elsewhere: int = 0

    @property
    def classes(self) -> list[str]:
        return sorted(set(self.labels))


def split_table(images: str) -> tuple[str, str | None]:
    """`root:sub/labels.csv` as the folder `root:sub` and `labels.csv`; a folder as it is, and None."""
    if not images.lower().endswith(TABLES):
        return images, None
    folder, slash, name = images.rpartition("/")
    if slash:
        return folder or "/", name
    root, colon, name = images.partition(":")
    return root + colon, name


def allow_images(images: str) -> str:
    """What `allow_folder` does, also for a table of pictures in its folder."""
    if not images.lower().endswith(TABLES):
        return allow_folder(images)
    if is_url(images):
        folder, _, name = images.rpartition("/")
        return f"{allow_folder(folder)}/{name}"
    return f"{allow_folder(Path(images).parent).rstrip('/')}/{Path(images).name}"


def list_labelled(settings: Settings, images: str) -> Labelled:
    """What `root:sub/path`, a folder or a table, holds. Hidden files are passed over, and in folders of classes all
    that machines and programs leave; a table decides itself.

    Raises FolderError for what may not or can not be read, and LabelError unless there are two classes.
    """
    folder, table = split_table(images)
    where = folder_place(settings, images)
    with opened(settings, folder) as top:
        if table:
            entries = [each for each in top.walk() if not is_hidden(each.path)]
            tops = addresses(folder_place(settings, folder), real_path(settings, folder))
            found = _from_table(top.read_file(table, where), entries, where, tops)
        else:
            folders: list[bytes] = []
            listed = list(top.walk(folders.append))
            found = _from_folders(listed, folders, where)
    if len(found.classes) < 2:
        expected = f"labels of two classes in {where}" if table else f"a folder for each class in {where}"
        left_out = "".join(f"; {path}: {why}" for path, why in list(found.bad.items())[:3])
        raise LabelError(
            f"expected {expected}, two of them at least, found {', '.join(found.classes) or 'none'}{left_out}"
        )
    return found


def _from_folders(listed: Sequence[Entry], folders: Iterable[bytes], where: str) -> Labelled:
    """folders: those that are there, with entries or without."""
    entries = [each for each in listed if not is_litter(each.path)]
    depth = depth_of_classes((each.path for each in entries), where)
    odd = (to_text(each.path) for each in entries if each.path.count(b"/") <= depth and not each.regular)
    if link := next(odd, None):
        raise FolderError(
            f"expected folders in {where}, found {link}, a link or a device, which is not followed; remove it, or put "
            "the folder itself there"
        )
    of_folder: dict[bytes, list[Entry]] = {}
    for each in entries:
        of_folder.setdefault(_folder(each.path, depth), []).append(each)
    classes = {at for at, files in of_folder.items() if at and not all(is_no_picture(each.path) for each in files)}
    placed = sorted(each for at in classes for each in of_folder[at])
    others = sorted(each for at in of_folder.keys() - classes for each in of_folder[at])
    unplaced = [to_text(each.path) for each in others]
    bad = {path: "in no class's folder" for path in unplaced if "/" in path or not path.lower().endswith(TABLES)}
    sides = [cast(SideName, each.path.partition(b"/")[0].decode().casefold()) if depth else None for each in placed]
    labels = [_label(_named(each.path, depth)) for each in placed]
    empty = _empty(listed, folders, classes, depth)
    bad |= dict.fromkeys(empty, f"{EMPTY}: no file in this folder can be learned from, so it is no class")
    digest = digest_entries(entries)
    if empty:
        digest = hashlib.sha256("\0".join([digest, *empty]).encode()).hexdigest()
    return Labelled(placed, labels, sides, bad, digest)


def _empty(listed: Iterable[Entry], folders: Iterable[bytes], classes: Set[bytes], depth: int) -> list[str]:
    """The folders, as `path/`, that would be classes if a picture was in them."""
    there = {_folder(each, depth) for each in (*(b"%b/" % each for each in folders), *(e.path for e in listed))}
    sides = {each.encode() for each in SIDES}
    return sorted(
        f"{to_text(each)}/"
        for each in there - classes
        if each and not is_litter(each) and (not depth or each.partition(b"/")[0].lower() in sides)
    )


def _from_table(content: bytes, entries: Sequence[Entry], where: str, tops: Sequence[str]) -> Labelled:
    """Only files that were listed below the table's folder are ever opened, whatever its paths say."""
    rows = _read_table(content, where, tops)
    known = {to_text(each.path): each for each in entries}
    there = [exact(texts, known) for texts, _, _ in rows]
    odd = [texts for (texts, _, _), path in zip(rows, there, strict=True) if path is None]
    near = Near(tops, known, odd, {path for path in there if path})
    named: dict[str, tuple[str, SideName | None]] = {}
    bad: dict[str, str] = {}
    for (texts, label, side), found in zip(rows, there, strict=True):
        try:
            path = found or near.find(texts)
        except SeveralPaths as error:
            bad[texts[0]] = str(error)
            continue
        text = path or texts[0]
        if not label:
            bad[text] = "unlabelled: the table has no label for it"
        elif side not in (*SIDES, None):
            bad[text] = f"unlabelled: expected train or test as its split, found {side}"
        elif path is None:
            bad[text] = "missing: the table names it, and there is no such file below the table's folder"
        elif named.setdefault(path, (label, side)) != (label, side):
            bad[text] = f"conflicting: the table has it as {named[path][0]} and as {label}"
    placed = sorted(known[path] for path in named if path not in bad)
    labels = [named[to_text(each.path)][0] for each in placed]
    sides = [named[to_text(each.path)][1] for each in placed]
    digest = hashlib.sha256(f"{digest_entries(placed)} {hashlib.sha256(content).hexdigest()}".encode()).hexdigest()
    return Labelled(placed, labels, sides, bad, digest)


def _read_table(content: bytes, where: str, tops: Sequence[str]) -> list[tuple[list[str], str | None, str | None]]:
    """The spellings of a path, its label and, where there is such a column, its split (train, test) of each row."""
    try:
        table = read_table(content, where, _COLUMNS)
    except UNREADABLE as error:
        raise LabelError(f"expected a table in {where}, found what can't be read as one: {error}") from None
    if not table.names:
        raise LabelError(f"expected a table in {where}, found what can't be read as one: the file is empty")
    counts = [table.names.count(name) for name in _COLUMNS]
    if counts[:2] != [1, 1] or counts[2] > 1:
        raise LabelError(
            f"expected one column path and one column label in {where}, found {', '.join(table.names)}; a column "
            "split, with train or test, may follow"
        )
    paths, labels = table.columns["path"], table.columns["label"]
    if None in paths:
        raise LabelError(f"expected a path in every row of {where}, found none in row {paths.index(None) + 1}")
    written = ((table.plain(path), path) for path in cast(list[str], paths))
    texts = (spellings(each, tops, as_column=False) for each in written)
    plain = (label and table.plain(label) for label in labels)
    splits = (side and side.casefold() for side in table.columns.get("split", [None] * len(paths)))
    return list(zip(texts, plain, splits, strict=True))


def _named(path: bytes, depth: int) -> bytes:
    """The name of the folder `depth` below the top that a file is in; nothing where there is none, or where it has no
    name, as a key of a bucket may begin with `/`."""
    return path.split(b"/", depth + 1)[depth] if path.count(b"/") > depth else b""


def _folder(path: bytes, depth: int) -> bytes:
    """The folders above the class's own, and that, of a path; nothing where it is in none."""
    return b"/".join(path.split(b"/")[: depth + 1]) if _named(path, depth) else b""


def _label(folder: bytes) -> str:
    """A class is called as its folder; where that is no UTF-8, as the `path` column has it."""
    try:
        return folder.decode()
    except UnicodeDecodeError:
        return to_text(folder)
