"""A disk that is a bucket: the same promises as a folder's, on conditional PUTs (docs/buckets.md).

A create is one PUT that fails when the key is there. Its answer may be lost: then the retry finds the key, and the
token that every writer leaves with what it writes tells whose it is. A file of more than LARGE_BYTES goes up in parts,
which nothing makes exclusive: the key of such a file follows from its content.
"""

import contextlib
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from artifacts.cache import Cache
from artifacts.disk import LocalFile, hash_file
from artifacts.errors import AlreadyExists, NotFound, StoreAway, StoreError
from artifacts.leases import Lease
from artifacts.settings import Settings

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Store

LARGE_BYTES = 32 << 20
_CHUNK_BYTES = 16 << 20  # of a large file, on its way
_TRIES = 5  # of what obstore has given up, or of a create after which the key isn't there
_PROBES = 8  # creates of one key at once, of which one must win
_WRITER = "lookbook-writer"
_OPTIONS = {"region": "region", "endpoint": "endpoint", "virtual_hosted": "virtual_hosted_style_request"}
_ANONYMOUS, _INSTANCE = "anonymous", "instance"
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_SECRET = re.compile("key|token|secret|password", re.IGNORECASE)
_CODE, _STATUS = re.compile(r"<Code>(\w{1,60})</Code>"), re.compile(r"status code: (\d{3}[\w ]{0,40})")
_REFUSED = re.compile(r"status code: 40[13]")
_ENDPOINT = re.compile(r"https?://[\w.\-]+(:\d+)?(/[\w.\-/]*)?|https?://\[[\da-f:]+\](:\d+)?/?")
_ODD = "it gives answers that an object store doesn't give; look whether the endpoint is right"
_PATH = re.compile(r'Path "(.*?)"', re.DOTALL)
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
_SKEWED = ("RequestTimeTooSkewed",)
_PASSING = re.compile(
    r"status code: (5\d\d|429|408)|error sending request|timed out|HTTP error|error decoding|connection"
)

_Answer = TypeVar("_Answer")


class BucketDisk:
    """A disk at `s3://bucket/prefix`. Files that are needed on this machine are kept in the settings' cache."""

    links = False
    at_once = 32

    def __init__(self, root: str, settings: Settings) -> None:
        """Raises StoreError for a URL or options that can't be ones, and where there are no credentials."""
        self.root = root.rstrip("/")
        self._cache = Cache(settings.cache, settings.cache_bytes)
        self._store = _connect(self.root, settings.store_options)
        self._is_marked = False
        self._leases: dict[str, Lease] = {}

    def prepare(self) -> None:
        """Refuse a bucket that lets several writers create one key, at first use: of creates at once, one wins."""
        if self._marked():
            return
        key = f"staging/probe/{secrets.token_hex(16)}"
        with ThreadPoolExecutor(_PROBES) as threads:
            won = sum(threads.map(lambda number: self._wins(key, b"%d" % number), range(_PROBES)))
        told = self._token(key) is not None
        self.remove(key)
        if won != 1 or not told:
            found = f"{won} of {_PROBES} writers to create one key" if won != 1 else "no metadata of an object back"
            raise StoreError(
                f"expected {self.root} to let one writer create a key (If-None-Match), and to keep its metadata, found "
                f"{found}; use a service that honours conditional writes, or a folder"
            )

    def create(self, key: str, content: bytes | Path) -> None:
        """A path of more than LARGE_BYTES is uploaded in parts. Raises AlreadyExists and StoreError."""
        if isinstance(content, Path):
            if content.stat().st_size > LARGE_BYTES:
                return self._upload(key, content)
            content = content.read_bytes()
        import obstore

        given, token = content, secrets.token_hex(16)
        for left in reversed(range(_TRIES)):
            try:
                with self._asking("write", key):
                    obstore.put(self._store, key, given, mode="create", attributes={_WRITER: token})
                return None
            except (AlreadyExists, StoreAway):
                found = self._token(key)
                if found == token:  # it landed, and the answer was lost
                    return None
                if found is not None:
                    raise AlreadyExists(f"{key} exists already in {self.root}") from None
                if not left:
                    raise
                time.sleep(_pause(_TRIES - left))
        raise AssertionError  # the loop returns or raises

    def read(self, key: str) -> bytes:
        """Raises NotFound and StoreError."""
        return self._again("read", key, lambda: b"".join(self._stream(key)))

    def exists(self, key: str) -> bool:
        """Raises StoreError."""
        return self._head(key) is not None

    def list(self, prefix: str) -> Iterator[str]:
        """Sorted by the bytes of the key; a thousand of them a request."""
        import obstore

        self._marked()
        with self._asking("list", prefix):
            for batch in obstore.list(self._store, prefix=prefix, chunk_size=1000):
                for each in batch:
                    yield each["path"]

    def remove(self, key: str) -> None:
        """Raises StoreError."""
        import obstore

        with contextlib.suppress(NotFound), self._asking("remove", key):
            obstore.delete(self._store, key)

    def materialize(self, key: str, sha256: str) -> LocalFile:
        """A file of the cache."""
        if path := self._cache.find(sha256):
            return LocalFile(path, sha256, path.stat().st_size)
        return self._again("read", key, lambda: LocalFile(*self._cache.fill(sha256, self._stream(key))))

    def hash(self, key: str) -> tuple[str, int]:
        """Downloaded, and not kept."""

        def look() -> tuple[str, int]:
            with tempfile.NamedTemporaryFile() as file:
                for each in self._stream(key):
                    file.write(each)
                file.flush()
                return hash_file(Path(file.name))

        return self._again("read", key, look)

    def identity(self, key: str) -> tuple[Any, ...] | None:
        """The key: a shared file has one."""
        return (key,)

    def modified(self, key: str) -> float:
        """Raises NotFound and StoreError."""
        found = self._head(key)
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

    def mend(self, prefix: str) -> str:
        """What to do about a damaged version."""
        return f"restore it from a copy, or remove its version ({self.root}/{prefix}/) and make it again"

    def _marked(self) -> bool:
        """Whether there is a store already. Raises StoreError for what is no bucket: a web page lists nothing."""
        if not self._is_marked:
            with contextlib.suppress(NotFound):
                if not self.read("store.json").startswith(b"{"):
                    raise StoreError(f"can't use {self.root} as a store: {_ODD}")
                self._is_marked = True
        return self._is_marked

    def _upload(self, key: str, file: Path) -> None:
        import obstore

        if self._head(key) is not None:
            raise AlreadyExists(f"{key} exists already in {self.root}")
        self._again("write", key, lambda: obstore.put(self._store, key, file, chunk_size=_CHUNK_BYTES))

    def _wins(self, key: str, content: bytes) -> bool:
        try:
            self.create(key, content)
        except AlreadyExists:
            return False
        return True

    def _stream(self, key: str) -> Iterator[bytes]:
        """The content of `key`, all of it."""
        import obstore

        found = obstore.get(self._store, key)
        size = found.meta["size"]
        for each in found.stream(min_chunk_size=1 << 20):
            size -= len(each)
            yield bytes(each)
        if size:
            raise OSError("HTTP error: the answer broke off")

    def _head(self, key: str) -> Any:
        import obstore

        try:
            return self._again("read", key, lambda: obstore.head(self._store, key))
        except NotFound:
            return None

    def _token(self, key: str) -> str | None:
        """The token of whoever wrote `key`: empty for another program, None where there is no such key."""
        import obstore

        def look() -> str:
            return str(obstore.get(self._store, key, options={"head": True}).attributes.get(_WRITER, ""))

        try:
            return self._again("read", key, look)
        except NotFound:
            return None

    def _again(self, verb: str, key: str, ask: Callable[[], _Answer]) -> _Answer:
        """Ask, and again when the network fails though obstore has tried several times. Raises NotFound, StoreError."""
        for left in reversed(range(_TRIES)):
            try:
                with self._asking(verb, key):
                    return ask()
            except StoreAway:
                if not left:
                    raise
                time.sleep(_pause(_TRIES - left))
        raise AssertionError  # the loop returns or raises

    @contextlib.contextmanager
    def _asking(self, verb: str, key: str) -> Iterator[None]:
        """Turn what obstore raises into errors of ours, in words of ours: its own have addresses."""
        from obstore.exceptions import (
            AlreadyExistsError,
            BaseError,
            InvalidPathError,
            PermissionDeniedError,
            UnauthenticatedError,
        )

        try:
            yield
        except AlreadyExistsError:
            raise AlreadyExists(f"{key} exists already in {self.root}") from None
        except (FileNotFoundError, BaseError, OSError, ValueError) as error:
            text = str(error)
            code = found[1] if (found := _CODE.search(text)) else ""
            if code == "NoSuchBucket":
                raise StoreError(
                    f"can't {verb} in {self.root}: there is no such bucket; make it, or mend LOOKBOOK_STORE"
                ) from None
            if isinstance(error, InvalidPathError):
                named = repr(found[1]) if (found := _PATH.search(text)) else "an object"
                raise StoreError(
                    f"can't {verb} {key} in the store {self.root}: {named} is no name that a store has; remove it"
                ) from None
            if isinstance(error, FileNotFoundError):
                raise NotFound(f"{key} is not in the store {self.root}") from None
            refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or bool(_REFUSED.search(text))
            kind = StoreAway if _PASSING.search(text) and not refused else StoreError
            raise kind(f"can't {verb} {key} in the store {self.root}: {_reason(text, code, refused)}") from None


def _pause(tried: int) -> float:
    """0.1 s, twice as long with every try, and up to twice of that, so that writers don't come back all at once."""
    return float(0.1 * 2**tried * (1 + secrets.randbelow(1000) / 1000))


def _reason(text: str, code: str, refused: bool) -> str:
    """Why, and what to do, in words of ours."""
    status = found[1].strip() if (found := _STATUS.search(text)) else ""
    if code in _EXPIRED:
        return "the credentials have expired; renew them and run it again: it goes on where it was"
    if code in _SKEWED:
        return "this machine's clock is wrong; set it"
    if refused:
        return f"the credentials are refused ({code or status}); docs/buckets.md has the rights that are needed"
    if status:
        return f"the service answered {status}{f' ({code})' if code else ''}; run it again: it goes on where it was"
    if _PASSING.search(text):
        return "no answer; look whether the endpoint is right and can be reached, and run it again"
    return _ODD


def _connect(root: str, options: dict[str, str]) -> "S3Store":
    """Raises StoreError."""
    scheme, _, rest = root.partition("://")
    if scheme != "s3" or not rest.split("/")[0]:
        raise StoreError(f"expected a store as a folder or s3://bucket/prefix, found {root!r}")
    known = {*_OPTIONS, "allow_http", "credentials"}
    if odd := sorted(set(options) - known):
        secret = any(map(_SECRET.search, odd))
        where = "; secrets belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if secret else ""
        raise StoreError(
            f"expected LOOKBOOK_STORE_OPTIONS with {', '.join(sorted(known))}, found {', '.join(odd)}{where}"
        )
    if not _ENDPOINT.fullmatch(options.get("endpoint", "https://default")):
        raise StoreError(f"expected an endpoint as https://host, found {options['endpoint']!r}")
    credentials = options.get("credentials")
    if credentials not in (None, _ANONYMOUS, _INSTANCE):
        raise StoreError(f"expected credentials to be {_ANONYMOUS} or {_INSTANCE}, found {credentials!r}")
    if credentials is None and not any(map(os.environ.get, _CREDENTIALS)):
        raise StoreError(
            f"expected credentials for {root} in the environment ({', '.join(_CREDENTIALS[:2])}, ...), found none; a "
            f'machine of the provider that has a role says {{"credentials": "{_INSTANCE}"}} in LOOKBOOK_STORE_OPTIONS'
        )
    try:
        from obstore.store import S3Store
    except ImportError:
        raise StoreError(
            "expected obstore for a store in a bucket, found none; pip install 'lookbook[buckets]'"
        ) from None
    given: dict[str, Any] = {name: options[ours] for ours, name in _OPTIONS.items() if ours in options}
    client: ClientConfig = {
        "timeout": "120s",
        "connect_timeout": "5s",
        "allow_http": options.get("allow_http") == "true",
    }
    retry: RetryConfig = {
        "max_retries": 8,
        "retry_timeout": timedelta(seconds=60),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
    }
    if credentials == _ANONYMOUS:
        given["skip_signature"] = True
    try:
        return S3Store.from_url(root, client_options=client, retry_config=retry, **given)
    except Exception as error:  # obstore has no one class for what it can't use
        raise StoreError(f"can't use {root} as a store: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
