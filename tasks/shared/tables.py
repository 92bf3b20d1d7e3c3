"""Tables that people make, CSV or Parquet, read by one set of rules wherever they are given."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

UNREADABLE = (pa.ArrowException, OSError, UnicodeError, csv.Error)  # what `read_table` raises for what is no table
_SEPARATORS = (",", ";", "\t")
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # begins what spreadsheets compute


@dataclass(frozen=True)
class Table:
    """A table as it is written.

    names: of all columns.
    columns: those that were asked for and are there once, as text; what is empty is None.
    escaped: whether an apostrophe may stand before what a spreadsheet would compute, as `escape` writes it.
    """

    names: list[str]
    columns: dict[str, list[str | None]]
    escaped: bool

    def plain(self, cell: str) -> str:
        """What `escape` has made this cell of; itself where another tool wrote it, or where nothing is escaped."""
        return cell[1:] if self.escaped and cell.startswith("'") and _FORMULA.match(cell) else cell


def escape(value: Any) -> Any:
    """A cell as no spreadsheet computes it. A text that looks so already has one apostrophe more."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def is_parquet(file: str) -> bool:
    """Whether it is read as Parquet: by its name."""
    return file.lower().endswith(".parquet")


def read_table(content: bytes, file: str, wanted: Sequence[str]) -> Table:
    """The columns `wanted` of a file. Raises one of UNREADABLE."""
    return _parquet(content, wanted) if is_parquet(file) else _csv(content, wanted)


def _parquet(content: bytes, wanted: Sequence[str]) -> Table:
    file = pq.ParquetFile(io.BytesIO(content))
    names = file.schema_arrow.names
    once = [name for name in wanted if names.count(name) == 1]
    table = file.read(once)
    texts = {name: table.column(name).cast(pa.string()).to_pylist() for name in once}
    return Table(names, {name: [text or None for text in column] for name, column in texts.items()}, escaped=False)


def _csv(content: bytes, wanted: Sequence[str]) -> Table:
    """CSV in UTF-8, with or without a byte order mark, separated as its header is: by commas, semicolons or tabs.

    Names and cells come without the white space around them, those of `path` with it: a file may be called so. Where a
    space follows the separators of the header, it is expected in the rows, too, even before quotes; it is in no cell.
    Cells that are missing at the end of a row are empty; so are those that stand behind the last column.
    """
    lines = io.StringIO(content.decode("utf-8-sig"), newline="")  # a path may have other line ends in it
    separator = _separator(lines, wanted)
    header = next(csv.reader(lines, delimiter=separator), [])
    lines.seek(0)
    follows = any(name.startswith(" ") for name in header[1:])
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=follows, strict=True)
    names = [name.strip() for name in next(rows, [])]
    places = {name: names.index(name) for name in wanted if names.count(name) == 1}
    columns: dict[str, list[str | None]] = {name: [] for name in places}
    try:
        for row in rows:
            if any(cell.strip() for cell in row[len(names) :]):
                raise csv.Error(f"expected {len(names)} columns, found {len(row)}")
            for name, place in places.items() if row else ():
                cell = row[place] if place < len(row) else ""
                columns[name].append((cell if name == "path" else cell.strip()) or None)
    except csv.Error as error:
        raise csv.Error(f"{error} in line {rows.line_num}") from None
    return Table(names, columns, escaped=True)


def _separator(lines: io.StringIO, wanted: Sequence[str]) -> str:
    """The one by which the header has most of the names that are wanted; a comma where that is none."""
    known = {}
    for each in _SEPARATORS:
        names = [name.strip() for name in next(csv.reader(lines, delimiter=each), [])]
        known[each] = len({*names} & {*wanted})
        lines.seek(0)
    return max(_SEPARATORS, key=known.__getitem__)
