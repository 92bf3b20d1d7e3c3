"""What a run needs of the store, from its start on: nothing of that is collected while it works."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.runtime import flow_run

from artifacts.living import Needs
from artifacts.store import Store


@contextmanager
def needs_of_run(store: Store) -> Iterator[Needs]:
    """What this run needs; at first nothing but what is new. A run that fails still needs it, for a while."""
    store.prepare()
    with Needs(store.disk, str(flow_run.id)) as needs:
        yield needs
