"""`lookbook VERB` as tests run it: inside the test's own process, or as a process of its own.

Inside is the same code from `main` on, without the seconds that a process takes to import TensorFlow and Prefect.
A process of its own is the point where a command brings a Prefect server, is started by another command, or is killed.
"""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from uuid import UUID

COMMAND = [str(Path(sys.executable).with_name("lookbook"))]  # as a person starts it
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # which `main` handles

Done = subprocess.CompletedProcess[str]


def run_process(arguments: Sequence[object], environment: dict[str, str], behind: Sequence[str] = ()) -> Done:
    """Run `lookbook` as a process, started by the command `behind` if there is one."""
    command = [*behind, *COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def run_inside(arguments: Sequence[object], environment: dict[str, str]) -> Done:
    """Run `lookbook` inside this process, which afterwards has its environment, signal handlers and streams back.

    `retrain` and `score` need a Prefect server: PREFECT_API_URL of `environment`.
    """
    from flows.cli import main

    command = [*COMMAND, *map(str, arguments)]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with ExitStack() as stack:
        stack.enter_context(_process_of_its_own(environment, command))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        if environment.get("PREFECT_API_URL"):
            stack.enter_context(_prefect(environment))
        try:
            main()
        except SystemExit as end:
            status = end.code
    said, told = (each.buffer.getvalue().decode() for each in (out, err))
    return subprocess.CompletedProcess(command, status, said, told)


@contextmanager
def _process_of_its_own(environment: dict[str, str], command: list[str]) -> Iterator[None]:
    """What a process has of its own and a command may change: environment, arguments, signal handlers."""
    handlers = {each: signal.getsignal(each) for each in SIGNALS}
    variables, arguments = dict(os.environ), sys.argv
    try:
        _set_environment(environment)
        sys.argv = command
        yield
    finally:
        sys.argv = arguments
        _set_environment(variables)
        for each, handler in handlers.items():
            signal.signal(each, handler)


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


@contextmanager
def _prefect(environment: dict[str, str]) -> Iterator[None]:
    """Prefect has read the environment when it was imported: what a command would read from its own is set here."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    given = {PREFECT_API_URL: environment["PREFECT_API_URL"], PREFECT_HOME: environment["PREFECT_HOME"]}
    with temporary_settings(given):
        try:
            yield
        finally:
            send_what_is_left()


def send_what_is_left() -> None:
    """Logs and events of flows that ran in this process travel in the background: call this while the server is up."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=30)
    EventsWorker.drain_all(timeout=30)


def run_flow_inside(flow: Any, asked: dict[str, Any], environment: dict[str, str], run: str | None = None) -> Any:
    """Run a flow inside this process as a worker's process does: a new run, or one that is started again by its id.

    `environment` names the store, the roots and the server. Gives the run's id and its final state.
    """
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.states import Pending
    from prefect.utilities.callables import get_call_parameters

    ours = {name: value for name, value in environment.items() if name.startswith("LOOKBOOK_")}
    with (
        _process_of_its_own({**os.environ, **ours}, sys.argv),
        _prefect(environment),
        get_client(sync_client=True) as api,
    ):
        parameters = get_call_parameters(flow.fn, (), asked)
        run = run or str(api.create_flow_run(flow, parameters=parameters, state=Pending()).id)
        api.set_flow_run_state(UUID(run), Pending(), force=True)
        made = api.read_flow_run(UUID(run))
        return run, run_flow(flow, flow_run=made, parameters=parameters, return_type="state")


def answer(run: Done) -> Any:
    """The JSON value of a command that worked."""
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def complaint(run: Done, status: int = 1) -> str:
    """The one clear line of a command that did not."""
    assert run.returncode == status, run.stderr
    assert "Traceback" not in run.stderr
    line = run.stderr.strip().splitlines()[-1]
    assert status == 2 or line.startswith("lookbook: "), run.stderr
    return line
