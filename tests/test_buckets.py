"""pytest tests/test_buckets.py: a store in a bucket whose network misbehaves, and what can't be a store."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answering import answering
from buckets import Proxy, make_bucket, options_for, sometimes
from commands import COMMAND, run_inside
from conftest import draw_classes
from sweeper import wait_for_end
from upheld import Upheld, free_port

from artifacts import aliases, dataset, leases, objects, predictions
from artifacts.bucket import BucketDisk
from artifacts.disks import disk_at
from artifacts.errors import AlreadyExists, Corrupt, NotFound, StoreError
from artifacts.keys import list_keys
from artifacts.objects import Bucket
from artifacts.opening import use_file
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.shards import Shards
from artifacts.store import Store
from tasks.shared.listing import Entry
from tasks.shared.plans import load_plan, save_plan


@pytest.fixture
def proxied(bucket, s3, monkeypatch):
    """A proxy before the bucket that the environment names. Its faults are set by the test, and tried again at once."""
    monkeypatch.setattr(objects, "PAUSE_SECONDS", 0.005)
    with Proxy(s3) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        yield proxy


def once(kind, method):
    """A fault for the first request of this method."""
    left = [kind]
    return lambda asked, _path: left.pop() if left and asked == method else None


def lose_patience(kind, monkeypatch):
    """Soon, where an answer never comes."""
    if kind == "stall":
        monkeypatch.setattr(objects, "TIMEOUT", timedelta(seconds=0.3))


@pytest.mark.parametrize("kind", [*Proxy.FAULTS, "stall"])
def test_a_create_whose_answer_is_lost_is_known_for_ones_own(bucket, proxied, kind, monkeypatch):
    lose_patience(kind, monkeypatch)
    proxied.faults = once(kind, "PUT")
    disk = disk_at(bucket)
    disk.create("a/b", b"content")
    assert disk.read("a/b") == b"content"
    assert proxied.faulty == 1
    with pytest.raises(AlreadyExists):
        disk_at(bucket).create("a/b", b"content")


@pytest.mark.parametrize("kind", [*Proxy.FAULTS, "stall"])
def test_what_is_read_is_whole(bucket, proxied, kind, monkeypatch):
    lose_patience(kind, monkeypatch)
    disk, content = disk_at(bucket), bytes(range(256)) * 10_000
    disk.create("a/b", content)
    proxied.faults = once(kind, "GET")
    assert disk.read("a/b") == content
    assert proxied.faulty == 1
    proxied.faults = once(kind, "GET")
    sha256 = hashlib.sha256(content).hexdigest()
    assert disk.materialize("a/b", sha256).path.read_bytes() == content
    assert proxied.faulty == 2


@pytest.mark.parametrize(
    ("fault", "found"),
    [("unconditional", "found . of 8 writers to create one key"), ("unmarked", "found no metadata of an object back")],
)
def test_a_bucket_that_keeps_no_promises_is_refused_at_first_use(bucket, proxied, fault, found):
    proxied.faults = lambda method, _path: fault if method == "PUT" else None
    with pytest.raises(StoreError, match=f"expected .* to let one writer create a key .*{found}"):
        Store(bucket).prepare()
    assert list(disk_at(bucket).list("")) == []


REFUSED = [
    ((403, "AccessDenied"), r"the credentials are refused \(AccessDenied\); docs/buckets.md has the rights"),
    ((400, "ExpiredToken"), r"the credentials have expired \(ExpiredToken\); renew them and run it again"),
    ((403, "ExpiredToken"), r"the credentials have expired \(ExpiredToken\); renew them and run it again"),
    ((403, "RequestTimeTooSkewed"), "this machine's clock is wrong"),
    ((404, "NoSuchBucket"), "there is no such bucket"),
    ((403, "InvalidAccessKeyId"), r"the service does not know the access key \(InvalidAccessKeyId\); mend"),
    ((403, "SignatureDoesNotMatch"), r"the secret key is not that of the access key \(SignatureDoesNotMatch\)"),
    ((400, "InvalidToken"), r"the session token can't be read \(InvalidToken\); mend AWS_SESSION_TOKEN"),
    ((403, "InvalidObjectState"), r"the object is archived \(InvalidObjectState\), in Glacier say; restore it"),
    ((301, "PermanentRedirect"), "the bucket is in another region; name its own in LOOKBOOK_STORE_OPTIONS"),
    ((400, "AuthorizationHeaderMalformed"), "the bucket is in another region; name its own"),
    (
        (400, "AuthorizationHeaderMalformed", "<Region>eu-west-3</Region>"),
        "the bucket is in another region, eu-west-3;",
    ),
    ((400, "KMS.DisabledException"), r"the key that encrypts the object can't be used \(KMS.DisabledException\)"),
    (
        (403, "AccessDenied", "<Message>not authorized to perform: kms:Decrypt</Message>"),
        "the key that encrypts the object",
    ),
    ((403, "AllAccessDisabled"), r"the provider has closed the account or the bucket \(AllAccessDisabled\)"),
    ((507, "XMinioStorageFull"), "is full"),
    (
        (400, "InvalidRequest"),
        r"answered 400 Bad Request \(InvalidRequest\); look whether endpoint, region and bucket are",
    ),
    ((403, "NobodyKnowsThis"), r"the credentials are refused \(NobodyKnowsThis\)"),
]


@pytest.mark.parametrize(("answer", "said"), REFUSED)
def test_what_the_service_refuses_is_one_clear_line(bucket, proxied, answer, said):
    proxied.faults = lambda _method, _path: answer
    disk = disk_at(bucket)
    asks = [
        lambda: disk.create("a/b", b"x"),
        lambda: list(disk.list("a")),
        lambda: disk.read("a/b"),
        lambda: list(list_keys(Bucket(bucket, Settings()))),
    ]
    if answer[0] in (301, 400, 403):  # by HEAD, whose answer has no body
        asks.append(lambda: disk.exists("a/b"))
    for ask in asks:
        with pytest.raises(StoreError, match=said) as raised:
            ask()
        assert "\n" not in str(raised.value)
        assert "127.0.0.1" not in str(raised.value)
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(raised.value)


def test_an_answer_409_to_a_reader_is_not_that_something_exists(bucket, proxied):
    """As Azure answers for what is archived."""
    proxied.faults = lambda _method, _path: (409, "BlobArchived")
    with pytest.raises(StoreError, match=r"can't read a/b in .*: the object is archived \(BlobArchived\)"):
        disk_at(bucket).read("a/b")


def test_no_such_bucket_by_the_service_itself(bucket):
    with pytest.raises(StoreError, match="there is no such bucket; make it, or mend LOOKBOOK_STORE"):
        Store("s3://no-such-bucket-here/place").prepare()


def test_rights_to_read_alone_are_enough_to_read(bucket, proxied):
    disk_at(bucket).create("a/b", b"x")
    proxied.faults = lambda method, _path: (403, "AccessDenied") if method == "PUT" else None
    disk = disk_at(bucket)
    assert disk.read("a/b") == b"x"
    assert list(disk.list("a")) == ["a/b"]
    with pytest.raises(StoreError, match="can't write a/c in the store s3://.*: the credentials are refused"):
        disk.create("a/c", b"x")


@pytest.mark.slow
def test_an_endpoint_that_is_a_web_page(bucket, monkeypatch):
    class Page(BaseHTTPRequestHandler):
        def answer(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        do_GET = do_HEAD = do_PUT = answer  # noqa: N815

        def log_message(self, *_):
            pass

    with answering(Page) as port:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(f"http://127.0.0.1:{port}"))
        with pytest.raises(StoreError, match="look whether the endpoint is right"):
            Store(bucket).prepare()
        with pytest.raises(StoreError, match="look whether the endpoint is right"):
            list(Store(bucket).refs())


@pytest.mark.parametrize(
    ("root", "options", "said"),
    [
        (
            "gopher://bucket/x",
            {},
            r"expected the store as a folder or s3://.* with bucket/prefix, found 'gopher'",
        ),
        ("s3:///x", {}, "expected the store as a folder or s3://"),
        ("s3://me:hunter2@bucket/x", {}, "expected the store as a folder or s3://"),
        ("s3://bucket/x", {"secret_access_key": "hunter2"}, r"secrets belong into the environment \(AWS_ACCESS_KEY_ID"),
        ("s3://bucket/x", {"colour": "red"}, "expected LOOKBOOK_STORE_OPTIONS with allow_http, .*, found colour"),
        ("s3://bucket/x", {"endpoint": "here"}, "expected an endpoint as https://host, found 'here'"),
        ("s3://bucket/x", {"endpoint": ""}, "expected an endpoint as https://host, found ''"),
        ("s3://bucket/x", {"credentials": "mine"}, "expected credentials to be anonymous or instance, found 'mine'"),
    ],
)
def test_what_can_be_no_store(bucket, monkeypatch, root, options, said):
    monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", json.dumps(options))
    with pytest.raises(StoreError, match=said) as raised:
        disk_at(root)
    assert "hunter2" not in str(raised.value)


def test_without_credentials_nobody_asks_for_any(bucket, proxied, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", proxied.url)
    with pytest.raises(StoreError, match=r"expected credentials for s3://.* in the environment \(AWS_ACCESS_KEY_ID"):
        disk_at(bucket)
    assert not proxied.asked


@pytest.fixture
def put(s3_service, bucket):
    """Write an empty object into the store."""
    name, prefix = bucket.removeprefix("s3://").split("/", 1)
    return lambda key: s3_service.put(name, f"{prefix}/{key}", b"")


def test_foreign_objects_in_the_bucket_harm_nothing(bucket, put):
    store = Store(bucket)
    ref = store.publish("weights", "shoes", {"a.bin": b"a"}, settings={}, inputs={}, facts={})
    for key in ("weights/\u20ac.txt", "weights/shoes/empty/", "weights/shoes/100%"):
        put(key)
    assert list(store.refs()) == [ref]
    assert store.verify().corrupt == []


@pytest.mark.parametrize("key", ["weights/a\nb", "weights/shoes//double", "weights/../x", "weights/\x01"])
def test_an_object_with_an_impossible_name_is_named(bucket, put, key):
    store = Store(bucket)
    put(key)
    with pytest.raises(StoreError, match="is no name that a store has; remove it") as raised:
        list(store.refs())
    assert repr(f"some/place/{key}") in str(raised.value)


def test_a_part_that_is_damaged_is_made_again(bucket, s3_service, monkeypatch, tmp_path):
    rows = pa.table({"path": ["a"], "label": ["x"], "confidence": [0.5], "error": pa.nulls(1, pa.string())})
    store = Store(bucket)
    part = Shards(store.disk).finish("record", "entries", rows)
    name, prefix = bucket.removeprefix("s3://").split("/", 1)
    s3_service.put(name, f"{prefix}/{part.key}", b"damaged")
    monkeypatch.setenv("LOOKBOOK_CACHE", str(tmp_path / "another machine's"))
    again = Store(bucket)
    assert Shards(again.disk).finished("record") is None
    assert Shards(again.disk).finish("record", "entries", rows) == part
    assert Shards(again.disk).finished("record") == part


def test_files_of_the_cache_may_go_at_any_moment_and_are_not_trusted(bucket):
    disk, content = disk_at(bucket), b"content" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    disk.create("a/b", content)
    path = disk.materialize("a/b", sha256).path
    path.unlink()
    assert disk.materialize("a/b", sha256).path.read_bytes() == content
    path.write_bytes(b"damaged")
    assert disk.materialize("a/b", sha256).path.read_bytes() == content


ROWS = pa.table({"path": ["a"], "label": ["x"], "confidence": [0.5], "error": pa.nulls(1, pa.string())})


def save_table(store, part):
    """Publish a table of one part."""
    of = [
        store.publish(kind, "shoes", {"a.bin": b"a"}, settings={}, inputs={}, facts={})
        for kind in ("weights", "datasets")
    ]
    return predictions.save(
        store, "photos", parts=[part], weights=of[0], dataset=str(of[1]), settings={}, classes=["x"], image_spec={},
        report={}, made={},
    )  # fmt: skip


def test_the_cache_does_not_say_that_a_file_is_there(bucket, s3_service):
    """Nor that it is whole: a shorter object is not what was written, whatever this machine keeps."""
    disk, content = disk_at(bucket), b"content" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    disk.create("a/b", content)
    disk.materialize("a/b", sha256)
    name, prefix = bucket.removeprefix("s3://").split("/", 1)
    s3_service.put(name, f"{prefix}/a/b", b"short")
    assert disk.materialize("a/b", sha256).sha256 != sha256
    s3_service.delete(name, f"{prefix}/a/b")
    with pytest.raises(NotFound, match="a/b is not in the store"):
        disk.materialize("a/b", sha256)


def damage(s3_service, bucket, key):
    """Change one bit of an object: its size stays."""
    name, prefix = bucket.removeprefix("s3://").split("/", 1)
    content = disk_at(bucket).read(key)
    s3_service.put(name, f"{prefix}/{key}", bytes([content[0] ^ 1]) + content[1:])


def test_the_cache_does_not_hide_damage_of_the_same_size(bucket, s3_service):
    disk, content = disk_at(bucket), b"content" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    for key in ("a/b", "a/c"):
        disk.create(key, content)
        disk.materialize(key, sha256)
    damage(s3_service, bucket, "a/b")
    for _ in range(2):
        assert disk_at(bucket).materialize("a/b", sha256).sha256 != sha256
        assert disk_at(bucket).materialize("a/c", sha256).path.read_bytes() == content
    disk.replace("a/b", content)
    assert disk_at(bucket).materialize("a/b", sha256).path.read_bytes() == content


def test_what_is_in_the_cache_is_fetched_once_by_all_processes(bucket, s3, monkeypatch):
    disk, content = disk_at(bucket), b"content" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    disk.create("a/b", content)
    disk.create("a/c", content)
    with Proxy(s3) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        for _ in range(2):
            for key in ("a/b", "a/c", "a/b"):
                assert disk_at(bucket).materialize(key, sha256).sha256 == sha256
        assert proxy.asked["GET"] == 2


def test_a_cache_of_an_earlier_lookbook_is_fetched_once_again(bucket, s3, monkeypatch):
    disk, content = disk_at(bucket), b"content" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    disk.create("a/b", content)
    path = Settings().cache / "objects" / sha256[:2] / sha256
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with Proxy(s3) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        for _ in range(3):
            assert disk_at(bucket).materialize("a/b", sha256) == (path, sha256, len(content))
        assert proxy.asked["GET"] == 1


def test_a_service_without_etags_is_asked_when_an_object_was_written(bucket):
    when = datetime(2026, 11, 30, tzinfo=UTC)
    met = {"e_tag": None, "size": 3, "last_modified": when, "version": None}
    disk = disk_at(bucket)
    assert disk._source("a", met) == disk._source("a", dict(met))
    assert disk._source("a", met) != disk._source("b", met)
    assert disk._source("a", met) != disk._source("a", {**met, "last_modified": when + timedelta(seconds=1)})
    assert disk._source("a", {**met, "e_tag": "x"}) != disk._source("a", {**met, "e_tag": "y"})


def test_a_part_that_was_damaged_in_the_bucket_is_not_taken_from_the_cache(bucket, s3_service):
    store = Store(bucket)
    part = Shards(store.disk).finish("record", "entries", ROWS)
    predictions.load(store, save_table(store, part)).read(0)  # it is in the cache
    damage(s3_service, bucket, part.key)
    assert len(store.verify().damaged) == 1
    assert Shards(store.disk).finished("record") is None
    with pytest.raises(Corrupt, match="run it again, that shard is redone"):
        save_table(store, part)
    assert Shards(store.disk).finish("record", "entries", ROWS) == part
    assert predictions.load(store, save_table(store, part)).read(0).to_pylist() == ROWS.to_pylist()
    assert not store.verify().damaged


def test_a_version_whose_part_is_gone_from_the_bucket_is_not_published(bucket):
    store = Store(bucket)
    part = Shards(store.disk).finish("record", "entries", ROWS)
    assert Shards(store.disk).finished("record") == part  # it is in the cache
    store.disk.remove(part.key)
    with pytest.raises(Corrupt, match="run it again, that shard is redone"):
        save_table(store, part)
    assert list(store.refs("predictions")) == []
    assert Shards(store.disk).finished("record") is None
    assert Shards(store.disk).finish("record", "entries", ROWS) == part
    assert predictions.load(store, save_table(store, part)).read(0).to_pylist() == ROWS.to_pylist()


def lost(monkeypatch, times):
    """The next files that are found in the cache, or fetched into it, are removed before anybody opens them."""
    left = [times]
    whole = BucketDisk.materialize

    def materialize(disk, key, sha256):
        found = whole(disk, key, sha256)
        if left[0]:
            left[0] -= 1
            found.path.unlink()
        return found

    monkeypatch.setattr(BucketDisk, "materialize", materialize)


def test_files_that_go_from_the_cache_before_they_are_opened_are_fetched_again(bucket, shapes, monkeypatch):
    store = Store(bucket)
    part = Shards(store.disk).finish("record", "entries", ROWS)
    table = save_table(store, part)
    data = dataset.save(
        store, "shapes", **shapes, classes=["a", "b", "c"], image_spec={}, settings={}, inputs={}, made={}
    )
    plan = save_plan(store.disk, [[Entry(b"a", 1, 2, True)], [Entry(b"b", 1, 2, True)]], "here")
    for read in (
        lambda: predictions.load(store, table).read(0).num_rows,
        lambda: use_file(store.disk, part.key, part.sha256, pq.read_table).num_rows,
        lambda: int(dataset.load(store, data).train.labels.size > 0),
        lambda: load_plan(store.disk, plan).entries(0).num_rows,
    ):
        lost(monkeypatch, 1)
        assert read() == 1
    lost(monkeypatch, 99)
    with pytest.raises(StoreError, match="is removed whenever it was fetched; let nothing empty its folder meanwhile"):
        load_plan(store.disk, plan)


def test_a_plan_is_read_though_the_cache_is_emptied_after_it_was_opened(bucket):
    store = Store(bucket)
    found = load_plan(store.disk, save_plan(store.disk, [[Entry(b"a", 1, 2, True)], [Entry(b"b", 1, 2, True)]], "here"))
    shutil.rmtree(Settings().cache)
    assert [found.entries(shard)["path"].to_pylist() for shard in range(2)] == [[b"a"], [b"b"]]


def test_the_cache_stays_within_its_bounds(bucket, monkeypatch):
    monkeypatch.setenv("LOOKBOOK_CACHE_BYTES", "5000000")
    monkeypatch.setattr("artifacts.cache._USED_SECONDS", 0.0)
    disk = disk_at(bucket)
    for number in range(10):
        content = bytes([number]) * 1_000_000
        disk.create(f"a/{number}", content)
        disk.materialize(f"a/{number}", hashlib.sha256(content).hexdigest())
    kept = [path.stat().st_size for path in (Settings().cache / "objects").glob("??/*")]
    assert 4 <= len([size for size in kept if size]) <= 5
    assert len(kept) <= 11  # with what is known of each, and of the one that went last
    assert disk.materialize("a/9", hashlib.sha256(bytes([9]) * 1_000_000).hexdigest()).size == 1_000_000


@pytest.mark.kill
def test_a_lease_that_nobody_renews_is_another_ones(bucket, monkeypatch):
    """By the clock of whoever watches, which is put forward here."""
    program = (
        "import signal, sys; from artifacts.disks import disk_at; from artifacts import leases\n"
        "leases.RENEW_SECONDS = 0.05\n"
        "with disk_at(sys.argv[1]).hold('turn') as mine: print(mine, flush=True); signal.pause()"
    )
    ahead = 0.0
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead))
    disk = disk_at(bucket)

    def taken():
        with disk.hold("turn") as mine:
            return mine

    with subprocess.Popen([sys.executable, "-c", program, bucket], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        until = time.monotonic() + 60
        for _ in range(4):
            assert not taken()
            ahead += 0.8 * leases.LEASE_SECONDS
            seen = disk._leases["turn"]._seen[0]
            while f"turn/{seen + 1:08d}.json" not in set(disk.list("turn")):
                assert time.monotonic() < until, "it is not renewed"
        assert not taken(), "it was renewed, for longer than it lasts"
        holder.kill()
    assert not taken()
    ahead += leases.LEASE_SECONDS
    assert taken()


FAULTS = 200

# Forks a writer for each line, which tells what it has written in the file of that name.
WRITERS = """
import itertools, os, signal, sys
import obstore.store, pyarrow as pa
from artifacts import aliases, objects
from artifacts.errors import StoreAway
from artifacts.shards import Shards
from artifacts.store import Store
from tasks.shared.listing import Entry
from tasks.shared.plans import load_plan, save_plan

def write(me, told, store):
    for number in itertools.count(1):
        files = {"w.bin": f"{me} {number}".encode()}
        ref = store.publish("weights", "shoes", files, settings={}, inputs={}, facts={})
        event = aliases.promote(store.disk, ref, f"{me} {number}")
        none = pa.nulls(3, pa.string())
        rows = pa.table({"path": [me] * 3, "label": ["x"] * 3, "confidence": [0.5] * 3, "error": none})
        part = Shards(store.disk).finish(f"{me}-{number}", "entries", rows)
        print(event.number, ref, f"{me}-{number}", part.sha256, file=told, flush=True)

objects.PAUSE_SECONDS = 0.005
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    if not (child := os.fork()):
        store, told, again = Store(sys.argv[1]), open(line.strip(), "w"), 0
        while True:
            try:
                write(f"{os.path.basename(line.strip())}-{(again := again + 1)}", told, store)
            except StoreAway:  # some faults in a row
                print("given up", file=told, flush=True)
    print(child, flush=True)
"""


@pytest.mark.long
@pytest.mark.kill
def test_hundreds_of_faults_and_kills_lose_and_repeat_nothing(bucket, proxied, tmp_path):
    proxied.faults = sometimes(0.25, seed=1)
    drawn, told, writers = random.Random(1), [], []
    command = [sys.executable, "-c", WRITERS, bucket]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forks:

        def start():
            told.append(tmp_path / f"w{len(told)}")
            print(told[-1], file=forks.stdin, flush=True)
            writers.append(int(forks.stdout.readline()))

        def kill(writer):
            os.kill(writer, signal.SIGKILL)
            assert wait_for_end(writer, 60)

        def lines():
            return [line.split() for each in told if each.exists() for line in each.read_text().splitlines()]

        for _ in range(3):
            start()
        while proxied.faulty < FAULTS or len(lines()) <= 25:
            proxied.wait_for_requests(drawn.randrange(300))
            kill(writers.pop(0))
            start()
        for each in writers:
            kill(each)
        forks.stdin.close()
    proxied.faults = lambda _method, _path: None
    said = [line for line in lines() if len(line) == 4]
    store = Store(bucket)
    events = aliases.history(store.disk, "weights", "shoes", "champion")
    assert len(said) > 20
    assert len({event.reason for event in events}) == len(events)  # none is there twice
    for number, ref, record, sha256 in said:  # none that was told is missing
        assert events[int(number) - 1].ref == ref
        part = Shards(store.disk).finished(record)
        assert (part.sha256, part.rows) == (sha256, 3)
        assert len(list(store.disk.list(f"staging/shards/{record}"))) == 1
    assert len(events) - len(said) <= len(told) + lines().count(["given", "up"])
    assert store.verify().corrupt == []


@pytest.fixture
def folder(tmp_path, shapes):
    """Pictures of the three shapes, a folder a class."""
    draw_classes(tmp_path / "photos", shapes["train"].images, shapes["train"].labels, 120)
    return tmp_path / "photos"


@pytest.mark.long
@pytest.mark.kill
def test_a_folder_is_learned_and_scored_behind_a_bad_network_as_on_a_disk(folder, tmp_path, proxied, bucket, server):
    """The same versions as in a folder, though runs are killed and the network misbehaves."""
    retrain = [
        "retrain",
        "--images",
        folder,
        "--image-size",
        "8",
        "--color",
        "grey",
        "--architecture",
        "dense",
        "--json",
    ]
    score = ["score", folder, "--name", "photos", "--json"]
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": server,
        "LOOKBOOK_STORE": str(tmp_path / "store"),
    }

    def outcomes():
        done = [run_inside(verb, environment) for verb in (retrain, score)]
        assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
        learned, scored = (json.loads(each.stdout.splitlines()[-1]) for each in done)
        return [learned[kind] for kind in ("dataset", "weights", "metrics")] + [scored["predictions"]]

    expected = outcomes()
    environment["LOOKBOOK_STORE"] = bucket
    proxied.faults = sometimes(0.1, seed=2)
    for requests in (10, 30, 60):
        process = subprocess.Popen([*COMMAND, *map(str, retrain)], env=environment, stderr=subprocess.DEVNULL)
        proxied.wait_for_requests(requests)
        process.kill()
        process.wait()
    assert outcomes() == expected
    assert outcomes() == expected
    assert proxied.faulty > 10
    proxied.faults = lambda _method, _path: None
    checked = run_inside(["verify", "--json"], environment)
    assert checked.returncode == 0, checked.stdout
    [rows] = Store(bucket).open(Ref.parse(expected[-1])).manifest["at"].values()
    table = pq.read_table(io.BytesIO(disk_at(bucket).read(rows)))
    assert table.num_rows == 120
    assert pq.read_table(tmp_path / "store" / expected[-1].replace("@", "/") / "data").equals(table)


@pytest.mark.long
@pytest.mark.server
def test_a_gpu_worker_trains_and_a_nightly_scoring_of_a_bucket_runs_behind_a_bad_network(
    folder, tmp_path, proxied, bucket, s3, fashion_mnist
):
    """What `lookbook up` starts has buckets alone in common: one for the store, and one of pictures."""
    photos = f"{bucket.removeprefix('s3://').split('/')[0]}-photos"
    make_bucket(s3, photos)
    for path in folder.rglob("*.png"):
        httpx.put(f"{s3}/{photos}/in/{path.relative_to(folder)}", content=path.read_bytes()).raise_for_status()
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_API_PORT": str(free_port()),
        "LOOKBOOK_STORE": bucket,
        "LOOKBOOK_IMAGE_ROOTS": json.dumps({"photos": f"s3://{photos}"}),
        "PREFECT_WORKER_QUERY_SECONDS": "0.5",
    }
    proxied.faults = sometimes(0.05, seed=3)
    upheld = Upheld(environment)
    try:
        retraining = upheld.start("retrain/weekly", epochs=1, train_on="gpu pool")
        assert upheld.wait(retraining)["state_type"] == "COMPLETED", upheld.logs(retraining)
        scoring = upheld.start("score/by-hand", folder="photos:in", name="photos", weights="fashion-mnist@champion")
        assert upheld.wait(scoring)["state_type"] == "COMPLETED", upheld.logs(scoring)
        training = upheld.inner(retraining)
        assert training["work_pool_name"] == "gpu"
        assert "not-a-secret" not in json.dumps([upheld.logs(each) for each in (retraining, training["id"], scoring)])
    finally:
        upheld.bring_down()
    assert proxied.faulty > 5
    proxied.faults = lambda _method, _path: None
    store = Store(bucket)
    assert store.open(store.resolve("predictions/photos@latest")).facts["rows"] == 120
    assert store.verify().corrupt == []


def test_stores_whose_urls_have_odd_characters_are_different_stores(bucket):
    urls = [f"{bucket}{end}" for end in ("", "/a", "/a#1", "/a?1", "/a%2fb", "/a/b", "/%2e%2e")]
    for number, url in enumerate(urls):
        disk_at(url).create("weights/x", b"%d" % number)
    assert [disk_at(url).read("weights/x") for url in urls] == [b"%d" % number for number in range(len(urls))]
    assert list(disk_at(urls[2]).list("")) == ["weights/x"]
    assert disk_at(bucket).exists("a#1/weights/x")
    assert disk_at(bucket).exists("%2e%2e/weights/x")


def test_copying_by_the_command_line(bucket, tmp_path, lookbook):
    source = Store(tmp_path / "store")
    ref = source.publish("weights", "shoes", {"w.bin": b"w"}, settings={}, inputs={}, facts={})
    done = lookbook("copy", str(tmp_path / "store"), bucket)
    assert (done.returncode, done.stdout) == (0, "versions and records copied: 1, 1 byte\n"), done.stderr
    assert done.stderr == f"copying {ref}\n"
    again = lookbook("copy", str(tmp_path / "store"), bucket, "--json")
    assert json.loads(again.stdout) == {"copied": 0, "present": 1, "mended": 0, "bytes": 0}
    failed = lookbook("list", LOOKBOOK_STORE="s3://no-such-bucket-here/x")
    assert failed.returncode == 1
    assert "there is no such bucket" in failed.stderr
    assert failed.stderr.count("\n") == 1
