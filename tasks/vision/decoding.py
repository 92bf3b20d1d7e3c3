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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from tasks.vision.children import Child, shared_memory
from tasks.vision.decoder import FRAME, PROGRESS_BYTES, Progress
from tasks.vision.errors import DecoderError
from tasks.vision.images import ImageSpec, Limits

CHUNK = 256  # files a request at most
REQUEST_BYTES = 8 << 20  # large pictures travel in smaller groups, so that no decoder is left with the last long one
SLOT_BYTES = 16 << 20  # pixels a request at most: what a decoder shares is twice that
AHEAD_BYTES = 256 << 20  # pixels of all requests that were sent and whose results were not taken yet
MOST_PROCESSES = 32  # decoders by default, at most; docs/scoring.md tells why
_SLOTS = 2  # requests a child may hold: it never waits for its next one
_POLL_SECONDS = 0.1
_SILENT_SECONDS = 60.0  # without a file in hand a child that works says something in milliseconds, but for its start
_FRUITLESS_STARTS = 3


def default_processes() -> int:
    """How many decoders are useful here: one for each processor that this process may use, MOST_PROCESSES at most."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def files_a_request(spec: ImageSpec) -> int:
    """How many pictures of this size one request may have: a power of two up to CHUNK, within SLOT_BYTES of pixels."""
    fitting = max(1, SLOT_BYTES // (spec.height * spec.width * spec.channels))
    return min(CHUNK, 1 << fitting.bit_length() - 1)


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

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, part: slice) -> "Files":
        start, stop, _ = part.indices(len(self))
        known = {place - start: sha256 for place, sha256 in self.known.items() if start <= place < stop}
        return Files(self.paths[part], self.sizes[part], self.mtimes_ns[part], known)


def cut(items: np.ndarray, sizes: np.ndarray, spec: ImageSpec | None = None) -> Iterator[np.ndarray]:
    """Requests of about REQUEST_BYTES of files at most, at least one request (an empty one for no items).

    items: int64, places in `sizes`, which are the bytes of all files. With the `spec` that they are decoded by, a
    request has `files_a_request` items at most, which the pool sends as they are; otherwise up to CHUNK.
    """
    most = files_a_request(spec) if spec else CHUNK
    start = 0
    while start == 0 or start < len(items):
        read = np.cumsum(sizes[items[start : start + most]])
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

    def decode(self, requests: Iterable[Files]) -> Iterator[Pictures]:
        """Decode every request, in order; one of more pixels than a decoder shares is cut, and put together again.

        Raises DecoderError when children die before they decode anything, when they say nothing, and when they run
        other code than this process.
        """
        pieces: deque[int] = deque()

        def cut_to_size() -> Iterator[Files]:
            for files in requests:
                parts = [files[start : start + self._files] for start in range(0, max(1, len(files)), self._files)]
                pieces.append(len(parts))
                yield from parts

        decoded = self._decode(cut_to_size())
        for first in decoded:
            rest = [next(decoded) for _ in range(pieces.popleft() - 1)]
            yield _joined([first, *rest]) if rest else first

    def _decode(self, requests: Iterator[Files]) -> Iterator[Pictures]:
        tickets: deque[_Ticket] = deque()
        exhausted = False
        self._resumed = time.monotonic()
        while True:
            while not exhausted and len(tickets) < self._most_tickets:
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


def _joined(parts: Sequence[Pictures]) -> Pictures:
    """Parts of one request as one."""
    pixels = np.concatenate([part.pixels for part in parts])
    joined = Pictures(pixels, [], [], [], {}, [])
    for part in parts:
        start = len(joined.sha256)
        joined.errors.update({start + place: error for place, error in part.errors.items()})
        joined.same.extend(start + place for place in part.same)
        joined.sha256.extend(part.sha256)
        joined.width.extend(part.width)
        joined.height.extend(part.height)
    return joined


class _Worker:
    """A place in the pool: one child after another, the memory that they share, and the tickets, oldest first."""

    def __init__(
        self, selector: selectors.BaseSelector, folder: int, spec: ImageSpec, limits: Limits, files: int
    ) -> None:
        self._selector, self._folder = selector, folder
        self._shape = (files, spec.height, spec.width, spec.channels)
        self._slot_bytes = int(np.prod(self._shape))
        self._file = shared_memory(PROGRESS_BYTES + _SLOTS * self._slot_bytes)
        self._memory = mmap.mmap(self._file, 0)
        self._settings = {"spec": spec.to_dict(), "limits": asdict(limits), "files": files}
        self.progress = Progress(self._memory)
        self.pending: deque[tuple[_Ticket, int]] = deque()
        self._fruitless = 0
        try:
            self.child = self._start()
        except OSError:
            os.close(self._file)
            raise

    def _start(self) -> Child:
        self.progress.clear()
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
        start = PROGRESS_BYTES + slot * self._slot_bytes
        pixels = np.frombuffer(self._memory, np.uint8, self._slot_bytes, start).reshape(self._shape)
        errors = {int(index): (kind, detail) for index, (kind, detail) in answer["errors"].items()} | ticket.failed
        ticket.done = Pictures(
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
        item, began = self.progress.read()
        return now - began if item >= 0 else 0.0

    def restart(self, kind: str, detail: str) -> None:
        """End the child, blame the file it had in hand, and give the rest of its requests to a new one."""
        self.child.end()
        item, _ = self.progress.read()
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
