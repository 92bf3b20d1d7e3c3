"""Tables as GitHub's markdown, for Prefect's UI."""

import re
from collections.abc import Iterable, Sequence

_LINKS = re.compile(r"(?=://)|(?<=www)(?=\.)|(?<=mailto)(?=:)|(?<=xmpp)(?=:)|(?=@[\w-]+\.\w)", re.IGNORECASE)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of finished cells; every column but the first aligned to the right."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Text from strangers (a class, a path) as it can stand in a table: no markup of its own, and nothing that becomes
    a link by itself (GitHub Flavored Markdown, "Autolinks (extension)": addresses with a scheme, www., mail)."""
    text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    text = re.sub(r"[\\`|<>\[\]*_!~#&]", r"\\\g<0>", text)
    return _LINKS.sub(r"\\", text)
