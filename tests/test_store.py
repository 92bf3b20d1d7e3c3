"""pytest tests/test_store.py"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from environment import WITHOUT_ROOTS_RIGHTS
from published import damage, remove

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
    after = {path for path in files(store) if not path.startswith("runs/living/")}  # it needs the old one, from now on
    assert {path: (store.disk.root / path).stat().st_mtime_ns for path in after} == before


def test_other_content_settings_or_inputs_are_other_versions(store):
    refs = {publish(store), publish(store, content=b"other"), publish(store, name="shirts")}
    assert len({ref.version for ref in refs}) == 3


def test_a_version_without_manifest_is_not_there(store):
    ref = publish(store)
    remove(store.disk.root / ref.folder / "manifest.json")
    assert list(store.refs()) == []
    with pytest.raises(NotFound, match=r"datasets/shoes@\w+ is not in the store"):
        store.open(ref)
    assert publish(store) == ref, "an unfinished version is finished by the next attempt"
    assert store.open(ref).read("data.bin") == b"data"


def test_leftovers_with_other_bytes_are_replaced_not_trusted(store):
    ref = publish(store)
    remove(store.disk.root / ref.folder / "manifest.json")
    damage(store.disk.root / ref.folder / "data.bin", b"DATA")
    assert publish(store) == ref
    assert store.open(ref).read("data.bin") == b"data"


@pytest.mark.parametrize("content", [b"dat", b"data!", b"dada"])
def test_damaged_files_are_refused_by_name(store, content):
    ref = publish(store)
    damage(store.disk.root / ref.folder / "data.bin", content)
    with pytest.raises(Corrupt, match=rf"{ref.folder}/data\.bin is damaged: expected 4 bytes"):
        store.open(ref).read("data.bin")
    with pytest.raises(Corrupt, match=r"data\.bin is damaged"):
        store.open(ref).path("data.bin")
    assert len(store.verify().corrupt) == 1


def test_missing_files_are_refused_by_name(store):
    ref = publish(store)
    remove(store.disk.root / ref.folder / "data.bin")
    with pytest.raises(Corrupt, match=r"data\.bin is missing"):
        store.open(ref).read("data.bin")
    assert "data.bin is missing" in store.verify(ref).corrupt[0]


def test_verify_counts_files_manifests_and_alias_events(store):
    from artifacts import aliases

    ref = publish(store, kind="weights", rendered=lambda: {"page.html": b"<p>"})
    aliases.promote(store.disk, ref, "because")
    assert (store.verify().checked, store.verify().corrupt) == (4, [])
    event = store.disk.root / "aliases/weights/shoes/champion/00000001.json"
    damage(event, event.read_bytes().replace(b"because", b"becausf"))
    assert "aliases/weights/shoes/champion/00000001.json is damaged" in store.verify().corrupt[0]


def test_a_manifest_of_another_version_is_refused(store):
    one, other = publish(store), publish(store, content=b"other")
    folder = store.disk.root
    damage(folder / one.folder / "manifest.json", (folder / other.folder / "manifest.json").read_bytes())
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
    with pytest.raises(NotFound, match="nothing in the store .* fits 'champion'; `lookbook retrain` makes one"):
        store.resolve("champion")
    with pytest.raises(NotFound, match="fits 'walks@latest'; `lookbook list` shows what there is"):
        store.resolve("walks@latest")
    with pytest.raises(NotFound, match="fits 'abcd'; `lookbook list` shows what there is"):
        store.resolve("abcd")
    with pytest.raises(InvalidRef, match="latest or NAME@champion, found 'shoes'"):
        store.resolve("shoes")
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


def test_a_disk_that_refuses_a_lock_is_told(store):
    store.disk.local_path("staging/turns/collect").mkdir(parents=True)  # no file can be opened there
    told = r"can't lock staging/turns/collect in the store .*: Is a directory; make room"
    with pytest.raises(StoreError, match=told), store.disk.hold("staging/turns/collect"):
        pass


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

def deadly(call):
    def run(*arguments, **more):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **more)
    return run

def publish(root):
    for name in ("open", "link", "fsync", "close", "mkdir", "unlink", "remove", "stat"):
        setattr(os, name, deadly(getattr(os, name)))
    store = Store(Path(root))
    ref = store.publish("weights", "shoes", {"a.bin": b"a" * 70000, "b.bin": b"b"}, settings={}, inputs={}, facts={})
    aliases.promote(store.disk, ref, "first")

for line in sys.stdin:
    calls, root = line.rstrip().split(" ", 1)
    left = int(calls)
    child = os.fork()
    if not child:
        publish(root)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.kill
def test_a_kill_at_any_call_leaves_what_was_committed_and_the_next_attempt_finishes():
    """One process imports, and forks one that is killed at each call. In memory where that can be: a kill, unlike a
    power cut, asks nothing of a disk, and 4,000 syncs take long."""
    statuses = []
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as top,
        subprocess.Popen(
            [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as killed,
    ):
        while 0 not in statuses:
            calls = len(statuses) + 1
            store = Store(Path(top) / str(calls))
            earlier = publish(store)
            print(calls, store.disk.root, file=killed.stdin, flush=True)
            statuses.append(int(killed.stdout.readline()))
            assert store.verify().corrupt == []
            assert earlier in list(store.refs())
            ref = store.publish(
                "weights", "shoes", {"a.bin": b"a" * 70000, "b.bin": b"b"}, settings={}, inputs={}, facts={}
            )
            assert store.open(ref).read("a.bin") == b"a" * 70000
        killed.stdin.close()
    assert set(statuses[:-1]) == {-signal.SIGKILL}
    assert 20 < len(statuses) < 200


def mode(path):
    return path.stat().st_mode & 0o7777


def test_what_is_published_is_read_only_and_never_more_readable_than_it_was(store):
    umask = os.umask(0o027)
    try:
        ref = publish(store, kind="predictions", rendered=lambda: {"pages/page.html": b"<p>"})
        store.disk.create("aliases/x/00000001.json", b"{}")
    finally:
        os.umask(umask)
    folder = store.disk.local_path(ref.folder)
    assert {path.name: oct(mode(path)) for path in (folder, *folder.rglob("*"))} == {
        folder.name: "0o550",
        "pages": "0o550",
        "data.bin": "0o440",
        "page.html": "0o440",
        "manifest.json": "0o440",
    }
    assert mode(store.disk.local_path("aliases/x/00000001.json")) == 0o440
    assert mode(folder.parent) == mode(store.disk.local_path("aliases/x")) == 0o750, "the next one goes in there"


def test_a_part_that_is_linked_into_versions_is_read_only_under_all_of_its_names(store):
    with store.disk.scratch() as scratch:
        (scratch / "part").write_bytes(b"rows")
        store.disk.create("staging/parts/one", scratch / "part")
    part = store.disk.local_path("staging/parts/one")
    assert mode(part) == 0o444
    ref = store.publish("predictions", "shop", {"data/a": part}, settings={}, inputs={}, facts={})
    assert store.open(ref).path("data/a").samefile(part)
    store.disk.remove("staging/parts/one")
    assert store.open(ref).read("data/a") == b"rows"


EQUAL_RUNS = """
import sys
from pathlib import Path
from artifacts.store import Store

store = Store(Path(sys.argv[1]))

def publish(draw):
    return store.publish("weights", "shoes", {"data/a.bin": b"a"}, settings={}, inputs={}, facts={}, rendered=draw)

def late():
    ref = publish(lambda: {"early.html": b"<p>"})
    for place in (store.open(ref).folder, store.open(ref).folder / "data"):
        try:
            (place / "more").write_bytes(b"")
        except PermissionError:
            continue
        raise SystemExit(f"{place} can be written to")
    return {"late.html": b"<p>"}

ref = publish(late)
print(*store.open(ref).files, store.verify().corrupt)
"""


def test_an_equal_run_that_was_first_has_closed_the_folder(store):
    """As an ordinary user, whom modes bind: another run publishes while this one draws its pages."""
    run = subprocess.run(
        [*WITHOUT_ROOTS_RIGHTS, sys.executable, "-c", EQUAL_RUNS, str(store.disk.root)], capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("data/a.bin early.html []\n", "")


LINKED_BY_ANOTHER = """
import os, sys
from pathlib import Path
from artifacts.store import Store

os.umask(0o002)
disk = Store(Path(sys.argv[1])).disk
if sys.argv[2] == "make":
    disk.create("staging/parts/one", b"rows")
    os.mkdir(sys.argv[1] + "/predictions")
else:
    disk.create("predictions/shop/x/data", disk.local_path("staging/parts/one"))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_another_users_part_is_copied_where_it_may_not_be_linked(store, open_path):
    shared = store.disk.root
    shared.mkdir()
    shared.chmod(0o2775)
    os.chown(shared, -1, 4321)
    for user, what in ((1001, "make"), (1002, "link")):
        as_user = ["setpriv", f"--reuid={user}", "--regid=4321", "--clear-groups"]
        program = [sys.executable, "-c", LINKED_BY_ANOTHER, str(shared), what]
        run = subprocess.run([*as_user, *program], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    assert store.disk.read("predictions/shop/x/data") == b"rows"
    assert store.disk.local_path("predictions/shop/x/data").stat().st_uid == 1002


def test_a_filesystem_without_modes_is_no_failure(store, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refuse)
    ref = publish(store)
    assert mode(store.disk.local_path(ref.folder)) & 0o200
    assert store.open(ref).read("data.bin") == b"data"
    monkeypatch.undo()
    assert publish(store) == ref
    assert not mode(store.disk.local_path(ref.folder)) & 0o222, "the next equal run mends it"


def losing_answers(monkeypatch):
    """NFS: the link was made, its answer was lost, and what is asked again finds the name taken."""
    link = os.link

    def lose(source, target, **more):
        link(source, target, **more)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", lose)


def test_a_link_whose_answer_was_lost_is_ones_own(store, monkeypatch):
    store.prepare()
    losing_answers(monkeypatch)
    store.disk.create("a/b", b"one")
    with pytest.raises(AlreadyExists):
        store.disk.create("a/b", b"one")
    ref = publish(store)
    store.disk.create("staging/parts/one", b"rows")
    linked = store.publish(
        "predictions", "x", {"d": store.disk.local_path("staging/parts/one")}, settings={}, inputs={}, facts={}
    )
    assert (store.disk.read("a/b"), store.verify().corrupt) == (b"one", [])
    assert [store.open(each).read(file) for each, file in ((ref, "data.bin"), (linked, "d"))] == [b"data", b"rows"]


def test_a_store_made_while_answers_are_lost(store, monkeypatch):
    losing_answers(monkeypatch)
    assert store.open(publish(store)).read("data.bin") == b"data"


def test_a_version_that_is_removed_as_its_message_says_is_made_again(store, lookbook):
    ref = publish(store)
    damage(store.disk.local_path(f"{ref.folder}/data.bin"), b"dada")
    with pytest.raises(Corrupt) as refused:
        store.open(ref).read("data.bin")
    command = str(refused.value).partition("have its version removed (lookbook ")[2].partition(")")[0]
    run = lookbook(*command.split(), behind=WITHOUT_ROOTS_RIGHTS)
    assert "removed, " in run.stdout, run
    assert not store.disk.local_path(ref.folder).exists()
    assert store.open(publish(store)).read("data.bin") == b"data"


def harmed(path, how):
    remove(path) if how == "missing" else damage(path, b"{}" if how == "damaged" else path.read_bytes()[:-1])


@pytest.mark.parametrize("how", ["damaged", "missing", "cut"])
@pytest.mark.parametrize("file", ["data.bin", "page.html", "manifest.json"])
def test_what_is_damaged_is_mended_by_publishing_it_again(store, file, how):
    """Not by removing it: it may be what an alias means."""
    drawn = iter([b"<p>", b"<p>the same, but for a time"])
    ref = publish(store, rendered=lambda: {"page.html": next(drawn)})
    harmed(store.disk.local_path(f"{ref.folder}/{file}"), how)
    assert publish(store, rendered=lambda: {"page.html": next(drawn)}) == ref
    assert store.verify().corrupt == []
    assert store.open(ref).read("data.bin") == b"data"
    folder = store.disk.local_path(ref.folder)
    assert not {path.stat().st_mode & 0o222 for path in (folder, *folder.iterdir())} - {0}, "guarded as before"
    publish(store, rendered=dict)
    assert store.verify().corrupt == []


def test_it_needs_no_right_that_its_owner_has_not(tmp_path):
    program = (
        "import sys; from pathlib import Path; from artifacts.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "def publish(): return store.publish('datasets', 'a', {'a/b': b'1'}, settings={}, inputs={}, facts={},\n"
        "    rendered=lambda: {'c': b'2'})\n"
        "ref = publish()\n"
        "for file in ('a/b', 'c', 'manifest.json'):\n"
        "    path = store.disk.local_path(f'{ref.folder}/{file}')\n"
        "    path.chmod(0o644); path.write_bytes(b'?'); path.chmod(0o444)\n"
        "    publish()\n"
        "    assert not store.verify().corrupt, store.verify()\n"
    )
    subprocess.run([*WITHOUT_ROOTS_RIGHTS, sys.executable, "-c", program, tmp_path / "store"], check=True)


def test_the_identity_is_what_other_tools_can_recompute(store):
    ref = publish(store)
    assert digest(store.open(ref).identity)[:16] == ref.version
    assert Ref.parse(str(ref)) == ref
