"""pytest tests/test_waits.py: whoever waits says for what, does not wait for ever, and says what to do then."""

import fcntl
import logging
import signal
import subprocess
import sys
import tempfile
import threading
from types import SimpleNamespace

import pytest
from waiting import eventually

from artifacts import living, numbered, pins
from artifacts.errors import StoreError
from artifacts.living import Needs
from artifacts.store import Store
from flows import deployments, needs, serving
from flows.crew import Crew
from flows.server import _Child
from flows.serving import ServerError, only_server
from tasks.cluster.conducting import _Conductor
from tasks.shared import turns
from tasks.shared.collecting import repair_store
from tasks.shared.deadline import Deadline, DeadlineExceeded
from tasks.vision import locks, sources
from tasks.vision.errors import SourceError

COLLECTING = (
    "import sys, time; from pathlib import Path; from artifacts import living; from artifacts.store import Store\n"
    "disk = Store(Path(sys.argv[1])).disk\n"
    "with disk.hold(living.TURN) as mine, living.removing(disk):\n"
    "    print(mine, flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def short(monkeypatch):
    """Nobody waits for minutes."""
    monkeypatch.setattr(living, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(living, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(turns, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(sources, "_QUIET_SECONDS", 0.0)


@pytest.fixture
def collector(store):
    """A process that is removing, and then stopped, as Ctrl-Z does it."""
    process = subprocess.Popen(
        [sys.executable, "-c", COLLECTING, store.disk.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "True\n"
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: " T " in f" {state(process.pid)} ", lambda: f"it is {state(process.pid)}")
        yield process
    finally:
        process.kill()
        process.communicate()


def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.kill
def test_a_collector_that_is_stopped_holds_nobody_up_for_ever(store, collector, short, caplog):
    wait = f"waiting for a collection of the store {store.disk.root} to end: process {collector.pid}"
    with caplog.at_level(logging.WARNING), pytest.raises(StoreError) as error:
        Needs(store.disk).add("weights/shoes@0123456789abcdef")
    assert f"process {collector.pid} of this machine, which is stopped" in str(error.value)
    assert f"continue it (kill -CONT {collector.pid}) or end it (kill -KILL {collector.pid})" in str(error.value)
    assert [wait in each.getMessage() for each in caplog.records] == [True]
    collector.send_signal(signal.SIGCONT)
    collector.communicate("")
    Needs(store.disk).add("weights/shoes@0123456789abcdef")


@pytest.mark.kill
def test_what_it_held_up_goes_on_when_it_was_killed(store, collector, monkeypatch):
    monkeypatch.setattr(living, "_QUIET_SECONDS", 0.0)
    waiting = threading.Event()
    monkeypatch.setattr(living, "_log", SimpleNamespace(warning=lambda *_: waiting.set()))
    thread = threading.Thread(target=Needs(store.disk).add, args=["weights/shoes@0123456789abcdef"])
    thread.start()
    assert waiting.wait(60)
    collector.kill()
    thread.join(60)
    assert not thread.is_alive()


def test_a_collection_that_takes_its_time_is_waited_for_in_silence(store, caplog):
    store.disk.create("staging/collecting/of-a-killed-one.json", b"")
    with caplog.at_level(logging.WARNING):
        Needs(store.disk).add("weights/shoes@0123456789abcdef")
    assert caplog.records == []


def test_a_repair_waits_for_a_collection_and_not_for_ever(store, monkeypatch, short):
    monkeypatch.setattr("tasks.shared.collecting.REPAIR_HOURS", 0.3 / 3600)
    ref = store.publish("datasets", "shoes", {"a": b"1"}, settings={}, inputs={}, facts={})
    said = []
    with store.disk.hold(living.TURN), pytest.raises(DeadlineExceeded, match="a collection of this store to end"):
        repair_store(Store(store.disk.root), {str(ref): "damaged"}, said.append, yes=True)
    assert said == ["waiting for a collection of this store to end"]


def test_a_turn_that_does_not_come_says_what_may_hold_it(store, short):
    mine = turns.turn(store.disk, "staging/turns/training", "another training to end", Deadline.after(0), print)
    with store.disk.hold("staging/turns/training"), pytest.raises(DeadlineExceeded, match="kill -CONT"), mine:
        pass


def test_a_download_beside_another_one(tmp_path, short, monkeypatch, caplog):
    monkeypatch.setattr(sources, "_WAIT_SECONDS", 0.05)
    folder = tmp_path / "datasets/fashion-mnist"
    folder.mkdir(parents=True)
    with open(folder / ".lock", "wb") as lock, caplog.at_level(logging.WARNING):
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SourceError, match=r"another download into .* to end .*fuser .*\.lock"):
            sources.fetch(sources.FASHION_MNIST, tmp_path, None, lambda *_: None)
    assert [f"waiting for another download into {folder}" in each.getMessage() for each in caplog.records] == [True]


def test_a_server_of_another_command(tmp_path, short, monkeypatch, capsys):
    monkeypatch.setattr(serving, "_WAIT_SECONDS", 0.05)
    with open(tmp_path / "lookbook-server.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ServerError, match=r"another lookbook command .*`lookbook up`"), only_server(tmp_path):
            pass
    assert "waiting until it is done" in capsys.readouterr().err


def test_a_history_with_a_gap_is_gone_on_with(store):
    """It was an endless loop: the number after three documents was there already."""
    ref = store.publish("datasets", "shoes", {"a": b"1"}, settings={}, inputs={}, facts={})
    for _ in range(3):
        pins.pin(store, ref, "dear")
    store.disk.remove(f"pins/{ref.folder}/00000002.json")
    (store.disk.root / f"pins/{ref.folder}/notes.txt").write_text("mine")
    tries = iter(range(5))
    real = store.disk.create

    def create(key, content):
        next(tries)
        real(key, content)

    store.disk.create = create
    assert numbered.append(store.disk, f"pins/{ref.folder}", {"action": "unpin"})["number"] == 4
    assert numbered.newest(store.disk, f"pins/{ref.folder}")["action"] == "unpin"


def test_what_a_run_waits_for_is_in_its_log(monkeypatch, caplog):
    monkeypatch.setattr(needs, "get_run_logger", lambda: logging.getLogger("this run"))
    with caplog.at_level(logging.WARNING):
        with needs._told():
            living._log.warning("waiting for %s", "something")
        living._log.warning("after it")
    found = [each.getMessage() for each in caplog.records if each.name == "this run"]
    assert found == ["waiting for something"]


STUBBORN = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); time.sleep(600)"


@pytest.mark.kill
def test_nobody_waits_for_ever_for_a_process_that_was_killed(tmp_path, monkeypatch):
    """The kernel can't end one that waits for a disk that is away."""
    waits = []
    real = subprocess.Popen.wait
    monkeypatch.setattr(
        subprocess.Popen, "wait", lambda process, timeout=None: waits.append(timeout) or real(process, timeout)
    )
    monkeypatch.setattr("flows.server.STOP_SECONDS", 0.01)
    monkeypatch.setattr("tasks.cluster.conducting._END_SECONDS", 0.01)

    def started():
        process = subprocess.Popen(
            [sys.executable, "-c", STUBBORN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert process.stdout.readline() == b"\n"
        return process

    for at_work in (_Child, _Conductor):
        process = started()
        with process.stdout, tempfile.TemporaryFile() as log:
            _Child(process, 1, log).stop() if at_work is _Child else _Conductor(process, log).end()
    with Crew(tmp_path, print).member("stubborn", [sys.executable, "-c", STUBBORN], {}) as member:
        eventually(lambda: (tmp_path / "stubborn.log").read_text(), "it ignores Ctrl-C")
        member.stop(0)
    assert len(waits) >= 6
    assert None not in waits


def test_deploying_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(deployments, "_DEPLOY_SECONDS", 0.05)
    with pytest.raises(ServerError, match=r"`prefect deploy --all` in .* to be done within 0.05 s"):
        deployments._deploy_all(tmp_path, {})
