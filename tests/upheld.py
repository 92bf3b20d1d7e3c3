"""A Prefect server's API, and a `lookbook up` at work, as tests use them."""

import itertools
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import COMMAND
from sweeper import MARK
from waiting import eventually

from artifacts.store import Store

PATIENCE = 150.0  # seconds for an answer of Prefect's server: SQLite waits for its lock for 60 s, and others after it


@cache
def _ports() -> Iterator[int]:
    """Each worker of a session has 70 of its own, and hardly any session has those of another one."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return itertools.count(20_000 + 600 * (int(os.environ[MARK], 16) % 20) + 70 * worker)


def free_port() -> int:
    """A port that nobody listens at, and that the kernel gives to no connection: below those that it chooses from."""
    for port in _ports():
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def asked(url: str, what: str, **body: Any) -> list[dict[str, Any]]:
    """What Prefect's API at `url` knows: flow_runs, task_runs, logs, artifacts."""
    return httpx.post(f"{url}/{what}/filter", json={"limit": 200, **body}, timeout=PATIENCE).raise_for_status().json()


def post(url: str, asking: Any) -> httpx.Response:
    """The answer to a POST of JSON."""
    return answered("POST", url, json=asking)


def patch(url: str, change: Any) -> None:
    answered("PATCH", url, json=change)


def delete(url: str) -> None:
    answered("DELETE", url)


def answered(method: str, url: str, **given: Any) -> httpx.Response:
    """The answer; asked again while SQLite is busy, as Prefect's clients do."""

    def answer() -> httpx.Response | None:
        found = httpx.request(method, url, timeout=PATIENCE, **given)
        return None if found.status_code == 503 else found.raise_for_status()

    return eventually(answer, f"an answer to {method} {url}")


class Upheld:
    """A `lookbook up` with a store, folders of pictures and a listener for its notices, as a test uses it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.top = Path(environment["LOOKBOOK_STORE"]).parent
        self.store = Store(environment["LOOKBOOK_STORE"])
        self.url = f"http://127.0.0.1:{environment['PREFECT_SERVER_API_PORT']}"
        self.api = f"{self.url}/api"
        self.process = self._bring_up()

    def bring_up_again(self) -> None:
        """Start `lookbook up` after `bring_down`."""
        self.process = self._bring_up()

    def _bring_up(self) -> subprocess.Popen[str]:
        """Start `lookbook up`, and wait until it says that it is."""
        process = subprocess.Popen(
            [*COMMAND, "up", "--json"],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        said = process.stdout.readline()
        assert said, "lookbook up ended without a word"
        told = json.loads(said)
        assert told["api"] == self.api
        self.review = told["review"]
        return process

    def bring_down(self) -> None:
        """Ctrl-C, and wait until it has ended."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(120) == 0
        self.process.stdout.close()

    def deployment(self, name: str) -> dict[str, Any]:
        return httpx.get(f"{self.api}/deployments/name/{name}", timeout=PATIENCE).raise_for_status().json()

    def start(self, deployment: str, /, job: dict[str, Any] | None = None, **parameters: Any) -> str:
        """A run of a deployment, as the page's button starts one, with the schema's checks off; its id.

        job: variables of its own for the worker.
        """
        asking = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "enforce_parameter_schema": False}
        asking["job_variables"] = job or {}
        url = f"{self.api}/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        return post(url, asking).json()["id"]

    def run(self, run: str) -> dict[str, Any]:
        return httpx.get(f"{self.api}/flow_runs/{run}", timeout=PATIENCE).raise_for_status().json()

    def wait(self, run: str, *states: str) -> dict[str, Any]:
        """The run, once it is in one of the states (any final one when none is named)."""
        states = states or ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

        def there() -> dict[str, Any] | None:
            found = self.run(run)
            return found if found["state_type"] in states else None

        return eventually(there, lambda: f"{states}, but {self.run(run)['state']}: {self.logs(run)}")

    def cancel(self, run: str) -> None:
        post(f"{self.api}/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})

    def retry(self, run: str) -> None:
        """As the page's Retry button does it."""
        state = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
        post(f"{self.api}/flow_runs/{run}/set_state", state)

    def logs(self, run: str) -> list[str]:
        """What the run said so far."""
        return [each["message"] for each in asked(self.api, "logs", logs={"flow_run_id": {"any_": [run]}})]

    def wait_for_log(self, run: str, text: str) -> None:
        eventually(
            lambda: any(text in line for line in self.logs(run)),
            lambda: f"{text!r}, but {self.run(run)['state']}: {self.logs(run)}",
        )

    def inner(self, run: str, flow: str = "train") -> dict[str, Any]:
        """The newest run of `flow` below `run`, of another deployment."""
        parent = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}, "sort": "START_TIME_DESC"}
        found: list[dict[str, Any]] = eventually(
            lambda: asked(self.api, "flow_runs", **parent), lambda: f"a {flow} below {self.run(run)['name']}"
        )
        return found[0]

    def report(self, key: str, run: str | None = None) -> str:
        """The newest report under `key`, of this run if one is given."""
        of_run = {"flow_runs": {"id": {"any_": [run]}}} if run else {}
        found = asked(self.api, "artifacts", artifacts={"key": {"any_": [key]}}, sort="UPDATED_DESC", **of_run)
        return found[0]["data"]

    def engine(self, run: str) -> int:
        """The process of a run."""
        for pid in self.processes("prefect.engine"):
            with suppress(OSError):
                if run.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    return pid
        pytest.fail(f"no process of {self.run(run)['name']}")

    def processes(self, words: str) -> list[int]:
        """Processes of this user's whose command holds `words`, below this `lookbook up`."""
        found = subprocess.run(["pgrep", "-f", words], capture_output=True, text=True).stdout.split()
        return [int(each) for each in found if self._is_ours(int(each))]

    def _is_ours(self, pid: int) -> bool:
        while pid > 1:
            if pid == self.process.pid:
                return True
            try:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except FileNotFoundError:
                return False
        return False
