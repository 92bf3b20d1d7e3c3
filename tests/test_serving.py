"""pytest tests/test_serving.py: the process of a Prefect server answers whoever asks."""

import gc
import os
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress

import httpx
import pytest
from upheld import ENDS_WITH_ITS_PARENT, PATIENCE

from flows.ports import listen
from flows.serving import command, garbage_collected_apart, healthy

BUSY_SECONDS = 20


@pytest.fixture
def database(tmp_path):
    """A database, and who uses it: connections that wait for each other as those of a Prefect server do."""
    path = tmp_path / "prefect.db"
    with ExitStack() as connections:

        def connect():
            made = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            return connections.enter_context(closing(made))

        connect().execute("PRAGMA journal_mode = WAL")  # as Prefect's
        yield connect


class Waste:
    """What only a look for garbage removes."""

    def __init__(self, cursor):
        self.cursor, self.itself = cursor, self


def make_garbage(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        Waste(None)


@pytest.mark.slow
def test_a_lost_cursor_of_a_waiting_connection_keeps_nobody_from_an_answer(database):
    """The thread that answers has the database's lock, and goes on while another one waits for that: otherwise nobody
    is answered until SQLite gives up (60 s in Prefect)."""
    writing, waiting = database(), database()
    with garbage_collected_apart():
        gc.collect()  # the next look comes after what is made garbage
        Waste(waiting.execute("SELECT 1"))  # whose answer nobody read, because who asked had gone
        writing.execute("BEGIN IMMEDIATE")
        other = threading.Thread(target=waiting.execute, args=["BEGIN IMMEDIATE"])
        other.start()
        time.sleep(0.5)  # it waits for the lock now
        started = time.monotonic()
        make_garbage(seconds=3)
        writing.execute("COMMIT")
        assert time.monotonic() - started < BUSY_SECONDS / 2
        other.join()
        waiting.execute("COMMIT")


def test_garbage_goes_while_others_answer():
    with garbage_collected_apart():
        gone = threading.Event()

        class Told(Waste):
            def __del__(self):
                gone.set()

        Told(None)
        assert gone.wait(20)
    assert gc.isenabled()


@pytest.fixture
def server(tmp_path):
    """The API of a server as that of `lookbook up`, without workers."""
    [listening] = listen("127.0.0.1", 0)
    with listening:
        process = subprocess.Popen(
            [*ENDS_WITH_ITS_PARENT, *command([listening])],
            env={**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL"},
            pass_fds=[listening.fileno()],
            stderr=subprocess.DEVNULL,  # what SQLite refused
        )
        api = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
    until = time.monotonic() + PATIENCE
    while not healthy(api):
        assert time.monotonic() < until
        time.sleep(0.2)
    yield api
    process.terminate()
    process.wait(PATIENCE)


@pytest.mark.long
@pytest.mark.server
def test_a_server_answers_while_many_write(server):
    """Some of them leave before they have their answer, as those do whose patience ends."""
    flow = httpx.post(f"{server}/flows/", json={"name": "many"}, timeout=PATIENCE).json()["id"]
    until = time.monotonic() + 40

    def write(patience):
        made = 0
        with httpx.Client(base_url=server) as client:
            while time.monotonic() < until:
                with suppress(httpx.TransportError):  # Prefect asks again, too
                    run = {"flow_id": flow, "state": {"type": "RUNNING"}}
                    made += client.post("/flow_runs/", json=run, timeout=patience).status_code < 300
        return made

    waits = []
    with ThreadPoolExecutor(12) as pool:
        writing = [pool.submit(write, patience) for patience in [0.05, 0.2, 5, PATIENCE] * 3]
        while time.monotonic() < until:
            asked = time.monotonic()
            assert httpx.get(f"{server}/health", timeout=PATIENCE).json()
            waits.append(time.monotonic() - asked)
            time.sleep(0.2)
        assert sum(each.result() for each in writing)
    assert max(waits) < 20
