"""pytest tests/test_disks.py: what a store stands on, held by a folder and by a bucket alike."""

import hashlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from buckets import KEYS_A_REQUEST

from artifacts import aliases, copying, open_store, runs
from artifacts.disks import disk_at
from artifacts.errors import AlreadyExists, Corrupt, NotFound, StoreError
from artifacts.publishing import Shared
from artifacts.shards import Shards
from artifacts.store import Store

LARGE = 11 << 20  # three parts of what a bucket takes in one request, at least 5 MiB each


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path):
    """Where a store may be: a folder, or a bucket."""
    return str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("bucket")


@pytest.fixture(autouse=True)
def small_requests(monkeypatch):
    monkeypatch.setattr("artifacts.bucket.LARGE_BYTES", 6 << 20)
    monkeypatch.setattr("artifacts.bucket._CHUNK_BYTES", 5 << 20)


@pytest.fixture
def disk(place):
    return disk_at(place)


def test_what_is_created_is_read_back(disk):
    disk.create("a/b/c.json", b"content")
    assert disk.read("a/b/c.json") == b"content"
    assert disk.exists("a/b/c.json")
    assert not disk.exists("a/b")
    assert not disk.exists("a/b/d.json")


def test_a_key_is_created_once(disk):
    disk.create("a/one", b"first")
    with pytest.raises(AlreadyExists, match="a/one exists already"):
        disk.create("a/one", b"second")
    with pytest.raises(AlreadyExists):
        disk.create("a/one", b"first")
    assert disk.read("a/one") == b"first"


def test_what_is_damaged_is_replaced(disk, tmp_path):
    disk.create("a/one", b"first")
    disk.replace("a/one", b"second")
    disk.replace("a/two", b"was missing")
    assert [disk.read(key) for key in ("a/one", "a/two")] == [b"second", b"was missing"]
    large = tmp_path / "large"
    large.write_bytes(b"x" * LARGE)
    disk.replace("a/one", large)
    assert disk.hash("a/one") == (hashlib.sha256(b"x" * LARGE).hexdigest(), LARGE)
    assert sorted(disk.list("a")) == ["a/one", "a/two"]
    assert list(disk.list("staging/scratch")) == []


def test_of_many_writers_at_once_one_wins(place):
    disks = [disk_at(place) for _ in range(8)]
    barrier = threading.Barrier(8)

    def write(number):
        barrier.wait()
        try:
            disks[number].create("a/race", f"writer {number}".encode())
        except AlreadyExists:
            return None
        return f"writer {number}".encode()

    with ThreadPoolExecutor(8) as threads:
        won = [each for each in threads.map(write, range(8)) if each]
    assert won == [disks[0].read("a/race")]


def test_writers_in_processes_of_their_own_win_each_number_once(place):
    program = (
        "import sys; from artifacts.disks import disk_at; from artifacts.errors import AlreadyExists\n"
        "disk, won = disk_at(sys.argv[1]), []\n"
        "for number in range(20):\n"
        "    try: disk.create(f'events/{number:08d}.json', sys.argv[2].encode())\n"
        "    except AlreadyExists: continue\n"
        "    won.append(number)\n"
        "print(*won)"
    )
    ways = [[sys.executable, "-c", program, place, f"process {number}"] for number in range(3)]
    running = [subprocess.Popen(way, stdout=subprocess.PIPE, text=True) for way in ways]
    won = [[int(each) for each in process.communicate()[0].split()] for process in running]
    assert sorted(number for numbers in won for number in numbers) == list(range(20))
    disk = disk_at(place)
    for number, numbers in enumerate(won):
        assert all(disk.read(f"events/{each:08d}.json") == f"process {number}".encode() for each in numbers)


def test_keys_are_listed_in_order_by_folder(disk):
    for key in ("a/2", "a/1", "ab/3", "a/sub/4", "b"):
        disk.create(key, b"x")
    assert sorted(disk.list("a")) == ["a/1", "a/2", "a/sub/4"]
    assert [key for key in disk.list("a") if key.count("/") == 1] == ["a/1", "a/2"]
    assert list(disk.list("nothing")) == []


def test_more_keys_than_a_request_lists(disk, monkeypatch):
    monkeypatch.setattr("artifacts.objects._LISTED", 40)
    number = KEYS_A_REQUEST * 3 // 2
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda each: disk.create(f"many/{each:05d}", b""), range(number)))
    assert list(disk.list("many")) == [f"many/{each:05d}" for each in range(number)]


def test_what_is_removed_is_gone_and_removing_it_again_is_harmless(disk):
    disk.create("a/b", b"x")
    disk.remove("a/b")
    disk.remove("a/b")
    assert not disk.exists("a/b")
    with pytest.raises(NotFound):
        disk.read("a/b")
    disk.create("a/b", b"y")
    assert disk.read("a/b") == b"y"


@pytest.mark.parametrize("method", ["read", "hash", "modified"])
def test_what_is_not_there_is_not_found(disk, method):
    with pytest.raises(NotFound, match="a/b"):
        getattr(disk, method)("a/b")
    with pytest.raises(NotFound, match="a/b"):
        disk.materialize("a/b", "0" * 64)


@pytest.mark.parametrize("size", [0, 10, LARGE])
def test_a_file_is_created_and_materialized(disk, size):
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    with disk.scratch() as folder:
        (folder / "file").write_bytes(content)
        disk.create("a/file", folder / "file")
        (folder / "copy").write_bytes(content)
        with pytest.raises(AlreadyExists):
            disk.create("a/file", folder / "copy")
    sha256 = hashlib.sha256(content).hexdigest()
    assert disk.hash("a/file") == (sha256, size)
    for _ in range(2):
        found = disk.materialize("a/file", sha256)
        assert found[1:] == (sha256, size)
        assert found.path.read_bytes() == content
    assert not folder.exists()


def test_a_file_of_another_hash_is_told_by_its_own(disk):
    disk.create("a/file", b"content")
    found = disk.materialize("a/file", "0" * 64)
    assert found.sha256 == hashlib.sha256(b"content").hexdigest()
    assert found.size == 7


def test_when_a_key_was_written(disk):
    disk.create("a/b", b"x")
    assert abs(disk.modified("a/b") - time.time()) < 60


def test_a_lock_is_held_by_one(place):
    one, other = disk_at(place), disk_at(place)
    with one.hold("staging/turns/x") as mine:
        assert mine
        with other.hold("staging/turns/x") as its:
            assert not its
    with other.hold("staging/turns/x") as its:
        assert its


def test_the_store_publishes_resolves_and_verifies(place):
    store = Store(place)
    with store.disk.scratch() as folder:
        (folder / "large").write_bytes(bytes(LARGE))
        files = {"small.json": b"{}", "large.bin": folder / "large"}
        ref = store.publish(
            "weights", "shoes", files, settings={}, inputs={}, facts={}, rendered=lambda: {"a.md": b"a"}
        )
    with store.disk.scratch() as folder:
        (folder / "large").write_bytes(bytes(LARGE))
        files = {"small.json": b"{}", "large.bin": folder / "large"}
        assert store.publish("weights", "shoes", files, settings={}, inputs={}, facts={}) == ref
    assert list(store.refs()) == [ref]
    assert store.resolve(ref.version[:6]) == ref
    artifact = store.open(ref)
    assert artifact.read("small.json") == b"{}"
    assert artifact.path("large.bin").stat().st_size == LARGE
    assert store.verify().corrupt == []
    assert store.verify().checked == 4


def test_a_store_is_opened_by_its_place(place):
    assert str(open_store(place).disk.root) == place


def test_another_format_is_refused(place):
    disk_at(place).create("store.json", b'{"format": 1}')
    with pytest.raises(Corrupt, match=r"store\.json"):
        Store(place).prepare()


@pytest.fixture(params=["folder", "bucket"])
def other_place(request, tmp_path, place):
    """Where another store may be; a bucket's is beside the first."""
    if request.param == "folder":
        return str(tmp_path / "copy")
    return f"{request.getfixturevalue('bucket')}-copy"


@pytest.fixture
def filled(place, tmp_path):
    """A store with a version of several kinds, decisions and a run's record."""
    store = Store(place)
    made = [
        store.publish("datasets", "shoes", {"train.arrow": b"train"}, settings={}, inputs={}, facts={}),
        store.publish(
            "weights", "shoes", {"w.bin": b"w"}, settings={}, inputs={}, facts={}, rendered=lambda: {"a": b"a"}
        ),
    ]
    none = pa.array([None], pa.string())
    rows = pa.table({"path": ["a"], "label": ["x"], "confidence": pa.array([0.9], pa.float32()), "error": none})
    for name in ("monday", "tuesday"):  # they share a part
        part = Shards(store.disk).finish("record", "digest", rows)
        files = {"data/part-00000.parquet": Shared(part.key, part.sha256, store.disk.hash(part.key)[1])}
        made.append(store.publish("predictions", name, files, settings={}, inputs={}, facts={}))
    aliases.promote(store.disk, made[1], "the first")
    aliases.promote(store.disk, made[1], "once more")
    runs.record(store.disk, "one", {"weights": str(made[1])})
    return store, made


def test_a_store_is_copied_and_copied_again(filled, other_place):
    source, made = filled
    target = Store(other_place)
    assert copying.copy(source, target).copied == 7
    assert sorted(target.refs()) == sorted(made)
    assert target.verify().corrupt == []
    assert [event.reason for event in aliases.history(target.disk, "weights", "shoes", "champion")] == [
        "the first", "once more",
    ]  # fmt: skip
    aliases.promote(source.disk, made[1], "later")
    again = copying.copy(source, target)
    assert (again.copied, again.present, again.bytes) == (1, 7, 0)
    for ref in made:
        assert target.open(ref).manifest["provenance"] == source.open(ref).manifest["provenance"]
        for file in source.open(ref).files:
            assert target.open(ref).path(file).read_bytes() == source.open(ref).path(file).read_bytes()


def test_a_store_with_another_history_is_no_copy(filled, other_place):
    source, made = filled
    target = Store(other_place)
    aliases.promote(target.disk, made[1], "another one's")
    with pytest.raises(StoreError, match=r"to be a copy of .*, found another aliases/weights/shoes/champion/00000001"):
        copying.copy(source, target)


def test_what_is_damaged_is_not_copied(filled, other_place):
    source, made = filled
    source.disk.remove(source.open(made[1]).key("w.bin"))
    with pytest.raises(Corrupt, match="w.bin is missing"):
        copying.copy(source, Store(other_place))
    assert made[1] not in list(Store(other_place).refs())
