"""`kind/name@version`: how stages, people and other tools name an artifact."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from artifacts import registry
from artifacts.errors import InvalidRef

KINDS = tuple(registry.KINDS)
VERSION_DIGITS = 16

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_VERSION = re.compile(rf"[0-9a-f]{{{VERSION_DIGITS}}}")


@dataclass(frozen=True, order=True)
class Ref:
    """One version of one artifact.

    `kind` is one of `KINDS`; `name` holds up to 100 of a-z, 0-9, `.`, `_`, `-`; `version` is the first 16 hex digits of
    the SHA-256 of the manifest's identity.
    """

    kind: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}@{self.version}"

    @property
    def folder(self) -> str:
        """The key of the version's folder in the store."""
        return f"{self.kind}/{self.name}/{self.version}"

    @classmethod
    def parse(cls, text: str) -> "Ref":
        """Read a whole ref; short forms need a store (`Store.resolve`). Raises InvalidRef."""
        kind, slash, rest = text.partition("/")
        name, at, version = rest.partition("@")
        if not (slash and at and kind in KINDS and _NAME.fullmatch(name) and _VERSION.fullmatch(version)):
            raise InvalidRef(
                f"expected a ref like weights/fashion-mnist@3f9a1c20d4b7e815, found {text!r}; "
                "`lookbook list` shows what there is"
            )
        return cls(kind, name, version)


def refs_of(values: Iterable[object]) -> Iterator[Ref]:
    """Those of a manifest's inputs that are refs: others are digests of what is no version."""
    for value in values:
        with suppress(InvalidRef):
            yield Ref.parse(str(value))


def name_in(text: str, kind: str) -> str:
    """The name in `name`, `kind/name` or a ref of that kind, whole or short. Raises InvalidRef."""
    given_kind, slash, rest = text.rpartition("/")
    if slash and given_kind != kind:
        raise InvalidRef(f"expected a name of {kind}, found {text!r}")
    return check_name(rest.partition("@")[0])


def check_kind(kind: str) -> str:
    """Return `kind` when there are artifacts of it. Raises InvalidRef."""
    if kind not in KINDS:
        raise InvalidRef(f"expected a kind out of {', '.join(KINDS)}, found {kind!r}")
    return kind


def check_name(name: str) -> str:
    """Return `name` when an artifact may be called so. Raises InvalidRef."""
    if not _NAME.fullmatch(name):
        raise InvalidRef(
            f"expected a name of a-z, 0-9, '.', '_' and '-' (at most 100, the first a letter or digit), found {name!r}"
        )
    return name
