"""pytest tests/test_shards.py: records of finished shards: who is first, whose answer was lost, what is fresh."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifacts import shards as module
from artifacts.documents import seal
from artifacts.errors import AlreadyExists
from artifacts.shards import Part, Shards, record_digest

DIGEST = "d" * 64
ROOT = Path(__file__).parents[1]


@pytest.fixture
def shards(store):
    store.prepare()
    return Shards(store.disk)


def part(store, shards, content=b"rows"):
    with store.disk.scratch() as scratch:
        (scratch / "part").write_bytes(content)
        key, sha256 = shards.create(scratch / "part")
    return Part(key, sha256, "entries", "a.png", 1, {"shoe": 1}, {})


def parts(store):
    return list(store.disk.list("staging/parts"))


def test_the_first_part_counts_and_an_equal_one_is_dropped(store, shards):
    first = shards.record(DIGEST, part(store, shards))
    assert shards.finished(DIGEST) == first
    assert shards.record(DIGEST, part(store, shards)) == first
    assert parts(store) == [first.key]
    other = shards.record(DIGEST, part(store, shards, b"other"))
    assert shards.finished(DIGEST) == other != first


def test_a_part_that_is_damaged_or_gone_is_not_finished(store, shards):
    first = shards.record(DIGEST, part(store, shards))
    store.disk.remove(first.key)
    assert shards.finished(DIGEST) is None
    again = shards.record(DIGEST, part(store, shards))
    assert shards.finished(DIGEST) == again
    assert again.key != first.key


def test_a_damaged_record_is_written_anew(store, shards):
    first = shards.record(DIGEST, part(store, shards))
    [key] = store.disk.list(f"staging/shards/{DIGEST}")
    path = store.disk.local_path(key)
    content = path.read_bytes().replace(b"shoe", b"boot")
    path.unlink()
    path.write_bytes(content)
    assert shards.finished(DIGEST) is None
    again = shards.record(DIGEST, part(store, shards))
    assert shards.finished(DIGEST) == again != first


def test_other_files_beside_the_records_are_none(store, shards):
    first = shards.record(DIGEST, part(store, shards))
    for name in ("zz.json~", ".00000002.json.swp", "00000002.json.bak"):
        store.disk.create(f"staging/shards/{DIGEST}/{name}", b"x")
    assert shards.finished(DIGEST) == shards.record(DIGEST, part(store, shards)) == first


def test_a_record_whose_answer_was_lost_keeps_its_part(store, shards, monkeypatch):
    """A server that wrote the record, and whose answer did not arrive: the part that it names was removed."""
    create, lost = store.disk.create, []

    def lose_one_answer(key, content):
        create(key, content)
        if key.startswith("staging/shards") and not lost:
            lost.append(key)
            raise AlreadyExists(key)

    monkeypatch.setattr(store.disk, "create", lose_one_answer)
    first = shards.record(DIGEST, part(store, shards))
    assert lost
    assert shards.finished(DIGEST) == first
    assert parts(store) == [first.key]
    assert len(list(store.disk.list(f"staging/shards/{DIGEST}"))) == 1


def test_many_writers_of_one_shard_leave_one_part(store, shards):
    made = [part(store, shards) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        recorded = set(pool.map(lambda each: shards.record(DIGEST, each).key, made))
    assert parts(store) == [shards.finished(DIGEST).key]
    assert recorded == set(parts(store))


def test_a_fresh_scoring_knows_its_own_shards_alone(store, shards):
    first = shards.record(DIGEST, part(store, shards))
    mark = shards.begin_fresh("job")
    assert shards.begin_fresh("job") == mark != shards.begin_fresh("other job")
    assert shards.finished(DIGEST, mark) is None
    again = shards.record(DIGEST, part(store, shards), mark)
    assert again == first, "the same rows are one part"
    assert parts(store) == [first.key]
    assert shards.finished(DIGEST, mark) == shards.finished(DIGEST) == first
    shards.end_fresh("job", mark)
    assert shards.finished(DIGEST, shards.begin_fresh("job")) is None


def test_a_fresh_scoring_of_a_process_that_works_is_not_gone_on_with(store, shards, tmp_path):
    begin = f"import artifacts.shards as s; print(s.Shards(Store({str(store.disk.root)!r}).disk).begin_fresh('job'))"
    code = f"import sys; from artifacts.store import Store; {begin}; sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:
        theirs = other.stdout.readline().strip()
        mine = shards.begin_fresh("job")
        assert mine != theirs
        other.stdin.close()
    shards.end_fresh("job", theirs)
    assert shards.begin_fresh("job") == mine, "the end of another one is not mine"


def test_a_fresh_scoring_whose_process_has_ended_is_gone_on_with(store, shards, tmp_path):
    code = "import sys; from artifacts.store import Store; from artifacts.shards import Shards; "
    code += f"print(Shards(Store({str(store.disk.root)!r}).disk).begin_fresh('job'))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert shards.begin_fresh("job") == ended.stdout.strip()


def test_a_fresh_scoring_of_long_ago_is_not_gone_on_with(store, shards, monkeypatch):
    mark = shards.begin_fresh("job")
    monkeypatch.setattr(module, "FRESH_SECONDS", 0)
    assert shards.begin_fresh("job") != mark


def test_a_fresh_scoring_that_began_by_a_clock_that_was_ahead_is_not_gone_on_with(store, shards, monkeypatch):
    now = time.time
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: now() + 365 * 86400)
        mark = shards.begin_fresh("job")
    assert shards.begin_fresh("job") != mark


def test_records_of_an_earlier_lookbook_are_read(store, shards):
    made = part(store, shards)
    document = {**vars(made), "writer": "4f" * 16}
    store.disk.create(f"staging/shards/{DIGEST}/00000001.json", seal(json.loads(json.dumps(document))))
    assert shards.finished(DIGEST) == made


def test_the_same_shard_of_another_folder_is_on_record_by_itself():
    """There, files of the same paths, sizes and times may be other files."""
    assert record_digest(DIGEST, "/srv/one") == record_digest(DIGEST, "/srv/one")
    assert record_digest(DIGEST, "/srv/one") != record_digest(DIGEST, "/srv/other")
    assert record_digest(DIGEST, "/srv/one") != record_digest("e" * 64, "/srv/one")
