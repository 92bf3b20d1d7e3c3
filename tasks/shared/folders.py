"""Folders of pictures, wherever they are: what scoring and preparing list, and hand to decoders."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, TypeVar

from artifacts.settings import Settings
from tasks.shared import listing
from tasks.shared.listing import Entry, FolderError, folder_place, is_url
from tasks.shared.ours import all_ours, own_folders, without_stores
from tasks.shared.walking import walk
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import DecodedFiles, Files

Key = TypeVar("Key")


class Folder(Protocol):
    """An open folder.

    descriptor: of the folder on this machine below which decoders may read.
    by_size: whether a file of the planned size is the planned one, whatever its time: on a mount with other times.
    """

    descriptor: int
    by_size: bool

    def walk(self, on_folder: Callable[[bytes], object] | None = None) -> Iterator[Entry]:
        """Every entry below it that is no folder itself, sorted by the bytes of its path, but for Lookbook's own.

        on_folder: hears the path of each folder in it, of a bucket's at least those that have no entries.

        Raises FolderError.
        """

    def is_empty(self) -> bool:
        """Whether nothing is in it, as far as the first look tells. Raises FolderError."""

    def entry(self, path: bytes) -> Entry | None:
        """One entry as it is now; None where there is none."""

    def is_at(self, where: str) -> bool:
        """Whether it is the one at `where`, a `real_path`."""

    def read_file(self, name: str, where: str) -> bytes:
        """The content of a file in it. Raises FolderError, which tells `where`."""

    def decode(self, pool: DecoderPool, requests: Iterable[tuple[Key, Files]]) -> Iterator[tuple[Key, DecodedFiles]]:
        """What `pool` makes of requests, in order. The pool reads below `descriptor`."""

    def why_unreadable(self, path: bytes) -> OSError | None:
        """Why a file can't be read now; None when it can."""


class LocalFolder:
    """A folder on this machine, or on a disk that it mounts."""

    def __init__(self, settings: Settings, text: str) -> None:
        """Raises FolderError."""
        self._settings, self._text = settings, text
        self.descriptor = listing.open_folder(settings, text)
        self.by_size = False

    def walk(self, on_folder: Callable[[bytes], object] | None = None) -> Iterator[Entry]:
        """Symlinks are entries, and are not followed."""
        where, own = folder_place(self._settings, self._text), own_folders(self._settings)
        status = os.fstat(self.descriptor)
        if (status.st_dev, status.st_ino) in own:
            raise all_ours(where)
        return without_stores(walk(self.descriptor, own, on_folder), where)

    def is_empty(self) -> bool:
        """Folders without anything in them are something: a whole listing may take long."""
        try:
            with os.scandir(self.descriptor) as found:
                return next(found, None) is None
        except OSError:  # whoever lists it tells
            return False

    def entry(self, path: bytes) -> Entry | None:
        """No link on the way is followed."""
        return listing.entry(self.descriptor, path)

    def is_at(self, where: str) -> bool:
        """A link on the way may have been moved."""
        return listing.is_at(self.descriptor, where)

    def read_file(self, name: str, where: str) -> bytes:
        """Regular files, no links."""
        return listing.read_file(self.descriptor, name, where)

    def decode(self, pool: DecoderPool, requests: Iterable[tuple[Key, Files]]) -> Iterator[tuple[Key, DecodedFiles]]:
        """The pool reads the files themselves."""
        if not self.by_size:
            return pool.decode(requests)
        return pool.decode((key, replace(files, mtimes_ns=list(self._times(files)))) for key, files in requests)

    def why_unreadable(self, path: bytes) -> OSError | None:
        """The folder is opened anew: its mount may have gone away."""
        return listing.why_unreadable(self._settings, self._text, path)

    def _times(self, files: Files) -> Iterator[int]:
        """The times that files of the planned size have here, and of others the planned ones."""
        for path, size, mtime_ns in zip(files.paths, files.sizes, files.mtimes_ns, strict=True):
            found = self.entry(path)
            yield found.mtime_ns if found and found.size == size else mtime_ns


@contextmanager
def opened(settings: Settings, text: str) -> Iterator[Folder]:
    """The folder `root:sub/path`. Raises FolderError."""
    place = folder_place(settings, text)
    if is_url(place):
        from tasks.shared.bucket_folders import bucket_folder

        with bucket_folder(settings, place) as bucket:
            yield bucket
        return
    folder = LocalFolder(settings, text)
    try:
        yield folder
    finally:
        os.close(folder.descriptor)


def check_folder(settings: Settings, text: str, file: str | None = None) -> None:
    """Raises FolderError for a folder, or a file in it, that may not or can not be read, and for an empty one: asked
    before anything else is done."""
    with opened(settings, text) as folder:
        place = folder_place(settings, text)
        if file:
            folder.read_file(file, f"{place}/{file}")
        elif folder.is_empty():
            raise FolderError(f"expected pictures in {place}, found an empty folder")
