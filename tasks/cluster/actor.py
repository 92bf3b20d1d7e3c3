"""What works on a machine of the cluster: Ray starts it there, by name, out of the code that is installed there."""

import os
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from artifacts.errors import LookbookError, StoreAway
from tasks.shared.listing import FolderLost

Receipt = dict[str, Any]
"""What is told of a piece that is done: `rows`, `errors` and `reused` (numbers), and what the work adds."""


class Work(Protocol):
    """A work on one machine, made once."""

    def do(self, numbers: list[int], on_rows: Callable[[int, int, int], None]) -> Iterator[tuple[int, Receipt]]:
        """Do pieces of it. What is done is in the store before its receipt is."""


def work_of(task: Mapping[str, Any], processors: int) -> Work:
    """The work of a task, which has looked whether this machine sees what it needs.

    task: `kind`, and what that kind needs.
    processors: that it may use.
    """
    kind = task["kind"]
    if kind == "score":
        from tasks.scoring.remote import Shards

        return Shards(task, processors)
    if kind == "read":
        from tasks.preparing.remote import Stretches

        return Stretches(task, processors)
    from tasks.shared.remote_embedding import Pictures

    return Pictures(task, processors)


class Worker:
    """An actor: one share of a machine. Nothing is raised: what fails is returned, as Ray's errors hold tracebacks."""

    def __init__(self, task: Mapping[str, Any], processors: int) -> None:
        """task: with `environment`, the settings that all machines share."""
        self._task, self._processors = task, processors
        self._work: Work | None = None
        self._receipts: list[tuple[int, Receipt]] = []
        self._rows, self._errors, self._reused = 0, 0, 0

    def facts(self) -> dict[str, Any]:
        """Who this is, and what decides its results."""
        from tasks.cluster.likeness import likeness

        return {"host": socket.gethostname(), "pid": os.getpid(), "likeness": dict(likeness())}

    def look(self) -> dict[str, Any]:
        """Make the work: `failed` (kind, text) where this machine can't do it."""

        def make() -> None:
            if self._work is None:
                os.environ.update(self._task["environment"])
                self._work = work_of(self._task, self._processors)

        return self._tried(make)

    def do(self, numbers: list[int]) -> dict[str, Any]:
        """`receipts` of the pieces that are done, and `failed` where it was not all of them."""
        self._receipts = []
        self._rows, self._errors, self._reused = 0, 0, 0

        def work() -> None:
            assert self._work
            for number, receipt in self._work.do(numbers, self._on_rows):
                self._receipts.append((number, receipt))
                self._on_rows(-receipt["rows"], -receipt["errors"], -receipt["reused"])

        told = self.look()
        return {**(told if "failed" in told else self._tried(work)), "receipts": self._receipts}

    def progress(self) -> dict[str, Any]:
        """Beside `do`: who this is, what is done of that, and how far it is with the rest."""
        return {
            "pid": os.getpid(),
            "receipts": list(self._receipts),
            "in_hand": [self._rows, self._errors, self._reused],
        }

    def _on_rows(self, rows: int, errors: int, reused: int) -> None:
        self._rows, self._errors, self._reused = self._rows + rows, self._errors + errors, self._reused + reused

    def _tried(self, function: Callable[[], None]) -> dict[str, Any]:
        try:
            function()
        except LookbookError as error:
            passes = isinstance(error, (StoreAway, FolderLost))
            return {"failed": "away" if passes else "ours", "text": str(error)}
        except MemoryError:
            return {"failed": "memory", "text": "its memory is full"}
        except Exception as error:
            traceback.print_exc()  # into Ray's log of this process
            return {"failed": "unexpected", "text": f"unexpected {type(error).__name__}: {error}"}
        return {}
