"""pytest tests/test_key_pages.py: pages of a bucket's listing come with patience, by few credentials, by one proxy."""

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

import pytest
from answering import answering
from buckets import CREDENTIALS, KEYS_A_REQUEST, Proxy, options_for

from artifacts import objects, proxies
from artifacts.errors import StoreAway, StoreError
from artifacts.keys import list_keys
from artifacts.objects import Bucket
from artifacts.settings import Settings

pytestmark = pytest.mark.slow  # a service that answers late

PAGES = 5


@pytest.fixture
def put(s3_service, bucket):
    """Write objects below the bucket's prefix, and return their keys."""

    def write(keys, prefix="some/place/"):
        name = bucket.removeprefix("s3://").split("/")[0]
        for key in keys:
            s3_service.put(name, f"{prefix}{key}", b"1")
        return sorted(keys)

    return write


def many(pages=PAGES):
    return [f"{number:04}" for number in range(KEYS_A_REQUEST * (pages - 1) + 1)]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(objects, "PAUSE_SECONDS", 0.0005)
    monkeypatch.setattr(objects, "LONGEST_PAUSE", timedelta(seconds=0.001))


@pytest.mark.parametrize("fault", [(503, "SlowDown"), (429, "TooManyRequests"), "reset", "lost", "cut"])
def test_a_page_is_asked_for_as_often_as_the_client_asks_for_an_object(bucket, put, s3, monkeypatch, quick, fault):
    expected, asked = put(many()), []

    def faults(_method, path):
        asked.append(path.partition("&X-Amz-")[0])
        return fault if asked.count(asked[-1]) < objects.TRIES * 7 and len(set(asked)) in (1, 3) else None

    with Proxy(s3, faults) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        assert [each.key for each in list_keys(Bucket(bucket, Settings()))] == expected
    times = [asked.count(page) for page in dict.fromkeys(asked)]
    assert times == [21, 1, 21, 1, 1]  # and no page twice that had come


def test_a_service_that_stays_away_is_given_up_at_last(bucket, s3, monkeypatch, quick):
    with Proxy(s3, lambda *_: (503, "SlowDown")) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        with pytest.raises(StoreAway, match="the service answered 503"):
            list(list_keys(Bucket(bucket, Settings())))
        assert proxy.asked["GET"] == 21


def test_an_answer_that_no_waiting_mends_is_told_at_once(bucket, s3, monkeypatch):
    with Proxy(s3, lambda *_: (403, "AccessDenied")) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        with pytest.raises(StoreError, match="the credentials are refused"):
            list(list_keys(Bucket(bucket, Settings())))
        assert proxy.asked["GET"] == 1


def test_the_patience_lasts_half_a_minute_and_no_longer_than_three_times_that(bucket, monkeypatch):
    now, asked = [0.0], []
    monkeypatch.setattr(objects.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(objects.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def away(seconds):
        def ask():
            asked.append(now[0])
            now[0] += seconds
            raise OSError("timed out")

        return ask

    with pytest.raises(StoreAway):
        Bucket(bucket, Settings()).again("list", "", away(0), alone=True)
    assert asked[-1] > 30
    now[0] = 0
    with pytest.raises(StoreAway):
        Bucket(bucket, Settings()).again("list", "", away(60), alone=True)
    assert 90 < now[0] < 90 + 2 * 60


@contextmanager
def role():
    """A container's credentials, and how often they were asked for. Gives the variables that lead there."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            expires = (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
            content = json.dumps(
                {"AccessKeyId": "a", "SecretAccessKey": "b", "Token": "t", "Expiration": expires}
            ).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with answering(Handler) as port:
        yield f"http://127.0.0.1:{port}/role", asked


@pytest.mark.parametrize(
    ("prefix", "below"),
    [("some/place/", ""), ("place/", ""), ("", "pictures/"), ("", "one/pictures/")],
)
def test_credentials_of_a_role_are_asked_for_twice_and_not_with_every_page(
    bucket, put, tmp_path, monkeypatch, prefix, below
):
    expected = put([f"{below}{key}" for key in many()], prefix)
    (tmp_path / "token").write_text("x")
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    with role() as (url, asked):
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        where = f"{bucket.removesuffix('/some/place')}/{prefix}"
        assert [each.key for each in list_keys(Bucket(where, Settings()))] == expected
    assert 1 <= len(asked) <= 2


def test_a_listing_goes_on_behind_a_key_and_by_the_services_token_where_the_client_cant_ask_for_the_key(
    bucket, put, s3, monkeypatch
):
    keys = [f"{group}!{number:02}" for group in "abcd" for number in range(KEYS_A_REQUEST - 1)]
    keys += ["a", "b//c", "c/../d", "d", "e"]
    expected, asked = put([*keys, "z"]), []

    def look(_method, path):
        asked.append([name for name in ("start-after", "continuation-token") if name in parse_qs(urlsplit(path).query)])

    with Proxy(s3, look) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        assert [each.key for each in list_keys(Bucket(bucket, Settings()))] == expected
    assert asked == [[], ["start-after"], ["continuation-token"], ["continuation-token"], ["start-after"]]


DEAD = "http://127.0.0.1:1"
PROXY = "PROXY"  # stands for the address of one that works


@pytest.mark.parametrize(
    ("variables", "goes_there"),
    [
        ({}, False),
        ({"HTTP_PROXY": PROXY}, True),
        ({"http_proxy": PROXY}, True),
        ({"HTTP_PROXY": PROXY, "http_proxy": DEAD}, True),
        ({"HTTP_PROXY": "", "http_proxy": DEAD}, False),
        ({"HTTP_PROXY": PROXY.lower()}, True),  # without its scheme
        ({"ALL_PROXY": PROXY}, True),
        ({"all_proxy": PROXY, "HTTP_PROXY": ""}, True),
        ({"HTTPS_PROXY": DEAD}, False),
        ({"HTTPS_PROXY": "foo://x"}, False),
        ({"HTTP_PROXY": "foo://127.0.0.1:1"}, False),
        ({"HTTP_PROXY": "foo://127.0.0.1:1", "ALL_PROXY": PROXY}, True),
        ({"HTTP_PROXY": "http://"}, False),
        ({"HTTP_PROXY": "127.0.0.1:1/"}, False),
        ({"HTTP_PROXY": "\u00e9.example"}, False),
        ({"HTTP_PROXY": f"{PROXY}/path"}, True),
        ({"HTTP_PROXY": DEAD, "REQUEST_METHOD": "GET"}, False),
        ({"ALL_PROXY": DEAD, "REQUEST_METHOD": "GET"}, False),
        ({"HTTP_PROXY": DEAD, "NO_PROXY": "127.0.0.1"}, False),
        ({"HTTP_PROXY": DEAD, "no_proxy": "x, 127.0.0.1 ,y"}, False),
        ({"HTTP_PROXY": DEAD, "NO_PROXY": "127.0.0.0/8"}, False),
        ({"HTTP_PROXY": DEAD, "NO_PROXY": "127.0.0.1/8"}, False),
        ({"HTTP_PROXY": DEAD, "NO_PROXY": "[::1],127.0.0.1"}, False),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8,0.0.1"}, True),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": "127.0.0.1:80"}, True),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": "", "no_proxy": "127.0.0.1"}, True),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": "*"}, True),  # for names of hosts alone
        ({"ALL_PROXY": "socks5://127.0.0.1:1", "NO_PROXY": "127.0.0.1"}, False),
    ],
)
def test_listing_goes_by_the_proxy_that_reading_goes_by(bucket, put, s3, monkeypatch, variables, goes_there):
    put(["a"])
    with Proxy(s3) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        for name, value in variables.items():
            given = value.replace(PROXY, proxy.url).replace(PROXY.lower(), proxy.url.removeprefix("http://"))
            monkeypatch.setenv(name, given)
        where = Bucket(bucket, Settings())
        assert b"".join(where.stream("a")) == b"1"
        read = proxy.asked.total()
        assert [each.key for each in list_keys(where)] == ["a"]
        assert (read, proxy.asked.total() - read) == ((1, 1) if goes_there else (0, 0))


@pytest.mark.parametrize(
    ("proxy", "found"),
    [
        ("socks4://127.0.0.1:1", "socks4://"),
        ("socks5://me:secret@127.0.0.1:1", "socks5://"),
        ("socks5h://127.0.0.1:1", "socks5h://"),
        ("http://me:secret@127.0.0.1:99999", "no such address"),
        ("http://127.0.0.1:secret", "no such address"),
    ],
)
def test_a_proxy_that_reading_cant_use_is_told(bucket, monkeypatch, proxy, found):
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(StoreError, match=f"expected a proxy as http://.* found {found}; .*NO_PROXY") as told:
        list(list_keys(Bucket(bucket, Settings())))
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("given", "host", "passed_by"),
    [
        ("example.com", "example.com", True),
        ("example.com", "s3.Example.com", True),
        (".example.com", "s3.example.com", True),
        (".example.com", "example.com", True),
        ("example.com", "notexample.com", False),
        ("s3.example.com", "example.com", False),
        ("*", "example.com", True),
        ("::1", "[::1]", True),
        ("fe80::/10", "[fe80::1]", True),
        ("fe80::/10", "127.0.0.1", False),
        ("", "example.com", False),
    ],
)
def test_what_no_proxy_names(monkeypatch, given, host, passed_by):
    monkeypatch.delenv("REQUEST_METHOD", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", given)
    assert proxies.proxy_for(f"https://{host}:9000/bucket?x") == (None if passed_by else "http://proxy.example:3128")


def test_a_service_that_is_not_there_is_told_by_the_time_to_connect(bucket, monkeypatch):
    import httpx

    given = []
    client = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: given.append(options) or client(**options))
    list(list_keys(Bucket(bucket, Settings())))
    assert (given[0]["timeout"].connect, given[0]["timeout"].read) == (5, 60)
