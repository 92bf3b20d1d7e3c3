"""The pool of decoder processes: strangers' pictures in, arrays out, in order. A child that dies costs one row.

Children are plain programs (`tasks.vision.decoder`) and may be started before TensorFlow is imported. Pixels come back
through shared memory. Nothing here needs a thread: the caller's own work overlaps with what the children were sent.
"""

import fcntl
import json
import mmap
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from tasks.vision.decoder import FRAME, PROGRESS_BYTES, Progress
from tasks.vision.errors import VisionError
from tasks.vision.images import ImageSpec, Limits

CHUNK = 256  # files a request: as many as a batch of predictions
REQUEST_BYTES = 8 << 20  # large pictures travel in smaller groups, so that no decoder is left with the last long one
_SLOTS = 2  # requests a child may hold: it never waits for its next one
_PIPE_BYTES = 1 << 20
_POLL_SECONDS = 0.1
_FRUITLESS_STARTS = 3


class DecoderError(VisionError):
    """Decoder processes don't start on this machine."""


@dataclass(frozen=True)
class Files:
    """Up to CHUNK files to decode: paths below the pool's folder, their planned sizes (bytes) and times (ns).

    `known` maps an item's place to the SHA-256 (hex) with which it was scored before: when the content is still that,
    it is not decoded again.
    """

    paths: Sequence[bytes]
    sizes: Sequence[int]
    mtimes_ns: Sequence[int]
    known: Mapping[int, str] = field(default_factory=dict)


def cut(items: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Requests of up to CHUNK items and about REQUEST_BYTES, at least one request (an empty one for no items).

    items: int64, places in `sizes`, which are the bytes of all files.
    """
    start = 0
    while start == 0 or start < len(items):
        read = np.cumsum(sizes[items[start : start + CHUNK]])
        end = start + max(1, int(np.searchsorted(read, REQUEST_BYTES)))
        yield items[start:end]
        start = end


@dataclass(frozen=True)
class Pictures:
    """What became of them, in the same order.

    pixels: uint8 [items, height, width, channels], undefined where there is an error; sha256: hex of what was read,
    None when nothing could be; width, height: of the source, 0 on error; errors: place -> (kind, detail); same: the
    places whose content was known.
    """

    pixels: np.ndarray
    sha256: list[str | None]
    width: list[int]
    height: list[int]
    errors: dict[int, tuple[str, str]]
    same: list[int]


class _Ticket:
    """A request under way: sent again, without the item in hand, when its child hangs or dies."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.failed: dict[int, tuple[str, str]] = {}
        self.done: Pictures | None = None


class DecoderPool:
    """`processes` children that decode files below the open folder `folder` (a descriptor), each file in at most
    `seconds`. Use as a context; leaving it ends the children."""

    def __init__(self, folder: int, spec: ImageSpec, limits: Limits, seconds: float, processes: int) -> None:
        self._spec = spec
        self._seconds = seconds
        self._selector = selectors.DefaultSelector()
        self._workers = [_Worker(folder, spec, limits) for _ in range(processes)]
        for worker in self._workers:
            self._selector.register(worker.answers, selectors.EVENT_READ, worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for worker in self._workers:
            worker.close()
        self._selector.close()

    def decode(self, requests: Iterable[Files]) -> Iterator[Pictures]:
        """Decode every request, in order. Raises DecoderError when children die before they decode anything."""
        tickets: deque[_Ticket] = deque()
        requests = iter(requests)
        exhausted = False
        while True:
            while not exhausted and len(tickets) < 2 * _SLOTS * len(self._workers):
                worker = min(self._workers, key=lambda worker: len(worker.pending))
                if len(worker.pending) == _SLOTS:
                    break
                files = next(requests, None)
                if files is None:
                    exhausted = True
                    break
                tickets.append(_Ticket(files))
                worker.send(tickets[-1])
            if not tickets:
                return
            self._poll(0 if tickets[0].done else _POLL_SECONDS)
            while tickets and (done := tickets[0].done):
                tickets.popleft()
                yield done
                if not exhausted:
                    break

    def _poll(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            worker: _Worker = key.data
            if not worker.receive():
                self._replace(worker, "crashed", "the decoder died of this picture")
        for worker in self._workers:
            if worker.pending and worker.busy_for() > self._seconds:
                worker.process.kill()
                self._replace(worker, "timeout", f"decoding took longer than {self._seconds:g} s")

    def _replace(self, worker: "_Worker", kind: str, detail: str) -> None:
        self._selector.unregister(worker.answers)
        worker.restart(kind, detail)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)


class _Worker:
    """One child, the memory it shares, and the tickets it holds, oldest first."""

    def __init__(self, folder: int, spec: ImageSpec, limits: Limits) -> None:
        self._folder, self._spec, self._limits = folder, spec, limits
        self._shape = (CHUNK, spec.height, spec.width, spec.channels)
        self._slot_bytes = int(np.prod(self._shape))
        self._file = os.memfd_create("lookbook-pixels")
        os.ftruncate(self._file, PROGRESS_BYTES + _SLOTS * self._slot_bytes)
        self._memory = mmap.mmap(self._file, 0)
        self.progress = Progress(self._memory)
        self.pending: deque[tuple[_Ticket, int]] = deque()
        self._fruitless = 0
        self._start()

    def _start(self) -> None:
        self.progress.clear()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tasks.vision.decoder"],  # -P: nothing from the current folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a buffer would hide a second answer from the selector
            pass_fds=[self._folder, self._file],
            start_new_session=True,  # Ctrl-C is the parent's to handle
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self.process.stdin
        assert self.process.stdout
        self.answers = self.process.stdout
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # two long answers fit, so that neither side ever waits for the other to read
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        settings = {"spec": self._spec.to_dict(), "limits": asdict(self._limits), "chunk": CHUNK}
        self._write(json.dumps({**settings, "folder": self._folder, "memory": self._file}).encode() + b"\n")

    def send(self, ticket: _Ticket) -> None:
        slot = next(slot for slot in range(_SLOTS) if all(slot != used for _, used in self.pending))
        self.pending.append((ticket, slot))
        self._request(ticket, slot)

    def receive(self) -> bool:
        """Take an answer; False when the child is gone."""
        header = self._read(FRAME.size)
        content = self._read(FRAME.unpack(header)[0]) if header else b""
        if not content:
            return False
        answer = json.loads(content)
        ticket, slot = self.pending.popleft()
        start = PROGRESS_BYTES + slot * self._slot_bytes
        pixels = np.frombuffer(self._memory, np.uint8, self._slot_bytes, start).reshape(self._shape)
        items = len(ticket.files.paths)
        errors = {int(index): (kind, detail) for index, (kind, detail) in answer["errors"].items()} | ticket.failed
        ticket.done = Pictures(
            pixels[:items].copy(), answer["sha256"], answer["width"], answer["height"], errors, answer["same"]
        )
        self._fruitless = 0
        return True

    def busy_for(self) -> float:
        """Seconds since the child took the file in hand; 0 between files."""
        now = time.monotonic()  # before the look: this thread may stand still for seconds between any two lines
        item, began = self.progress.read()
        return now - began if item >= 0 else 0.0

    def restart(self, kind: str, detail: str) -> None:
        """Bury the child, blame the file it had in hand, and give the rest of its requests to a new one."""
        self._end()
        item, _ = self.progress.read()
        if item >= 0 and self.pending:
            self.pending[0][0].failed[item] = (kind, detail)
        else:
            self._fruitless += 1
            if self._fruitless == _FRUITLESS_STARTS:
                raise DecoderError(
                    f"decoder processes end at once (status {self.process.returncode}); "
                    "`python -m tasks.vision.decoder` tells why"
                )
        self._start()
        for ticket, slot in self.pending:
            self._request(ticket, slot)

    def close(self) -> None:
        self.process.kill()
        self._end()
        os.close(self._file)

    def _end(self) -> None:
        assert self.process.stdin
        self.process.kill()
        self.process.wait()
        self.answers.close()
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def _request(self, ticket: _Ticket, slot: int) -> None:
        files = ticket.files
        meta = json.dumps(
            {
                "slot": slot,
                "sizes": list(files.sizes),
                "mtimes": list(files.mtimes_ns),
                "skip": list(ticket.failed),
                "known": dict(files.known),
            }
        ).encode()
        paths = b"\0".join(files.paths)
        self._write(FRAME.pack(len(meta), len(paths)) + meta + paths)

    def _write(self, content: bytes) -> None:
        assert self.process.stdin
        rest = memoryview(content)
        with suppress(BrokenPipeError):  # the child is gone: its end of the answers tells so, too
            while rest:
                rest = rest[os.write(self.process.stdin.fileno(), rest) :]

    def _read(self, size: int) -> bytes:
        """Exactly `size` bytes, or none when the child went away before."""
        content = b""
        while len(content) < size:
            more = os.read(self.answers.fileno(), size - len(content))
            if not more:
                return b""
            content += more
        return content
