"""pytest tests/test_scratch.py: what killed processes left in scratch goes, what living ones have there stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artifacts import owners

WORKING = """
import sys
from pathlib import Path
from artifacts.store import Store

with Store(Path(sys.argv[1])).disk.scratch() as folder:
    (folder / "pixels").mkdir()
    (folder / "pixels/map").write_bytes(bytes(1 << 20))
    (folder.parent / (folder.name + ".tmp")).write_bytes(b"half of a file")
    print(folder, flush=True)
    sys.stdin.read()
"""
CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture
def at_work(store):
    """Start processes that are at work in the store's scratch; each with its folder."""
    started = []

    def start(*behind):
        process = subprocess.Popen(
            [*behind, sys.executable, "-c", WORKING, str(store.disk.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def left(store):
    return {path.name for path in store.disk.local_path("staging/scratch").iterdir()}


def grow_old(path, days):
    """As if nothing had been written to it for days."""
    for each in (*path.rglob("*"), path):
        os.utime(each, (time.time() - days * 86400,) * 2)


@pytest.mark.kill
@pytest.mark.parametrize("waited_for", [True, False])
def test_scratch_of_a_killed_process_is_removed_by_whoever_comes_next(store, at_work, waited_for):
    process, folder = at_work()
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | (0 if waited_for else os.WNOWAIT))
    assert left(store) == {folder.name, f"{folder.name}.tmp"}
    if waited_for:
        with store.disk.scratch() as ours:
            assert left(store) == {ours.name}
    else:  # a zombie: whoever started it is busy
        store.prepare()
    assert left(store) == set()


def test_scratch_of_a_living_process_stays_however_old_it_is(store, at_work):
    _, folder = at_work()
    for path in folder.parent.iterdir():
        grow_old(path, 100)
    store.prepare()
    with store.disk.scratch():
        assert left(store) >= {folder.name, f"{folder.name}.tmp"}
    assert (folder / "pixels/map").stat().st_size == 1 << 20


def test_a_process_with_the_same_id_is_another_one(store):
    name = owners.new_name()
    machine, pid, start, random = name.split("-")
    assert int(pid) == os.getpid()
    assert owners.has_ended(name) is False
    assert owners.has_ended(f"{machine}-{pid}-{int(start) - 1}-{random}") is True
    assert owners.has_ended(f"{machine}-{pid}-{start}-{random}.tmp") is False


@pytest.mark.parametrize("name", ["0123456789abcdef-1-1-" + "a" * 32, "a" * 32, "a" * 32 + ".tmp", "notes"])
def test_what_may_be_another_machines_is_kept_for_a_week_after_it_was_last_written(store, name):
    store.prepare()
    path = store.disk.local_path(f"staging/scratch/{name}")
    (path / "inside").mkdir(parents=True)
    (path / "inside/file").write_bytes(b"x")
    store.prepare()
    assert path.exists()
    grow_old(path, 8)
    os.utime(path / "inside/file")
    store.prepare()
    assert path.exists(), "somebody writes to it"
    grow_old(path, 8)
    store.prepare()
    assert not path.exists()


@pytest.mark.skipif(
    subprocess.run([*CONTAINER, "true"], capture_output=True).returncode != 0, reason="may not make process namespaces"
)
def test_containers_on_one_host_do_not_take_each_others_scratch(store, at_work):
    """In a namespace of its own a process has another id, perhaps one that is taken, or free, outside."""
    _, inside = at_work(*CONTAINER)
    _, outside = at_work()
    store.prepare()
    sweep = (
        "import sys; from pathlib import Path; from artifacts.store import Store; Store(Path(sys.argv[1])).prepare()"
    )
    subprocess.run([*CONTAINER, sys.executable, "-c", sweep, str(store.disk.root)], check=True)
    assert left(store) >= {inside.name, outside.name}
    assert inside.name.split("-")[0] != outside.name.split("-")[0]
    blind = [each for each in CONTAINER if each != "--mount-proc"]  # /proc tells of other processes than kill knows
    told = "from artifacts import owners; print(owners.new_name())"
    name = subprocess.run([*blind, sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout
    assert "-" not in name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_another_users_process_is_alive(at_work):
    _, folder = at_work()
    told = f"from artifacts import owners; print(owners.has_ended({folder.name!r}))"
    as_user = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    run = subprocess.run([*as_user, sys.executable, "-c", told], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("False\n", "")
