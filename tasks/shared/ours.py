"""Lookbook's own files among pictures: a store, or the cache, in a folder that is listed. They are no pictures."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from artifacts.places import parse_place
from artifacts.settings import Settings
from tasks.shared.listing import Entry, FolderError

# What each store has that ever decided anything. It comes first among its files (but for `audits` none is before it).
_DECIDED = re.compile(rb"(|.*?/)aliases/(?:weights|predictions)/[^/]+/(?:champion|latest)/\d{8}\.json", re.DOTALL)


def own_folders(settings: Settings) -> frozenset[tuple[int, int]]:
    """Device and inode of the store and of the cache, where they are on this machine."""
    found = set()
    for folder in (settings.store, str(settings.cache)):
        with suppress(OSError):
            status = os.stat(folder)  # noqa: PTH116  (a URL is no file)
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def own_prefix(settings: Settings, url: str) -> bytes | None:
    """What the keys of the store begin with, below the bucket's folder `url`; None where it is somewhere else."""
    store, folder = parse_place(settings.store), parse_place(url)
    if not store or not folder or store[:2] != folder[:2] or not store.folder.startswith(folder.folder):
        return None
    return store.folder[len(folder.folder) :].encode()


def without_stores(entries: Iterable[Entry], where: str, own: Sequence[bytes] = ()) -> Iterator[Entry]:
    """The entries, sorted by path, that are in no store: in none of another name or another day either.

    own: what the paths of this store begin with.

    Raises FolderError where all of it is a store.
    """
    for entry in entries:
        if b"aliases/" in entry.path and not entry.path.startswith(tuple(own)):
            found = _DECIDED.fullmatch(entry.path)
            own = [*own, found[1]] if found else own
        if b"" in own:
            raise all_ours(where)
        if not entry.path.startswith(tuple(own)):
            yield entry


def all_ours(where: str) -> FolderError:
    """What to say of a folder that is a store, or the cache."""
    return FolderError(
        f"expected a folder of pictures at {where}, found one of Lookbook's own (LOOKBOOK_STORE, LOOKBOOK_CACHE); "
        "name the folder that has the pictures, or move the store out of it"
    )
