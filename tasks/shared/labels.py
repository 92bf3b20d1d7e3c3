"""Labels as files: written out, and read in from other tools."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from tasks.shared.class_names import known_class

_AT_ONCE = 1000  # statements of an event
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # begins what spreadsheets compute
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
        if file.lower().endswith(".parquet"):
            pq.write_table(table, file, compression="zstd")
        elif file.lower().endswith(".csv"):
            texts = [{name: _as_text(value) for name, value in row.items()} for row in rows]
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


def _as_text(value: Any) -> Any:
    """A value as no spreadsheet computes it. One that looks so already has one apostrophe more."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _as_it_was(cell: str) -> str:
    """What `_as_text` has made this cell of; itself where another tool wrote it."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def read_in(store: Store, name: str, file: str, *, new_classes: bool = False) -> Imported:
    """Put the labels of a file on record: all of them, or, where one can't be right, none. What counts already is not
    written again, but for where the newest table has seen it.

    Raises LabelFileError, ClassNameError and Corrupt.
    """
    rows = list(_rows(Path(file).read_bytes(), file))
    table = _newest(store, name)
    given_classes = {str(each.said.label) for each in rows if each.said.label}
    classes = list(table.artifact.facts["classes"]) if table else sorted(given_classes)
    checked = [each.checked(classes, new_classes) for each in rows]
    seen = _Seen(table, checked)
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


@dataclass(frozen=True)
class _Row:
    """What a row of a file says; by path it has no content yet. path, label: as they are written there, with an
    apostrophe that may be an export's or the name's own."""

    said: Statement
    path: str
    label: str

    def checked(self, classes: Sequence[str], new: bool) -> "_Row":
        """With the class that is called so. Raises ClassNameError."""
        if not self.said.label:
            return self
        is_as_written = self.said.label not in classes and self.label in classes
        label = self.label if is_as_written else known_class(self.said.label, classes, new=new)
        return replace(self, said=replace(self.said, label=label))

    @property
    def spellings(self) -> list[str]:
        """Of its path, the likeliest first; as in a table of labels (tasks/preparing/labelled.py)."""
        written = [each for each in (str(self.said.path or ""), self.path) if each]
        return [each.removeprefix("./") for text in written for each in (text, text.strip())]


def _rows(content: bytes, file: str) -> Iterator[_Row]:
    plain = str if file.lower().endswith(".parquet") else _as_it_was
    for number, row in enumerate(_table(content, file), start=1):
        given = {key: (value or "").strip() for key, value in row.items() if key in ("label", "verdict", "sha256")}
        verdict = given.get("verdict") or "class"
        sha256, written, named = given.get("sha256", "").lower(), row.get("path") or "", given.get("label", "")
        path, label = plain(written), plain(row.get("label") or "").strip()
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
        yield _Row(Statement(sha256, verdict, label or None, path or None), written, named)  # type: ignore[arg-type]


def _table(content: bytes, file: str) -> list[dict[str, str | None]]:
    try:
        if file.lower().endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(content))
            known = [name for name in ("sha256", "path", "label", "verdict") if name in table.column_names]
            rows: list[dict[str, str | None]] = (
                table.select(known).cast(pa.schema([(name, pa.string()) for name in known])).to_pylist()
            )
        else:
            lines = io.StringIO(content.decode("utf-8-sig"), newline="")  # a path may have other line ends in it
            reader = csv.DictReader(lines, restkey="", restval="", strict=True)
            rows = [{name: cell for name, cell in row.items() if name} for row in reader]
    except (pa.ArrowException, OSError, UnicodeError, csv.Error) as error:
        raise LabelFileError(f"expected labels in {file} (.csv or .parquet), found: {error}") from None
    columns = set(rows[0]) if rows else set()
    if not rows or not columns & {"sha256", "path"} or not columns & {"label", "verdict"}:
        found = ", ".join(map(str, sorted(columns))) or "none"
        raise LabelFileError(f"expected the columns label, and sha256 or path, in {file}, found {found}")
    return rows


class _Seen:
    """Where the newest table has the pictures of a file's rows."""

    def __init__(self, table: Predictions | None, wanted: Sequence[_Row]) -> None:
        self._by_path: dict[str, dict[str, Any]] = {}
        self._by_content: dict[str, dict[str, Any]] = {}
        if table is None:
            return
        paths = {spelling for each in wanted for spelling in each.spellings}
        contents = {each.said.sha256 for each in wanted}
        place = {"folder": str(table.artifact.manifest["provenance"]["folder"]), "table": str(table.artifact.ref)}
        for part in range(len(table.parts)):
            rows = table.read(part, ["path", "sha256", "label", "confidence"])
            for path, sha256, label, confidence in zip(*(column.to_pylist() for column in rows.columns), strict=True):
                if sha256 and (path in paths or sha256 in contents):
                    row = {"path": path, "sha256": sha256, "predicted": label, "confidence": confidence, **place}
                    self._by_path[path] = row
                    self._by_content.setdefault(sha256, row)

    def placed(self, each: _Row) -> Statement:
        """What a row says, with what the table has of it; as it was where that is nothing."""
        given = each.said
        row = next((found for path in each.spellings if (found := self._by_path.get(path))), None)
        if given.sha256 and (row is None or row["sha256"] != given.sha256):
            row = self._by_content.get(given.sha256)
        return replace(given, **row) if row else given
