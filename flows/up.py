"""`lookbook up`: a Prefect server, two work pools with a worker each, the deployments and automations, until Ctrl-C.

Pools, deployments and automations stay in Prefect's database; making them again brings them up to date.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from artifacts.provenance import user_at_host
from artifacts.settings import Settings
from artifacts.store import Store
from flows.server import ServerError, address_file, healthy, only_server, standing_api
from tasks.turns import lock_now

NIGHTLY = "score/nightly"
NIGHTLY_ROOT = "nightly"
_READY_SECONDS = 120
_IDLE_SECONDS = 3  # that a worker without a run takes to end
_ABORT_SECONDS = 20  # that a run takes to notice that its worker is gone
_POLL_SECONDS = 0.2
_RESTARTS, _STEADY_SECONDS = 5, 600  # how often a process may end, one that did not live this long
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1

Say = Callable[[str], None]


def pools() -> dict[str, int]:
    """The work pools, with the runs that each does at once. A retraining that waits for the GPU pool is one of cpu."""
    return {"cpu": max(2, os.cpu_count() or 1), "gpu": 1}


@dataclass(frozen=True)
class Running:
    """api: of Prefect; url: of its UI; logs: the folder of what the processes say; ours: they end with this command."""

    api: str
    logs: Path
    ours: bool

    @property
    def url(self) -> str:
        return self.api.removesuffix("/api")


class Crew:
    """The processes of a `lookbook up`. Each is started again when it ends, and ends when this process does."""

    def __init__(self, logs: Path, say: Say) -> None:
        self._logs, self._say = logs, say
        self._members: list[_Process] = []

    @contextmanager
    def member(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Iterator["_Process"]:
        """Start a process that logs to `<name>.log`."""
        with open(self._logs / f"{name}.log", "ab") as log:
            process = _Process(name, command, environment, log)
            process.start()
            self._members.append(process)
            try:
                yield process
            finally:
                self._members.remove(process)
                process.stop()

    def hold(self) -> None:
        """Look after the processes until Ctrl-C (KeyboardInterrupt). Raises ServerError when one keeps ending."""
        while True:
            for process in self._members:
                if process.ended():
                    self._say(f"{process.name} ended; starting it again ({process.log})")
                    process.restart()
            time.sleep(_POLL_SECONDS)


class _Process:
    """A process in a session of its own: Ctrl-C is ours to pass on, in order."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> None:
        self.name, self.log = name, log.name
        self._command, self._environment, self._output = command, environment, log
        self._restarts = 0

    def start(self) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            self._command,
            env=dict(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    def restart(self) -> None:
        lived = time.monotonic() - self._started
        self._restarts = 1 if lived > _STEADY_SECONDS else self._restarts + 1
        if self._restarts > _RESTARTS:
            raise ServerError(f"{self.name} ended {self._restarts} times; {self.last_words()}")
        time.sleep(self._restarts)
        self.start()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        lines = Path(self.log).read_text(errors="replace").strip().splitlines()
        return f"its last line: {lines[-1] if lines else 'none'}; the others are in {self.log}"

    def runs(self) -> dict[int, str]:
        """The flow runs that are children of this process, a worker: process id -> flow run id."""
        found = {}
        with suppress(OSError):  # threads and children end as one looks
            for thread in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
                for child in thread.read_text().split():
                    for each in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                        if each.startswith(_FLOW_RUN_ID):
                            found[int(child)] = each.removeprefix(_FLOW_RUN_ID).decode()
        return found

    def interrupt(self) -> None:
        """As Ctrl-C does it: a worker takes no more runs, and ends when it has none."""
        self._process.send_signal(signal.SIGINT)

    def stop(self, seconds: float = 30) -> None:
        """Interrupt it, and kill it when it has not ended after so many seconds."""
        if not self.ended():
            self.interrupt()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            return
        self._process.kill()
        self._process.wait()


_FLOW_RUN_ID = b"PREFECT__FLOW_RUN_ID="


def _end_with_parent() -> None:
    """Runs in the child: the kernel kills it when this process ends in a way that leaves no time to.

    SIGINT, with which a child is stopped, is ignored by what a script started in the background, and by its children.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def running(say: Say) -> Iterator[tuple[Running, Crew]]:
    """Bring everything up, and end it in order: workers first, then the server. Raises ServerError.

    Where another `lookbook up` of this user is at work there is nothing to do but to name its address.
    """
    settings = Settings()
    logs = settings.cache.absolute() / "up"
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        crew = Crew(logs, say)
        if not stack.enter_context(_first(address_file())):
            yield Running(_other(say), logs, ours=False), crew
            return
        address_file().write_text("")
        stack.callback(address_file().write_text, "")
        api, started = stack.enter_context(_server(crew, say))
        from prefect.settings import PREFECT_API_URL, temporary_settings

        stack.enter_context(temporary_settings({PREFECT_API_URL: api}))
        _make_pools()
        before = _heartbeats()
        say("starting the workers, deploying")
        if started:
            _schedule_again(_pending(), say)  # a machine that died left them
        workers = stack.enter_context(_workers(crew, _environment(settings, api), started, say))
        _deploy(settings, api)
        _wait_for_workers(workers, before)
        address_file().write_text(api)
        yield Running(api, logs, ours=True), crew


@contextmanager
def _first(address: Path) -> Iterator[bool]:
    """Whether this is the only `lookbook up`; nobody else is until the end of the context."""
    address.parent.mkdir(parents=True, exist_ok=True)
    with open(address, "ab") as lock:
        yield lock_now(lock.fileno())


def _other(say: Say) -> str:
    """The API of the `lookbook up` that was first, once it is up."""
    say("another `lookbook up` is at work; waiting for its address")
    until = time.monotonic() + _READY_SECONDS
    while not (api := standing_api()):
        if time.monotonic() > until:
            raise ServerError("another `lookbook up` is at work, and does not come up; end it, and try again")
        time.sleep(_POLL_SECONDS)
    return api


@contextmanager
def _server(crew: Crew, say: Say) -> Iterator[tuple[str, bool]]:
    """The API of the configured server, of one that runs where Prefect starts one, or of a new one; and whether it is
    a new one."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_HOME,
        PREFECT_SERVER_API_AUTH_STRING,
        PREFECT_SERVER_API_HOST,
        PREFECT_SERVER_API_PORT,
    )

    if configured := PREFECT_API_URL.value():
        if not healthy(configured):
            raise ServerError(
                f"expected a Prefect server at PREFECT_API_URL {configured}, found none; start it, or unset "
                "PREFECT_API_URL: `lookbook up` then brings one"
            )
        say(f"using the Prefect server at {configured}")
        yield configured, False
        return
    host, port = PREFECT_SERVER_API_HOST.value(), PREFECT_SERVER_API_PORT.value()
    api = f"http://{host}:{port}/api"
    if healthy(api):
        say(f"using the Prefect server at {api}")
        yield api, False
        return
    if host not in _LOOPBACK and not PREFECT_SERVER_API_AUTH_STRING.value():
        raise ServerError(
            f"expected a password (PREFECT_SERVER_API_AUTH_STRING, PREFECT_API_AUTH_STRING) for a server that listens "
            f"on {host}, found none: whoever reaches it can run code here; set one, or unset PREFECT_SERVER_API_HOST"
        )
    say("starting the Prefect server")
    command = [*_PREFECT, "server", "start", "--host", host, "--port", str(port)]
    environment = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_UI_URL": api.removesuffix("/api"),  # which notices name
        **{name: value for name, value in os.environ.items() if name != "LOOKBOOK_NOTIFY_URL"},
    }
    with only_server(PREFECT_HOME.value()), crew.member("server", command, environment) as server:
        import prefect.workers.process  # noqa: F401  (needed soon, and there is time now)

        until = time.monotonic() + _READY_SECONDS
        while not healthy(api):
            if server.ended() or time.monotonic() > until:
                raise ServerError(
                    f"expected a Prefect server on port {port}, it does not start: {server.last_words()} "
                    "(PREFECT_SERVER_API_PORT names another port)"
                )
            time.sleep(_POLL_SECONDS)
        yield api, True


_PREFECT = [sys.executable, "-m", "prefect"]


def _make_pools() -> None:
    """Both pools, unless they are there: their limits are the operator's to change."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template: Any = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        for name, limit in pools().items():
            pool = WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=limit)
            with suppress(ObjectAlreadyExists):
                client.create_work_pool(pool)


def _environment(settings: Settings, api: str) -> dict[str, str]:
    """What workers and their runs see: every folder absolute, and no secret that they don't need."""
    secrets = ("PREFECT_SERVER_", "PREFECT_API_DATABASE_", "LOOKBOOK_NOTIFY_URL", "PREFECT_LOGGING_HANDLERS_CONSOLE")
    found = {
        **{name: value for name, value in os.environ.items() if not name.startswith(secrets)},
        "PREFECT_API_URL": api,
        "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "2"),
        "PREFECT_WORKER_ENABLE_CANCELLATION": "true",
        "LOOKBOOK_HOME": str(settings.home.absolute()),
        "LOOKBOOK_STORE": str(Store(settings.store).disk.root),
        "LOOKBOOK_CACHE": str(settings.cache.absolute()),
        "LOOKBOOK_IMAGE_ROOTS": json.dumps({name: str(_full(root)) for name, root in settings.image_roots.items()}),
    }
    if settings.dataset_mirror:
        found["LOOKBOOK_DATASET_MIRROR"] = str(_full(settings.dataset_mirror))
    return found


def _full(folder: Path) -> Path:
    return folder.expanduser().absolute()


@contextmanager
def _workers(
    crew: Crew, environment: Mapping[str, str], with_server: bool, say: Say
) -> Iterator[dict[str, "_Process"]]:
    """A worker a pool. At the end, runs that they had in hand are stopped, and scheduled anew: they go on next time."""
    with ExitStack() as stack:
        workers = {}
        for pool, limit in pools().items():
            command = [*_PREFECT, "worker", "start", "--pool", pool, "--type", "process", "--limit", str(limit)]
            command += ["--name", _worker_name(pool)]
            workers[pool] = stack.enter_context(crew.member(f"worker-{pool}", command, environment))
        try:
            yield workers
        finally:
            _stop_runs(list(workers.values()), with_server, say)


def _stop_runs(workers: Sequence[_Process], with_server: bool, say: Say) -> None:
    """End the workers, then their runs: those notice by themselves that their worker is gone, or are killed."""
    runs = {pid: run for worker in workers for pid, run in worker.runs().items()}
    for worker in workers:
        worker.stop(0 if worker.runs() else _IDLE_SECONDS)
    until = time.monotonic() + _ABORT_SECONDS
    while any(map(_alive, runs)) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    for pid in filter(_alive, runs):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(Exception):  # a server that is gone can't be told
        _schedule_again({*map(UUID, runs.values()), *(_pending() if with_server else ())}, say)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _pending() -> set[UUID]:
    """Runs that a worker had taken, and not started: nothing else would ever start them, and they hold their slots."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter

    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING"]}}}),
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": list(pools())}}),
        )
    return {run.id for run in found}


def _schedule_again(runs: Iterable[UUID], say: Say) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import AwaitingRetry, Cancelled

    with get_client(sync_client=True) as client:
        for run in runs:
            found = client.read_flow_run(run)
            if found.state_type in (StateType.RUNNING, StateType.PENDING, StateType.CRASHED):
                state: State[Any] = AwaitingRetry(message="its `lookbook up` ended; it goes on at the next one")
                say(f"{found.name} was at work; it goes on at the next `lookbook up`")
            elif found.state_type == StateType.CANCELLING:
                state = Cancelled(message="its `lookbook up` ended")
            else:
                continue
            client.set_flow_run_state(run, state, force=True)


def _deploy(settings: Settings, api: str) -> None:
    """What prefect.yaml says, and the automations. A schedule that somebody paused stays so; that of `score/nightly` is
    awake when there is a folder for it."""
    from prefect.client.orchestration import get_client

    from flows.automations import create_automations

    with get_client(sync_client=True) as client:
        known = client.read_deployments()
        paused = {(each.id, schedule.slug) for each in known for schedule in each.schedules if not schedule.active}
    # Without LOOKBOOK_HOME: `prefect deploy` would write this machine's folder into the pull steps of all workers.
    environment = {name: value for name, value in os.environ.items() if name != "LOOKBOOK_HOME"}
    deployed = subprocess.run(
        [*_PREFECT, "--no-prompt", "deploy", "--all"],
        cwd=settings.home,
        env={**environment, "PREFECT_API_URL": api},
        capture_output=True,
        text=True,
    )
    if deployed.returncode:
        last = (deployed.stdout + deployed.stderr).strip().splitlines()[-3:]
        raise ServerError(f"`prefect deploy --all` failed in {settings.home}: {' '.join(last)}")
    with get_client(sync_client=True) as client:
        create_automations(client, settings.notify_url)
        nightly = client.read_deployment_by_name(NIGHTLY).id
        for each in client.read_deployments():
            for schedule in each.schedules:
                awake = (
                    NIGHTLY_ROOT in settings.image_roots
                    if each.id == nightly
                    else (each.id, schedule.slug) not in paused
                )
                if schedule.active != awake:
                    client.update_deployment_schedule(each.id, schedule.id, active=awake)


def _worker_name(pool: str) -> str:
    return f"{user_at_host()}-{pool}"


def _heartbeats() -> dict[str, Any]:
    """When each of our workers was last heard of, by pool; a worker that ended is remembered for a while."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {
            pool: worker.last_heartbeat_time
            for pool in pools()
            for worker in client.read_workers_for_work_pool(pool)
            if worker.name == _worker_name(pool)
        }


def _wait_for_workers(workers: Mapping[str, "_Process"], before: Mapping[str, Any]) -> None:
    until = time.monotonic() + _READY_SECONDS
    while missing := [pool for pool in pools() if _heartbeats().get(pool) == before.get(pool)]:
        worker = workers[missing[0]]
        if worker.ended() or time.monotonic() > until:
            raise ServerError(f"the worker of the pool {missing[0]} does not start: {worker.last_words()}")
        time.sleep(_POLL_SECONDS)
