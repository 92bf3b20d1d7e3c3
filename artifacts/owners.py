"""Whose a file on its way is, by its name: so that whoever comes next can remove what a killed process left behind.

    <machine>-<pid>-<start>-<random>

machine: 16 hex digits, the digest of host name, boot and namespaces, within which a process id means one process at a
time; start: clock ticks from boot to the process's start, by which it is told from a later one with the same id.
"""

import os
import re
import socket
import uuid
from pathlib import Path

from artifacts.documents import digest

_OWNED = re.compile(r"(?P<machine>[0-9a-f]{16})-(?P<pid>\d{1,7})-(?P<start>\d{1,20})-[0-9a-f]{32}(\.\w+)?")

_NAMESPACES = ("/proc/self/ns/pid", "/proc/self/ns/time")  # that of times shifts what /proc says about starts


def new_name() -> str:
    """A name that nobody else uses; it tells this process, where the system says enough about that."""
    machine, process, random = _machine(), _process("self"), uuid.uuid4().hex
    return f"{machine}-{os.getpid()}-{process[1]}-{random}" if machine and process else random


def has_ended(name: str) -> bool | None:
    """Whether the process in `name` has ended. None where that can't be told: it may be another machine's or
    container's, or there is no process in the name."""
    owner = _OWNED.fullmatch(name)
    if owner is None or owner["machine"] != _machine():
        return None
    pid = int(owner["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's
    process = _process(pid)
    if process is None:  # hidden from us (hidepid)
        return False
    state, start = process
    return state in "ZX" or start != owner["start"]  # killed, but nobody has asked for its status yet; another process


def is_mine(name: str) -> bool:
    """Whether the process in `name` is this one."""
    owner = _OWNED.fullmatch(name)
    mine = owner is not None and owner["machine"] == _machine() and int(owner["pid"]) == os.getpid()
    return mine and has_ended(name) is False


def describe(name: str) -> str:
    """The process in `name`, for people, and what to do where it is stopped."""
    owner = _OWNED.fullmatch(name)
    if owner is None or owner["machine"] != _machine():
        return "a process of another machine: look there whether it is stopped, and continue or end it"
    pid = owner["pid"]
    process = _process(pid)
    is_stopped = process is not None and process[0] in "Tt"
    return (
        f"process {pid} of this machine{', which is stopped' if is_stopped else ''}: "
        f"continue it (kill -CONT {pid}) or end it (kill -KILL {pid})"
    )


def _machine() -> str | None:
    """None where there is no /proc, or it is another process namespace's."""
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return None
        known = [socket.gethostname(), Path("/proc/sys/kernel/random/boot_id").read_text()]
        known += [str(each.readlink()) for each in map(Path, _NAMESPACES) if os.path.lexists(each)]
    except OSError:
        return None
    return digest(known)[:16]


def _process(pid: int | str) -> tuple[str, str] | None:
    """State and start of a process: the third and the 22nd field of /proc/<pid>/stat (proc_pid_stat(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]
