"""One training at a time: of deployments on a store, and on a GPU."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from prefect.runtime import deployment

from artifacts.disk import LocalDisk
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.shared.deadline import Deadline
from tasks.shared.turns import turn


@contextmanager
def training_turn(
    settings: Settings, store: Store, device: str, deadline: Deadline, log: Callable[[str], None]
) -> Iterator[None]:
    """Wait until no other run of a deployment trains on this store, and no other training uses this GPU."""
    from tasks.vision import device as devices

    with ExitStack() as stack:
        if deployment.id:
            waiting = "another training of a deployment to end"
            stack.enter_context(turn(store.disk, "staging/turns/training", waiting, deadline, log))
        if devices.choose(device) != "/CPU:0":
            first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
            waiting = "another training on this GPU to end"
            stack.enter_context(turn(LocalDisk(settings.cache), f"gpu-{first}.lock", waiting, deadline, log))
        yield
