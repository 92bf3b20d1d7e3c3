"""Lines in a terminal, in which everything can be copied: refs, paths and addresses are broken nowhere."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from artifacts.printable import printable

_FRAME = 6  # columns that a frame takes, and the space between its two
_PROSE = 40  # columns of a cell of prose, at least
_UNBOUND = 100_000  # columns


def text_of(value: object, style: str = "") -> Text:
    """Text from a store or a folder: no markup, and nothing that a terminal would obey."""
    return Text(printable(value), style)


class _Whole(Text):
    """A text that is broken nowhere, not even at a space."""

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self.cell_len, self.cell_len)


def whole(value: object) -> Text:
    """`text_of` what somebody copies, such as a path."""
    return _Whole(printable(value), no_wrap=True, overflow="ignore")


def _whole_of(cell: str | Text) -> Text:
    return whole(cell) if isinstance(cell, str) else _Whole(no_wrap=True, overflow="ignore").append_text(cell)


def print_facts(title: str, facts: dict[str, Any], *following: str) -> None:
    """Names and values in a frame; line by line, and longer than a line where need be, in a terminal too narrow for it:
    a frame would break what somebody copies."""
    console, column = _console(), max(map(len, facts))
    values = {name: each if isinstance(each, Text) else text_of(each) for name, each in facts.items()}
    if column + max(_narrowest(console, each) for each in values.values()) + _FRAME <= console.width:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in values.items():
            table.add_row(text_of(name), value)
        inside = Group(table, *(("", *following) if following else ()))
        console.print(Panel(inside, title=title, expand=False), highlight=False)
        return
    console.print(Text(title, "bold"), soft_wrap=True)
    for name, value in values.items():
        value.overflow = "ignore"
        for number, line in enumerate(value.wrap(console, max(console.width - column - 2, 1))):
            start = Text(f"{'' if number else name:<{column}}  ", "dim")
            console.print(start.append_text(line), highlight=False, soft_wrap=True)
    for each in following:
        console.print(each, highlight=False, soft_wrap=True)


class _Table(Table):
    """A table whose cells are whole in columns that don't wrap, however narrow the terminal is."""

    def add_row(self, *cells: Any, **kwargs: Any) -> None:
        fitting = zip(cells, self.columns, strict=True)
        super().add_row(*(_whole_of(cell) if column.no_wrap else cell for cell, column in fitting), **kwargs)


def table_of(*columns: str, prose: Sequence[str] = ()) -> Table:
    """A table whose cells are broken nowhere, but for those of the columns `prose`, between words. Cells are texts."""
    table = _Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        if column in prose:
            table.add_column(column, overflow="fold", min_width=_PROSE)
        else:
            table.add_column(whole(column), no_wrap=True)
    return table


def print_out(*parts: Any) -> None:
    """Print, no narrower than the longest word: refs and paths can be copied in a terminal of any width."""
    console = _console()
    console.width = max(console.width, *(_narrowest(console, each) for each in parts))
    console.print(*parts, highlight=False)


def _narrowest(console: Console, part: Any) -> int:
    """How many columns it takes when no word of it is broken."""
    return Measurement.get(console, console.options.update(max_width=_UNBOUND), part).minimum


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=240)  # a pipe has no width to wrap for
