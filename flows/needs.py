"""What a run needs of the store, from its start on: nothing of that is collected while it works."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect import get_run_logger
from prefect.exceptions import MissingContextError
from prefect.runtime import flow_run

from artifacts.living import Needs
from artifacts.store import Store

_TELLING = ("artifacts", "tasks")  # packages whose modules say what they wait for


@contextmanager
def needs_of_run(store: Store) -> Iterator[Needs]:
    """What this run needs; at first nothing but what is new. A run that fails still needs it, for a while. What is
    waited for meanwhile is in the run's log."""
    store.prepare()
    with _told(), Needs(store.disk, str(flow_run.id)) as needs:
        yield needs


class _RunLog(logging.Handler):
    """The log of the run that goes on in the thread which says something."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(MissingContextError):
            get_run_logger().log(record.levelno, "%s", record.getMessage())


@contextmanager
def _told() -> Iterator[None]:
    handler = _RunLog()
    for name in _TELLING:
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for name in _TELLING:
            logging.getLogger(name).removeHandler(handler)
