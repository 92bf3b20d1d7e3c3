"""The keys of a bucket, exactly as they are, each once, sorted by their bytes.

The client's own listing leaves out a `/` at the end of a key, and fails for keys that it can't ask for. So an S3
service is asked for pages of its listing with an address that the client signs, whatever its credentials are.
"""

import ssl
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote_plus, urlencode
from xml.etree import ElementTree

from artifacts import objects
from artifacts.errors import StoreError
from artifacts.objects import ODD, Bucket

if TYPE_CHECKING:
    import httpx


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

    start, token = len(bucket.connection.at.folder), None
    with httpx.Client(timeout=objects.TIMEOUT.total_seconds(), verify=ssl.create_default_context()) as client:
        while True:
            page = _page(bucket, client, token)
            encoded = page.findtext("{*}EncodingType") == "url"
            for each in page.iterfind("{*}Contents"):
                found = {field.tag.rpartition("}")[2]: field.text or "" for field in each}
                try:
                    key = unquote_plus(found["Key"]) if encoded else found["Key"]
                    size, written = int(found["Size"]), datetime.fromisoformat(found["LastModified"])
                except (KeyError, ValueError):
                    raise StoreError(f"can't list {bucket.what} {bucket.root}: {ODD}") from None
                yield Listed(key[start:], size, written, found.get("ETag"))
            token = page.findtext("{*}NextContinuationToken")
            if page.findtext("{*}IsTruncated") != "true":
                return


def _page(bucket: Bucket, client: "httpx.Client", token: str | None) -> ElementTree.Element:
    """One answer of ListObjectsV2. Raises StoreError."""
    import httpx

    query = {"list-type": "2", "encoding-type": "url", "prefix": bucket.connection.at.folder}
    if token:
        query["continuation-token"] = token

    def ask() -> bytes:
        try:
            answer = client.get(bucket.connection.sign(urlencode(query, quote_via=quote)))
        except httpx.RequestError:
            raise OSError("error sending request") from None
        if answer.status_code != httpx.codes.OK:
            raise OSError(f"status code: {answer.status_code} {answer.reason_phrase}\n{answer.text[:2000]}")
        return answer.content

    content = bucket.again("list", "", ask)
    try:
        if b"<!DOCTYPE" in content:  # a web page; and no entity is ever expanded
            raise ElementTree.ParseError
        page = ElementTree.fromstring(content)  # noqa: S314
    except ElementTree.ParseError:
        raise StoreError(f"can't list {bucket.what} {bucket.root}: {ODD}") from None
    if page.tag.rpartition("}")[2] != "ListBucketResult":
        raise StoreError(f"can't list {bucket.what} {bucket.root}: {ODD}")
    return page
