"""Labels as files: written out, and read in from other tools."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from artifacts import aliases, predictions
from artifacts.errors import LookbookError, NotFound
from artifacts.labels import LabelEvent, Labels, Statement, label_names
from artifacts.predictions import Predictions
from artifacts.provenance import user_at_host
from artifacts.store import Store
from tasks.shared.placing import Row, Seen
from tasks.shared.tables import UNREADABLE, Table, escape, is_parquet, read_table

_AT_ONCE = 1000  # statements of an event
_SHOWN = 5
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERDICTS = ("class", "none", "bad")
_EXPORTED = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("sha256", "verdict", "label", "path", "folder", "table")),
        pa.field("predicted", pa.string()),
        pa.field("confidence", pa.float64()),
        *(pa.field(name, pa.string()) for name in ("chosen", "at", "by")),
    ]
)


class LabelFileError(LookbookError):
    """A file of labels that can't be read as one."""


def export(store: Store, name: str, file: str) -> int:
    """Write what counts of each content, sorted by content, as CSV or Parquet. Returns how many there are.

    In CSV a text that a spreadsheet would take for a formula has an apostrophe before it, which `read_in` takes away.

    Raises NotFound, Corrupt and LabelFileError.
    """
    words = sorted(_labels(store, name).words().items())
    rows = [{**asdict(word.statement), "at": word.event.at, "by": word.event.by} for _, word in words]
    table = pa.Table.from_pylist(rows, _EXPORTED)
    try:
        if is_parquet(file):
            pq.write_table(table, file, compression="zstd")
        elif file.lower().endswith(".csv"):
            texts = [{name: escape(value) for name, value in row.items()} for row in rows]
            pyarrow.csv.write_csv(pa.Table.from_pylist(texts, _EXPORTED), file)
        else:
            raise LabelFileError(f"expected a file .csv or .parquet, found {file}")
    except OSError as error:
        raise LabelFileError(f"can't write {file}: {error.strerror}") from None
    return len(rows)


@dataclass(frozen=True)
class Conflict:
    """A row of a file that says something else than what counted before it was read.

    row: its number, from 1; path: where the picture was seen, None where nobody has seen it.
    label, was: a class, none or bad: what it says, and what counted; by, at: who had said that, and when.
    """

    row: int
    sha256: str
    path: str | None
    label: str
    was: str
    by: str
    at: str


@dataclass(frozen=True)
class Imported:
    """What became of each row of a file. Rows of one content after the first one are unchanged.

    labels: how many are on record now: new, unchanged (it counted already) or conflicting (the file's counts now).
    unseen: how many of them are of contents that no row of the newest table has.
    unknown: the paths that it has not, which are left out.
    """

    labels: int
    new: int
    unchanged: int
    unseen: int = 0
    conflicting: list[Conflict] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def read_in(store: Store, name: str, file: str, *, new_classes: bool = False) -> Imported:
    """Put the labels of a file on record: all of them, or, where one can't be right, none. What counts already is not
    written again, but for where the newest table has seen it.

    Raises LabelFileError, also where no row is of a picture that the newest table has or that is named by its content,
    ClassNameError, SeveralPaths and Corrupt.
    """
    rows = list(_rows(Path(file).read_bytes(), file))
    table = _newest(store, name)
    given_classes = {str(each.said.label) for each in rows if each.said.label}
    classes = list(table.artifact.facts["classes"]) if table else sorted(given_classes)
    checked = [each.checked(classes, new_classes).spelled(table) for each in rows]
    seen = Seen(table, checked)
    given: dict[str, tuple[int, Statement]] = {}
    unknown, repeated, unseen = [], 0, 0
    for number, each in enumerate(map(seen.placed, checked), start=1):
        before, first = given.get(each.sha256, (number, each))
        if not each.sha256:
            unknown.append(str(each.path))
        elif not _same(first, each):
            raise LabelFileError(
                f"expected one label for one content, found {_said(first)} in row {before} and {_said(each)} in row "
                f"{number} of {file} ({each.path or each.sha256}); leave one of them"
            )
        else:
            unseen += each.table is None
            repeated += each.sha256 in given
            given.setdefault(each.sha256, (number, each))
    if not given:
        raise LabelFileError(f"expected labels in {file}, found none: {_why_none(unknown, name, table)}")
    log = Labels(store.disk, name)
    words = log.words()
    written, new, conflicting = [], 0, []
    for number, each in given.values():
        word = words.get(each.sha256)
        if word is None:
            new += 1
        elif not _same(word.statement, each):
            was, event = word.statement, word.event
            path = each.path or was.path
            conflicting.append(Conflict(number, each.sha256, path, _said(each), _said(was), event.by, event.at))
        elif each.folder in (None, word.statement.folder):
            continue
        written.append(each)
    for start in range(0, len(written), _AT_ONCE):
        log.say(f"import-{uuid4().hex}", user_at_host(), written[start : start + _AT_ONCE])
    labels = len(given) + repeated
    return Imported(labels, new, labels - new - len(conflicting), unseen, conflicting, unknown)


def _why_none(unknown: Sequence[str], name: str, table: Predictions | None) -> str:
    if not unknown:
        return "it has no rows"
    if table is None:
        return f"no table is called {name} that could have its paths; `lookbook score FOLDER --name {name}` makes one"
    more = f" and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
    return f"{table.artifact.ref} has no row of {', '.join(unknown[:_SHOWN])}{more}; write paths as that table does"


def _same(one: Statement, other: Statement) -> bool:
    return (one.verdict, one.label) == (other.verdict, other.label)


def _said(statement: Statement) -> str:
    return statement.label or statement.verdict


def told_of(store: Store, name: str, picture: str) -> list[dict[str, Any]]:
    """All that was said of a content (by the first digits of its SHA-256) or of what was seen under a path. Raises
    NotFound."""
    events = _labels(store, name).events
    undone = {each.undoes: each for each in events}
    found = [
        _told(each, statement, undone)
        for each in events
        for statement in each.statements
        if statement.path == picture or (len(picture) >= 4 and statement.sha256.startswith(picture))
    ]
    if not found:
        raise NotFound(f"expected a picture that somebody has labelled as {name}, found no word about {picture!r}")
    return found


def _told(event: LabelEvent, statement: Statement, undone: dict[int | None, LabelEvent]) -> dict[str, Any]:
    gone = undone.get(event.number)
    taken_back = {"at": gone.at, "by": gone.by} if gone else None
    return {"number": event.number, **asdict(statement), "at": event.at, "by": event.by, "taken_back": taken_back}


def _labels(store: Store, name: str) -> Labels:
    found = Labels(store.disk, name)
    if not found.events:
        known = ", ".join(label_names(store.disk)) or "none"
        raise NotFound(
            f"expected labels of {name}, found none (there are: {known}); `lookbook review {name}` makes them"
        )
    return found


def _newest(store: Store, name: str) -> Predictions | None:
    ref = aliases.current(store.disk, "predictions", name, "latest")
    return predictions.load(store, ref) if ref else None


def _rows(content: bytes, file: str) -> Iterator[Row]:
    table = _table(content, file)
    columns = table.columns
    for number, cells in enumerate(zip(*columns.values(), strict=True), start=1):
        row = {name: cell or "" for name, cell in zip(columns, cells, strict=True)}
        row |= {name: cell.strip() for name, cell in row.items() if name != "path"}
        verdict, written, named = row.get("verdict") or "class", row.get("path", ""), row.get("label", "")
        sha256, path, label = row.get("sha256", "").lower(), table.plain(written), table.plain(named).strip()
        found = (
            f"found {', '.join(f'{key} {value!r}' for key, value in row.items() if value)} in row {number} of {file}"
        )
        if verdict not in _VERDICTS:
            raise LabelFileError(f"expected class, none or bad as the verdict, {found}")
        if (verdict == "class") != bool(label):
            raise LabelFileError(f"expected a label with the verdict class, and with no other, {found}")
        if sha256 and not _SHA256.fullmatch(sha256):
            raise LabelFileError(f"expected a SHA-256 of 64 hexadecimal digits, {found}")
        if not sha256 and not path:
            raise LabelFileError(f"expected a sha256 or a path, {found}")
        yield Row(Statement(sha256, verdict, label or None, path or None), written, named)  # type: ignore[arg-type]


def _table(content: bytes, file: str) -> Table:
    try:
        table = read_table(content, file, ("path", "sha256", "label", "verdict"))
    except UNREADABLE as error:
        raise LabelFileError(f"expected labels in {file} (.csv or .parquet), found: {error}") from None
    columns = set(table.columns)
    if not columns & {"sha256", "path"} or not columns & {"label", "verdict"}:
        found = ", ".join(table.names) or "none"
        raise LabelFileError(f"expected the columns label, and sha256 or path, in {file}, found {found}")
    return table
