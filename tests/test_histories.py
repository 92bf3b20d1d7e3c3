"""pytest tests/test_histories.py: whatever goes on beside a collection, and whatever is killed at any step: no
reference dangles, no row is lost, nothing fails.

Two threads take turns, switched at the store's primitives as a number decides: one publishes, promotes, scores, pins;
the other one collects. Long work takes days, while others go on. A kill ends what a thread does, and nothing
that it had yet to tidy up is. The disk is a real folder with a clock of its own.
"""

import os
import random
import shutil
import tempfile
import threading
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts import aliases, living, owners, pins, predictions
from artifacts.aliases import Choice
from artifacts.collecting import collector as collecting
from artifacts.collecting.collector import Collector
from artifacts.collecting.inventory import Inventory
from artifacts.collecting.retention import Rules
from artifacts.disk import LocalDisk
from artifacts.documents import digest
from artifacts.errors import NotFound, Removed
from artifacts.living import Needs
from artifacts.shards import Shards, record_digest
from artifacts.store import Store
from tasks.shared.listing import Entry, digest_entries
from tasks.shared.plans import load_plan, remove_plan, save_plan

HOUR = 3600.0
GRACE = 24 * HOUR


class Killed(BaseException):
    """As SIGKILL: from here on the thread's work has no effect."""


class Turns:
    """Which thread goes on, decided at each step; and where each is killed, in steps from its last kill or start."""

    def __init__(self, seed, often, kills):
        self._random, self._often = random.Random(seed), often
        self._kills = {name: list(steps) for name, steps in kills.items()}
        self._left = {name: self._next(name) for name in kills}
        self._alive = list(kills)
        self._dead = set()
        self._current = self._alive[0]
        self._condition = threading.Condition()

    def _next(self, name):
        return self._kills[name].pop(0) if self._kills[name] else None

    def step(self, *, away=False):
        name = threading.current_thread().name
        if name not in self._left:
            return
        with self._condition:
            if name in self._dead:
                raise Killed
            if self._left[name] is not None:
                self._left[name] -= 1
                if self._left[name] < 0:
                    self._dead.add(name)
                    raise Killed
            others = [each for each in self._alive if each != name]
            if others and (away or self._random.random() < self._often):
                self._current = others[0]
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._current == name)

    def revive(self):
        """What was killed is started again."""
        name = threading.current_thread().name
        self._dead.discard(name)
        self._left[name] = self._next(name)

    @contextmanager
    def taking_part(self):
        name = threading.current_thread().name
        with self._condition:
            self._condition.wait_for(lambda: self._current == name)
        try:
            yield
        finally:
            with self._condition:
                self._alive.remove(name)
                self._current = self._alive[0] if self._alive else None
                self._condition.notify_all()


class Watched(LocalDisk):
    """A folder whose every primitive is a step, and whose clock is set by hand."""

    def __init__(self, root, turns=None):
        super().__init__(root)
        self.turns, self.clock, self.running, self._written = turns, 1e9, set(), {}

    def copied_to(self, root, turns):
        """The disk of a copy of the folder, at the same time."""
        copy = Watched(root, turns)
        copy.clock, copy._written = self.clock, dict(self._written)
        return copy

    def let_pass(self, hours):
        """Runs that go on give signs of life meanwhile."""
        self.clock += hours * HOUR
        for key in self._written:
            if key.rpartition("-")[0] in self.running:
                self._written[key] = self.clock

    def _step(self):
        if self.turns:
            self.turns.step()

    def create(self, key, content):
        self._step()
        super().create(key, content)
        self._written[key] = self.clock

    def read(self, key):
        self._step()
        return super().read(key)

    def exists(self, key):
        self._step()
        return super().exists(key)

    def list(self, prefix):
        self._step()
        yield from [*super().list(prefix)]

    def survey(self, prefix):
        self._step()
        for each in [*super().survey(prefix)]:
            written = self._written.get(each.key, self.clock)
            yield each._replace(written=written, named=written)

    def modified(self, key):
        self._step()
        super().modified(key)
        return self._written[key]

    def now(self):
        return self.clock

    def remove(self, key):
        self._step()
        super().remove(key)

    def free(self, stored, *, durably=False):
        self._step()
        return super().free(stored, durably=durably)

    @contextmanager
    def hold(self, key):
        self._step()
        with super().hold(key) as mine:
            yield mine


class Run(Needs):
    """What a run needs; the disk knows that it goes on."""

    def __enter__(self):
        self._disk.running = {self._name}
        return super().__enter__()

    def __exit__(self, *error):
        self._disk.running = set()
        super().__exit__(*error)


class Work:
    """What people and schedules do with one store."""

    def __init__(self, store, number):
        self.store, self.disk, self._random = store, store.disk, random.Random(number)
        self.tables = {}  # name -> the newest table and its rows

    def retrain(self, data, seed):
        name = "shoes" if data % 2 else "hats"
        with Run(self.disk, "retraining") as needs:
            dataset = self.store.publish(
                "datasets", name, {"train.arrow": b"%d" % data}, settings={}, inputs={}, facts={}
            )
            needs.add(dataset)
            self.work_long()
            weights = self.store.publish(
                "weights", name, {"weights.safetensors": b"%d" % seed}, settings={},
                inputs={"dataset": str(dataset)}, facts={},
            )  # fmt: skip
            needs.add(weights)
            self.work_long()
            inputs = {"weights": str(weights), "dataset": str(dataset)}
            measured = self.store.publish("metrics", name, {"metrics.json": b"1"}, settings={}, inputs=inputs, facts={})
            needs.add(measured)
            better = self._random.random() < 0.5

            def choose(events):
                if events and not better:
                    return Choice("keep", events[-1].ref, str(weights), "worse", {"metrics": str(measured)})
                return Choice("promote", str(weights), str(weights), "better", {"metrics": str(measured)})

            aliases.decide(self.disk, "weights", name, "champion", choose)

    def prepare(self, data):
        """What is published is there for whoever is told of it, old as it may be."""
        ref = self.store.publish("datasets", "hats", {"train.arrow": b"%d" % data}, settings={}, inputs={}, facts={})
        self.disk.turns.step(away=True)
        assert self.store.open(ref).read("train.arrow") == b"%d" % data

    def score(self, folder, pictures):
        """As flows/score.py does, with rows that need no pictures."""
        with Run(self.disk, "scoring") as needs:
            champions = [aliases.current(self.disk, "weights", name, "champion") for name in ("shoes", "hats")]
            weights = next((each for each in champions if each), None)
            if weights is None:
                return
            dataset = self.store.open(weights).identity["inputs"]["dataset"]
            needs.add(weights, dataset)
            shards = [[Entry(b"%d" % each, each, 0, True)] for each in pictures]

            def record(entries):
                return record_digest(shard(entries), folder)

            def shard(entries):
                return digest([entries, str(weights)])

            plan = save_plan(self.disk, shards, folder, record)
            needs.add(plan)
            load_plan(self.disk, plan)
            done = Shards(self.disk)
            parts = []
            for each in shards:
                entries = digest_entries(each)
                part = done.finished(record(entries))
                self.work_long()
                parts.append(part or done.finish(record(entries), shard(entries), rows(each[0].path.decode())))
            published = predictions.save(
                self.store, folder, parts=parts, weights=weights, dataset=dataset, settings={}, classes=["x"],
                image_spec={}, report={}, made={"folder": folder},
            )  # fmt: skip
            choice = Choice("promote", str(published), str(published), "newest")
            aliases.decide(self.disk, "predictions", folder, "latest", lambda _: choice)
            self.tables[folder] = published, [b"%d" % each for each in pictures]
            remove_plan(self.disk, plan)

    def pin(self):
        if refs := sorted(self.store.refs()):
            with suppress(NotFound):  # it went just before
                pins.pin(self.store, self._random.choice(refs), "dear")

    def unpin(self):
        if held := sorted(pins.pinned(self.disk)):
            pins.unpin(self.store, self._random.choice(held), "not any more")

    def work_long(self):
        if hours := self._random.choice([0, 0, 0, 20, 100]):
            self.disk.let_pass(hours)
            self.disk.turns.step(away=True)

    def wait(self, hours):
        self.disk.let_pass(hours)


def rows(path):
    none = pa.array([None], pa.string())
    return pa.table({"path": [path], "label": ["x"], "confidence": pa.array([0.9], pa.float32()), "error": none})


WORK = st.one_of(
    st.tuples(st.just("retrain"), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(
        st.just("score"), st.sampled_from(["shop", "depot"]), st.lists(st.integers(0, 4), min_size=1, unique=True)
    ),
    st.tuples(st.just("pin")),
    st.tuples(st.just("unpin")),
    st.tuples(st.just("wait"), st.sampled_from([1, 23, 25, 100])),
)
KILLS = st.lists(st.integers(1, 150), max_size=3)


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    """No power is cut here; names tell no process, as the one of killed threads lives on; and a machine's clock is not
    the simulated disk's."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(owners, "new_name", lambda: uuid.uuid4().hex)
    monkeypatch.setattr(collecting, "_CLOCKS_SECONDS", float("inf"))
    for module, name in ((living, "time"), (collecting, "_REMOVING_SECONDS")):  # set by each history
        monkeypatch.setattr(module, name, getattr(module, name))


def side_by_side(disk, turns, **steps):
    """Let threads take their turns, each with its steps. What was killed goes on with its next step."""
    failed = []
    living.time = SimpleNamespace(sleep=lambda _: turns.step(away=True), monotonic=lambda: 0.0)

    def go_on(own):
        with turns.taking_part():
            for each in own:
                try:
                    each()
                except Killed:
                    turns.revive()
                except BaseException as error:  # told below, from the test's own thread
                    failed.append(error)
                    return

    threads = [threading.Thread(target=go_on, args=(own,), name=name) for name, own in steps.items()]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    disk.turns = None
    for error in failed:
        raise error


def happen(work, seed, often, kills, batch):
    """Let it happen. Returns the store and what was done, for a look at both."""
    top = tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    turns = Turns(seed, often, kills)
    store = Store(Path(top.name) / "store")
    store.disk = Watched(Path(top.name) / "store", turns)
    done = Work(store, seed)
    collecting._REMOVING_SECONDS = batch

    def collect():
        with store.disk.hold(living.TURN) as mine:
            if mine:
                Collector(store, Rules(keep=1, keep_predictions=1, grace=GRACE)).carry_out()

    works = [lambda name=name, given=given: getattr(done, name)(*given) for name, *given in work]
    side_by_side(store.disk, turns, work=works, collect=[collect] * len(work))
    return top, store, done, collect


def look(store, done):
    """Nothing dangles, and all rows are there."""
    assert store.verify().corrupt == []
    versions = Inventory(store).look()
    there = {ref for ref, each in versions.items() if each.published}
    for ref in there:
        assert set(versions[ref].inputs) <= there, ref
    meant = [aliases.current(store.disk, "weights", name, "champion") for name in ("shoes", "hats")]
    meant += [aliases.current(store.disk, "predictions", name, "latest") for name in ("shop", "depot")]
    assert {*filter(None, meant), *pins.pinned(store.disk)} <= there
    for ref, paths in done.tables.values():
        if ref in there:
            table = predictions.load(store, ref)
            found = [pq.read_table(table.artifact.path(predictions.file_name(each))) for each in range(len(paths))]
            assert [each.column("path")[0].as_py().encode() for each in found] == paths
        latest = aliases.current(store.disk, "predictions", ref.name, "latest")
        assert latest in there


def check(work, seed, often, work_kills, collect_kills, batch):
    top, store, done, collect = happen(work, seed, often, {"work": work_kills, "collect": collect_kills}, batch)
    with top:
        look(store, done)
        done.wait(1000)
        collect()  # what kills have left goes, and what is meant stays
        look(store, done)
        versions = Inventory(store).look()
        assert all(each.published for each in versions.values())
        done.wait(1000)
        collect()
        assert [*store.disk.list("staging/plans")] == []
        assert [*store.disk.list("runs/living")] == []
        assert [*store.disk.list("staging/collecting")] == []


HISTORY = given(
    work=st.lists(WORK, min_size=2, max_size=12),
    seed=st.integers(0, 2**32),
    often=st.sampled_from([0.02, 0.2, 0.5]),
    work_kills=KILLS,
    collect_kills=KILLS,
    batch=st.sampled_from([0.0, 3.0]),
)
HISTORIES = 300  # in the long tier; a night takes 3,000
CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@settings(max_examples=60, suppress_health_check=CHECKS)
@HISTORY
@pytest.mark.slow
def test_sixty_histories(**history):
    check(**history)


@settings(max_examples=HISTORIES, suppress_health_check=CHECKS)
@HISTORY
@pytest.mark.long
def test_many_histories(**history):
    check(**history)


class Twice(Turns):
    """The work goes some steps, then the collection some, and then each until it has to wait, or is done."""

    def __init__(self, **steps):
        super().__init__(0, 0, {name: [] for name in steps})
        self._steps = dict(steps)
        if not steps["work"]:
            self._current = "collect"

    def step(self, *, away=False):
        name = threading.current_thread().name
        if name in self._steps:
            self._steps[name] -= 1
            away = away or self._steps[name] == 0
        super().step(away=away)

    def went(self, name):
        """Whether a thread had so many steps."""
        return self._steps[name] <= 0


@pytest.fixture
def begun(tmp_path):
    """A store with an old version that nobody needs, and a newer one, and the old one's ref."""
    store = Store(tmp_path / "begun")
    store.disk = Watched(tmp_path / "begun")
    old = store.publish("datasets", "hats", {"train.arrow": b"old"}, settings={}, inputs={}, facts={})
    store.disk.let_pass(100)
    store.publish("datasets", "hats", {"train.arrow": b"new"}, settings={}, inputs={}, facts={})
    return store, old


def beside(do, begun, folder, **steps):
    """`do` and a collection, in a copy of a store. Returns the copy, and whose turns there were."""
    (given, old), turns = begun, Twice(**steps)
    shutil.copytree(given.disk.root, folder)
    store = Store(folder)
    store.disk = given.disk.copied_to(folder, turns)
    side_by_side(store.disk, turns, work=[lambda: do(store, old)], collect=[lambda: collected(store, old)])
    assert store.verify().corrupt == []
    return store, turns


def collected(store, old):
    with store.disk.hold(living.TURN):
        Collector(store, Rules(grace=GRACE)).carry_out()


def published_again(store, old):
    again = store.publish("datasets", "hats", {"train.arrow": b"old"}, settings={}, inputs={}, facts={})
    assert again == old
    assert store.open(old).read("train.arrow") == b"old"


def made_from_it(store, old):
    """Weights, by somebody whose run has not said that it needs the dataset."""
    inputs = {"dataset": str(old)}
    with suppress(Removed):
        store.publish("weights", "hats", {"weights.safetensors": b"1"}, settings={}, inputs=inputs, facts={})


def pinned(store, old):
    with suppress(NotFound):
        pins.pin(store, old, "dear")


def claimed(store, old):
    assert store.claim(old) == store.has(old)


@pytest.mark.slow
@pytest.mark.parametrize("do", [published_again, made_from_it, pinned, claimed])
def test_at_every_step_of_both(tmp_path, begun, do):
    """What was published, pinned or claimed with success is there; what something was made from, too."""
    _, old = begun
    work = 0
    while True:
        collect = 1
        while True:
            store, turns = beside(do, begun, tmp_path / f"{work}-{collect}", work=work, collect=collect)
            if do is published_again or list(store.refs("weights")) or pins.pinned(store.disk):
                assert store.has(old), (work, collect)
            if not turns.went("collect"):
                break
            collect += 1
        assert collect > 8
        if not turns.went("work"):
            break
        work += 1
    assert work > 2
