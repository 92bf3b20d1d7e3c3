"""Text from strangers (a class, a path, a label) as it can stand on a terminal: no escape sequences."""


def printable(text: object) -> str:
    """Whatever is no printable character, but for line breaks, is a replacement character."""
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in str(text))
