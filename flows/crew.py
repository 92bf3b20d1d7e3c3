"""The processes of a `lookbook up`: started again when they end, stopped in order, gone when it is."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from flows.diagnosis import cause_in
from flows.serving import KILLED_SECONDS, ServerError

_RESTARTS, _STEADY_SECONDS = 5, 600  # how often a process may end, one that did not live this long
_POLL_SECONDS = 0.2
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_FLOW_RUN_ID = b"PREFECT__FLOW_RUN_ID="

Say = Callable[[str], None]


class Crew:
    """The processes of a `lookbook up`. Each is started again when it ends, and ends when this process does."""

    def __init__(self, logs: Path, say: Say) -> None:
        self._logs, self._say = logs, say
        self._members: list[Process] = []

    @contextmanager
    def member(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        sockets: Sequence[socket.socket] = (),
    ) -> Iterator["Process"]:
        """Start a process that logs to `<name>.log`, and that inherits the sockets."""
        with open(self._logs / f"{name}.log", "ab") as log:
            process = Process(name, command, environment, log, sockets)
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


class Process:
    """A process, started at once, in a session of its own: Ctrl-C is ours to pass on, in order."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: IO[bytes],
        sockets: Sequence[socket.socket],
    ) -> None:
        self.name, self.log = name, log.name
        self._command, self._environment, self._output, self._sockets = command, environment, log, sockets
        self._restarts = self._begins = 0
        self._started = time.monotonic()
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._begins = os.fstat(self._output.fileno()).st_size
        return subprocess.Popen(
            self._command,
            env=dict(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            pass_fds=[each.fileno() for each in self._sockets],
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    def restart(self) -> None:
        lived = time.monotonic() - self._started
        self._restarts = 1 if lived > _STEADY_SECONDS else self._restarts + 1
        if self._restarts > _RESTARTS:
            raise ServerError(f"{self.name} ended {self._restarts} times: {self.last_words()}")
        time.sleep(self._restarts)
        self._started = time.monotonic()
        self._process = self._start()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        """Why it ended, by what it has printed since it was started last."""
        with open(self.log, "rb") as log:
            log.seek(self._begins)
            return f"{cause_in(log.read().decode(errors='replace'))}; its log is {self.log}"

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
        with suppress(subprocess.TimeoutExpired):  # the kernel can't end it yet: it waits for a disk
            self._process.wait(KILLED_SECONDS)


def _end_with_parent() -> None:
    """Runs in the child: the kernel kills it when this process ends in a way that leaves no time to.

    SIGINT, with which a child is stopped, is ignored by what a script started in the background, and by its children.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
