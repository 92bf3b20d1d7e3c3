"""The Prefect server beside a run: when none is configured, a command brings its own for as long as it works.

A server's start is mostly imports, 4 to 7 s of them on one core. So it is a child that imports while its parent
imports Prefect and TensorFlow on the other core, and that touches nothing until the parent tells it to serve: by then
Prefect's own settings have told the parent whether a server is needed at all.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from flows.diagnosis import cause_in, how_to_unset
from flows.heartbeats import heartbeats
from flows.serving import KILLED_SECONDS, SERVE, ServerError, command, only_server, reach_loopback_directly
from flows.standing import beside_its_database, check_home, standing_api
from tasks.vision.imports import quick_imports

if TYPE_CHECKING:
    from prefect import Flow

START_SECONDS = 120
STOP_SECONDS = 30


@contextmanager
def prefect_api() -> Iterator["Api"]:
    """Prefect's API for this process: the configured one, that of a `lookbook up`, or that of a temporary server.

    The temporary server keeps its history in Prefect's own database, so that a server started later shows the run. One
    server at a time uses that database: another command waits here, and says so. Call `wait` on what this yields before
    the first flow; it leaves time for imports. Raises ServerError.
    """
    check_home()
    reach_loopback_directly()
    with ExitStack() as stack:
        upheld = standing_api()
        child = None if os.environ.get("PREFECT_API_URL") or upheld else stack.enter_context(_child())
        with quick_imports():
            from prefect.settings import (
                PREFECT_API_URL,
                PREFECT_CLIENT_MAX_RETRIES,
                PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
                PREFECT_HOME,
                temporary_settings,
            )

        stack.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))  # see heartbeats.py
        if PREFECT_API_URL.value():
            yield Api(None)
            return
        if child is None:
            stack.enter_context(temporary_settings({PREFECT_API_URL: upheld}))
            yield Api(None)
            return
        stack.enter_context(only_server(PREFECT_HOME.value()))
        stack.callback(child.stop)
        child.serve()
        settings = {
            PREFECT_API_URL: child.url,
            PREFECT_CLIENT_MAX_RETRIES: 50,  # this server has them repeated soon
        }
        stack.enter_context(temporary_settings(settings))
        try:
            yield Api(child)
        finally:
            _send_what_is_left()


class Api:
    """A Prefect API; `child` is the temporary server behind it, None where one was configured."""

    def __init__(self, child: "_Child | None") -> None:
        self._child = child

    @contextmanager
    def run(self, flow: "Flow[..., Any]") -> Iterator["Flow[..., Any]"]:
        """`flow` to be called: it gives signs of life to a server that others watch, too."""
        if self._child:
            yield flow
            return
        with heartbeats() as begin:
            yield flow.with_options(on_running=[begin])

    def wait(self) -> None:
        """Return when the API answers. Raises ServerError when it doesn't."""
        import httpx
        from prefect.settings import PREFECT_API_URL

        url = f"{PREFECT_API_URL.value()}/health"
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                if httpx.get(url, timeout=START_SECONDS).is_success:
                    return
                problem = "it doesn't answer /health with success"
            except httpx.HTTPError as error:
                problem = str(error) or type(error).__name__
            if self._child is None:
                raise ServerError(
                    f"expected a Prefect server at PREFECT_API_URL {PREFECT_API_URL.value()}, found: {problem}; "
                    f"start it (prefect server start), or {how_to_unset()}: lookbook then brings its own"
                )
            if self._child.ended() or time.monotonic() > until:
                raise ServerError(f"the temporary Prefect server did not start: {self._child.last_words()}")
            time.sleep(0.1)


class _Child:
    """The process of a temporary server, its address, and the pipe that keeps it alive."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: IO[bytes]) -> None:
        self._process = process
        self._log = log
        self.url = f"http://127.0.0.1:{port}/api"

    def serve(self) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # it ended already: `wait` tells why
            self._process.stdin.write(SERVE)
            self._process.stdin.flush()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        """Why it ended."""
        self._log.seek(0)
        return cause_in(self._log.read().decode(errors="replace"))

    def stop(self) -> None:
        """Close its standard input: it answers what is under way, and ends."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # the kernel can't end it yet: it waits for a disk
                self._process.wait(KILLED_SECONDS)


@contextmanager
def _child() -> Iterator[_Child]:
    """Start the child; it ends with this context, and with this process however that ends."""
    with socket.socket() as listening, open(os.memfd_create("log"), "w+b") as log:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        process = subprocess.Popen(
            command([listening], beside_a_run=True),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C is the parent's to handle
            env={
                **beside_its_database(),
                **os.environ,
                "PREFECT_UI_ENABLED": "0",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
                "PREFECT_API_BLOCKS_REGISTER_ON_START": "0",
                "PREFECT__SERVER_EPHEMERAL": "1",
                "PREFECT__SERVER_FINAL": "1",
            },
        )
        port = listening.getsockname()[1]
        listening.close()
        child = _Child(process, port, log)
        try:
            yield child
        finally:
            child.stop()


def _send_what_is_left() -> None:
    """Logs and events travel in the background; the history is whole when they have arrived."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=5)
    EventsWorker.drain_all(timeout=5)
