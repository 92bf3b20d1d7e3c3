"""Names of classes, as people write them."""

import unicodedata
from collections.abc import Iterable

from artifacts.errors import LookbookError


class ClassNameError(LookbookError):
    """A name that is a class's but for case, spaces or encoding, or that can't be one."""


class UnknownClass(ClassNameError):
    """A name that is no class's."""


def folded(name: str) -> str:
    """What names have in common that differ only in case, spaces or encoding."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def known_class(name: str, classes: Iterable[str], *, new: bool = False) -> str:
    """The class that is called so; with `new` one that nobody knows yet. Raises ClassNameError."""
    known = list(classes)
    if name in known:
        return name
    if alike := next((each for each in known if folded(each) == folded(name)), None):
        raise ClassNameError(
            f"expected one name for one class, found {name!r} beside {alike!r}, which differs only in case, spaces or "
            f"encoding; use {alike!r}"
        )
    if not new:
        raise UnknownClass(f"expected one of the classes {', '.join(known)}, found {name!r}")
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > 100:
        raise ClassNameError(f"expected a new class's name of 1 to 100 characters on one line, found {name!r}")
    return name
