"""pytest tests/test_repair.py: a repair removes what is damaged for certain, and nothing else."""

import json

import pytest
from published import damage, unreadable

from artifacts.disk import LocalDisk
from artifacts.errors import StoreError
from artifacts.store import Artifact, Store
from tasks.shared.collecting import repair_store


def publish(store, name="shoes", **files):
    return store.publish(
        "weights", name, {file: content * 100 for file, content in files.items()}, settings={}, inputs={}, facts={}
    )


def path_of(store, ref, file):
    return store.disk.local_path(f"{ref.folder}/{file}")


def end(store):
    """What published is over."""
    for key in list(store.disk.list("runs/living")):
        store.disk.remove(key)


def rot(store, ref, file):
    end(store)
    damage(path_of(store, ref, file), b"rotten")


def test_what_could_not_be_read_in_passing_is_told_and_never_removed(store, lookbook):
    ref = publish(store, a=b"1", b=b"2")
    end(store)
    with unreadable(path_of(store, ref, "a")):
        found = store.verify()
        [sentence] = found.corrupt
        assert sentence.startswith(f"can't read {ref.folder}/a in {store.disk.root}: ")
        assert sentence.endswith("; whether it is damaged is not known")
        assert found.damaged == {}
        run = lookbook("verify", "--repair", "--yes", "--json")
        assert (run.returncode, json.loads(run.stdout)["repair"]) == (1, [])
    assert repair_store(store, found.damaged, print, yes=True) == []
    assert store.verify(ref).corrupt == []


def test_what_is_unreadable_when_it_is_repaired_stops_that(store):
    first, second = publish(store, "one", a=b"1"), publish(store, "two", b=b"2")
    rot(store, first, "a")
    rot(store, second, "b")
    damaged = store.verify().damaged
    with unreadable(path_of(store, second, "b")), pytest.raises(StoreError, match=rf"can't read {second.folder}/b"):
        repair_store(store, damaged, print, yes=True)
    assert store.has(first)
    assert store.has(second)


def test_where_the_same_bytes_may_be_but_can_not_be_read_nothing_is_removed(store):
    ref, other = publish(store, a=b"1"), publish(store, "twin", a=b"1")
    rot(store, ref, "a")
    damaged = store.verify().damaged
    with unreadable(path_of(store, other, "a")), pytest.raises(StoreError, match=rf"can't read {other.folder}/a"):
        repair_store(store, damaged, print, yes=True)
    [done] = repair_store(store, damaged, print, yes=True)
    assert (done.mended, done.same) == (True, str(other))
    assert store.verify().corrupt == []


@pytest.mark.parametrize("file", ["a", "manifest.json"])
@pytest.mark.parametrize("yes", [False, True])
def test_what_is_whole_by_now_is_left_and_said_so(store, file, yes):
    ref = publish(store, a=b"1")
    path = path_of(store, ref, file)
    content = path.read_bytes()
    rot(store, ref, file)
    damaged = store.verify().damaged
    damage(path, content)
    [found] = repair_store(store, damaged, print, yes=yes)
    assert (found.whole, found.mended, found.bytes, found.refused) == (True, False, None, None)
    assert store.verify(ref).corrupt == []


def test_what_is_removed_meanwhile_is_left_out(store):
    ref = publish(store, a=b"1")
    rot(store, ref, "a")
    damaged = store.verify().damaged
    repair_store(store, damaged, print, yes=True)
    assert repair_store(store, damaged, print, yes=True) == []


def test_it_is_mended_before_what_mends_it_is_removed(store):
    """One file of each is damaged; the second's has the bytes nowhere else, and goes."""
    first, second = publish(store, "one", a=b"1", b=b"2"), publish(store, "two", b=b"2", c=b"3")
    rot(store, first, "b")
    rot(store, second, "c")
    damaged = dict(reversed(store.verify().damaged.items()))
    done = {each.ref: each for each in repair_store(store, damaged, print, yes=True)}
    assert done[str(first)].mended
    assert done[str(second)].bytes is not None
    assert store.verify().corrupt == []


def test_each_file_is_hashed_once(store, monkeypatch):
    first, other = publish(store, a=b"1", b=b"2"), publish(store, "twin", a=b"1")
    rot(store, first, "a")
    damaged, hashed = store.verify().damaged, []
    real = LocalDisk.hash
    monkeypatch.setattr(LocalDisk, "hash", lambda disk, key: hashed.append(key) or real(disk, key))
    [done] = repair_store(store, damaged, print, yes=True)
    assert (done.mended, done.same) == (True, str(other))
    assert sorted(hashed) == [f"{first.folder}/a", f"{first.folder}/b"]


def test_a_cache_that_is_emptied_meanwhile_is_filled_again(bucket, monkeypatch):
    store = Store(bucket)
    ref, _ = publish(store, a=b"1"), publish(store, "twin", a=b"1")
    end(store)
    store.disk.replace(f"{ref.folder}/a", b"rotten")
    damaged, gone = store.verify().damaged, []

    real = Artifact.path

    def path(artifact, file):
        found = real(artifact, file)
        if not gone:
            gone.append(found.unlink())
        return found

    monkeypatch.setattr(Artifact, "path", path)
    [done] = repair_store(store, damaged, print, yes=True)
    assert done.mended
    assert gone
    assert store.verify().corrupt == []
