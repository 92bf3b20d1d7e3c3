"""The pool of decoder processes: strangers' pictures in, arrays out, in order. A child that dies costs one row.

Children are plain programs (`tasks.vision.decoder`) and may be started before TensorFlow is imported. Pixels come back
through shared memory. Nothing here needs a thread: the caller's own work overlaps with what the children were sent.
Nothing here waits for a child for ever, either: each has a deadline for a picture, and one for saying nothing at all.
"""

import json
import mmap
import os
import selectors
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from tasks.vision.children import Child, shared_memory
from tasks.vision.decoder import FRAME, IN_HAND_BYTES, FileInHand
from tasks.vision.errors import DecoderError
from tasks.vision.files import DecodedFiles, Files, files_a_request, joined
from tasks.vision.images import ImageSpec, Limits

AHEAD_BYTES = 256 << 20  # pixels of all requests that were sent and whose results were not taken yet
MOST_PROCESSES = 32  # decoders by default, at most; docs/scoring.md tells why
_SLOTS = 2  # requests a child may hold: it never waits for its next one
_POLL_SECONDS = 0.1
_SILENT_SECONDS = 60.0  # without a file in hand a child that works says something in milliseconds, but for its start
_FRUITLESS_STARTS = 3

Key = TypeVar("Key")


def default_processes() -> int:
    """How many decoders are useful here: one for each processor that this process may use, MOST_PROCESSES at most."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


class _Ticket:
    """A request under way: sent again, without the item in hand, when its child hangs or dies."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.failed: dict[int, tuple[str, str]] = {}
        self.done: DecodedFiles | None = None


class DecoderPool:
    """`processes` children that decode files below the open folder `folder` (a descriptor), each file in at most
    `seconds`. Use as a context; leaving it ends the children."""

    def __init__(self, folder: int, spec: ImageSpec, limits: Limits, seconds: float, processes: int) -> None:
        self._seconds = seconds
        self._files = files_a_request(spec)
        picture_bytes = spec.height * spec.width * spec.channels
        self._most_tickets = min(2 * _SLOTS * processes, max(1, AHEAD_BYTES // (self._files * picture_bytes)))
        self._selector = selectors.DefaultSelector()
        self._resumed = time.monotonic()
        self._workers: list[_Worker] = []
        try:
            for _ in range(processes):
                self._workers.append(_Worker(self._selector, folder, spec, limits, self._files))
        except OSError as error:
            self._close()
            raise DecoderError(
                f"{len(self._workers)} of {processes} decoder processes started, then: {error.strerror}; "
                "LOOKBOOK_DECODERS sets their number"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        for worker in self._workers:
            worker.child.kill()
        for worker in self._workers:
            worker.close()
        self._selector.close()

    def decode(self, requests: Iterable[tuple[Key, Files]]) -> Iterator[tuple[Key, DecodedFiles]]:
        """Decode every request, in order; each comes back under its caller's key. One of more pixels than a decoder
        shares is cut, and put together again.

        Raises DecoderError when children die before they decode anything, when they say nothing, and when they run
        other code than this process.
        """
        parts: list[DecodedFiles] = []
        for (key, is_last), decoded in self._decode(self._cut_to_size(requests)):
            parts.append(decoded)
            if is_last:
                yield key, joined(parts) if len(parts) > 1 else decoded
                parts.clear()

    def _cut_to_size(self, requests: Iterable[tuple[Key, Files]]) -> Iterator[tuple[tuple[Key, bool], Files]]:
        """Parts of requests, each under its request's key and whether it is the last one of that."""
        for key, files in requests:
            for start in range(0, max(1, len(files)), self._files):
                end = start + self._files
                yield (key, end >= len(files)), files[start:end]

    def _decode(self, requests: Iterator[tuple[Key, Files]]) -> Iterator[tuple[Key, DecodedFiles]]:
        tickets: deque[tuple[Key, _Ticket]] = deque()
        exhausted = False
        self._resumed = time.monotonic()
        while True:
            while not exhausted and len(tickets) < self._most_tickets:
                worker = min(self._workers, key=lambda worker: len(worker.pending))
                if len(worker.pending) == _SLOTS:
                    break
                request = next(requests, None)
                self._resumed = time.monotonic()
                if request is None:
                    exhausted = True
                    break
                ticket = _Ticket(request[1])
                tickets.append((request[0], ticket))
                worker.send(ticket)
            if not tickets:
                return
            self._poll(0 if tickets[0][1].done else _POLL_SECONDS)
            while tickets and (done := tickets[0][1].done):
                key, _ = tickets.popleft()
                yield key, done
                self._resumed = time.monotonic()
                if not exhausted:
                    break

    def _poll(self, seconds: float) -> None:
        now = time.monotonic()  # before the look: this thread may stand still for seconds between any two lines
        for worker in dict.fromkeys(key.data for key, _ in self._selector.select(seconds)):
            if not worker.exchange():
                worker.restart("crashed", "the decoder died of this picture")
        for worker in self._workers:
            if not worker.pending:
                continue
            if busy := worker.busy_for():
                worker.child.heard = now
                if busy > self._seconds:
                    worker.restart("timeout", f"decoding took longer than {self._seconds:g} s")
            elif now - max(worker.child.heard, self._resumed) > _SILENT_SECONDS:
                worker.restart("timeout", f"the decoder said nothing for {_SILENT_SECONDS:g} s")


class _Worker:
    """A place in the pool: one child after another, the memory that they share, and the tickets, oldest first."""

    def __init__(
        self, selector: selectors.BaseSelector, folder: int, spec: ImageSpec, limits: Limits, files: int
    ) -> None:
        self._selector, self._folder = selector, folder
        self._shape = (files, spec.height, spec.width, spec.channels)
        self._slot_bytes = int(np.prod(self._shape))
        self._file = shared_memory(IN_HAND_BYTES + _SLOTS * self._slot_bytes)
        self._memory = mmap.mmap(self._file, 0)
        self._settings = {"spec": spec.to_dict(), "limits": asdict(limits), "files": files}
        self.in_hand = FileInHand(self._memory)
        self.pending: deque[tuple[_Ticket, int]] = deque()
        self._fruitless = 0
        try:
            self.child = self._start()
        except OSError:
            os.close(self._file)
            raise

    def _start(self) -> Child:
        self.in_hand.clear()
        settings = {**self._settings, "folder": self._folder, "memory": self._file}
        return Child(self._selector, self, settings, [self._folder, self._file])

    def send(self, ticket: _Ticket) -> None:
        slot = next(slot for slot in range(_SLOTS) if all(slot != used for _, used in self.pending))
        self.pending.append((ticket, slot))
        self._request(ticket, slot)

    def exchange(self) -> bool:
        """Write and read what can be without waiting; False when the child is gone."""
        self.child.flush()
        answers = self.child.receive()
        for content in answers or ():
            self._take(content)
        return answers is not None

    def _take(self, content: bytes) -> None:
        answer = json.loads(content)
        ticket, slot = self.pending.popleft()
        start = IN_HAND_BYTES + slot * self._slot_bytes
        pixels = np.frombuffer(self._memory, np.uint8, self._slot_bytes, start).reshape(self._shape)
        errors = {int(index): (kind, detail) for index, (kind, detail) in answer["errors"].items()} | ticket.failed
        ticket.done = DecodedFiles(
            pixels[: len(ticket.files)].copy(),
            answer["sha256"],
            answer["width"],
            answer["height"],
            errors,
            answer["same"],
        )
        self._fruitless = 0

    def busy_for(self) -> float:
        """Seconds since the child took the file in hand; 0 between files."""
        now = time.monotonic()  # before the look: this thread may stand still for seconds between any two lines
        item, began = self.in_hand.read()
        return now - began if item >= 0 else 0.0

    def restart(self, kind: str, detail: str) -> None:
        """End the child, blame the file it had in hand, and give the rest of its requests to a new one."""
        self.child.end()
        item, _ = self.in_hand.read()
        if item >= 0 and self.pending:
            self.pending[0][0].failed[item] = (kind, detail)
        else:
            self._fruitless += 1
            if self._fruitless == _FRUITLESS_STARTS:
                raise DecoderError(
                    f"{_FRUITLESS_STARTS} decoder processes in a row ended before they decoded anything (status "
                    f"{self.child.status}, {detail}); what they wrote to standard error tells why"
                )
        self.child = self._start()
        for ticket, slot in self.pending:
            self._request(ticket, slot)

    def close(self) -> None:
        self.child.end()
        os.close(self._file)

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
        self.child.send(FRAME.pack(len(meta), len(paths)) + meta + paths)
