"""Which files are learned from, with which label and on which side: a folder a class, `train/` and `test/` with a
folder a class in each, or a table (CSV, Parquet) of paths and labels."""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import pyarrow as pa
import pyarrow.parquet

from artifacts.errors import LookbookError
from artifacts.settings import Settings
from tasks.shared.folders import opened
from tasks.shared.listing import (
    Entry,
    FolderError,
    allow_folder,
    digest_entries,
    folder_place,
    is_url,
    to_bytes,
    to_text,
)

SideName = Literal["train", "test"]
SIDES: tuple[SideName, ...] = ("train", "test")
_ALL_SIDES = {*SIDES, "val", "valid", "validation", "dev"}
TABLES = (".csv", ".parquet")
_COLUMNS = ("path", "label", "split")


class LabelError(LookbookError):
    """Labels that can't be learned from: one class only, a table without its columns."""


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
    """What `root:sub/path`, a folder or a table, holds. Hidden files are passed over.

    Raises FolderError for what may not or can not be read, and LabelError unless there are two classes.
    """
    folder, table = split_table(images)
    where = folder_place(settings, images)
    with opened(settings, folder) as top:
        entries = [each for each in top.walk() if not each.path.startswith(b".") and b"/." not in each.path]
        found = _from_table(top.read_file(table, where), entries, where) if table else _from_folders(entries, where)
    if len(found.classes) < 2:
        expected = f"labels of two classes in {where}" if table else f"a folder a class in {where}"
        left_out = "".join(f"; {path}: {why}" for path, why in list(found.bad.items())[:3])
        raise LabelError(
            f"expected {expected}, two of them at least, found {', '.join(found.classes) or 'none'}{left_out}"
        )
    return found


def _from_folders(entries: list[Entry], where: str) -> Labelled:
    top = {each.path.partition(b"/")[0].decode(errors="replace") for each in entries if _named(each.path, 0)}
    lower = {name.casefold() for name in top}
    depth = 0
    if any(each.path.count(b"/") > 1 for each in entries) and (lower <= _ALL_SIDES or lower >= set(SIDES)):
        if lower != set(SIDES) or len(top) > len(lower):
            raise LabelError(
                f"expected train and test in {where}, found {', '.join(sorted(top))}; name them so, put all that is to "
                "be learned from into train (--validation holds out a share of it), and what has no class elsewhere"
            )
        depth = 1
    odd = (to_text(each.path) for each in entries if each.path.count(b"/") <= depth and not each.regular)
    if link := next(odd, None):
        raise FolderError(
            f"expected folders in {where}, found {link}, a link or a device, which is not followed; remove it, or put "
            "the folder itself there"
        )
    placed = [each for each in entries if _named(each.path, depth)]
    unplaced = [to_text(each.path) for each in entries if not _named(each.path, depth)]
    bad = {path: "in no class's folder" for path in unplaced if "/" in path or not path.lower().endswith(TABLES)}
    sides = [cast(SideName, each.path.partition(b"/")[0].decode().casefold()) if depth else None for each in placed]
    labels = [_label(_named(each.path, depth)) for each in placed]
    return Labelled(placed, labels, sides, bad, digest_entries(entries))


def _from_table(content: bytes, entries: Sequence[Entry], where: str) -> Labelled:
    """Only files that were listed below the table's folder are ever opened, whatever its paths say."""
    rows = _read_table(content, where)
    known = {each.path: each for each in entries}
    named: dict[bytes, tuple[str, SideName | None]] = {}
    bad: dict[str, str] = {}
    for text, label, side in rows:
        spellings = (os.fsencode(text.removeprefix("./")), os.fsencode(text.strip().removeprefix("./")))
        encoded = to_bytes(text)  # as a table of predictions has them
        path = next((each for each in spellings if each in known), encoded)
        text = to_text(path) if path in known else text
        if not label:
            bad[text] = "unlabelled: the table has no label for it"
        elif side not in (*SIDES, None):
            bad[text] = f"unlabelled: expected train or test as its split, found {side}"
        elif path not in known:
            bad[text] = "missing: the table names it, and there is no such file below the table's folder"
        elif named.setdefault(path, (label, side)) != (label, side):
            bad[text] = f"conflicting: the table has it as {named[path][0]} and as {label}"
    placed = [known[path] for path in sorted(named) if to_text(path) not in bad]
    labels = [named[each.path][0] for each in placed]
    sides = [named[each.path][1] for each in placed]
    digest = hashlib.sha256(f"{digest_entries(placed)} {hashlib.sha256(content).hexdigest()}".encode()).hexdigest()
    return Labelled(placed, labels, sides, bad, digest)


def _read_table(content: bytes, where: str) -> Iterable[tuple[str, str | None, str | None]]:
    """path, label and, where there is such a column, split (train, test) of each row."""
    try:
        read = _read_csv if where.lower().endswith(".csv") else _read_parquet
        names, columns = read(content)
    except (pa.ArrowException, OSError, UnicodeError, csv.Error) as error:
        raise LabelError(f"expected a table in {where}, found what can't be read as one: {error}") from None
    counts = [names.count(name) for name in _COLUMNS]
    if counts[:2] != [1, 1] or counts[2] > 1:
        raise LabelError(
            f"expected one column path and one column label in {where}, found {', '.join(names)}; a column split, with "
            "train or test, may follow"
        )
    paths, labels = columns["path"], columns["label"]
    if None in paths:
        raise LabelError(f"expected a path in every row of {where}, found none in row {paths.index(None) + 1}")
    return zip(cast(list[str], paths), labels, columns.get("split", [None] * len(paths)), strict=True)


def _read_parquet(content: bytes) -> tuple[list[str], dict[str, list[str | None]]]:
    """The names of all columns, and as text those that are looked at."""
    table = pa.parquet.read_table(io.BytesIO(content))
    names = table.column_names
    return names, {
        name: table.column(name).cast(pa.string()).to_pylist() for name in _COLUMNS if names.count(name) == 1
    }


def _read_csv(content: bytes) -> tuple[list[str], dict[str, list[str | None]]]:
    """The same of a CSV file in UTF-8, with or without a byte order mark. What is empty is None.

    Names, labels and splits come without the white space around them, a path with it: a file may be called so. Where a
    space follows the commas of the header, it is expected in the rows, too, even before quotes; it is in no value.
    """
    lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    header = next(csv.reader(lines), None)
    if header is None:
        raise csv.Error("the file is empty")
    lines.seek(0)
    rows = csv.reader(lines, skipinitialspace=any(name.startswith(" ") for name in header[1:]))
    names = [name.strip() for name in next(rows)]
    places = {name: names.index(name) for name in _COLUMNS if name in names}
    columns: dict[str, list[str | None]] = {name: [] for name in places}
    for row in rows:
        if row and len(row) != len(names):
            raise csv.Error(f"expected {len(names)} columns, found {len(row)} in line {rows.line_num}")
        for name, place in places.items() if row else ():
            columns[name].append((row[place] if name == "path" else row[place].strip()) or None)
    return names, columns


def _named(path: bytes, depth: int) -> bytes:
    """The name of the folder `depth` below the top that a file is in; nothing where there is none, or where it has no
    name, as a key of a bucket may begin with `/`."""
    return path.split(b"/", depth + 1)[depth] if path.count(b"/") > depth else b""


def _label(folder: bytes) -> str:
    """A class is called as its folder; where that is no UTF-8, as the `path` column has it."""
    try:
        return folder.decode()
    except UnicodeDecodeError:
        return to_text(folder)
