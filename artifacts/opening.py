"""Files of a store, opened on this machine: a bucket's are in a cache, which may be emptied at any moment."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from artifacts.disk import Disk
from artifacts.errors import Corrupt, StoreError

_TRIES = 3
_Made = TypeVar("_Made")


def use(find: Callable[[], Path], make: Callable[[Path], _Made]) -> _Made:
    """What `make` makes of a file, which it opens at once: where that is gone, it is looked for again.

    Raises StoreError where it goes every time, and what `find` raises.
    """
    for _ in range(_TRIES):
        path = find()
        with suppress(FileNotFoundError):
            return make(path)
    raise StoreError(f"{path} is removed whenever it was fetched; let nothing empty its folder meanwhile")


def use_file(disk: Disk, key: str, sha256: str, make: Callable[[Path], _Made]) -> _Made:
    """What `make` makes of a local file of `key`, whose hash is this. Raises NotFound, Corrupt and StoreError."""

    def find() -> Path:
        found = disk.materialize(key, sha256)
        if found.sha256 != sha256:
            raise Corrupt(f"{key} is damaged: it is not what was written")
        return found.path

    return use(find, make)
