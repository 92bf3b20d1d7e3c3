"""Folders of pictures in a bucket: listed by keys, and fetched ahead of the decoders into a folder of this machine.

An object has no modification time with nanoseconds. In their place stand digits of its ETag, so that a picture which
was replaced within the second is another one.
"""

import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from artifacts.cache import Cache
from artifacts.errors import NotFound, StoreAway, StoreError
from artifacts.keys import list_keys
from artifacts.objects import Bucket
from artifacts.places import why_unaskable
from artifacts.settings import Settings
from tasks.shared import listing
from tasks.shared.listing import Entry, FolderError, FolderLost
from tasks.shared.ours import own_prefix, without_stores
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import DecodedFiles, Files
from tasks.vision.times import held

_AT_ONCE = 32  # objects on their way
_AHEAD = 4  # requests whose objects are fetched before the decoders ask for them

Key = TypeVar("Key")


class _Pictures(Bucket):
    what = "the folder"


@contextmanager
def bucket_folder(settings: Settings, url: str) -> Iterator["BucketFolder"]:
    """The folder at `s3://bucket/prefix`. Raises FolderError."""
    try:
        bucket = _Pictures(url, settings)
    except StoreError as error:
        raise FolderError(str(error)) from None
    with Cache(settings.cache, settings.cache_bytes).scratch() as scratch:
        descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch")
        try:
            yield BucketFolder(settings, bucket, scratch, descriptor, threads)
        finally:
            threads.shutdown(cancel_futures=True)
            os.close(descriptor)


@dataclass(frozen=True)
class _Request:
    """A request whose objects are on their way.

    files: with the names that they get on this machine.
    fetched: place -> what is to tell of it: None, or its error.
    """

    files: Files
    fetched: list[Future[tuple[str, str] | None]]


class BucketFolder:
    """An open folder in a bucket: keys are paths, `/`-separated."""

    def __init__(
        self, settings: Settings, bucket: Bucket, scratch: Path, descriptor: int, threads: ThreadPoolExecutor
    ) -> None:
        self.descriptor = descriptor
        self.by_size = False  # a bucket tells every machine the same times
        self._bucket, self._scratch, self._threads = bucket, scratch, threads
        self._most_bytes = settings.max_image_bytes
        store = own_prefix(settings, bucket.root)
        self._own = () if store is None else (store,)
        self._named = 0

    def walk(self, on_folder: Callable[[bytes], object] | None = None) -> Iterator[Entry]:
        """Objects that stand for a folder (`sub/`, no bytes) are none."""
        return without_stores(self._listed(on_folder), self._bucket.root, self._own)

    def _listed(self, on_folder: Callable[[bytes], object] | None) -> Iterator[Entry]:
        try:
            for found in list_keys(self._bucket):
                if found.key and (found.size or not found.key.endswith("/")):
                    yield Entry(found.key.encode(), found.size, _time_ns(found.last_modified, found.e_tag), True)
                elif found.key and on_folder:
                    on_folder(found.key.rstrip("/").encode())
        except StoreAway as error:
            raise FolderLost(str(error)) from None
        except StoreError as error:
            raise FolderError(str(error)) from None

    def is_empty(self) -> bool:
        """By the first page of its listing."""
        return next(self.walk(), None) is None

    def entry(self, path: bytes) -> Entry | None:
        """By asking for it. Raises StoreError."""
        found = self._head(path)
        return Entry(path, found["size"], _time_ns(found["last_modified"], found["e_tag"]), True) if found else None

    def is_at(self, where: str) -> bool:
        """An address leads to one place."""
        return where == self._bucket.root

    def read_file(self, name: str, where: str) -> bytes:
        """Raises FolderError."""
        try:
            return self._bucket.again("read", name, lambda: b"".join(self._bucket.stream(name)))
        except (NotFound, StoreError) as error:
            raise FolderError(f"expected a file at {where}, found: {error}") from None

    def decode(self, pool: DecoderPool, requests: Iterable[tuple[Key, Files]]) -> Iterator[tuple[Key, DecodedFiles]]:
        """Fetch the objects of some requests ahead, hand them to the pool, and remove them when they are decoded."""
        for (key, request), decoded in pool.decode(self._arrived(requests)):
            for name in request.files.paths:
                (self._scratch / os.fsdecode(name)).unlink(missing_ok=True)
            told = {place: error for place, each in enumerate(request.fetched) if (error := each.result())}
            if any(kind == "missing" for place, (kind, _) in decoded.errors.items() if place not in told):
                raise _emptied(self._scratch)
            yield key, replace(decoded, errors={**decoded.errors, **told})

    def why_unreadable(self, path: bytes) -> OSError | None:
        """By asking for it."""
        try:
            found = self._head(path)
        except StoreAway:
            return OSError(errno.EHOSTDOWN, "the service doesn't answer")
        except StoreError as error:
            return PermissionError(errno.EACCES, str(error))
        return None if found else FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _head(self, path: bytes) -> Any:
        """What the client tells of an object; None where there is none. Raises StoreError."""
        try:
            return self._bucket.head(path.decode())
        except UnicodeDecodeError:  # no key is so
            return None

    def _arrived(self, requests: Iterable[tuple[Key, Files]]) -> Iterator[tuple[tuple[Key, _Request], Files]]:
        waiting: deque[tuple[Key, _Request]] = deque()
        for key, files in requests:
            waiting.append((key, self._fetch(files)))
            if len(waiting) > _AHEAD:
                yield self._whole(*waiting.popleft())
        while waiting:
            yield self._whole(*waiting.popleft())

    def _whole(self, key: Key, request: _Request) -> tuple[tuple[Key, _Request], Files]:
        """A request whose objects have arrived, and the files that they are here, with the times that this disk gave
        them: it may be unable to hold an object's."""
        for each in request.fetched:
            each.result()
        here = (listing.entry(self.descriptor, name) for name in request.files.paths)
        return (key, request), replace(request.files, mtimes_ns=[found.mtime_ns if found else 0 for found in here])

    def _fetch(self, files: Files) -> _Request:
        names = [f"{self._named + place:012d}".encode() for place in range(len(files))]
        self._named += len(files)
        given = zip(files.paths, files.sizes, files.mtimes_ns, names, strict=True)
        fetched = [self._threads.submit(self._fetch_one, *each) for each in given]
        return _Request(replace(files, paths=names), fetched)

    def _fetch_one(self, path: bytes, size: int, mtime_ns: int, name: bytes) -> tuple[str, str] | None:
        """Write an object into the scratch folder, as long as it is the one that was planned. What is too large the
        decoder refuses without it."""
        try:
            key = path.decode()
        except UnicodeDecodeError:
            return "missing", "no object has such a key"
        if why := why_unaskable(key):
            return "unsupported", f"the object can't be asked for: {why}; rename it"
        if size > self._most_bytes:
            return None
        target = self._scratch / os.fsdecode(name)
        try:
            found, content = self._bucket.again("read", key, lambda: self._get(key, size))
        except NotFound:
            return "missing", "the file was there when the folder was listed, and is gone"
        except StoreError as error:
            return "unreadable", str(error)
        if (found["size"], _time_ns(found["last_modified"], found["e_tag"])) != (size, mtime_ns):
            return "changed", "the file is not the one that was planned: its size or time changed"
        try:
            target.write_bytes(content)
        except FileNotFoundError:
            raise _emptied(self._scratch) from None
        except OSError as error:
            return "unreadable", f"the file can't be kept on this machine: {error.strerror}"
        return None

    def _get(self, key: str, size: int) -> tuple[Any, bytes]:
        found = self._bucket.get(key)
        content = bytes(found.bytes()) if found.meta["size"] == size else b""
        return found.meta, content


def _emptied(scratch: Path) -> FolderLost:
    return FolderLost(f"{scratch} was removed while pictures were in it; run it again: what is finished stays")


def _time_ns(last_modified: datetime, e_tag: str | None) -> int:
    """When an object was written, in ns since the epoch: its seconds, and nine digits of its ETag."""
    digest = hashlib.sha256((e_tag or "").encode()).digest()
    return held(int(last_modified.timestamp()) * 1_000_000_000 + int.from_bytes(digest[:8]) % 1_000_000_000)
