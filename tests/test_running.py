"""pytest tests/test_running.py: turns, deadlines, retries, and the record of what a run produced."""

import asyncio
import errno
import subprocess
import sys
import threading

import httpx
import pytest
from prefect import flow, task
from prefect.settings import PREFECT_API_URL, temporary_settings
from published import damage
from upheld import asked

from artifacts import runs
from artifacts.disk import LocalDisk
from artifacts.errors import Corrupt, StoreError
from flows.reports import report
from flows.serving import asked_again_soon
from tasks.reports.progress import report_key
from tasks.shared import retries, turns
from tasks.shared.deadline import Deadline, DeadlineExceeded
from tasks.shared.retries import RETRIES, may_pass
from tasks.shared.turns import turn


def test_the_first_record_of_a_run_stays(store):
    assert runs.find(store.disk, "one") is None
    made = {"weights": "weights/shapes@1789558e692cec29"}
    assert runs.record(store.disk, "one", made) == made
    assert runs.record(store.disk, "one", {"weights": "another"}) == made
    assert runs.find(store.disk, "one") == made


def test_a_damaged_record_is_named(store):
    runs.record(store.disk, "one", {"weights": "x"})
    path = store.disk.local_path(runs.key("one"))
    damage(path, path.read_bytes().replace(b"x", b"y"))
    with pytest.raises(Corrupt, match=r"runs/one\.json is damaged"):
        runs.find(store.disk, "one")
    assert any("runs/one.json" in sentence for sentence in store.verify().corrupt)


def test_one_waits_for_the_other_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "_POLL_SECONDS", 0.001)
    said, order, looked = [], [], threading.Semaphore(0)

    class Disk(LocalDisk):
        def hold(self, key):
            looked.release()
            return super().hold(key)

    def second():
        with turn(Disk(tmp_path), "lock", "the first to end", Deadline.after(1), said.append):
            order.append("second")

    with turn(LocalDisk(tmp_path), "lock", "nobody", Deadline.after(1), said.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert all(looked.acquire(timeout=60) for _ in range(4))
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert said == ["waiting for the first to end"]


@pytest.mark.kill
def test_a_turn_ends_with_its_process_however_that_ends(tmp_path):
    program = (
        "import signal, sys; from artifacts.disks import disk_at\n"
        "from tasks.shared.deadline import Deadline; from tasks.shared.turns import turn\n"
        "with turn(disk_at(sys.argv[1]), 'lock', 'x', Deadline.after(1), print):\n"
        "    print('held', flush=True); signal.pause()"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(DeadlineExceeded, match="waiting for x"),
        turn(LocalDisk(tmp_path), "lock", "x", Deadline(1, 0), print),
    ):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with turn(LocalDisk(tmp_path), "lock", "x", Deadline.after(1), print):
        pass


def test_only_input_and_output_that_failed_in_passing_may_pass():
    def under(cause):
        try:
            try:
                raise cause
            except Exception as error:
                raise StoreError("can't write") from error
        except StoreError as error:
            return error

    assert may_pass(httpx.ConnectError("refused"))
    assert may_pass(OSError(errno.ESTALE, "stale"))
    assert may_pass(under(TimeoutError(errno.ETIMEDOUT, "timed out")))
    assert not may_pass(under(OSError(errno.ENOSPC, "full")))
    assert not may_pass(under(OSError(errno.EIO, "a sync that failed is fatal")))
    assert not may_pass(ValueError("a mistake"))


@pytest.mark.parametrize(("error", "tries"), [(OSError(errno.ESTALE, "stale"), 4), (ValueError("no"), 1)])
def test_prefect_tries_the_one_again_and_not_the_other(server, error, tries):
    assert RETRIES["retry_delay_seconds"](3) == [2, 4, 8]
    assert RETRIES["retry_jitter_factor"] > 0
    tried = 0

    @task(persist_result=False, **{**RETRIES, "retry_delay_seconds": 0})
    def read():
        nonlocal tried
        tried += 1
        raise error

    @flow
    def reading():
        read()

    with temporary_settings({PREFECT_API_URL: server}), pytest.raises(type(error)):
        reading()
    assert tried == tries


def test_a_report_that_is_not_there_fails_no_run(server, capsys):
    def broken():
        raise ValueError("no such chart")

    @flow
    def working():
        report(broken, "broken", "a.b", description="one that can't be drawn")
        report(lambda: {1}, "odd", "a.b", description="one that Prefect doesn't take")
        report(lambda: "fine", "fine", "a.b", description="one that is fine")
        return "done"

    with temporary_settings({PREFECT_API_URL: server}):
        assert working() == "done"
    kept = {each["key"]: each["data"] for each in asked(server, "artifacts")}
    assert kept[report_key("fine", "a.b")] == "fine"
    assert not {report_key("broken", "a.b"), report_key("odd", "a.b")} & set(kept)
    told = capsys.readouterr().err
    assert "warning: the report \"one that can't be drawn\" is missing on this run's page (ValueError: no such" in told
    assert "chart); what the run has done is not affected" in told
    assert "one that Prefect doesn't take" in told
    assert "one that is fine" not in told


def test_every_task_has_these_retries_and_no_result_to_pickle():
    import importlib

    for stage in ("prepare", "train", "evaluate", "promote", "plan", "score", "commit"):
        each = getattr(importlib.import_module(f"tasks.{stage}"), stage)
        assert each.retries == 3, stage
        assert each.retry_condition_fn is retries._failed_in_passing
        assert each.persist_result is False


@pytest.mark.parametrize(("status", "again"), [(503, "0.1"), (200, None)])
def test_what_the_database_of_a_temporary_server_refuses_is_asked_again_soon(status, again):
    async def prefects(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def ask():
        transport = httpx.ASGITransport(asked_again_soon(prefects))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.get("/api/health")

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, again)
