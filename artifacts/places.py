"""Where objects are: a service, a bucket and a prefix, apart, and keys that a client can ask for.

What stands behind the bucket in `s3://bucket/prefix` is the prefix, character by character: `%`, `#` and `?` mean
nothing in it, and are never decoded.
"""

import re
from typing import NamedTuple

_PLACE = re.compile(r"([a-z]\w*)://([A-Za-z0-9$][A-Za-z0-9._-]*)(?:/(.*))?", re.ASCII | re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Place(NamedTuple):
    """scheme: of the service, `s3` say; prefix: of all keys, without a `/` at either end, or nothing."""

    scheme: str
    bucket: str
    prefix: str

    @property
    def folder(self) -> str:
        """What all keys begin with."""
        return self.prefix and f"{self.prefix}/"


def parse_place(url: str) -> Place | None:
    """The place that `scheme://bucket/prefix` names; None for what names none."""
    found = _PLACE.fullmatch(url.rstrip("/"))
    return Place(found[1], found[2], found[3] or "") if found else None


def why_unaskable(key: str) -> str | None:
    """Why the client can't ask for a key, though a bucket can have it; None when it can.

    The client would leave out a `/` at either end, and so ask for another object.
    """
    parts = key.split("/")
    if "" in parts:
        return "its key begins or ends with '/', or has '//'"
    if "." in parts or ".." in parts:
        return "its key has '.' or '..' between two '/'"
    if _CONTROL.search(key):
        return "its key has a control character"
    return None
