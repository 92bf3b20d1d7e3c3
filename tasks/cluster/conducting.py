"""A work on a Ray cluster, as the stage sees it that waits for it: a task in, receipts out."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from json import dumps, loads
from pathlib import Path
from typing import IO, Any, NamedTuple

from artifacts.aws import read_aws
from artifacts.errors import StoreAway
from artifacts.services import with_aws
from artifacts.settings import Settings
from tasks.cluster.errors import ClusterError, ClusterLost
from tasks.cluster.likeness import likeness
from tasks.shared.watching import Watch

_PROGRAM = ("-P", "-m", "tasks.cluster.conductor")  # -P: nothing from the current folder
_ROOT = Path(__file__).absolute().parents[2]
_SILENT_SECONDS = 120.0  # the conductor says something every second, but for its start
_END_SECONDS = 10.0
_KILLED_SECONDS = 5.0  # until a killed process has ended
_READY_SECONDS = 60.0  # for an actor to say who it is
_READ_BYTES = 1 << 16
_SHARED = ("store", "store_options", "max_image_bytes", "max_image_pixels", "max_image_seconds")


class Told(NamedTuple):
    """number: of a piece that is done; receipt: what its worker tells of it; node: who that was."""

    number: int
    receipt: dict[str, Any]
    node: str


def check_cluster(settings: Settings) -> str:
    """The cluster that is configured. Raises ClusterError where there is none, or no Ray."""
    if settings.cluster is None:
        raise ClusterError(
            "expected LOOKBOOK_CLUSTER to run on a cluster, found none; set it to ray://HOST:10001, to auto on a "
            "machine that is one of its nodes, or to local for this machine's processors; or run here"
        )
    if find_spec("ray") is None:
        raise ClusterError("expected Ray to run on a cluster, found none; install it: pip install 'lookbook[cluster]'")
    return settings.cluster


def shared_environment(settings: Settings) -> dict[str, str]:
    """The settings that all machines of a work share, as environment variables. Each has its own credentials, cache and
    decoders."""
    given = settings.model_dump(include=set(_SHARED), mode="json")
    if any(each.startswith("s3://") for each in (settings.store, *settings.image_roots.values())):
        given["store_options"] = with_aws(settings.store_options, read_aws())  # no machine looks elsewhere
    given["store"] = given["store"] if "://" in given["store"] else str(Path(given["store"]).expanduser().absolute())
    return {
        f"LOOKBOOK_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in given.items()
    }


def carry_out(
    settings: Settings,
    work: Mapping[str, Any],
    numbers: Sequence[int],
    piece: str,
    watch: Watch,
) -> Iterator[Told]:
    """Have the pieces of a work done by the nodes of the cluster. Yields each once, as it is done.

    work: its `kind`, and what that kind needs; JSON.
    numbers: of the pieces; piece: what people call one.

    However the caller leaves this, the actors end. Raises ClusterError, and ClusterLost and StoreAway, which may pass.
    """
    task = {
        "cluster": check_cluster(settings),
        "likeness": dict(likeness()),
        "numbers": list(numbers),
        "piece": piece,
        "ready_seconds": _READY_SECONDS,
        "work": {**work, "environment": shared_environment(settings)},
    }
    before = [0, 0, 0]
    with _conductor() as conductor:
        conductor.send(task)
        while True:
            answer = conductor.receive()
            if answer is None:
                watch.on_life()
            elif "done" in answer:
                yield Told(answer["done"], answer["receipt"], answer["node"])
            elif "done_so_far" in answer:
                now = answer["done_so_far"]
                watch.on_rows(*(new - old for new, old in zip(now, before, strict=True)))
                before = now
                watch.on_rates(answer["rates"])
            elif "say" in answer:
                watch.tell(answer["say"])
            elif "warn" in answer:
                watch.warn(answer["warn"])
            elif "failed" in answer:
                raise _error(answer["failed"], answer["text"])
            else:
                break


def _error(kind: str, text: str) -> Exception:
    if kind == "away":
        return StoreAway(text)
    if kind == "lost":
        return ClusterLost(f"{text}; what is finished stays, run it again")
    return ClusterError(f"{text}; what is finished stays, run it again")


class _Conductor:
    """The process of tasks.cluster.conductor."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        assert process.stdin
        assert process.stdout
        self._process, self._log = process, log
        self._requests, self._answers = process.stdin, process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._answers, selectors.EVENT_READ)
        self._heard = time.monotonic()
        self._lines: deque[bytes] = deque()
        self._begun = b""

    def send(self, task: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):  # `receive` tells why
            self._requests.write(dumps(task).encode() + b"\n")
            self._requests.flush()

    def receive(self) -> Any:
        """The next line, a dict; None when there was none in a second. Raises ClusterLost when it ended, or hangs."""
        if not self._lines:
            if not self._selector.select(1.0):
                if time.monotonic() - self._heard > _SILENT_SECONDS:
                    raise ClusterLost(f"Ray's driver said nothing for {_SILENT_SECONDS:g} s; {self._last_words()}")
                return None
            self._heard = time.monotonic()
            found = os.read(self._answers.fileno(), _READ_BYTES)
            if not found:
                raise ClusterLost(f"Ray's driver ended, {self._status()}: {self._last_words()}")
            *lines, self._begun = (self._begun + found).split(b"\n")
            self._lines.extend(lines)
        return loads(self._lines.popleft()) if self._lines else None

    def _status(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            return f"status {self._process.wait(_KILLED_SECONDS)}"
        return "though its process is still there"

    def leave(self) -> None:
        """Its work is done: let it end by itself while this process goes on, which waits for it at its own end."""
        threading.Thread(target=self.end, name="conductor").start()

    def end(self) -> None:
        """Close its standard input: it ends its actors, and a cluster that it has started itself."""
        with suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # the kernel can't end it yet: it waits for a disk
                self._process.wait(_KILLED_SECONDS)
        self._selector.close()
        self._answers.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else "it said nothing"


@contextmanager
def _conductor() -> Iterator[_Conductor]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, *_PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            stderr=log,
            cwd=_ROOT,  # Ray puts the current folder on its workers' path
            start_new_session=True,  # Ctrl-C is the parent's to handle
            env={**os.environ},
        )
        conductor = _Conductor(process, log)
        try:
            yield conductor
        except BaseException:
            conductor.end()
            raise
        conductor.leave()
