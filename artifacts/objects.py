"""Objects in a bucket, as we ask for them: with patience, and with errors in words of ours."""

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from artifacts.errors import AlreadyExists, NotFound, StoreAway, StoreError
from artifacts.places import why_unaskable
from artifacts.refusals import cause_of, code_in
from artifacts.services import LONGEST_PAUSE, RETRIED_FOR, RETRIES, Connection
from artifacts.settings import Settings

if TYPE_CHECKING:
    from obstore import GetResult

TRIES = 3  # of what obstore has given up
PAUSE_SECONDS = 0.1  # before the second try
_LISTED = 1000  # keys that are handed on at once
TIMEOUT = timedelta(seconds=60)  # for a request and its answer, of 32 MiB at most

_STATUS = re.compile(r"status code: (\d{3}[\w ]{0,40})")
_REFUSED = re.compile(r"status code: 40[13]")
ODD = "it gives answers that an object store doesn't give; look whether the endpoint is right"
_PATH = re.compile(r'Path "(.*?)"', re.DOTALL)
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_PASSING = re.compile(
    r"status code: (5\d\d|429|408|409)|error sending request|timed out|HTTP error|error decoding|connection"
)

_Answer = TypeVar("_Answer")


class Bucket:
    """What is below `s3://bucket/prefix`, `gs://...` or `az://...`.

    what: what it is, for messages: the store, the folder.
    connection: how it is reached.
    store: obstore's.
    """

    what = "the store"

    def __init__(self, root: str, settings: Settings) -> None:
        """Raises StoreError for a URL or options that can't be ones, and where there are no credentials."""
        self.root = root.rstrip("/")
        pause = timedelta(seconds=PAUSE_SECONDS)
        self.connection = Connection(self.root, settings.store_options, self.what, TIMEOUT, pause)
        self.store = self.connection.open()

    def get(self, key: str) -> "GetResult":
        """The answer to a request for `key`. Raises StoreError for a key that the client can't ask for."""
        import obstore

        if why := why_unaskable(key):
            raise StoreError(f"can't read {key!r} in {self.what} {self.root}: {why}; rename the object")
        return obstore.get(self.store, key)

    def stream(self, key: str) -> Iterator[bytes]:
        """The content of `key`, all of it."""
        return self.content(self.get(key))

    @staticmethod
    def content(found: "GetResult") -> Iterator[bytes]:
        """What an answer brings, all of it."""
        size = found.meta["size"]
        for each in found.stream(min_chunk_size=1 << 20):
            size -= len(each)
            yield bytes(each)
        if size:
            raise OSError("HTTP error: the answer broke off")

    def head(self, key: str) -> Any:
        """What obstore tells of `key`; None where there is none, or where the client can't ask for it."""
        import obstore

        if why_unaskable(key):
            return None
        try:
            return self.by_head(key, lambda: obstore.head(self.store, key))
        except NotFound:
            return None

    def by_head(self, key: str, ask: Callable[[], _Answer]) -> _Answer:
        """What `ask` finds out by HEAD. Its refusals have no body, so a GET asks for the cause. Raises what `again`
        does."""
        try:
            return self.again("read", key, ask)
        except (NotFound, StoreAway):
            raise
        except StoreError:
            self.again("read", key, lambda: self.get(key))
            raise

    def listed(self, prefix: str) -> Iterator[Any]:
        """What obstore tells of each key; when the network fails, it goes on behind the last one. Raises StoreError."""
        import obstore

        last, left = None, TRIES
        while True:
            try:
                with self.asking("list", prefix):
                    for batch in obstore.list(self.store, prefix=prefix, offset=last, chunk_size=_LISTED):
                        for each in batch:
                            last, left = each["path"], TRIES
                            yield each
                return
            except StoreAway:
                left -= 1
                if not left:
                    raise
                time.sleep(pause(TRIES - left))

    def again(self, verb: str, key: str, ask: Callable[[], _Answer], *, alone: bool = False) -> _Answer:
        """Ask, and again when the network fails. Raises NotFound, StoreError.

        Args:
            verb: for messages, as `key`.
            ask: by obstore, which has tried several times when it fails.
            alone: it asks by something else, that tries once: then it is tried as often as obstore would.
        """
        tries = TRIES * (1 + RETRIES) if alone else TRIES
        began, longest = time.monotonic(), TRIES * RETRIED_FOR.total_seconds()
        for left in reversed(range(tries)):
            try:
                with self.asking(verb, key):
                    return ask()
            except StoreAway:
                if not left or (alone and time.monotonic() - began > longest):
                    raise
                time.sleep(pause(tries - left))
        raise AssertionError  # the loop returns or raises

    @contextlib.contextmanager
    def asking(self, verb: str, key: str) -> Iterator[None]:
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
        except (FileNotFoundError, BaseError, OSError, ValueError) as error:
            if isinstance(error, AlreadyExistsError) and verb == "write":
                raise AlreadyExists(f"{key} exists already in {self.root}") from None
            text, key = str(error), key or "its objects"
            code, cause = code_in(text), cause_of(text)
            if code in _NO_BUCKET:
                address = "LOOKBOOK_STORE" if self.what == Bucket.what else f"the address of {self.what}"
                raise StoreError(
                    f"can't {verb} in {self.root}: there is no such bucket; make it, or mend {address}"
                ) from None
            if isinstance(error, InvalidPathError):
                named = repr(found[1]) if (found := _PATH.search(text)) else "an object"
                raise StoreError(
                    f"can't {verb} {key} in {self.what} {self.root}: {named} is no name that a store has; remove it"
                ) from None
            if isinstance(error, FileNotFoundError):
                raise NotFound(f"{key} is not in {self.what} {self.root}") from None
            refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or bool(_REFUSED.search(text))
            kind = StoreAway if _PASSING.search(text) and not refused and not cause else StoreError
            why = cause or _reason(text, code, refused)
            raise kind(f"can't {verb} {key} in {self.what} {self.root}: {why}") from None


def pause(tried: int) -> float:
    """PAUSE_SECONDS, twice as long with every try, and up to twice of that, LONGEST_PAUSE at most: writers don't come
    back all at once."""
    grown = PAUSE_SECONDS * 2**tried * (1 + secrets.randbelow(1000) / 1000)
    return float(min(grown, LONGEST_PAUSE.total_seconds()))


def _reason(text: str, code: str, refused: bool) -> str:
    """Why, and what to do, in words of ours."""
    status = found[1].strip() if (found := _STATUS.search(text)) else ""
    if refused:
        return f"the credentials are refused ({code or status}); docs/buckets.md has the rights that are needed"
    passing = _PASSING.search(text)
    if status:
        then = (
            "run it again: it goes on where it was" if passing else "look whether endpoint, region and bucket are right"
        )
        return f"the service answered {status}{f' ({code})' if code else ''}; {then}"
    if passing:
        return "no answer; look whether the endpoint is right and can be reached, and run it again"
    return ODD
