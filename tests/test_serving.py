"""pytest tests/test_serving.py: the process of a Prefect server answers whoever asks."""

import gc
import itertools
import os
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, suppress

import httpx
import pytest
from upheld import PATIENCE
from waiting import eventually

from flows import serving
from flows.ports import listen
from flows.serving import command, garbage_collected_apart, healthy

BUSY_SECONDS = 20
WRITES = 40


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


@pytest.fixture
def looks(monkeypatch):
    """Looks for garbage that have begun, one soon after the other; none before the test lets them."""
    monkeypatch.setattr(serving, "_COLLECT_SECONDS", 0.01)
    begun = []
    gc.collect()
    gc.disable()
    gc.callbacks.append(note := lambda phase, _: begun.append(phase) if phase == "start" else None)
    yield begun
    gc.callbacks.remove(note)
    gc.enable()


def test_a_lost_cursor_of_a_waiting_connection_keeps_nobody_from_an_answer(database, looks):
    """The thread that answers has the database's lock, and goes on while another one waits for that: otherwise nobody
    is answered until SQLite gives up (60 s in Prefect), and the one that waits is told that the database is locked."""
    writing, waiting = database(), database()
    Waste(waiting.execute("SELECT 1"))  # whose answer nobody read, because who asked had gone
    writing.execute("BEGIN IMMEDIATE")
    waits = threading.Event()
    waiting.set_trace_callback(lambda _: waits.set())
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(waiting.execute, "BEGIN IMMEDIATE")
        assert waits.wait(BUSY_SECONDS)
        gc.enable()
        with garbage_collected_apart():
            until, made = time.monotonic() + BUSY_SECONDS, 0
            while made < 100_000 or not looks:  # as much as has looks where nothing keeps them apart
                assert time.monotonic() < until
                Waste(None)
                made += 1
            writing.execute("COMMIT")
            other.result()
        waiting.execute("COMMIT")


def test_garbage_goes_while_others_answer(monkeypatch):
    monkeypatch.setattr(serving, "_COLLECT_SECONDS", 0.01)
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
            command([listening]),
            env={**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL"},
            pass_fds=[listening.fileno()],
            stderr=subprocess.DEVNULL,  # what SQLite refused
        )
        api = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
    eventually(lambda: healthy(api), "the server answers")
    yield api
    process.terminate()
    process.wait(PATIENCE)


@pytest.mark.long
@pytest.mark.server
def test_a_server_answers_while_many_write(server):
    """Some of them leave before they have their answer, as those do whose patience ends."""
    flow = httpx.post(f"{server}/flows/", json={"name": "many"}, timeout=PATIENCE).json()["id"]
    made, enough = itertools.count(1), threading.Event()

    def write(patience):
        with httpx.Client(base_url=server) as client:
            while not enough.is_set():
                with suppress(httpx.TransportError):  # Prefect asks again, too
                    run = {"flow_id": flow, "state": {"type": "RUNNING"}}
                    answer = client.post("/flow_runs/", json=run, timeout=patience)
                    if answer.is_success and next(made) >= WRITES:
                        enough.set()

    with ThreadPoolExecutor(12) as pool:
        writing = [pool.submit(write, patience) for patience in [0.05, 0.2, 5, PATIENCE] * 3]
        try:
            while wait(writing, timeout=0.2).not_done:
                assert httpx.get(f"{server}/health", timeout=20).json()
        finally:
            enough.set()
        for each in writing:
            each.result()
