"""Work in processes of its own: forked, so that TensorFlow is imported once, and judged by how they end."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

DONE, REFUSED, BROKE = 0, 3, 4  # how work ends: well, by an error of Lookbook's, by another one
_HANGS_SECONDS = 120.0
_WAIT_FOR_OTHERS = ("artifacts.living", "tasks.shared.turns")  # who sleeps in these modules waits for another process

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

    def wait(self) -> bool:
        """Until it has stopped itself, or ended: whether it has ended. Raises TimeoutError where `hanging` does."""
        if self._status is None and not self._stopped:
            _, status = os.waitpid(self._pid, os.WUNTRACED)
            self._stopped = os.WIFSTOPPED(status)
            if not self._stopped:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def go_on(self) -> None:
        """Where it has stopped itself."""
        if self._stopped:
            self._stopped = False
            os.kill(self._pid, signal.SIGCONT)

    def answer(self) -> Answer:
        """How it has ended. It is killed when it has not."""
        if hangs := self._status is None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        with open(self._answers, "rb") as answers:
            return Answer(None if hangs else self._status, answers.read().decode(errors="replace"))


@contextmanager
def hanging() -> Iterator[None]:
    """Ends what is done inside where it takes so long that a process must hang."""

    def end(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, _HANGS_SECONDS)
    try:
        with suppress(TimeoutError):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def stop_where_it_waits() -> None:
    """From now on this process stops itself where it waits for another one, and looks again as soon as it goes on."""
    sleep = time.sleep

    def stop_or_sleep(seconds: float) -> None:
        if sys._getframe(1).f_globals["__name__"] in _WAIT_FOR_OTHERS:
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            sleep(seconds)

    time.sleep = stop_or_sleep


def ended(*children: Child) -> list[Answer]:
    """How they end. What stops itself goes on when the others have stopped, or ended."""
    with hanging():
        waiting = list(children)
        while waiting:
            for child in waiting:
                child.go_on()
                child.wait()
            waiting = [child for child in waiting if not child.wait()]
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
