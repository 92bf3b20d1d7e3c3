"""Text for people: text from strangers (a class, a path, a label) as it can stand on a terminal and in a log, without
escape sequences, and how many there are of something."""


def printable(text: object) -> str:
    """Replace whatever is no printable character, but for line breaks and tabs, by a replacement character."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in str(text))


def many(count: float, what: str) -> str:
    """`1 decision`, `1,234 decisions`, `0.5 hours`."""
    return f"{f'{count:,}' if isinstance(count, int) else f'{count:g}'} {what}{'' if count == 1 else 's'}"
