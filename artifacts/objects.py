"""Objects in a bucket, as we ask for them: with patience, and with errors in words of ours."""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from artifacts.errors import AlreadyExists, NotFound, StoreAway, StoreError
from artifacts.settings import Settings

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

TRIES = 3  # of what obstore has given up
PAUSE_SECONDS = 0.1  # before the second try
_LISTED = 1000  # keys that are handed on at once
_TIMEOUT = "60s"  # for a request and its answer, of 32 MiB at most
_ANONYMOUS, _INSTANCE = "anonymous", "instance"


@dataclass(frozen=True)
class _Service:
    """A kind of service.

    store: obstore's class for it.
    options: name in LOOKBOOK_STORE_OPTIONS -> what obstore calls it.
    credentials: variables of the environment; one of them is set where there are any.
    """

    store: str
    options: Mapping[str, str]
    credentials: tuple[str, ...]


_SERVICES = {
    "s3": _Service(
        "S3Store",
        {"region": "region", "endpoint": "endpoint", "virtual_hosted": "virtual_hosted_style_request"},
        (
            "AWS_ACCESS_KEY_ID",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ),
    ),
    "gs": _Service(
        "GCSStore",
        {"endpoint": "base_url"},
        ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"),
    ),
    "az": _Service(
        "AzureStore",
        {"endpoint": "endpoint"},
        (
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_STORAGE_CLIENT_SECRET",
            "AZURE_FEDERATED_TOKEN_FILE",
        ),
    ),
}
_SECRET = re.compile("key|token|secret|password", re.IGNORECASE)
_CODE, _STATUS = re.compile(r"<Code>(\w{1,60})</Code>"), re.compile(r"status code: (\d{3}[\w ]{0,40})")
_REFUSED = re.compile(r"status code: 40[13]")
_ENDPOINT = re.compile(r"https?://[\w.\-]+(:\d+)?(/[\w.\-/]*)?|https?://\[[\da-f:]+\](:\d+)?/?")
ODD = "it gives answers that an object store doesn't give; look whether the endpoint is right"
_PATH = re.compile(r'Path "(.*?)"', re.DOTALL)
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
_SKEWED = ("RequestTimeTooSkewed",)
_PASSING = re.compile(
    r"status code: (5\d\d|429|408)|error sending request|timed out|HTTP error|error decoding|connection"
)

_Answer = TypeVar("_Answer")


class Bucket:
    """What is below `s3://bucket/prefix`, `gs://...` or `az://...`.

    what: what it is, for messages: the store, the folder.
    store: obstore's.
    """

    what = "the store"

    def __init__(self, root: str, settings: Settings) -> None:
        """Raises StoreError for a URL or options that can't be ones, and where there are no credentials."""
        self.root = root.rstrip("/")
        self.store = _connect(self.root, settings.store_options, self.what)

    def stream(self, key: str) -> Iterator[bytes]:
        """The content of `key`, all of it."""
        import obstore

        found = obstore.get(self.store, key)
        size = found.meta["size"]
        for each in found.stream(min_chunk_size=1 << 20):
            size -= len(each)
            yield bytes(each)
        if size:
            raise OSError("HTTP error: the answer broke off")

    def head(self, key: str) -> Any:
        import obstore

        try:
            return self.again("read", key, lambda: obstore.head(self.store, key))
        except NotFound:
            return None

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

    def again(self, verb: str, key: str, ask: Callable[[], _Answer]) -> _Answer:
        """Ask, and again when the network fails though obstore has tried several times. Raises NotFound, StoreError."""
        for left in reversed(range(TRIES)):
            try:
                with self.asking(verb, key):
                    return ask()
            except StoreAway:
                if not left:
                    raise
                time.sleep(pause(TRIES - left))
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
        except AlreadyExistsError:
            raise AlreadyExists(f"{key} exists already in {self.root}") from None
        except (FileNotFoundError, BaseError, OSError, ValueError) as error:
            text, key = str(error), key or "its objects"
            code = found[1] if (found := _CODE.search(text)) else ""
            if code in _NO_BUCKET:
                raise StoreError(
                    f"can't {verb} in {self.root}: there is no such bucket; make it, or mend LOOKBOOK_STORE"
                ) from None
            if isinstance(error, InvalidPathError):
                named = repr(found[1]) if (found := _PATH.search(text)) else "an object"
                raise StoreError(
                    f"can't {verb} {key} in {self.what} {self.root}: {named} is no name that a store has; remove it"
                ) from None
            if isinstance(error, FileNotFoundError):
                raise NotFound(f"{key} is not in {self.what} {self.root}") from None
            refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or bool(_REFUSED.search(text))
            kind = StoreAway if _PASSING.search(text) and not refused else StoreError
            raise kind(f"can't {verb} {key} in {self.what} {self.root}: {_reason(text, code, refused)}") from None


def pause(tried: int) -> float:
    """PAUSE_SECONDS, twice as long with every try, and up to twice of that: writers don't come back all at once."""
    return float(PAUSE_SECONDS * 2**tried * (1 + secrets.randbelow(1000) / 1000))


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
    return ODD


def _connect(root: str, options: Mapping[str, str], what: str) -> "ObjectStore":
    """Raises StoreError."""
    scheme, _, rest = root.partition("://")
    service, name = _SERVICES.get(scheme), rest.split("/")[0]
    if service is None or not name or "@" in name:
        raise StoreError(
            f"expected {what} as a folder or s3://, gs:// or az:// with bucket/prefix, found {scheme!r}://"
        )
    _check(options, service, root)
    try:
        import obstore.store
    except ImportError:
        raise StoreError(
            f"expected obstore for {what} in a bucket, found none; pip install 'lookbook[buckets]'"
        ) from None
    given: dict[str, Any] = {name: options[ours] for ours, name in service.options.items() if ours in options}
    if options.get("credentials") == _ANONYMOUS:
        given["skip_signature"] = True
    client: ClientConfig = {
        "timeout": _TIMEOUT,
        "connect_timeout": "5s",
        "allow_http": options.get("allow_http") == "true",
    }
    retry: RetryConfig = {
        "max_retries": 6,
        "retry_timeout": timedelta(seconds=30),
        "backoff": {
            "init_backoff": timedelta(seconds=PAUSE_SECONDS),
            "max_backoff": timedelta(seconds=3),
            "base": 2,
        },
    }
    try:
        made = getattr(obstore.store, service.store)
        return cast("ObjectStore", made.from_url(root, client_options=client, retry_config=retry, **given))
    except Exception as error:  # obstore has no one class for what it can't use
        raise StoreError(f"can't use {root} as {what}: {_first_line(error)}") from None


def _check(options: Mapping[str, str], service: _Service, root: str) -> None:
    """Raises StoreError for options that aren't any, and where there are no credentials."""
    known = {*service.options, "allow_http", "credentials"}
    if odd := sorted(set(options) - known):
        secret = any(map(_SECRET.search, odd))
        where = f"; secrets belong into the environment ({', '.join(service.credentials[:2])}, ...)" if secret else ""
        raise StoreError(
            f"expected LOOKBOOK_STORE_OPTIONS with {', '.join(sorted(known))}, found {', '.join(odd)}{where}"
        )
    if not _ENDPOINT.fullmatch(options.get("endpoint", "https://default")):
        raise StoreError(f"expected an endpoint as https://host, found {options['endpoint']!r}")
    credentials = options.get("credentials")
    if credentials not in (None, _ANONYMOUS, _INSTANCE):
        raise StoreError(f"expected credentials to be {_ANONYMOUS} or {_INSTANCE}, found {credentials!r}")
    if credentials is None and not any(map(os.environ.get, service.credentials)):
        raise StoreError(
            f"expected credentials for {root} in the environment ({', '.join(service.credentials)}), found none; a "
            f'machine of the provider that has a role says {{"credentials": "{_INSTANCE}"}} in LOOKBOOK_STORE_OPTIONS'
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
