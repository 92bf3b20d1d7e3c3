"""The keys of a bucket, exactly as they are, each once, sorted by their bytes.

The client's own listing leaves out a `/` at the end of a key, and fails for keys that it can't ask for. So an S3
service is asked for pages of its listing with an address that the client signs, whatever its credentials are: with the
client's patience, and by the client's proxies.
"""

import ssl
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote_plus, urlencode
from xml.etree import ElementTree

from artifacts import objects
from artifacts.errors import StoreError
from artifacts.objects import ODD, Bucket
from artifacts.places import why_unaskable
from artifacts.proxies import proxy_for
from artifacts.services import CONNECT

if TYPE_CHECKING:
    import httpx


_QUERY = {"list-type": "2", "encoding-type": "url"}


class Listed(NamedTuple):
    """An object. key: below the bucket's prefix; size: in bytes."""

    key: str
    size: int
    last_modified: datetime
    e_tag: str | None


def list_keys(bucket: Bucket) -> Iterator[Listed]:
    """Every object below the bucket's prefix, markers of folders too. Raises StoreError."""
    found = _pages(bucket) if bucket.connection.at.scheme == "s3" else _by_the_client(bucket)
    before: str | None = None
    for each in found:
        if before is not None and each.key <= before:  # as bytes of UTF-8 are ordered
            raise StoreError(
                f"expected {bucket.root} to list its keys sorted by their bytes, found {each.key!r} after {before!r}; "
                "use a service that does"
            )
        before = each.key
        yield each


def _by_the_client(bucket: Bucket) -> Iterator[Listed]:
    """What the client tells, and where it left out a `/` at the end: such a key is out of order, or isn't there without
    it. Only objects without bytes are looked at for that, as markers of folders are."""
    before = ""
    for each in bucket.listed(""):
        key = each["path"]
        if key <= before or (not each["size"] and bucket.head(key) is None):
            key += "/"
        if key == before:  # told again, where the listing went on behind it without its `/`
            continue
        before = key
        yield Listed(key, each["size"], each["last_modified"], each["e_tag"])


def _pages(bucket: Bucket) -> Iterator[Listed]:
    import httpx

    start, address = len(bucket.connection.at.folder), partial(_address, bucket, "", "")
    with httpx.Client(
        timeout=httpx.Timeout(objects.TIMEOUT.total_seconds(), connect=CONNECT.total_seconds()),
        verify=ssl.create_default_context(),
        proxy=proxy_for(bucket.again("list", "", address)),
        trust_env=False,  # proxies by other rules, and passwords of ~/.netrc beside the signature
    ) as client:
        while True:
            page, last = _page(bucket, client, address), ""
            encoded = page.findtext("{*}EncodingType") == "url"
            for each in page.iterfind("{*}Contents"):
                found = {field.tag.rpartition("}")[2]: field.text or "" for field in each}
                try:
                    last = unquote_plus(found["Key"]) if encoded else found["Key"]
                    size, written = int(found["Size"]), datetime.fromisoformat(found["LastModified"])
                except (KeyError, ValueError):
                    raise StoreError(f"can't list {bucket.what} {bucket.root}: {ODD}") from None
                yield Listed(last[start:], size, written, found.get("ETag"))
            if page.findtext("{*}IsTruncated") != "true":
                return
            token = page.findtext("{*}NextContinuationToken")
            if not token:
                raise StoreError(f"can't list {bucket.what} {bucket.root}: {ODD}")
            address = partial(_address, bucket, last, token)


def _address(bucket: Bucket, last: str, token: str) -> str:
    """Where the page behind the key `last` is, or the first one. Raises StoreError.

    Addresses that differ in what stands behind the first `/` of `last` alone are signed with the same credentials. The
    others go by the service's token: each is signed with credentials that are asked for anew.
    """
    query = {**_QUERY, "prefix": bucket.connection.at.folder}
    outer, slash, inner = last.partition("/")
    if slash and not why_unaskable(last):
        return bucket.connection.sign(urlencode({**query, "start-after": outer}, quote_via=quote), inner)
    if token:
        query["continuation-token"] = token
    # S3 passes over parameters that begin with `x-`.
    return bucket.connection.sign(urlencode({**query, "x-object": ""}, quote_via=quote), "all")


def _page(bucket: Bucket, client: "httpx.Client", address: Callable[[], str]) -> ElementTree.Element:
    """One answer of ListObjectsV2. Raises StoreError."""
    import httpx

    def ask() -> bytes:
        try:
            answer = client.get(address())
        except httpx.RequestError:
            raise OSError("error sending request") from None
        if answer.status_code != httpx.codes.OK:
            raise OSError(f"status code: {answer.status_code} {answer.reason_phrase}\n{answer.text[:2000]}")
        return answer.content

    content = bucket.again("list", "", ask, alone=True)
    try:
        if b"<!DOCTYPE" in content:  # a web page; and no entity is ever expanded
            raise ElementTree.ParseError
        page = ElementTree.fromstring(content)  # noqa: S314
    except ElementTree.ParseError:
        raise StoreError(f"can't list {bucket.what} {bucket.root}: {ODD}") from None
    if page.tag.rpartition("}")[2] != "ListBucketResult":
        raise StoreError(f"can't list {bucket.what} {bucket.root}: {ODD}")
    return page
