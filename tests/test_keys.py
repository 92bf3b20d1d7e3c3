"""pytest tests/test_keys.py: every key that a bucket can have is one entry, and is never another object."""

import json
import uuid
from datetime import UTC, datetime
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import boto3
import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from buckets import CREDENTIALS, KEYS_A_REQUEST, Proxy, make_bucket, options_for
from hypothesis import HealthCheck, example, given
from hypothesis import settings as tries
from hypothesis import strategies as st

from artifacts import keys
from artifacts import objects as module
from artifacts.errors import StoreError
from artifacts.objects import Bucket
from artifacts.places import Place, parse_place, why_unaskable
from artifacts.settings import Settings
from tasks.shared.folders import opened
from tasks.shared.listing import FolderError

pytestmark = pytest.mark.slow  # hundreds of keys in a bucket each

# What a key is made of: what URLs, paths and XML take for something else, and what sorts around `/`.
PIECES = [
    "a", "b", "sub", "/", "/", "//", ".", "..", "-", "0", "%", "%2f", "%2e%2e", "#", "?", "&", "=", "+", " ", "<",
    "]]>", "\\", "\n", "\r\n", "\t", "\x01", "\x7f", "\x85", "\u00e9", "e\u0301", "\u2028", "\ufeff", "\U0001f600",
]  # fmt: skip
KEYS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)
OBJECTS = st.dictionaries(KEYS, st.booleans(), min_size=1, max_size=10)
MANY = tries(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Folder:
    """A new folder in a bucket, and what the plain client knows of it."""

    def __init__(self, service, name, prefix):
        self._service, self.name, self.prefix = service, name, prefix
        self.url = f"s3://{name}/{prefix}".rstrip("/")
        self._client = boto3.client(
            "s3", endpoint_url=service.url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )

    def put(self, objects):
        """key -> whether it has bytes: those of its key."""
        for key, full in objects.items():
            self._service.put(self.name, self._whole(key), key.encode() if full else b"")

    def listed(self):
        """Keys with their sizes, as the service sorts them."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self._whole(""))
        found = [each for page in pages for each in page.get("Contents", [])]
        return [(each["Key"].removeprefix(self._whole("")), each["Size"]) for each in found]

    def _whole(self, key):
        return f"{self.prefix}/{key}" if self.prefix else key


@pytest.fixture(params=["prefix", "bucket"])
def place(request, s3_service, bucket):
    """Makes places: below a prefix, or whole buckets."""

    def make():
        name = f"bucket-{uuid.uuid4().hex}"
        make_bucket(s3_service.url, name)
        return Folder(s3_service, name, "some/place" if request.param == "prefix" else "")

    return make


def settings_of(place):
    return Settings(image_roots={"photos": place.url})


@MANY
@given(OBJECTS)
@example({"sub": True, "sub/": False})
@example({"sub": True, "sub.png": True, "sub/": False, "sub/x": True})
@example({"empty/": False})
@example({"a": False, "a/b": True})
@example({"a": False, "a/": False})
@example({"sub/": True, "sub/x": True})
@example({"/a": True, "a": True, "a/": True, "//": True})
@example({"..": True, "../private": True, ".": True, "%2e%2e": True})
def test_a_folder_has_the_keys_that_the_plain_client_lists(place, objects):
    where = place()
    where.put(objects)
    expected = [(key, size) for key, size in where.listed() if key and (size or not key.endswith("/"))]
    with opened(settings_of(where), "photos:") as folder:
        found = [(each.path.decode(), each.size) for each in folder.walk()]
        assert found == expected
        assert found == sorted(found, key=lambda each: each[0].encode())
        for key, size in found:
            if why_unaskable(key):
                assert folder.entry(key.encode()) is None
                with pytest.raises(FolderError, match="rename the object"):
                    folder.read_file(key, "it")
            else:
                assert folder.read_file(key, "it") == (key.encode() if size else b"")
                assert folder.entry(key.encode()).size == size


@tries(MANY, max_examples=20)
@given(OBJECTS, st.integers(1, 3))
@example({"a": True, "a-": True, "a/": True, "a/b": True, "a//b": True}, 1)
@example({"a/\n": True, "a/\x01/b": True, "a/.": True, "a/../b": True, "b": True}, 1)
def test_pages_may_end_behind_any_key(place, monkeypatch, objects, size):
    where = place()
    where.put(objects)
    monkeypatch.setitem(keys._QUERY, "max-keys", str(size))
    assert [(each.key, each.size) for each in keys.list_keys(Bucket(where.url, Settings()))] == where.listed()


@MANY
@given(
    OBJECTS.map(lambda found: {key: full for key, full in found.items() if not why_unaskable(key.removesuffix("/"))})
)
@example({"sub": True, "sub/": False})
@example({"a": False, "a-": True, "a/": False, "a/b": False})
def test_by_the_client_itself_markers_are_known_by_their_place_or_as_nothing_is_there(place, objects):
    """As services are listed that are no S3: all but markers with bytes."""
    objects = {key: full and not key.endswith("/") for key, full in objects.items()}
    where = place()
    where.put(objects)
    found = keys._by_the_client(Bucket(where.url, Settings()))
    assert [(each.key, each.size) for each in found] == where.listed()


def test_by_the_client_a_listing_that_breaks_off_behind_a_marker_goes_on(place, s3, monkeypatch):
    where = place()
    objects = {f"{number:03}": True for number in range(KEYS_A_REQUEST - 1)} | {"a/": False, "b": True}
    where.put(objects)
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(module, "_LISTED", KEYS_A_REQUEST)
    left = [None, *["reset"] * 7]  # as often as obstore tries
    with Proxy(s3, lambda method, _path: left.pop(0) if left and method == "GET" else None) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        found = [each.key for each in keys._by_the_client(Bucket(where.url, Settings()))]
    assert not left
    assert found == sorted(objects)


def test_pages_may_end_between_an_object_and_the_marker_beside_it(place):
    where = place()
    objects = {f"{number:03}{end}": True for number in range(KEYS_A_REQUEST) for end in ("", "-", "/", "/x")}
    where.put(objects)
    with opened(settings_of(where), "photos:") as folder:
        assert [each.path.decode() for each in folder.walk()] == sorted(objects)


def test_a_service_that_does_not_sort_is_refused(bucket, monkeypatch):
    pages = [keys.Listed(key, 1, None, None) for key in ("a", "c", "b")]
    monkeypatch.setattr(keys, "_pages", lambda _bucket: iter(pages))
    with pytest.raises(StoreError, match="to list its keys sorted by their bytes, found 'b' after 'c'"):
        list(keys.list_keys(Bucket(bucket, Settings())))


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({}, "https://s3.eu-west-3.amazonaws.com/bucket"),
        ({"virtual_hosted": "true"}, "https://s3.eu-west-3.amazonaws.com/bucket"),
        ({"endpoint": "https://b.example/"}, "https://b.example/bucket"),
        ({"endpoint": "https://bucket.b.example", "virtual_hosted": "true"}, "https://bucket.b.example/"),
    ],
)
def test_the_address_of_a_listing_is_signed_as_the_plain_client_signs_it(bucket, monkeypatch, options, where):
    """moto looks at no signature."""
    query = {"list-type": "2", "prefix": "a b/+\u00e9&=%2f", "start-after": "a"}
    monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", json.dumps({"region": "eu-west-3", **options}))
    url = Bucket("s3://bucket/prefix", Settings()).connection.sign(urlencode(query, quote_via=quote), "\u00e9/b%2f")
    asked = {name: value for name, [value] in parse_qs(urlsplit(url).query).items()}
    assert url.partition("?")[0] == where
    plain = {name: value for name, value in asked.items() if not name.startswith("X-Amz-")}
    assert plain == {**query, "start-after": "a/\u00e9/b%2f"}
    request = AWSRequest("GET", f"{where}?{urlencode(plain, quote_via=quote)}")
    when = datetime.strptime(asked["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    monkeypatch.setattr(auth, "get_current_datetime", lambda: when)
    credentials = Credentials(CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
    auth.S3SigV4QueryAuth(credentials, "s3", "eu-west-3", expires=int(asked["X-Amz-Expires"])).add_auth(request)
    assert parse_qs(urlsplit(request.url).query)["X-Amz-Signature"] == [asked["X-Amz-Signature"]]


@pytest.mark.parametrize("said", ["Request has expired", "Request is not yet valid"])
def test_an_address_that_is_refused_for_its_time_is_a_matter_of_the_clock(bucket, s3, monkeypatch, said):
    with Proxy(s3, lambda _method, _path: (403, f"AccessDenied</Code><Message>{said}</Message><Code>")) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        with pytest.raises(StoreError, match="this machine's clock is wrong; set it"):
            list(keys.list_keys(Bucket(bucket, Settings())))


@pytest.mark.parametrize(
    "page",
    [
        b"<html>hello</html>",
        b"<!DOCTYPE html><br>",
        b"{}",
        b"<ListBucketResult>",
        b"<ListBucketResult><Contents/></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
    ],
)
def test_what_is_no_listing_is_told(bucket, monkeypatch, page):
    monkeypatch.setattr(Bucket, "again", lambda *_, **__: page)
    with pytest.raises(StoreError, match="can't list the store s3://.*: it gives answers that an object store doesn't"):
        list(keys.list_keys(Bucket(bucket, Settings())))


def test_nobody_signs_nothing_and_needs_no_credentials(place, monkeypatch):
    where = place()
    where.put({"a": True, "sub/": False})
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    bucket = Bucket(where.url, Settings(store_options={"credentials": "anonymous"}))
    assert "X-Amz" not in bucket.connection.sign("list-type=2", "all")
    assert [each.key for each in keys.list_keys(bucket)] == ["a", "sub/"]


def test_nothing_is_asked_without_tls_unless_that_is_allowed(bucket):
    options = {"allow_http": "false"}
    with pytest.raises(StoreError, match='expected {"allow_http": "true"} in LOOKBOOK_STORE_OPTIONS'):
        list(keys.list_keys(Bucket(bucket, Settings(store_options=options))))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://b/a#1/b?c=%2f", ("s3", "b", "a#1/b?c=%2f")),
        ("gs://b/", ("gs", "b", "")),
        ("az://b", ("az", "b", "")),
        ("s3://b/a//", ("s3", "b", "a")),
        ("s3://b//a", ("s3", "b", "/a")),
        ("s3://b?x/a", None),
        ("s3://b#x", None),
        ("s3://../a", None),
        ("s3://me:secret@b/a", None),
        ("s3:///a", None),
    ],
)
def test_bucket_and_prefix_are_what_stands_there(url, place):
    assert parse_place(url) == (place and Place(*place))


@pytest.mark.parametrize("prefix", ["a//b", "../a", "a/./b", "a\nb"])
def test_a_prefix_that_the_client_would_change_is_refused(bucket, prefix):
    with pytest.raises(StoreError, match="can't use .* as the store: its key"):
        Bucket(f"s3://bucket/{prefix}", Settings())
