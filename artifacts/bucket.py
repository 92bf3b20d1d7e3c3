"""A disk that is a bucket: the same promises as a folder's, on conditional PUTs (docs/buckets.md).

A create is one PUT that fails when the key is there. Its answer may be lost: then the retry finds the key, and the
token that every writer leaves with what it writes tells whose it is. A file of more than LARGE_BYTES goes up in parts,
which nothing makes exclusive: the key of such a file follows from its content.
"""

import contextlib
import hashlib
import io
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from artifacts.cache import Cache
from artifacts.disk import LocalFile, Stored
from artifacts.errors import AlreadyExists, NotFound, StoreAway, StoreError
from artifacts.leases import Lease
from artifacts.objects import ODD, TRIES, Bucket, pause
from artifacts.settings import Settings

LARGE_BYTES = 32 << 20
_CHUNK_BYTES = 16 << 20  # of a large file, on its way
_PROBES = 8  # creates of one key at once, of which one must win
_PROBE = "staging/probe"
_WRITER = "lookbookwriter"  # without a hyphen: some services take names of programs only


class BucketDisk(Bucket):
    """A disk at `s3://bucket/prefix`. Files that are needed on this machine are kept in the settings' cache."""

    links = False
    at_once = 32

    def __init__(self, root: str, settings: Settings) -> None:
        """Raises StoreError for a URL or options that can't be ones, and where there are no credentials."""
        super().__init__(root, settings)
        self._cache = Cache(settings.cache, settings.cache_bytes)
        self._is_marked = False
        self._leases: dict[str, Lease] = {}

    def prepare(self) -> None:
        """Refuse a bucket that lets several writers create one key, at first use: of creates at once, one wins."""
        if self._marked():
            return
        key = f"{_PROBE}/{secrets.token_hex(16)}"
        with ThreadPoolExecutor(_PROBES) as threads:
            won = sum(threads.map(lambda number: self._wins(key, b"%d" % number), range(_PROBES)))
        told = bool(self._token(key))
        self.remove(key)
        if won != 1 or not told:
            found = f"{won} of {_PROBES} writers to create one key" if won != 1 else "no metadata of an object back"
            raise StoreError(
                f"expected {self.root} to let one writer create a key (If-None-Match), and to keep its metadata, found "
                f"{found}; use a service that honours conditional writes, or a folder"
            )

    def create(self, key: str, content: bytes | Path) -> None:
        """A path of more than LARGE_BYTES is uploaded in parts. Raises AlreadyExists, FileNotFoundError, StoreError."""
        if isinstance(content, Path):
            if content.stat().st_size > LARGE_BYTES:
                return self._upload(key, content)
            content = content.read_bytes()
        import obstore

        given, token = content, secrets.token_hex(16)
        for left in reversed(range(TRIES)):
            try:
                with self.asking("write", key):
                    obstore.put(self.store, key, given, mode="create", attributes={_WRITER: token})
                return None
            except (AlreadyExists, StoreAway):
                found = self._token(key)
                if found == token:  # it landed, and the answer was lost
                    return None
                if found is not None:
                    raise AlreadyExists(f"{key} exists already in {self.root}") from None
                if not left:
                    raise
                time.sleep(pause(TRIES - left))
        raise AssertionError  # the loop returns or raises

    def replace(self, key: str, content: bytes | Path) -> None:
        """One PUT, or an upload in parts. Raises FileNotFoundError and StoreError."""
        if isinstance(content, Path) and content.stat().st_size <= LARGE_BYTES:
            content = content.read_bytes()
        self._put(key, content, {_WRITER: secrets.token_hex(16)})

    def read(self, key: str) -> bytes:
        """Raises NotFound and StoreError."""
        return self.again("read", key, lambda: b"".join(self.stream(key)))

    def exists(self, key: str) -> bool:
        """Raises StoreError."""
        return self.head(key) is not None

    def list(self, prefix: str) -> Iterator[str]:
        """Sorted by the bytes of the key; a thousand of them a request."""
        for each in self._listed(prefix):
            yield each["path"]

    def survey(self, prefix: str) -> Iterator[Stored]:
        """A thousand keys a request."""
        for each in self._listed(prefix):
            written = each["last_modified"].timestamp()
            yield Stored(each["path"], each["size"], written, written, (each["path"],), 1)

    def now(self) -> float:
        """When a key was written that is written now."""
        key = f"{_PROBE}/{secrets.token_hex(16)}"
        self.create(key, b"")
        now = self.modified(key)
        self.remove(key)
        return now

    def free(self, stored: Stored, *, durably: bool = False) -> int:  # noqa: ARG002
        """Raises StoreError."""
        self.remove(stored.key)
        return stored.size

    def remove(self, key: str) -> None:
        """Raises StoreError."""
        import obstore

        with contextlib.suppress(NotFound), self.asking("remove", key):
            obstore.delete(self.store, key)

    def materialize(self, key: str, sha256: str) -> LocalFile:
        """A file of the cache, as long as the bucket has the object that it was fetched from, or an equal one."""
        if (
            (kept := self._cache.find(sha256))
            and (found := self.head(key))
            and self._cache.is_from(sha256, self._source(key, found))
        ):
            return kept

        def fetch() -> LocalFile:
            answer = self.get(key)
            return LocalFile(*self._cache.fill(sha256, self.content(answer), self._source(key, answer.meta)))

        return self.again("read", key, fetch)

    def hash(self, key: str) -> tuple[str, int]:
        """Downloaded, and not kept."""

        def look() -> tuple[str, int]:
            hashed, size = hashlib.sha256(), 0
            for each in self.stream(key):
                hashed.update(each)
                size += len(each)
            return hashed.hexdigest(), size

        return self.again("read", key, look)

    def remember(self, key: str, sha256: str, size: int) -> None:
        """What was uploaded is not in the cache."""

    def know(self, key: str, sha256: str, size: int) -> None:
        """In the cache, until the object's ETag changes; without the file. One HEAD. Raises StoreError."""
        found = self.head(key)
        if found and found["size"] == size:
            self._cache.mark(sha256, self._source(key, found))

    def is_known(self, key: str, sha256: str, size: int) -> bool:
        """One HEAD. Raises StoreError."""
        found = self.head(key)
        return bool(found and found["size"] == size and self._cache.is_from(sha256, self._source(key, found)))

    def identity(self, key: str) -> tuple[Any, ...] | None:
        """The key: a shared file has one."""
        return (key,)

    def modified(self, key: str) -> float:
        """Raises NotFound and StoreError."""
        found = self.head(key)
        if found is None:
            raise NotFound(f"{key} is not in the store {self.root}")
        return float(found["last_modified"].timestamp())

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """In the cache."""
        return self._cache.scratch()

    def protect(self, prefix: str) -> None:
        """The bucket's policy is for that (docs/buckets.md)."""

    def hold(self, key: str) -> contextlib.AbstractContextManager[bool]:
        """A lease that is renewed as long as it is held."""
        lease = self._leases.setdefault(key, Lease(self, key))
        return lease.hold()

    def place(self, key: str) -> str:
        """A URL."""
        return f"{self.root}/{key}"

    def _source(self, key: str, found: Any) -> str:
        """An object, and by what it is known to be another one: its ETag, or when it was written."""
        which = found["e_tag"] or found["last_modified"].timestamp()
        return f"{self.root}/{key}\n{which}\n{found['size']}"

    def _listed(self, prefix: str) -> Iterator[Any]:
        """What obstore tells of each key of a store."""
        self._marked()
        yield from self.listed(prefix)

    def _marked(self) -> bool:
        """Whether there is a store already. Raises StoreError for what is no bucket: a web page lists nothing."""
        if not self._is_marked:
            with contextlib.suppress(NotFound):
                if not self.read("store.json").startswith(b"{"):
                    raise StoreError(f"can't use {self.root} as a store: {ODD}")
                self._is_marked = True
        return self._is_marked

    def _upload(self, key: str, file: Path) -> None:
        if self.head(key) is not None:
            raise AlreadyExists(f"{key} exists already in {self.root}")
        self._put(key, file, {})

    def _put(self, key: str, content: bytes | Path, attributes: dict[str, str]) -> None:
        """Raises FileNotFoundError and StoreError."""
        import obstore

        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(open(content, "rb")) if isinstance(content, Path) else io.BytesIO(content)

            def put() -> None:
                opened.seek(0)
                obstore.put(self.store, key, opened, attributes=attributes, chunk_size=_CHUNK_BYTES)

            self.again("write", key, put)

    def _wins(self, key: str, content: bytes) -> bool:
        try:
            self.create(key, content)
        except AlreadyExists:
            return False
        return True

    def _token(self, key: str) -> str | None:
        """The token of whoever wrote `key`: empty for another program, None where there is no such key."""
        import obstore

        def look() -> str:
            return str(obstore.get(self.store, key, options={"head": True}).attributes.get(_WRITER, ""))

        try:
            return self.by_head(key, look)
        except NotFound:
            return None
