"""pytest tests/test_restoring.py: a copy into a damaged store mends it, one from a store that can't be read brings the
rest, and what a copy says it wrote is what it wrote."""

import hashlib
import subprocess
import sys

import pytest
from environment import WITHOUT_ROOTS_RIGHTS
from published import damage, remove, unreadable

from artifacts import aliases, copying
from artifacts.bucket import BucketDisk
from artifacts.disk import LocalDisk
from artifacts.documents import unseal
from artifacts.errors import Corrupt, SourceUnreadable, StoreAway, StoreError
from artifacts.labels import Labels, Statement
from artifacts.publishing import Shared
from artifacts.store import Artifact, Store

pytestmark = pytest.mark.slow  # stores are copied by the dozen


@pytest.fixture
def target(tmp_path):
    return Store(tmp_path / "copy")


@pytest.fixture(params=["folder", "bucket"])
def any_target(request, tmp_path):
    return Store(request.getfixturevalue("bucket") if request.param == "bucket" else tmp_path / "copy")


def publish(store, name="shoes", page=b"<p>", **files):
    return store.publish(
        "weights", name, {"a": b"1", **files}, rendered=lambda: {"page.html": page}, settings={}, inputs={}, facts={}
    )


def tables(store, *contents):
    """A table a tuple of parts, which share those that have one content."""
    store.prepare()
    made = []
    for number, parts in enumerate(contents):
        files = {}
        for index, part in enumerate(parts):
            key, content = f"staging/parts/{part}.parquet", part.encode() * 1000
            if not store.disk.exists(key):
                store.disk.create(key, content)
            files[f"data/part-{index:05d}.parquet"] = Shared(key, hashlib.sha256(content).hexdigest(), len(content))
        made.append(store.publish("predictions", "shop", files, settings={"n": number}, inputs={}, facts={"parts": []}))
    return made


def say(store):
    Labels(store.disk, "shop").say("said-1", "ann", [Statement("0" * 64, "class", "x")])


def rot(store, key):
    if isinstance(store.disk, LocalDisk):
        damage(store.disk.local_path(key), b"rotten")
    else:
        store.disk.replace(key, b"rotten")


def lose(store, key):
    if isinstance(store.disk, LocalDisk):
        remove(store.disk.local_path(key))
    else:
        store.disk.remove(key)


@pytest.mark.parametrize(
    ("harm", "file"), [(rot, "a"), (rot, "page.html"), (rot, "manifest.json"), (lose, "a"), (lose, "page.html")]
)
def test_what_is_damaged_in_the_target_is_mended_by_the_source(store, any_target, harm, file):
    ref, whole = publish(store), publish(store, "boots")
    copying.copy(store, any_target)
    harm(any_target, f"{ref.folder}/{file}")
    found = copying.copy(store, any_target)
    assert (found.copied, found.present, found.mended) == (0, 2, 1)
    assert found.bytes == {"a": 1, "page.html": 3, "manifest.json": 0}[file]
    assert any_target.verify().corrupt == []
    assert any_target.open(ref).manifest == store.open(ref).manifest
    assert any_target.has(whole)
    again = copying.copy(store, any_target)
    assert (again.present, again.mended, again.bytes) == (2, 0, 0)


def test_parts_that_are_shared_stay_so_when_they_are_mended(store, any_target):
    made = tables(store, "ab", "bc", "cb")
    copying.copy(store, any_target)
    part = any_target.open(made[0]).key("data/part-00001.parquet")
    rot(any_target, part)
    assert len(any_target.verify().damaged) == 3
    found = copying.copy(store, any_target)
    assert (found.mended, found.bytes) == (3, 1000)
    assert any_target.verify().corrupt == []
    if isinstance(any_target.disk, LocalDisk):
        inodes = {path.stat().st_ino for path in any_target.disk.root.glob("predictions/**/*.parquet")}
        assert len(inodes) == 3


def test_a_version_that_the_target_made_itself_stays_as_it_made_it(store, target):
    """Equal versions may differ in when they were made, and in how their pages came out."""
    ref = publish(store, page=b"<p>of the source")
    assert publish(target, page=b"<p>of the target") == ref
    before = target.disk.read(f"{ref.folder}/manifest.json")
    assert copying.copy(store, target).mended == 0
    rot(target, f"{ref.folder}/a")
    assert copying.copy(store, target).mended == 1
    assert target.disk.read(f"{ref.folder}/manifest.json") == before
    assert target.open(ref).read("page.html") == b"<p>of the target"
    rot(target, f"{ref.folder}/page.html")
    assert copying.copy(store, target).mended == 1
    assert target.verify().corrupt == []
    assert target.open(ref).read("page.html") == b"<p>of the source"
    assert target.open(ref).manifest["provenance"] == unseal(before, "manifest.json")["provenance"]


def test_a_part_is_mended_where_the_target_has_it(store, bucket):
    """An older copy may have it in the folder of its version, as a folder of a store has."""
    target = Store(bucket)
    [ref] = tables(store, "ab")
    files = {file: store.open(ref).path(file) for file in store.open(ref).files}
    identity = store.open(ref).identity
    of_it = {name: identity[name] for name in ("settings", "inputs", "facts")}
    assert target.publish("predictions", "shop", files, **of_it) == ref
    rot(target, f"{ref.folder}/data/part-00000.parquet")
    found = copying.copy(store, target)
    assert (found.mended, found.bytes) == (1, 1000)
    assert target.verify().corrupt == []


def test_one_file_that_can_not_be_mended_keeps_no_other_back(store, target):
    ref = publish(store, b=b"2")
    copying.copy(store, target)
    for file in "ab":
        rot(target, f"{ref.folder}/{file}")
    rot(store, f"{ref.folder}/a")
    with pytest.raises(Corrupt, match=f"{ref.folder}/a is damaged"):
        copying.copy(store, target)
    [left] = target.verify().corrupt
    assert left.startswith(f"{ref.folder}/a is damaged")


def test_what_the_source_can_not_mend_is_told(store, target):
    ref, rest = publish(store), publish(store, "boots")
    copying.copy(store, target)
    rot(target, f"{ref.folder}/a")
    rot(target, f"{rest.folder}/a")
    rot(store, f"{ref.folder}/a")
    say(store)
    with pytest.raises(Corrupt, match=rf"{ref.folder}/a is damaged.*\(this is of {target.disk.root}\)"):
        copying.copy(store, target)
    assert target.verify(rest).corrupt == []
    assert list(target.disk.list("labels"))


def test_it_needs_no_right_that_its_owner_has_not(tmp_path):
    """As an ordinary user, whom modes bind: what is damaged, or missing, is in a folder that is read-only."""
    program = (
        "import sys; from pathlib import Path; from artifacts.store import Store; from artifacts.copying import copy\n"
        "source, target = Store(Path(sys.argv[1])), Store(Path(sys.argv[2]))\n"
        "ref = source.publish('datasets', 'a', {'b': b'1'}, settings={}, inputs={}, facts={})\n"
        "copy(source, target)\n"
        "folder = target.disk.local_path(ref.folder)\n"
        "for file in ('b', 'manifest.json'):\n"
        "    path = folder / file\n"
        "    path.chmod(0o644); path.write_bytes(b'?'); path.chmod(0o444)\n"
        "    assert copy(source, target).mended == 1\n"
        "for left in (False, True):\n"
        "    folder.chmod(0o755); (folder / 'b').unlink()\n"
        "    if left: (folder / 'manifest.json').chmod(0o644); (folder / 'manifest.json').write_bytes(b'?')\n"
        "    folder.chmod(0o555)\n"
        "    assert copy(source, target).mended == 1\n"
        "assert target.verify().corrupt == []\n"
        "(source.disk.local_path('datasets')).chmod(0)\n"
        "try: copy(source, target)\n"
        'except Exception as error: assert "can\'t list" in str(error), error\n'
        "else: raise AssertionError\n"
    )
    command = [*WITHOUT_ROOTS_RIGHTS, sys.executable, "-c", program, tmp_path / "store", tmp_path / "copy"]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("file", ["a", "manifest.json", "event"])
def test_what_can_not_be_read_of_the_source_keeps_nothing_else_back(store, target, file):
    ref, rest = publish(store, "boots"), publish(store)
    for number in range(2):
        aliases.promote(store.disk, ref, f"reason {number}")
    say(store)
    event = "aliases/weights/boots/champion/00000002.json"
    key = event if file == "event" else f"{ref.folder}/{file}"
    with unreadable(store.disk.local_path(key)):
        with pytest.raises(SourceUnreadable, match=rf"can't read {key} in "):
            copying.copy(store, target)
        assert target.has(rest)
        assert list(target.disk.list("labels")) == list(store.disk.list("labels"))
        assert target.has(ref) == (file == "event")
        assert target.disk.exists(event) == (file != "event")
    copying.copy(store, target)
    assert target.verify().corrupt == []
    assert set(target.refs()) == {ref, rest}


def test_a_target_that_can_not_be_written_ends_it(store, target):
    publish(store, "boots")
    target.prepare()
    target.disk.local_path("weights").touch()
    seen = []
    with pytest.raises(StoreError, match=r"can't write weights/boots/.* in the store .*copy") as error:
        copying.copy(store, target, seen.append)
    assert not isinstance(error.value, SourceUnreadable)
    assert len(seen) == 1


@pytest.mark.parametrize("lost", [1, 2, 9])
def test_an_answer_that_is_lost_is_no_end_and_a_source_that_is_away_is(store, target, monkeypatch, lost):
    made = [publish(store, f"name-{number}") for number in range(6)]
    real, asked = Artifact.path, []

    def path(artifact, file):
        if artifact.disk is store.disk and file == "a":
            asked.append(file)
            if len(asked) <= lost:
                raise StoreAway("no answer")
        return real(artifact, file)

    monkeypatch.setattr(Artifact, "path", path)
    with pytest.raises(SourceUnreadable, match="no answer"):
        copying.copy(store, target)
    assert set(target.refs()) == (set(made[lost:]) if lost < 3 else set())
    assert len(asked) == (6 if lost < 3 else 3)


def test_what_is_told_is_no_longer_than_people_read(store, target):
    made = [publish(store, f"name-{number:02}") for number in range(14)]
    for ref in made:
        rot(store, f"{ref.folder}/a")
    with pytest.raises(Corrupt, match=r"; and 4 more like these$") as error:
        copying.copy(store, target)
    assert str(error.value).count("is damaged") == 10


@pytest.mark.parametrize("size", [1, 33 << 20])
def test_a_cache_that_is_emptied_beside_a_copy(bucket, any_target, monkeypatch, size):
    source = Store(f"{bucket}/source")
    refs = [publish(source, "boots", b=b"x" * size), publish(source)]
    real, gone = Artifact.path, []

    def path(artifact, file):
        found = real(artifact, file)
        if artifact.disk is source.disk and gone.count(file) < 2:
            gone.append(file)
            found.unlink()
        return found

    monkeypatch.setattr(Artifact, "path", path)
    assert copying.copy(source, any_target).copied == 2
    assert set(gone) == {"a", "b", "page.html"}
    assert sorted(any_target.refs()) == sorted(refs)
    monkeypatch.undo()


def test_bytes_are_what_was_written_and_what_is_known_is_not_read_again(store, bucket, monkeypatch):
    target = Store(bucket)
    tables(store, "ab")
    assert copying.copy(store, target).bytes == 2000
    tables(store, "ab", "abc", "bc")
    read = []
    real = BucketDisk.hash
    monkeypatch.setattr(BucketDisk, "hash", lambda disk, key: read.append(key) or real(disk, key))
    found = copying.copy(store, target)
    assert (found.copied, found.bytes) == (2, 1000)
    assert len(read) == 1, "only a part that is not known to be there"


def test_a_copy_that_is_repeated_into_a_bucket_reads_what_others_wrote_and_once(store, bucket, tmp_path, monkeypatch):
    refs = [*tables(store, "ab"), publish(store)]

    def on(machine):
        monkeypatch.setenv("LOOKBOOK_CACHE", str(tmp_path / machine))
        return Store(bucket)

    assert copying.copy(store, on("one")).copied == 2
    read = []
    real = BucketDisk.hash
    monkeypatch.setattr(BucketDisk, "hash", lambda disk, key: read.append(key) or real(disk, key))
    assert copying.copy(store, on("one")).present == 2
    assert read == [], "it wrote them itself"
    for wanted in (4, 0):
        assert copying.copy(store, on("another")).present == 2
        assert len(read) == wanted
        read.clear()
    target = on("one")
    rot(target, target.open(refs[0]).key("data/part-00000.parquet"))
    assert copying.copy(store, target).mended == 1
    assert target.verify().corrupt == []


def test_a_part_that_an_interrupted_copy_left_is_not_counted(store, bucket):
    target = Store(bucket)
    [ref] = tables(store, "ab")
    copying.copy(store, target)
    lose(target, f"{ref.folder}/manifest.json")
    found = copying.copy(store, target)
    assert (found.copied, found.bytes) == (1, 0)
    assert target.verify().corrupt == []
