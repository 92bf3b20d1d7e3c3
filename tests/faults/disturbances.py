"""What a campaign does to an operation: each fault, at one point of it."""

import ctypes
import errno
import os
import random
import re
import resource
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from children import BROKE, Answer, Child, Work, ended, hanging, in_child, stop_where_it_waits

COUNT, KILL_BEFORE, KILL_AFTER, FAIL, SHORT, STOP, JUMP = range(7)  # as in preload.c
_YEAR_SECONDS = 365 * 86400
PAGE = os.sysconf("SC_PAGE_SIZE")
MEMORY_STEP = 8 << 20
_NEW_MOUNTS = 0x20000  # CLONE_NEWNS of linux/sched.h


@dataclass(frozen=True)
class Fault:
    """disturb: run an operation on a folder with the fault at a point, of so many calls; how all that ran has ended.

    ends: statuses with which it may end, beside DONE and REFUSED.
    rising: its points are what the operation may have of something: 1, 2, ... until it ends well; otherwise they are
    its calls.
    """

    disturb: Callable[[Path, Work, int, int], list[Answer]]
    ends: frozenset[int] = frozenset()
    rising: bool = False


def arm(folder: Path, at: int, kind: int, number: int = 0) -> None:
    """Let this process meet a fault at a call below the folder's store."""
    ctypes.CDLL(None).faults_arm(os.fsencode(folder / "store"), ctypes.c_long(at), kind, number)


def armed(run: Work, at: int, kind: int, number: int = 0) -> Work:
    def work(folder: Path) -> None:
        arm(folder, at, kind, number)
        run(folder)

    return work


def at_a_call(kind: int, number: int = 0, ends: frozenset[int] = frozenset()) -> Fault:
    def disturb(folder: Path, run: Work, point: int, calls: int) -> list[Answer]:
        return [in_child(folder, armed(run, point, kind, number))]

    return Fault(disturb, ends)


def full_disk(folder: Path, run: Work, point: int, calls: int) -> list[Answer]:
    """The disk of the store has room for point - 1 pages; afterwards the store is on a disk with more."""
    store, aside = folder / "store", folder / "aside"
    store.mkdir(exist_ok=True)
    store.rename(aside)
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "store", store], check=True)
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", store], check=True)
        disk = os.statvfs(store)
        size = (disk.f_blocks - disk.f_bfree + point - 1) * PAGE or PAGE  # a tmpfs of size 0 has no limit
        subprocess.run(["mount", "-o", f"remount,size={size}", store], check=True)
        answer = in_child(folder, run)
        subprocess.run(["rm", "-r", aside], check=True)
        subprocess.run(["cp", "-a", store, aside], check=True)
    finally:
        subprocess.run(["umount", "--lazy", store], check=True)
    store.rmdir()
    aside.rename(store)
    return [answer]


def may_mount() -> bool:
    """Whether this process may mount: from then on what it mounts is its own, and goes when it ends."""
    return (
        ctypes.CDLL(None).unshare(_NEW_MOUNTS) == 0
        and subprocess.run(["mount", "--make-rprivate", "/"], check=False, capture_output=True).returncode == 0
    )


def mapped(what: str) -> int:
    """How many bytes this process has mapped: now (VmSize), or at most (VmPeak)."""
    [found] = re.findall(rf"^{what}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found) * 1024


def little_memory(folder: Path, run: Work, point: int, calls: int) -> list[Answer]:
    """The process may map point - 1 times 8 MiB more than it has mapped when the operation begins."""

    def limited(folder: Path) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (mapped("VmSize") + (point - 1) * MEMORY_STEP, hard))
        run(folder)

    return [in_child(folder, limited)]


def two_at_once(folder: Path, run: Work, point: int, calls: int) -> list[Answer]:
    """One stops at a call, another one at some call of its own. Then the first goes on to its end, and the second.

    Where one waits for the other, that one goes on.
    """
    first, second = _two(folder, run, point, calls)
    return ended(first, second)


def one_of_two_killed(folder: Path, run: Work, point: int, calls: int) -> list[Answer]:
    """The same, but the first is killed where it has stopped: how the second has ended."""
    first, second = _two(folder, run, point, calls)
    first.answer()
    return ended(second)


def _two(folder: Path, run: Work, point: int, calls: int) -> tuple[Child, Child]:
    """Both have stopped: at their calls, or where the second waits for the first; or they have ended."""

    def stopping(at: int) -> Work:
        def work(folder: Path) -> None:
            stop_where_it_waits()
            arm(folder, at, STOP)
            run(folder)

        return work

    with hanging():
        first = Child(folder, stopping(point))
        first.wait()
        second = Child(folder, stopping(random.Random(point).randint(1, calls)))
        second.wait()
    return first, second


_KILLED = frozenset({-signal.SIGKILL})
# Python, Arrow and TensorFlow say in many ways that there is no memory, or abort; the dynamic linker ends with 127.
_WITHOUT_MEMORY = frozenset({BROKE, 127, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS})

FAULTS = {
    "killed before": at_a_call(KILL_BEFORE, ends=_KILLED),
    "killed after": at_a_call(KILL_AFTER, ends=_KILLED),
    "ENOSPC": at_a_call(FAIL, errno.ENOSPC),
    "EIO": at_a_call(FAIL, errno.EIO),
    "EDQUOT": at_a_call(FAIL, errno.EDQUOT),
    "short write": at_a_call(SHORT),
    "full disk": Fault(full_disk, rising=True),
    "little memory": Fault(little_memory, _WITHOUT_MEMORY, rising=True),
    "a year ahead": at_a_call(JUMP, _YEAR_SECONDS),
    "a year back": at_a_call(JUMP, -_YEAR_SECONDS),
    "two at once": Fault(two_at_once),
    "one of two killed": Fault(one_of_two_killed),
}
