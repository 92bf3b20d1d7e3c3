"""Work pools, their workers on this machine, and what becomes of the runs that these had in hand."""

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from artifacts.provenance import user_at_host
from artifacts.settings import Settings
from artifacts.store import Store
from flows.crew import Crew, Process, Say
from flows.heartbeats import EVERY_SECONDS
from flows.serving import ServerError, with_our_code
from flows.working import WORKER
from tasks.shared.listing import is_url

_READY_SECONDS = 120
_IDLE_SECONDS = 3  # that a worker without a run takes to end
_ABORT_SECONDS = 20  # that a run takes to notice that its worker is gone
_POLL_SECONDS = 0.2
FOR_THE_PAGE = "LOOKBOOK_REVIEW_PASSWORD"
_NOT_FOR_RUNS = (
    "PREFECT_SERVER_", "PREFECT_API_DATABASE_", "PREFECT_LOGGING_HANDLERS_CONSOLE", "LOOKBOOK_NOTIFY_URL", FOR_THE_PAGE
)  # fmt: skip


def pools() -> dict[str, int]:
    """The work pools, with the runs that each does at once. A retraining that waits for the GPU pool is one of cpu."""
    return {"cpu": max(2, os.cpu_count() or 1), "gpu": 1}


def make_pools() -> None:
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


def environment(settings: Settings, api: str) -> dict[str, str]:
    """What workers and their runs see: every folder absolute, no secret that they don't need, LOOKBOOK_HOME's code."""
    found = {
        **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_RUNS)},
        "PREFECT_API_URL": api,
        "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "2"),
        "PREFECT_WORKER_ENABLE_CANCELLATION": "true",
        # What a worker is set to goes before what its deployments say, and the automation waits for this.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": f"{EVERY_SECONDS:.0f}",
        "LOOKBOOK_HOME": str(settings.home.absolute()),
        "LOOKBOOK_STORE": str(Store(settings.store).disk.root),
        "LOOKBOOK_CACHE": str(settings.cache.absolute()),
        "LOOKBOOK_IMAGE_ROOTS": json.dumps(
            {name: root if is_url(root) else str(_full(Path(root))) for name, root in settings.image_roots.items()}
        ),
    }
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        if name in found:
            found[name] = str(_full(Path(found[name])))
    if settings.dataset_mirror:
        found["LOOKBOOK_DATASET_MIRROR"] = str(_full(settings.dataset_mirror))
    return with_our_code(found, settings.home.absolute())


def _full(folder: Path) -> Path:
    return folder.expanduser().absolute()


@contextmanager
def workers(crew: Crew, environment: Mapping[str, str], with_server: bool, say: Say) -> Iterator[dict[str, Process]]:
    """A worker a pool. At the end, runs that they had in hand are stopped, and scheduled anew: they go on next time."""
    with ExitStack() as stack:
        workers = {}
        for pool, limit in pools().items():
            command = [*WORKER, "--pool", pool, "--type", "process", "--limit", str(limit), "--name", worker_name(pool)]
            workers[pool] = stack.enter_context(crew.member(f"worker-{pool}", command, environment))
        try:
            yield workers
        finally:
            _stop_runs(list(workers.values()), with_server, say)


def _stop_runs(workers: Sequence[Process], with_server: bool, say: Say) -> None:
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
        schedule_again({*map(UUID, runs.values()), *(pending() if with_server else ())}, say)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def pending() -> set[UUID]:
    """Runs that our workers had taken and not started: nothing else would ever start them, and they hold their slots.

    A worker writes its name into a run's labels soon after taking it. A run without one is ours when no other machine's
    worker is at work that could be about to write its own.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter

    ours = {worker_name(pool) for pool in pools()}
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING"]}}}),
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": list(pools())}}),
        )
        workers = [worker for pool in pools() for worker in client.read_workers_for_work_pool(pool)]
    alone = not any(worker.status == "ONLINE" for worker in workers if worker.name not in ours)
    takers = {*ours, None} if alone else ours
    return {run.id for run in found if run.labels.get("prefect.worker.name") in takers}


def schedule_again(runs: Iterable[UUID], say: Say) -> None:
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


def worker_name(pool: str) -> str:
    return f"{user_at_host()}-{pool}"


def heartbeats() -> dict[str, Any]:
    """When each of our workers was last heard of, by pool; a worker that ended is remembered for a while."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {
            pool: worker.last_heartbeat_time
            for pool in pools()
            for worker in client.read_workers_for_work_pool(pool)
            if worker.name == worker_name(pool)
        }


def wait_for_workers(workers: Mapping[str, Process], before: Mapping[str, Any]) -> None:
    until = time.monotonic() + _READY_SECONDS
    while missing := [pool for pool in pools() if heartbeats().get(pool) == before.get(pool)]:
        worker = workers[missing[0]]
        if worker.ended() or time.monotonic() > until:
            raise ServerError(f"the worker of the pool {missing[0]} does not start: {worker.last_words()}")
        time.sleep(_POLL_SECONDS)
