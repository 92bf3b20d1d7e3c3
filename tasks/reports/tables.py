"""Tables as GitHub's markdown, for Prefect's UI."""

from collections.abc import Iterable, Sequence


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of finished cells; every column but the first aligned to the right."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Text from strangers (a class, a path) as it can stand in a table: no markup of its own."""
    text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    for mark in "\\`|<>[]*_!~#&":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("://", "\\://").replace("www.", "www\\.")
