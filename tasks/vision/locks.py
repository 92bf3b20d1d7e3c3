"""Locks on files that are waited for, but not for ever."""

import fcntl
import time

_POLL_SECONDS = 0.5


def locked_within(descriptor: int, seconds: float) -> bool:
    """Lock an open file for this process, once others have let it go; whether that was within so many seconds. The lock
    ends with the process that has it, however that ends; while that process is stopped, it lasts."""
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True
