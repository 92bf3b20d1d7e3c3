"""Ends what a session of tests leaves behind, however the session ends: a plugin of pytest, and the program it starts.

Every process that a session starts inherits a mark in its environment. The program, in a session of its own that no
Ctrl-C reaches, waits until pytest's process has ended, and kills whatever has the mark, or was started by what has.
"""

import os
import select
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

MARK = "TESTS_SESSION"


def pytest_configure(config):
    """Start the program, unless this is a worker of pytest-xdist, which is of the session that started it."""
    if hasattr(config, "workerinput"):
        return
    outside = {name: value for name, value in os.environ.items() if name != MARK}
    os.environ[MARK] = uuid.uuid4().hex
    subprocess.Popen(
        [sys.executable, "-S", __file__, str(os.getpid()), os.environ[MARK]], env=outside, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ).returncode = 0  # nobody waits for it, and no warning says so  # fmt: skip


def wait_for_end(pid, seconds=None):
    """Return when this process, which needs not be a child, has ended: whether it has, within so many seconds."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))
    finally:
        os.close(watched)


def marked(mark):
    """The processes with this mark, and all below them, but for the one that asks."""
    parents, found = {}, {os.getpid()}
    for each in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            if each.name.isdigit():
                stat = (each / "stat").read_text().rpartition(")")[2].split()
                if stat[0] not in "ZX":
                    parents[int(each.name)] = int(stat[1])
                    if f"{MARK}={mark}".encode() in (each / "environ").read_bytes().split(b"\0"):
                        found.add(int(each.name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def sweep(pid, mark):
    wait_for_end(pid)
    while left := marked(mark):
        for each in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(each, signal.SIGKILL)
        for each in left:
            wait_for_end(each, seconds=10)


if __name__ == "__main__":
    sweep(int(sys.argv[1]), sys.argv[2])
