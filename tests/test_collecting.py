"""pytest tests/test_collecting.py: what stays and what goes, what is told of it, and what is never removed in doubt."""

import json
import os
import threading
import time
from types import SimpleNamespace

import pyarrow as pa
import pytest
from commands import answer, complaint
from published import damage

from artifacts import aliases, copying, living, pins, predictions, runs
from artifacts.aliases import Choice
from artifacts.bucket import BucketDisk
from artifacts.collecting import collector as module
from artifacts.collecting.collector import Collector
from artifacts.collecting.growth import growth
from artifacts.collecting.inventory import Inventory
from artifacts.collecting.retention import Rules
from artifacts.disk import LocalDisk
from artifacts.documents import seal
from artifacts.errors import Corrupt, NotFound, Removed, StoreError
from artifacts.lineage import lineage
from artifacts.living import Needs
from artifacts.shards import Shards, fresh_key, record_digest
from artifacts.store import Store
from tasks.reports.collecting import markdown
from tasks.requests import CollectRequest
from tasks.shared.collecting import collect_store, rules_of
from tasks.shared.deadline import Deadline
from tasks.shared.listing import Entry
from tasks.shared.plans import save_plan
from tasks.vision.errors import SettingsError

DAY = 86400


def age(store, days, *folders):
    """As if this had been written so many days ago."""
    for folder in folders or (".",):
        for path in (store.disk.root / folder).rglob("*"):
            if path.is_file():
                then = path.stat().st_mtime - days * DAY
                os.utime(path, (then, then))


class House:
    """A store, and what is done with it week by week."""

    def __init__(self, store):
        self.store, self.disk, self._made = store, store.disk, 0

    def _unlike(self):
        self._made += 1
        return b"%d" % self._made

    def publish(self, kind, name, inputs=(), **more):
        files = {"a.json": self._unlike()}
        named = {each.kind.removesuffix("s"): str(each) for each in inputs}
        return self.store.publish(kind, name, files, settings={"seed": 1}, inputs=named, facts={}, **more)

    def retrain(self, *, promote=True, name="shoes", backbone=None):
        dataset = self.publish("datasets", name)
        weights = self.publish("weights", name, [dataset, *([backbone] if backbone else [])])
        metrics = self.publish("metrics", name, [weights, dataset])
        numbers = {"metrics": str(metrics)}

        def choose(events):
            champion = str(weights) if promote or not events else events[-1].ref
            return Choice("promote" if promote else "keep", champion, str(weights), "why", numbers)

        aliases.decide(self.disk, "weights", name, "champion", choose)
        age(self.store, 7)
        return dataset, weights, metrics

    def score(self, folder, weights, pictures, *, latest=True, publish=True):
        """A table with a row a shard; shards that were scored before are taken over."""
        shards, parts = Shards(self.disk), []
        for picture in pictures:
            digest = f"{picture}-{weights}"
            record = record_digest(digest, f"/srv/{folder}")
            parts.append(shards.finished(record) or shards.finish(record, digest, rows(picture)))
        if not publish:
            return None
        dataset = self.store.open(weights).identity["inputs"]["dataset"]
        ref = predictions.save(
            self.store, folder, parts=parts, weights=weights, dataset=dataset, settings={}, classes=["x"],
            image_spec={}, report={}, made={"folder": f"/srv/{folder}"},
        )  # fmt: skip
        if latest:
            choice = Choice("promote", str(ref), str(ref), "newest")
            aliases.decide(self.disk, "predictions", folder, "latest", lambda _: choice)
        age(self.store, 1)
        return ref


def rows(path):
    none = pa.array([None], pa.string())
    return pa.table({"path": [path], "label": ["x"], "confidence": pa.array([0.9], pa.float32()), "error": none})


@pytest.fixture
def house(store):
    return House(store)


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """No power is cut here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def seconds(monkeypatch):
    """Versions of one second are told apart: each is made a second after the one before."""
    from artifacts import publishing as module

    told = iter(range(10**6))
    real = module.provenance

    def later(**more):
        number = next(told)
        created = f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
        return {**real(**more), "created": created}

    monkeypatch.setattr(module, "provenance", later)


def collect(store, **rules):
    return Collector(store, Rules(**rules)).carry_out()


def gone(found):
    return {each.what for each in found.removed}


def test_the_last_champions_stay_with_all_that_is_theirs(store, house):
    weeks = [house.retrain(promote=week % 2 == 0) for week in range(8)]
    age(store, 7)
    planned = Collector(store, Rules(keep=2)).plan()
    found = collect(store, keep=2)
    assert gone(planned) == gone(found)
    assert {*map(str, store.refs())} == {
        str(ref) for week in (4, 6, 7) for ref in weeks[week]  # two champions, and what was judged last
    }  # fmt: skip
    assert found.kept == 9
    assert store.verify().corrupt == []
    assert gone(collect(store, keep=2)) == set()


def test_what_was_removed_is_told_as_removed(store, house):
    old, *_ = [house.retrain() for _ in range(7)]
    before = lineage(store, store.resolve("shoes@champion", "weights"))
    collect(store, keep=2)
    for ask in (lambda: store.open(old[1]), lambda: store.resolve(old[1].version), lambda: lineage(store, old[1])):
        with pytest.raises(Removed, match=rf"{old[1]} was removed on 20.*Z by \S+@\S+: not of the last 2 champions of"):
            ask()
    with pytest.raises(NotFound, match="fits 'abcd1234'"):
        store.resolve("abcd1234")
    assert lineage(store, store.resolve("shoes@champion", "weights")) == before
    assert len(aliases.history(store.disk, "weights", "shoes", "champion")) == 7
    with pytest.raises(Removed, match="can't go back to .* was removed on"):
        aliases.rollback(
            store.disk, "shoes", "why", lambda ref: store.open(ref) if ref in (old[1],) else store.open(old[1])
        )


def test_what_was_removed_can_be_made_again(store, house):
    ref = house.publish("datasets", "shoes")
    age(store, 5)
    house.publish("datasets", "shoes")
    age(store, 5)
    assert str(ref) in gone(collect(store))
    again = House(store).publish("datasets", "shoes")
    assert again == ref
    assert store.open(ref).read("a.json") == b"1"
    assert store.verify().corrupt == []


def test_the_newest_tables_stay_with_their_weights(store, house):
    _, weights, _ = house.retrain()
    tables = [house.score("shop", weights, [str(night)]) for night in range(6)]
    for _ in range(3):
        house.retrain()
    found = collect(store, keep=1, keep_predictions=3)
    assert {*store.refs("predictions")} == set(tables[3:])
    assert store.has(weights), "three tables are of it"
    assert {*map(str, tables[:3])} <= gone(found)
    collect(store, keep=1, keep_predictions=3)
    assert store.verify().corrupt == []


def test_older_than_goes_by_age_alone_and_leaves_the_latest(store, house):
    _, weights, _ = house.retrain()
    tables = [house.score("shop", weights, [str(night)], latest=night == 0) for night in range(40)]
    collect(store, older_than=20 * DAY)
    assert {*store.refs("predictions")} == {tables[0], *tables[-19:]}


def test_a_pin_keeps_a_version_and_what_it_was_made_from(store, house):
    first, *_ = [house.retrain() for _ in range(4)]
    event = pins.pin(store, first[1], "dear")
    assert event.items() >= {"action": "pin", "ref": str(first[1]), "reason": "dear", "number": 1}.items()
    collect(store, keep=1)
    assert all(store.has(each) for each in first)
    pins.unpin(store, first[1], "no more")
    age(store, 2)
    collect(store, keep=1)
    assert not any(store.has(each) for each in first)
    with pytest.raises(NotFound, match="has no pin"):
        pins.unpin(store, first[1], "again")
    with pytest.raises(Removed):
        pins.pin(store, first[1], "too late")


def test_backbones_stay_and_the_newest_of_each_name(store, house):
    backbone = house.publish("backbones", "lite0")
    dataset = house.publish("datasets", "hats")
    challenger = house.publish("weights", "hats", [dataset])
    age(store, 30)
    assert gone(collect(store)) == set()
    assert all(store.has(each) for each in (backbone, dataset, challenger))


def test_what_is_young_stays(store, house):
    house.publish("datasets", "shoes")
    age(store, 0.9)
    house.publish("datasets", "shoes")
    assert gone(collect(store)) == set()
    age(store, 0.2)
    assert len(collect(store).removed) == 1


def test_what_a_run_needs_stays_until_it_is_over(store, house):
    weeks = [house.retrain() for _ in range(4)]
    with Needs(store.disk, "a-run") as needs:
        needs.add(weeks[0][1])
        assert json.loads(store.disk.read(next(store.disk.list("runs/living"))))["run"] == "a-run"
        collect(store, keep=1)
        assert store.has(weeks[0][0])
        assert store.has(weeks[0][1])
        assert not store.has(weeks[1][1])
    assert list(store.disk.list("runs/living")) == []
    collect(store, keep=1)
    assert not store.has(weeks[0][1])


def test_what_a_failed_run_needed_stays_for_the_grace(store, house, monkeypatch):
    monkeypatch.setattr(living.owners, "has_ended", lambda _: True)  # the process, too
    weeks = [house.retrain() for _ in range(4)]

    def fail():
        with Needs(store.disk) as needs:
            needs.add(weeks[0][1])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    collect(store, keep=1)
    assert store.has(weeks[0][1])
    age(store, 2, "runs/living")
    assert "needs" in gone(collect(store, keep=1))
    assert not store.has(weeks[0][1])


def test_a_run_whose_process_lives_is_needed_whatever_the_clock_says(store, house):
    weeks = [house.retrain() for _ in range(4)]
    with Needs(store.disk) as needs:
        needs.add(weeks[0][1])
        age(store, 300, "runs/living")
        collect(store, keep=1)
        assert store.has(weeks[0][1])


def test_a_claim_is_one_file_and_counts_from_the_last_time(store, house):
    weeks = [house.retrain() for _ in range(4)]
    for _ in range(3):
        assert store.claim(weeks[0][1])
        age(store, 0.9, "runs/living")
        assert len(list(store.disk.list("runs/living"))) == 1
    store.claim(weeks[1][1])
    collect(store, keep=1)
    assert store.has(weeks[0][1])
    assert store.has(weeks[1][1])
    age(store, 0.9, "runs/living")
    assert store.claim(weeks[1][1])
    found = collect(store, keep=1)
    assert not store.has(weeks[0][1])
    assert store.has(weeks[1][1])
    assert "needs" in gone(found)
    assert len(list(store.disk.list("runs/living"))) == 1


def test_many_claims_at_once(store, house):
    ref = house.retrain()[0]
    barrier, claimed = threading.Barrier(6), []

    def claim():
        barrier.wait(60)
        claimed.extend(store.claim(ref) for _ in range(10))

    threads = [threading.Thread(target=claim) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert claimed == [True] * 60
    store.claim(ref)
    assert len(list(store.disk.list("runs/living"))) == 1
    assert str(ref) in living.needed(store.disk, store.disk.now() - 60)[0]


def test_only_a_part_of_the_store(store, house):
    _, weights, _ = house.retrain()
    tables = [house.score("shop", weights, [str(night)]) for night in range(4)]
    for _ in range(2):
        house.retrain()
    collect(store, keep=1, keep_predictions=1, only="models")
    assert {*store.refs("predictions")} == set(tables)
    assert store.has(weights), "the tables that stay are of it"
    found = collect(store, keep=1, keep_predictions=1, only="tables")
    assert gone(found) == set(map(str, tables[:3]))


def test_a_part_of_several_tables_is_free_with_the_last_of_them(store, house):
    _, weights, _ = house.retrain()
    tables = [house.score("shop", weights, ["shared", f"{night}"]) for night in range(3)]
    age(store, 30)
    shared, own = store.open(tables[0]).path("data/part-00000.parquet"), "data/part-00001.parquet"
    assert shared.stat().st_nlink == 4  # and in staging
    sizes = {table: store.open(table).path(own).stat().st_size for table in tables}
    manifests = {table: (store.disk.local_path(table.folder) / "manifest.json").stat().st_size for table in tables}
    planned = Collector(store, Rules(keep_predictions=1)).plan()
    used = sum(path.stat().st_size for path in {p.stat().st_ino: p for p in files(store)}.values())
    found = collect(store, keep_predictions=1)
    freed = used - sum(path.stat().st_size for path in {p.stat().st_ino: p for p in files(store)}.values())
    records = sum(each.bytes for each in found.removed if each.what == "records of shards")
    assert sum(sizes[each] + manifests[each] for each in tables[:2]) + records == found.bytes == planned.bytes
    assert freed == found.bytes - sum(path.stat().st_size for path in files(store) if "collected" in path.parts)
    assert store.open(tables[2]).path("data/part-00000.parquet").stat().st_nlink == 2


def files(store):
    return [path for path in store.disk.root.rglob("*") if path.is_file()]


def test_records_and_parts_of_tables_that_stay_are_taken_over_later(store, house):
    _, weights, _ = house.retrain()
    house.score("shop", weights, ["a", "b"])
    house.score("shop", weights, ["a", "c"])
    house.score("depot", weights, ["z"], publish=False)  # interrupted, and never gone on with
    age(store, 30)
    collect(store, keep_predictions=1)
    done = Shards(store.disk)
    found = {each: done.finished(record_digest(f"{each}-{weights}", "/srv/shop")) for each in "abc"}
    assert found["a"]
    assert found["c"]
    assert found["b"] is None
    assert done.finished(record_digest(f"z-{weights}", "/srv/depot")) is None
    assert len(list(store.disk.list("staging/parts"))) == 2
    assert list(store.disk.local_path("staging/shards").iterdir()), "of two shards"
    assert len(list(store.disk.local_path("staging/shards").iterdir())) == 2, "no empty folders"


def test_the_mark_of_a_fresh_scoring_at_work_stays(store):
    store.prepare()
    Shards(store.disk).begin_fresh("at work")
    Shards(store.disk).begin_fresh("over")
    age(store, 3)
    with Needs(store.disk) as needs:
        needs.add(fresh_key("at work"))
        assert "marks of fresh scorings" in gone(collect(store, grace=3600.0))
    assert list(store.disk.list("staging/fresh")) == [fresh_key("at work")]


def test_a_plan_that_a_run_needs_keeps_its_records(store, house):
    _, weights, _ = house.retrain()
    house.score("shop", weights, ["a"], publish=False)
    record = record_digest(f"a-{weights}", "/srv/shop")
    plan = save_plan(store.disk, [[Entry(b"a", 1, 1, True)]], "/srv/shop", lambda _: record)
    forgotten = save_plan(store.disk, [[Entry(b"b", 1, 1, True)]], "/srv/shop")
    age(store, 30)
    shared = f"staging/plans/{'0' * 64}.json"
    store.disk.create(shared, seal({"plan": plan, "job": {}}))  # groups, as `tasks.scoring.groups.share` leaves them
    assert "plans" in gone(collect(store)), "the one that nobody needs"
    assert Shards(store.disk).finished(record)
    with Needs(store.disk) as needs:
        needs.add(plan)
        assert gone(collect(store)) == set()
        age(store, 2, "staging/plans")
        assert "plans" in gone(collect(store)), "what named it"
        assert Shards(store.disk).finished(record)
        assert store.disk.exists(plan)
        assert not store.disk.exists(forgotten)
        assert len(list(store.disk.list("staging/plans"))) == 2
    collect(store)
    assert not list(store.disk.list("staging/plans"))
    assert Shards(store.disk).finished(record) is None


def test_what_runs_left_behind_goes(store, house):
    old = ["training/abc-00000003.json", "training/abc-00000003.safetensors", "fresh/abc.json", "decoded/abc/d.arrow"]
    for key in old:
        store.disk.create(f"staging/{key}", b"x")
    store.disk.create("datasets/shoes/0123456789abcdef/train.arrow", b"unfinished")
    age(store, 30)
    os.utime(store.disk.root / "datasets/shoes/0123456789abcdef/train.arrow")  # linked just now
    store.disk.create("staging/unknown/thing", b"x")
    store.disk.create("notes/mine.txt", b"x")
    store.disk.create("staging/training/new-00000001.json", b"x")
    age(store, 30, "staging/unknown", "notes")
    found = collect(store)
    assert gone(found) == {"states of trainings", "marks of fresh scorings", "decoded pictures"}
    there = {key for key in store.disk.list("staging") if "scratch" not in key}
    assert there == {"staging/unknown/thing", "staging/training/new-00000001.json"}
    assert store.disk.exists("notes/mine.txt")


def test_what_was_never_published_goes_when_nobody_works_on_it(store, house, monkeypatch):
    store.disk.create("datasets/shoes/0123456789abcdef/train.arrow", b"unfinished")
    assert gone(collect(store)) == set()
    real = LocalDisk.now
    monkeypatch.setattr(LocalDisk, "now", lambda disk: real(disk) + 2 * DAY)
    monkeypatch.setattr(module, "_CLOCKS_SECONDS", 3 * DAY)
    found = collect(store)
    assert gone(found) == {"datasets/shoes@0123456789abcdef"}
    assert [each.rule for each in found.removed] == ["unfinished"]
    assert not (store.disk.root / "datasets").exists()


def test_a_damaged_manifest_keeps_all_that_it_may_refer_to(store, house):
    weeks = [house.retrain() for _ in range(4)]
    hats = [house.retrain(name="hats") for _ in range(4)]
    _, weights, _ = weeks[0]
    table = house.score("shop", weights, ["a"])
    older = house.score("depot", weights, ["a"])
    house.score("depot", weights, ["b"])
    damage(store.disk.local_path(table.folder) / "manifest.json", b"{}")
    age(store, 30)
    found = collect(store, keep=1, keep_predictions=1)
    assert gone(found) == {str(older), "records of shards"}, "metrics are made from nothing that goes"
    assert all(store.has(each) for week in (*weeks, *hats) for each in week[:2])
    [note] = found.notes
    assert f"{table.folder}/manifest.json is damaged" in note
    assert "`lookbook verify --repair`" in note


def test_a_damaged_history_stops_everything(store, house):
    weeks = [house.retrain() for _ in range(3)]
    damage(store.disk.root / "aliases/weights/shoes/champion/00000002.json", b"{}")
    for do in (Collector(store, Rules(keep=1)).plan, Collector(store, Rules(keep=1)).carry_out):
        with pytest.raises(Corrupt, match=r"champion/00000002.json is damaged"):
            do()
    assert all(store.has(each) for week in weeks for each in week)
    assert list(store.disk.list("staging/collecting")) == []


def test_a_file_of_somebody_keeps_its_version(store, house):
    weeks = [house.retrain() for _ in range(3)]
    store.disk.local_path(weeks[0][0].folder).chmod(0o755)
    (store.disk.local_path(weeks[0][0].folder) / "notes.txt").write_text("mine")
    found = collect(store, keep=1)
    assert [note.partition(" ")[0] for note in found.notes] == [f"{weeks[0][0].folder}/notes.txt"]
    assert store.has(weeks[0][0])
    assert not store.has(weeks[0][1])


def test_clocks_that_disagree_or_jump_stop_it(store, house, monkeypatch):
    for _ in range(3):
        house.retrain()
    real = LocalDisk.now
    monkeypatch.setattr(LocalDisk, "now", lambda disk: real(disk) + 3600)
    with pytest.raises(StoreError, match=r"the clock of the store .* to agree with this machine's, found them 3,600 s"):
        collect(store, keep=1)
    jumps = iter([0, 10 * DAY])
    monkeypatch.setattr(LocalDisk, "now", lambda disk: real(disk) + next(jumps))
    monkeypatch.setattr(module, "_CLOCKS_SECONDS", 3600.0)
    collector = Collector(store, Rules(keep=1))
    collector.plan()
    with pytest.raises(StoreError, match=r"after a jump of 86[34],\d\d\d s"):
        collector.carry_out()
    assert len(list(store.refs())) == 9
    monkeypatch.setattr(LocalDisk, "now", lambda disk: real(disk) - 30 * DAY)  # back: all is young, or of tomorrow
    monkeypatch.setattr(module, "_CLOCKS_SECONDS", 1e9)
    assert gone(collect(store, keep=1)) == set()


def test_two_collections_at_once_and_one_that_was_killed(store, house):
    for _ in range(30):
        house.retrain()
    store.disk.create("staging/collecting/of-a-killed-one.json", b"")
    found, deadline = [], Deadline.after(1)

    def go():
        found.append(collect_store(store, CollectRequest(remove=True, keep=1), deadline, lambda _: None))

    threads = [threading.Thread(target=go) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(len(each.removed) for each in found) == [0, 29 * 3]
    assert list(store.disk.list("staging/collecting")) == []
    assert store.verify().corrupt == []


def test_whoever_needs_something_waits_for_a_removal(store, house, monkeypatch):
    house.retrain()
    looked, waited = threading.Semaphore(0), []
    monkeypatch.setattr(living, "time", SimpleNamespace(sleep=lambda _: looked.release(), monotonic=time.monotonic))

    def need():
        with Needs(store.disk) as needs:
            needs.add("weights/shoes@0123456789abcdef")
            waited.append(True)

    with store.disk.hold(living.TURN), living.removing(store.disk):
        thread = threading.Thread(target=need)
        thread.start()
        assert all(looked.acquire(timeout=60) for _ in range(3))
        assert not waited
        assert len(list(store.disk.list("runs/living"))) == 1, "it is named before it is waited for"
    thread.join()
    assert waited


def test_a_removal_whose_process_was_killed_holds_nobody_up(store, house):
    house.retrain()
    store.disk.create("staging/collecting/of-a-killed-one.json", b"")
    living.let_removals_pass(store.disk)
    assert list(store.disk.list("staging/collecting")) == []


def test_one_that_was_asleep_removes_nothing_more(store, house, monkeypatch):
    weeks = [house.retrain() for _ in range(3)]
    real = Inventory.look

    def asleep(inventory):
        for key in store.disk.list("staging/collecting"):  # as another one does that finds its lease run out
            store.disk.remove(key)
        return real(inventory)

    monkeypatch.setattr(Inventory, "look", asleep)
    with pytest.raises(StoreError, match="another took its turn over"):
        collect(store, keep=1)
    assert all(store.has(each) for week in weeks for each in week)


def test_on_a_bucket(bucket, monkeypatch):
    store = Store(bucket)
    house = House(store)

    def week():
        dataset = house.publish("datasets", "shoes")
        weights = house.publish("weights", "shoes", [dataset])
        aliases.promote(store.disk, weights, "why")
        return dataset, weights

    weeks = [week() for _ in range(3)]
    shards, tables = Shards(store.disk), []
    for pictures in (["a", "b"], ["a", "c"]):
        parts = [shards.finish(record_digest(each, "/srv/shop"), each, rows(each)) for each in pictures]
        tables.append(
            predictions.save(
                store, "shop", parts=parts, weights=weeks[2][1], dataset=str(weeks[2][0]), settings={}, classes=["x"],
                image_spec={}, report={}, made={"folder": "/srv/shop"},
            )
        )  # fmt: skip
    real = BucketDisk.now
    monkeypatch.setattr(BucketDisk, "now", lambda disk: real(disk) + 2)  # the service tells whole seconds
    rules = Rules(keep=1, keep_predictions=1, grace=0.5)
    planned = Collector(store, rules).plan()
    assert len(list(store.disk.list("parts"))) == 3
    found = Collector(store, rules).carry_out()
    assert gone(planned) == gone(found)
    assert {*store.refs()} == {*weeks[2], tables[1]}
    assert len(list(store.disk.list("parts"))) == 2
    assert shards.finished(record_digest("a", "/srv/shop"))
    assert shards.finished(record_digest("b", "/srv/shop")) is None
    assert store.verify().corrupt == []
    with pytest.raises(Removed):
        store.open(weeks[0][1])


def test_a_store_without_the_right_to_remove(open_path, lookbook):
    store = Store(open_path / "store")
    house = House(store)
    for _ in range(3):
        house.retrain()
    for folder in (store.disk.root / "weights/shoes").iterdir():
        os.chown(folder, 12345, 12345)
    (store.disk.root / "weights").chmod(0o755)
    without = "-dac_override,-fowner"
    behind = ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}"]
    run = lookbook("collect", "--keep", "1", "--yes", behind=behind, LOOKBOOK_STORE=store.disk.root)
    assert run.returncode == 1
    assert "can't remove weights/shoes/" in complaint(run)
    assert "mend the permissions" in complaint(run)
    assert store.verify().corrupt == []


def test_the_command_shows_a_plan_and_does_it_when_told(store, house, lookbook):
    for _ in range(3):
        house.retrain()
    before = sorted(map(str, store.refs()))
    planned = answer(lookbook("collect", "--keep", "1", "--json"))
    assert sorted(map(str, store.refs())) == before
    assert planned["done"] is False
    assert len(planned["removed"]) == 6
    assert planned["kept"] == 3
    shown = lookbook("collect", "--keep", "1").stdout
    assert "would go" in shown
    assert "nothing was removed: add --yes to do it" in shown
    done = answer(lookbook("collect", "--keep", "1", "--yes", "--json"))
    assert [each["what"] for each in done["removed"]] == [each["what"] for each in planned["removed"]]
    assert done["bytes"] == planned["bytes"] > 0
    assert done["done"] is True
    assert "nothing to remove" in lookbook("collect", "--keep", "1").stdout
    old = planned["removed"][0]["what"]
    assert f"{old} was removed on" in complaint(lookbook("show", old))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--keep", "0"], "0 is not in the range x>=1"),
        (["--keep-predictions", "0"], "0 is not in the range x>=1"),
        (["--only", "everything"], "'everything' is not one of"),
        (["--older-than", "yesterday"], "expected older_than to be a duration like 90d"),
        (["--grace", "5m"], "expected grace to be an hour (1h) or more, found 5m"),
    ],
)
def test_what_can_not_be_meant_is_refused(store, lookbook, options, said):
    run = lookbook("collect", *options)
    assert run.returncode == 2
    assert said in run.stderr


def test_durations():
    assert rules_of(CollectRequest(older_than="12w", grace="1.5h")) == Rules(older_than=12 * 7 * DAY, grace=5400.0)
    with pytest.raises(SettingsError):
        rules_of(CollectRequest(grace="-1h"))


def test_pins_and_sizes_are_shown(store, house, lookbook):
    _, weights, _ = house.retrain()
    assert "stays, whatever is collected: dear" in lookbook("pin", weights, "--reason", "dear").stdout
    shown = answer(lookbook("show", weights, "--json"))
    assert shown["pinned"] == "dear"
    assert shown["bytes"] == 1
    assert "dear" in lookbook("show", weights).stdout
    assert {each["bytes"] for each in answer(lookbook("list", "--json"))} == {1}
    assert "goes when nothing else keeps it" in lookbook("unpin", weights).stdout
    assert lookbook("unpin", weights).returncode == 1


def test_a_damaged_version_is_removed_through_the_same_door(store, house, lookbook):
    (dataset, weights, metrics), (_, champion, _) = house.retrain(), house.retrain()
    for ref in (dataset, champion):
        damage(store.disk.local_path(ref.folder) / "a.json", b"?")
    assert "repair" not in json.loads(lookbook("verify", "--json").stdout)
    assert lookbook("verify", "--yes").returncode == 2
    run = lookbook("verify", "--repair", "--json")
    assert run.returncode == 1
    offered = {each["ref"]: each for each in json.loads(run.stdout)["repair"]}
    assert offered[str(dataset)]["dependants"] == sorted(map(str, (weights, metrics)))
    assert "champion of shoes" in offered[str(champion)]["refused"]
    assert store.has(dataset)
    shown = lookbook("verify", "--repair", "--yes").stdout
    assert "removed, " in shown
    assert "it stays, as it is champion of shoes" in shown
    assert not store.has(dataset)
    assert store.has(champion)
    assert lineage(store, weights)["made_from"]["dataset"]["problem"].endswith("what must stay")
    [left] = store.verify().corrupt
    assert champion.folder in left


def test_a_copy_has_pins_and_what_was_removed(store, house, tmp_path):
    weeks = [house.retrain() for _ in range(3)]
    pins.pin(store, weeks[1][1], "dear")
    collect(store, keep=1)
    with Needs(store.disk) as needs:
        needs.add(weeks[2][1])
        target = Store(tmp_path / "copy")
        copying.copy(store, target)
    assert target.verify().corrupt == []
    assert pins.pinned(target.disk) == {weeks[1][1]: "dear"}
    assert list(target.disk.list("runs/living")) == []
    with pytest.raises(Removed):
        target.open(weeks[0][1])


def test_runs_records_stay(store, house):
    weeks = [house.retrain() for _ in range(3)]
    runs.record(store.disk, "a-run", {"weights": str(weeks[0][1])})
    age(store, 300)
    collect(store, keep=1)
    assert runs.find(store.disk, "a-run") == {"weights": str(weeks[0][1])}
    assert store.verify().corrupt == []


def test_growth_counts_what_was_removed_until_then(store, house):
    for _ in range(4):
        house.retrain()
    before = growth(store, Inventory(store).look())
    found = collect(store, keep=1)
    after = growth(store, Inventory(store).look())
    assert set(before) == {"datasets", "weights", "metrics"}
    for kind in before:
        assert after[kind][: len(before[kind])] == before[kind]
        assert after[kind][-1][1] == found.kept_bytes[kind] < before[kind][-1][1]


def test_the_report_has_a_chart_and_no_markup_of_strangers(store, house):
    for _ in range(4):
        house.retrain()
    found = collect(store, keep=1)
    report = markdown(store, found, done=True)
    assert report.startswith("**9 removals**, ")
    assert "](data:image/png;base64," in report
    assert len(report) < 150_000
    assert "| models | 9 |" in report
