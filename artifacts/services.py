"""Services that have buckets: how each is reached, with which options and credentials."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from artifacts.aws import Aws, read_aws
from artifacts.errors import StoreError
from artifacts.places import Place, parse_place, why_unaskable
from artifacts.proxies import proxy_for

if TYPE_CHECKING:
    from obstore import SignCapableStore
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_SIGNED_FOR = timedelta(minutes=15)  # as far as S3 lets clocks be apart
CONNECT = timedelta(seconds=5)  # until a service has taken a connection
RETRIES, RETRIED_FOR = 6, timedelta(seconds=30)  # of a request, by the client
LONGEST_PAUSE = timedelta(seconds=3)  # between two of them
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
_TRUTHS = {"allow_http", "virtual_hosted"}
_SECRET = re.compile("key|token|secret|password", re.IGNORECASE)
_ENDPOINT = re.compile(r"https?://[\w.\-]+(:\d+)?(/[\w.\-/]*)?|https?://\[[\da-f:]+\](:\d+)?/?")


class Connection:
    """A place in a bucket, and how it is reached.

    at: where it is.
    """

    def __init__(self, root: str, options: Mapping[str, str], what: str, timeout: timedelta, pause: timedelta) -> None:
        """
        Args:
            root: its URL.
            options: LOOKBOOK_STORE_OPTIONS.
            what: what it is, for messages.
            timeout: for a request and its answer.
            pause: before the second try.

        Raises:
            StoreError: A URL or options that can't be ones; no credentials.
        """
        self._root, self._what, self._timeout, self._pause = root, what, timeout, pause
        self.at = _place(root, what)
        self._signs: tuple[str, SignCapableStore] | None = None
        aws = read_aws() if self.at.scheme == "s3" else Aws({}, {}, "", "")
        self._options = with_aws(options, aws)
        self._keys = {} if "credentials" in options else aws.keys
        _check(self._options, _SERVICES[self.at.scheme], root, aws)
        self._look_for_proxy()

    def open(self) -> "ObjectStore":
        """obstore's store. Raises StoreError."""
        given = {"skip_signature": True} if self._anonymous else self._keys
        return self._connect(self.at.bucket, self.at.prefix, self._options, given)

    def _look_for_proxy(self) -> None:
        """Raises StoreError for one that the client can't use: it would go past it."""
        at = {"s3": "s3.amazonaws.com", "gs": "storage.googleapis.com", "az": "blob.core.windows.net"}
        proxy_for(self._options.get("endpoint", f"https://{at[self.at.scheme]}"))

    def sign(self, query: str, rest: str) -> str:
        """An address that S3 answers as one of the bucket itself, with a query of ours: good for a quarter of an hour.

        The client signs addresses of objects alone. So the query stands behind the bucket, and its last value goes on
        with the key that the client puts behind that: `/` and `rest`. Addresses with one query are signed by one store
        of the client's, which asks once for the credentials of a role. Raises StoreError.

        Args:
            query: as it stands in an address.
            rest: a key that the client can ask for.
        """
        import obstore

        url: str = obstore.sign(self._signing(query), "GET", rest, _SIGNED_FOR)
        if url.startswith("http://") and self._options.get("allow_http") != "true":
            raise StoreError(
                f'expected {{"allow_http": "true"}} in LOOKBOOK_STORE_OPTIONS for {self._root} without TLS'
            )
        return url.partition("&X-Amz-")[0] if self._anonymous else url

    def _signing(self, query: str) -> "SignCapableStore":
        """A store that signs addresses with this query. Raises StoreError."""
        if self._signs and self._signs[0] == query:
            return self._signs[1]
        options, bucket = dict(self._options), self.at.bucket
        if "endpoint" in options and options.get("virtual_hosted") == "true":
            options["endpoint"] = f"{options['endpoint'].rstrip('/')}?{query}"
        else:
            options["virtual_hosted"], bucket = "false", f"{bucket}?{query}"
        nobody = {"access_key_id": _ANONYMOUS, "secret_access_key": _ANONYMOUS}
        store = cast("SignCapableStore", self._connect(bucket, "", options, nobody if self._anonymous else self._keys))
        self._signs = query, store
        return store

    @property
    def _anonymous(self) -> bool:
        return self._options.get("credentials") == _ANONYMOUS

    def _connect(self, bucket: str, prefix: str, options: Mapping[str, str], given: Mapping[str, Any]) -> "ObjectStore":
        """given: settings of obstore's besides. Raises StoreError."""
        try:
            import obstore.store
        except ImportError:
            raise StoreError(
                f"expected obstore for {self._what} in a bucket, found none; pip install 'lookbook[buckets]'"
            ) from None
        service = _SERVICES[self.at.scheme]
        client: ClientConfig = {
            "timeout": self._timeout,
            "connect_timeout": CONNECT,
            "allow_http": options.get("allow_http") == "true",
        }
        retry: RetryConfig = {
            "max_retries": RETRIES,
            "retry_timeout": RETRIED_FOR,
            "backoff": {"init_backoff": self._pause, "max_backoff": LONGEST_PAUSE, "base": 2},
        }
        try:
            store = getattr(obstore.store, service.store)(
                bucket,
                prefix=prefix or None,
                client_options=client,
                retry_config=retry,
                **{name: options[ours] for ours, name in service.options.items() if ours in options},
                **given,
            )
        except Exception as error:  # obstore has no one class for what it can't use
            raise StoreError(f"can't use {self._root} as {self._what}: {_first_line(error)}") from None
        return cast("ObjectStore", store)


def _place(root: str, what: str) -> Place:
    """Raises StoreError."""
    at = parse_place(root)
    if at is None or at.scheme not in _SERVICES:
        raise StoreError(
            f"expected {what} as a folder or s3://, gs:// or az:// with bucket/prefix, found "
            f"{root.partition('://')[0]!r}://"
        )
    if at.prefix and (why := why_unaskable(at.prefix)):
        raise StoreError(f"can't use {root!r} as {what}: {why}")
    return at


def with_aws(options: Mapping[str, str], aws: Aws) -> dict[str, str]:
    """LOOKBOOK_STORE_OPTIONS, and below them what AWS's own settings say."""
    said = dict(aws.options)
    if "endpoint" in options:  # whether that may go without TLS is not said there
        said.pop("allow_http", None)
    return {**said, **options}


def _check(options: Mapping[str, str], service: _Service, root: str, aws: Aws) -> None:
    """Raises StoreError for options that aren't any, and where there are no credentials."""
    known = {*service.options, "allow_http", "credentials"}
    if odd := sorted(set(options) - known):
        secret = any(map(_SECRET.search, odd))
        where = f"; secrets belong into the environment ({', '.join(service.credentials[:2])}, ...)" if secret else ""
        raise StoreError(
            f"expected LOOKBOOK_STORE_OPTIONS with {', '.join(sorted(known))}, found {', '.join(odd)}{where}"
        )
    if not _ENDPOINT.fullmatch(options.get("endpoint", "https://default")):
        found = re.sub("//.*@", "//...@", options["endpoint"])  # a password
        raise StoreError(f"expected an endpoint as https://host, found {found!r}")
    for each in sorted(_TRUTHS & options.keys()):
        if options[each] not in ("true", "false"):
            raise StoreError(f"expected {each} to be true or false in LOOKBOOK_STORE_OPTIONS, found {options[each]!r}")
    credentials = options.get("credentials")
    if credentials not in (None, _ANONYMOUS, _INSTANCE):
        raise StoreError(f"expected credentials to be {_ANONYMOUS} or {_INSTANCE}, found {credentials!r}")
    if credentials is None and not aws.keys and not any(map(os.environ.get, service.credentials)):
        if aws.made:
            raise StoreError(
                f"expected keys in the profile {aws.profile} of ~/.aws, found {aws.made}, which needs AWS's own tools; "
                f"have them put into the environment: `aws configure export-credentials --profile {aws.profile} "
                "--format env`"
            )
        raise StoreError(
            f"expected credentials for {root} in the environment ({', '.join(service.credentials)})"
            f"{' or a profile of ~/.aws' if service is _SERVICES['s3'] else ''}, found none; a "
            f'machine of the provider that has a role says {{"credentials": "{_INSTANCE}"}} in LOOKBOOK_STORE_OPTIONS'
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
