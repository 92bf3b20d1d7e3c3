"""One at a time: a lock that its process holds, and that ends with it, however that ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from artifacts.disk import Disk
from tasks.shared.deadline import Deadline

_POLL_SECONDS = 1.0


@contextmanager
def turn(disk: Disk, key: str, waiting: str, deadline: Deadline, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock `key` of the disk; while somebody else does, say once what this is `waiting` for.

    Raises DeadlineExceeded.
    """
    announced = False
    while True:
        with disk.hold(key) as mine:
            if mine:
                yield
                return
        if not announced:
            log(f"waiting for {waiting}")
            announced = True
        deadline.check(
            f"waiting for {waiting} (a process that is stopped holds its turn: continue it, kill -CONT, or end it)"
        )
        time.sleep(_POLL_SECONDS)
