"""What a decoder process gives up before it reads strangers' files: rights that a bug in Pillow could misuse.

The measures are independent; a kernel that doesn't know one goes without it.

- Resource limits work everywhere.
- Landlock, which allows reading files below given folders only, needs Linux 5.13.
- The filter of system calls needs an x86-64 or a 64-bit ARM processor. There is a library for it (libseccomp), but not
  on every machine that Python runs on, so the filter is built here.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterable

_OPEN_FILES = 16  # standard streams, the folder, a way down to a file, and the file
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _SECCOMP_FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on all processors
_FILE_ACCESS = (1 << 13) - 1  # linux/landlock.h: everything that Landlock's first version can forbid
_READ_FILES_AND_FOLDERS = 1 << 2 | 1 << 3
_PATH_BENEATH = 1

# What a decoder asks of the kernel. Numbers of x86-64 and of ARM64; those that it needs most come first.
_CALLS = {
    "read": (0, 63), "close": (3, 57), "fstat": (5, 80), "write": (1, 64), "mmap": (9, 222), "munmap": (11, 215),
    "brk": (12, 214), "mremap": (25, 216), "madvise": (28, 233), "mprotect": (10, 226), "lseek": (8, 62),
    "newfstatat": (262, 79), "statx": (332, 291), "getdents64": (217, 61), "fcntl": (72, 25), "futex": (202, 98),
    "clock_gettime": (228, 113), "getrandom": (318, 278), "sched_yield": (24, 124), "getpid": (39, 172),
    "gettid": (186, 178), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_OPENAT = (257, 56)
_PROCESSORS = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the numbers, AUDIT_ARCH_*
_FOR_MORE_THAN_READING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Classic BPF (linux/bpf_common.h): load a word of seccomp_data, compare, return.
_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _PROCESSOR, _THIRD_ARGUMENT = 0, 4, 32  # offsets in seccomp_data; the argument's lower half
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def confine(memory: int, readable: Iterable[int]) -> None:
    """Take from this process, for good, the rights that decoding pictures doesn't need.

    memory: the most address space that it may have, in bytes.
    readable: descriptors of the folders below which files may be read.

    From here on the process can't open anything for writing, make files, start processes or threads, send signals or
    reach a network, and it can't have more than _OPEN_FILES descriptors. What is open already stays open.
    """
    _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _read_only_below(readable)
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,  # shared memory is written through its mapping, to which this doesn't apply
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_NPROC: 0,
    }
    for which, most in limits.items():
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))
    _filter_calls()


def _read_only_below(folders: Iterable[int]) -> None:
    """Let Landlock allow reading files below `folders`, and no other access to files."""
    attributes = struct.pack("=Q", _FILE_ACCESS)
    ruleset = _libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return  # an older kernel, or one that was started without Landlock
    try:
        for folder in folders:
            rule = struct.pack("=Qi", _READ_FILES_AND_FOLDERS, folder)
            if _libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0):
                return  # nothing is restricted rather than too much
        _libc.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _filter_calls() -> None:
    """Let seccomp allow the calls in _CALLS, and openat for reading. Others fail as if the kernel didn't have them."""
    column, processor = _PROCESSORS.get(platform.machine(), (None, 0))
    if column is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return
    program = [
        (_LOAD, 0, 0, _PROCESSOR),
        (_IF_EQUAL, 1, 0, processor),
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for numbers in _CALLS.values():
        program += [(_IF_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
    program += [
        (_IF_EQUAL, 1, 0, _OPENAT[column]),
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
        (_LOAD, 0, 0, _THIRD_ARGUMENT),
        (_IF_ANY_BIT, 0, 1, _FOR_MORE_THAN_READING),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    filters = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    _libc.prctl(_SET_SECCOMP, _SECCOMP_FILTER, filters, 0, 0)
