"""Text from strangers (a class, a path, a label) as it can stand on a terminal and in a log: no escape sequences."""


def printable(text: object) -> str:
    """Replace whatever is no printable character, but for line breaks and tabs, by a replacement character."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in str(text))
