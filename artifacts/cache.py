"""Files of a bucket on this machine, by their SHA-256: shared by processes, bounded in size, safe to delete.

<cache>/objects/<first two digits>/<sha256>
<cache>/objects/<first two digits>/<sha256>.<digest of a source>   empty: what that source gave had this SHA-256
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from artifacts import owners
from artifacts.disk import LocalDisk, LocalFile, hash_once
from artifacts.errors import StoreError

_USED_SECONDS = 600.0  # what was asked for in the last ten minutes is not removed: somebody may be about to open it


class Cache:
    """The cache below `folder`, which holds `most` bytes or little more."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder.expanduser().absolute() / "objects"
        self._most = most
        self._scratch = LocalDisk(self._folder)

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """A folder of one's own, removed at the end. What killed processes left there is removed first."""
        return self._scratch.scratch()

    def find(self, sha256: str) -> LocalFile | None:
        """The file with this hash (hex), hashed by this process since it last changed; None where there is none."""
        path = self._path(sha256)
        with contextlib.suppress(OSError):
            found, size = hash_once(path)
            if found == sha256:
                os.utime(path)
                return LocalFile(path, sha256, size)
            path.unlink()
        return None

    def is_from(self, sha256: str, source: str) -> bool:
        """Whether `source` is known to have given a file with this hash (hex)."""
        with contextlib.suppress(OSError):
            os.utime(self._mark(sha256, source))
            return True
        return False

    def mark(self, sha256: str, source: str) -> None:
        """Write down that `source` has what has this hash (hex). Raises StoreError when the disk refuses."""
        mark = self._mark(sha256, source)
        with self._writing():
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()

    def fill(self, sha256: str, content: Iterable[bytes], source: str) -> tuple[Path, str, int]:
        """Write a file that should have this hash. Returns where it is, its SHA-256 (hex) and its bytes; one that has
        another hash is not kept. Raises StoreError when the disk refuses.

        source: where the content comes from, and by what it would be known that this gives other content.
        """
        path = self._path(sha256)
        temporary = path.with_name(owners.new_name())
        hashed, size = hashlib.sha256(), 0
        try:
            with self._writing():
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.touch(exist_ok=False)
            for each in content:
                hashed.update(each)
                with self._writing(), open(temporary, "ab") as file:
                    size += file.write(each)
            if hashed.hexdigest() == sha256:
                with self._writing():
                    temporary.replace(path)
                self.mark(sha256, source)
                self._shrink()
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return path, hashed.hexdigest(), size

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"can't write to the cache {self._folder}: {error.strerror}; make room, or mend LOOKBOOK_CACHE"
            ) from error

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def _mark(self, sha256: str, source: str) -> Path:
        path = self._path(sha256)
        return path.with_name(f"{path.name}.{hashlib.sha256(source.encode()).hexdigest()[:32]}")

    def _shrink(self) -> None:
        """Remove what was not asked for the longest, until the rest fits."""
        found = sorted(self._files())
        total = sum(size for _, size, _ in found)
        for used, size, path in found:
            if total <= self._most or time.time() - used < _USED_SECONDS:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """When each file was used last, its bytes, and where it is. What a killed process left half-written is
        removed."""
        for path in self._folder.glob("[0-9a-f][0-9a-f]/*"):
            with contextlib.suppress(OSError):
                if owners.has_ended(path.name):
                    path.unlink()
                    continue
                status = path.stat()
                yield status.st_mtime, status.st_size, path
