"""Waiting for what happens elsewhere: in another process, on a server, on a disk. Nothing waits for time."""

import time
from collections.abc import Callable
from typing import Any

SECONDS = 300.0  # after which what has not happened is taken to never happen, on a machine that has other work
_LOOK_SECONDS = 0.1


def eventually(look: Callable[[], Any], what: Callable[[], object] | str, seconds: float = SECONDS) -> Any:
    """What `look` gives, once that is true. `what` was expected, or tells what was found instead."""
    until = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(_LOOK_SECONDS)
    return found
