"""One at a time: a lock that its process holds, and that ends with it, however that ends.

Prefect's concurrency limits live in the server and can be lost or left behind when it restarts; a file's lock can't.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.shared.deadline import Deadline

_POLL_SECONDS = 1.0


@contextmanager
def turn(path: Path, waiting: str, deadline: Deadline, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the file `path`; while somebody else does, say once what this is `waiting` for.

    Raises DeadlineExceeded.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as lock:
        announced = False
        while not lock_now(lock.fileno()):
            if not announced:
                log(f"waiting for {waiting}")
                announced = True
            deadline.check(f"waiting for {waiting}")
            time.sleep(_POLL_SECONDS)
        yield


def lock_now(descriptor: int) -> bool:
    """Lock an open file for this process, unless another one has it; whether it worked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
