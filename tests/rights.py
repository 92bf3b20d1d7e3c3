"""A person who isn't root, inside the test's own process: a thread without root's right to read and write everything.

Linux keeps these rights by thread, and a process has those of the thread that starts it.
"""

import ctypes
import os
import threading

_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2  # linux/capability.h
_PR_CAPBSET_DROP = 24  # linux/prctl.h
_VERSION_3 = 0x20080522


def without_roots_rights(do):
    """What `do` returns, in a thread that can't read what the file's own rights forbid. Raises what it raises."""
    results, errors = [], []

    def run():
        try:
            if os.geteuid() == 0:
                _drop()
            results.append(do())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]


def _drop():
    """Take the two rights from this thread, and from all that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, of the first 32 rights and of the others
    done = [libc.prctl(_PR_CAPBSET_DROP, each, 0, 0, 0) for each in (_DAC_OVERRIDE, _DAC_READ_SEARCH)]
    done.append(libc.capget(header, sets))
    for place in range(3):
        sets[place] &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    done.append(libc.capset(header, sets))
    assert done == [0] * 4, os.strerror(ctypes.get_errno())
