"""Work in processes of its own: forked, so that TensorFlow is imported once, and judged by how they end."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

DONE, REFUSED, BROKE = 0, 3, 4  # how work ends: well, by an error of Lookbook's, by another one
_HANGS_SECONDS = 120.0
_POLL_SECONDS = 0.002

Work = Callable[[Path], object]


class Answer(NamedTuple):
    """status: one of those above, or the negative number of the signal that ended it; None when it hung. said: the
    error."""

    status: int | None
    said: str


class Child:
    """A process that works on a folder."""

    def __init__(self, folder: Path, work: Work) -> None:
        self._answers, write = os.pipe()
        self._status: int | None = None
        self._stopped = False
        self._pid = os.fork()
        if self._pid == 0:
            status, said = BROKE, ""
            try:
                status, said = _ended(folder, work)
            finally:
                os.write(write, said.encode()[:4000])
                os._exit(status)
        os.close(write)

    def wait(self, seconds: float = _HANGS_SECONDS) -> bool:
        """Until it has stopped itself, or ended, for so long at most: whether it has ended."""
        ends = time.monotonic() + seconds
        while self._status is None and time.monotonic() < ends:
            pid, status = os.waitpid(self._pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                self._stopped = True
                return False
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(_POLL_SECONDS)
        return self._status is not None

    def go_on(self) -> None:
        """Where it has stopped itself."""
        if self._stopped:
            os.kill(self._pid, signal.SIGCONT)
            self._stopped = False

    def answer(self) -> Answer:
        """How it has ended. It is killed when it has not."""
        if hangs := self._status is None:
            os.kill(self._pid, signal.SIGKILL)
            self.wait()
        with open(self._answers, "rb") as answers:
            return Answer(None if hangs else self._status, answers.read().decode(errors="replace"))


def ended(*children: Child) -> list[Answer]:
    """How they end. What has stopped itself goes on."""
    ends = time.monotonic() + _HANGS_SECONDS
    waiting = list(children)
    while waiting and time.monotonic() < ends:
        for child in waiting:
            child.go_on()
        waiting = [child for child in waiting if not child.wait(2 * _POLL_SECONDS)]
    return [child.answer() for child in children]


def in_child(folder: Path, work: Work) -> Answer:
    """Run it in a process of its own."""
    return ended(Child(folder, work))[0]


def _ended(folder: Path, work: Work) -> tuple[int, str]:
    from artifacts.errors import LookbookError

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        work(folder)
    except LookbookError as error:
        return REFUSED, str(error)
    except BaseException as error:
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        return BROKE, f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    return DONE, ""
