"""pytest tests/test_store.py"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from artifacts.documents import digest
from artifacts.errors import AlreadyExists, Ambiguous, Corrupt, InvalidRef, NotFound, StoreError
from artifacts.refs import Ref
from artifacts.store import Store


def publish(store, name="shoes", content=b"data", kind="datasets", **more):
    return store.publish(kind, name, {"data.bin": content}, settings={"a": 1}, inputs={}, facts={}, **more)


def files(store):
    return sorted(str(path.relative_to(store.disk.root)) for path in store.disk.root.rglob("*") if path.is_file())


def test_a_published_artifact_comes_back(store):
    ref = publish(store, rendered=lambda: {"page.html": b"<p>"}, made={"seconds": 1.5})
    artifact = store.open(ref)
    assert artifact.read("data.bin") == b"data"
    assert artifact.path("page.html").read_bytes() == b"<p>"
    assert artifact.manifest["provenance"]["seconds"] == 1.5
    assert artifact.identity["files"] == {"data.bin": {"sha256": hashlib.sha256(b"data").hexdigest(), "bytes": 4}}


def test_the_version_is_the_digest_of_the_identity_as_the_contract_says(store):
    ref = publish(store)
    manifest = json.loads((store.disk.root / ref.folder / "manifest.json").read_bytes())
    dense = json.dumps(manifest["identity"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert ref.version == hashlib.sha256(dense).hexdigest()[:16]


def test_publishing_twice_gives_one_version_and_changes_nothing(store):
    first = publish(store, made={"seconds": 1})
    before = {path: (store.disk.root / path).stat().st_mtime_ns for path in files(store)}
    assert publish(store, made={"seconds": 2}) == first
    assert {path: (store.disk.root / path).stat().st_mtime_ns for path in files(store)} == before


def test_other_content_settings_or_inputs_are_other_versions(store):
    refs = {publish(store), publish(store, content=b"other"), publish(store, name="shirts")}
    assert len({ref.version for ref in refs}) == 3


def test_a_version_without_manifest_is_not_there(store):
    ref = publish(store)
    (store.disk.root / ref.folder / "manifest.json").unlink()
    assert list(store.refs()) == []
    with pytest.raises(NotFound, match=r"datasets/shoes@\w+ is not in the store"):
        store.open(ref)
    assert publish(store) == ref, "an unfinished version is finished by the next attempt"
    assert store.open(ref).read("data.bin") == b"data"


def test_leftovers_with_other_bytes_are_named_not_trusted(store):
    ref = publish(store)
    (store.disk.root / ref.folder / "manifest.json").unlink()
    (store.disk.root / ref.folder / "data.bin").write_bytes(b"DATA")
    with pytest.raises(Corrupt, match=r"data\.bin is damaged: an unfinished run left other bytes there"):
        publish(store)


@pytest.mark.parametrize("damage", [b"dat", b"data!", b"dada"])
def test_damaged_files_are_refused_by_name(store, damage):
    ref = publish(store)
    (store.disk.root / ref.folder / "data.bin").write_bytes(damage)
    with pytest.raises(Corrupt, match=rf"{ref.folder}/data\.bin is damaged: expected 4 bytes"):
        store.open(ref).read("data.bin")
    with pytest.raises(Corrupt, match=r"data\.bin is damaged"):
        store.open(ref).path("data.bin")
    assert len(store.verify().corrupt) == 1


def test_missing_files_are_refused_by_name(store):
    ref = publish(store)
    (store.disk.root / ref.folder / "data.bin").unlink()
    with pytest.raises(Corrupt, match=r"data\.bin is missing"):
        store.open(ref).read("data.bin")
    assert "data.bin is missing" in store.verify(ref).corrupt[0]


def test_verify_counts_files_manifests_and_alias_events(store):
    from artifacts import aliases

    ref = publish(store, kind="weights", rendered=lambda: {"page.html": b"<p>"})
    aliases.promote(store.disk, ref, "because")
    assert (store.verify().checked, store.verify().corrupt) == (4, [])
    event = store.disk.root / "aliases/weights/shoes/champion/00000001.json"
    event.write_bytes(event.read_bytes().replace(b"because", b"becausf"))
    assert "aliases/weights/shoes/champion/00000001.json is damaged" in store.verify().corrupt[0]


def test_a_manifest_of_another_version_is_refused(store):
    one, other = publish(store), publish(store, content=b"other")
    folder = store.disk.root
    (folder / one.folder / "manifest.json").write_bytes((folder / other.folder / "manifest.json").read_bytes())
    with pytest.raises(Corrupt, match="its identity belongs to another version"):
        store.open(one)


def test_short_forms(store):
    from artifacts import aliases

    shoes = publish(store, kind="weights")
    shirts = publish(store, name="shirts", kind="weights")
    for text in (
        str(shoes),
        f"shoes@{shoes.version}",
        shoes.version,
        shoes.version[:6],
        f"weights/{shoes.version[:4]}",
    ):
        assert store.resolve(text) == shoes
    with pytest.raises(NotFound, match="nothing in the store .* fits 'champion'"):
        store.resolve("champion")
    aliases.promote(store.disk, shoes, "first")
    assert store.resolve("champion") == store.resolve("weights/shoes@champion") == shoes
    aliases.promote(store.disk, shirts, "first")
    with pytest.raises(Ambiguous, match=f"'champion' fits 2 artifacts, name one: {shirts}, {shoes}"):
        store.resolve("champion")
    assert store.resolve("shoes@champion") == shoes
    with pytest.raises(InvalidRef, match="champion is an alias of weights, not of datasets"):
        store.resolve("datasets/champion")
    with pytest.raises(InvalidRef, match="expected one of the weights, found 'datasets/"):
        store.resolve("datasets/12345", "weights")
    for text in ("xyz", "../../etc/passwd", "", "123", "Shoes@1234"):
        with pytest.raises(InvalidRef):
            store.resolve(text)


def test_create_is_exclusive_and_whole(store):
    store.disk.create("a/b", b"one")
    with pytest.raises(AlreadyExists, match="a/b exists already"):
        store.disk.create("a/b", b"two")
    assert store.disk.read("a/b") == b"one"


def test_of_many_creators_one_wins(store):
    def attempt(number):
        try:
            store.disk.create("race/key", str(number).encode())
        except AlreadyExists:
            return None
        return number

    with ThreadPoolExecutor(16) as pool:
        winners = [each for each in pool.map(attempt, range(64)) if each is not None]
    assert len(winners) == 1
    assert store.disk.read("race/key") == str(winners[0]).encode()


@pytest.mark.parametrize("key", ["../out", "/etc/passwd", "a/../b", "a//b", "a/./b", "", "a\0b"])
def test_keys_stay_inside_the_store(store, key):
    with pytest.raises(StoreError, match="is no key of a store"):
        store.disk.create(key, b"x")


def test_a_store_without_exclusive_creation_is_refused(store, monkeypatch):
    monkeypatch.setattr(os, "link", lambda source, target: os.replace(source, target))
    monkeypatch.setattr("pathlib.Path.unlink", lambda self, missing_ok=False: None)
    with pytest.raises(StoreError, match="lets two writers create one file"):
        publish(store)


def test_a_store_of_another_format_is_refused(store):
    from artifacts.documents import seal

    store.disk.create("store.json", seal({"format": 99}))
    with pytest.raises(StoreError, match="has format 99, this Lookbook reads 1"):
        publish(store)


def test_a_failed_fsync_publishes_nothing(store, monkeypatch):
    publish(store)

    def fail(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=r"can't write .* Input/output error; make room or mend the permissions"):
        publish(store, content=b"other")
    monkeypatch.undo()
    assert len(list(store.refs())) == 1
    assert store.verify().corrupt == []


KILLED = """
import os, signal, sys
from pathlib import Path
from artifacts.store import Store
from artifacts import aliases

left = int(sys.argv[2])

def deadly(call):
    def run(*arguments, **more):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **more)
    return run

for name in ("open", "link", "fsync", "close", "mkdir", "unlink", "remove", "stat"):
    setattr(os, name, deadly(getattr(os, name)))
store = Store(Path(sys.argv[1]))
ref = store.publish("weights", "shoes", {"a.bin": b"a" * 70000, "b.bin": b"b"}, settings={}, inputs={}, facts={})
aliases.promote(store.disk, ref, "first")
print("done")
"""


def test_a_kill_at_any_call_leaves_what_was_committed_and_the_next_attempt_finishes(tmp_path):
    earlier = None
    for calls in range(1, 200):
        root = tmp_path / str(calls)
        store = Store(root)
        earlier = publish(store)
        run = subprocess.run([sys.executable, "-c", KILLED, str(root), str(calls)], capture_output=True, text=True)
        assert store.verify().corrupt == []
        assert earlier in list(store.refs())
        ref = store.publish(
            "weights", "shoes", {"a.bin": b"a" * 70000, "b.bin": b"b"}, settings={}, inputs={}, facts={}
        )
        assert store.open(ref).read("a.bin") == b"a" * 70000
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, run.stderr
    assert "done" in run.stdout
    assert calls > 20


def test_the_identity_is_what_other_tools_can_recompute(store):
    ref = publish(store)
    assert digest(store.open(ref).identity)[:16] == ref.version
    assert Ref.parse(str(ref)) == ref
