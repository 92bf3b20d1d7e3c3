"""What is tried again: input and output that failed in passing, never a mistake. `@task(..., **RETRIES)`."""

import errno
from collections.abc import Iterator
from typing import Any

from prefect.tasks import exponential_backoff

from artifacts.errors import StoreAway
from tasks.cluster.errors import ClusterLost
from tasks.shared.listing import FolderLost

# Not EIO: a disk that could not sync has lost something, and trying again would hide it.
_PASSING = {
    errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED,
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.EREMOTEIO, errno.ENOTCONN,
}  # fmt: skip


def may_pass(error: BaseException) -> bool:
    """Whether a network or a disk failed, here or underneath, in a way that the next try may not meet."""
    import httpx

    return any(
        isinstance(each, (httpx.TransportError, ClusterLost, FolderLost, StoreAway))
        or (isinstance(each, OSError) and each.errno in _PASSING)
        for each in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _failed_in_passing(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.data, BaseException) and may_pass(state.data)


RETRIES: Any = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),  # 2, 4 and 8 seconds
    "retry_jitter_factor": 1,  # each up to twice as long, so that machines don't come back all at once
    "retry_condition_fn": _failed_in_passing,
}
