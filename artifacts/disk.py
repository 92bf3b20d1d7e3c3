"""The store's primitives on a local disk: create (exclusive, whole or not at all), read, list, remove, local_path."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from artifacts.errors import AlreadyExists, NotFound, StoreError

SCRATCH = "staging/scratch"


class LocalDisk:
    """Keys are `/`-separated paths below `root`. A key, once it exists, holds its final bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    def create(self, key: str, content: bytes | Path) -> None:
        """Write `key` durably, or not at all.

        A Path inside the store's staging area is linked without a copy and must not be written to afterwards.
        Raises AlreadyExists when somebody was first, StoreError when the disk refuses (full, read-only, fsync failed).
        """
        target = self.local_path(key)
        try:
            with self._temporary(content) as temporary:
                _make_folders(target.parent)
                try:
                    os.link(temporary, target)
                except FileExistsError:
                    raise AlreadyExists(f"{key} exists already in {self.root}") from None
                _sync(target.parent)
        except OSError as error:
            raise self._refused("write", key, error) from error

    def read(self, key: str) -> bytes:
        """All bytes of `key`. Raises NotFound."""
        try:
            return self.local_path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{key} is not in the store {self.root}") from None
        except OSError as error:
            raise self._refused("read", key, error) from error

    def exists(self, key: str) -> bool:
        return self.local_path(key).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below the folder `prefix`, sorted within each folder; a missing folder has none."""
        top = self.local_path(prefix)
        for folder, folders, files in os.walk(top, onerror=self._unlistable):
            folders.sort()
            for file in sorted(files):
                yield (Path(folder) / file).relative_to(self.root).as_posix()

    def remove(self, key: str) -> None:
        """Remove `key`; harmless when it is gone."""
        try:
            self.local_path(key).unlink(missing_ok=True)
        except OSError as error:
            raise self._refused("remove", key, error) from error

    def local_path(self, key: str) -> Path:
        """Where `key` is, or would be. Raises StoreError for a key that leads out of the store."""
        parts = key.split("/")
        if not all(parts) or ".." in parts or "." in parts or "\0" in key:
            raise StoreError(f"{key!r} is no key of a store")
        return self.root.joinpath(*parts)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder of one's own on the store's disk, for files that will be published; removed at the end.

        An OSError inside is the store's disk refusing, and raised as StoreError.
        """
        folder = self.local_path(f"{SCRATCH}/{uuid.uuid4().hex}")
        try:
            folder.mkdir(parents=True)
            yield folder
        except OSError as error:
            raise self._refused("write", SCRATCH, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _temporary(self, content: bytes | Path) -> Iterator[Path]:
        """A synced file holding `content`, on the store's disk."""
        if isinstance(content, Path) and content.is_relative_to(self.local_path("staging")):
            _sync(content)
            yield content
            return
        folder = self.local_path(SCRATCH)
        _make_folders(folder)
        temporary = folder / f"{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "xb") as file:
                if isinstance(content, Path):
                    with open(content, "rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _refused(self, verb: str, key: str, error: OSError) -> StoreError:
        return StoreError(
            f"can't {verb} {key} in the store {self.root}: {error.strerror or error}; "
            "make room or mend the permissions, or point LOOKBOOK_STORE at another folder"
        )

    def _unlistable(self, error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise self._refused("list", str(error.filename), error) from error


def _make_folders(folder: Path) -> None:
    """mkdir -p whose every new entry is synced, so that a crash can't lose the folder under a committed file."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
