"""Signs of life of a run that the command line started, for a server that watches it.

Prefect's own come from a thread that sleeps a second at a time, and a run's end waits for it: half a second on average.
By default they are three minutes apart, too, where the automation of `lookbook up` waits for 90 seconds.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

HEARTBEAT = "prefect.flow-run.heartbeat"
EVERY_SECONDS = 30.0


@contextmanager
def heartbeats() -> Iterator[Callable[..., None]]:
    """Yields a hook for the state Running: from then on a run tells that it lives, until the context ends."""
    ended = threading.Event()

    def begin(flow: Any, run: "FlowRun", _state: Any) -> None:
        from prefect.events import emit_event

        resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name}
        of_flow = {
            "prefect.resource.id": f"prefect.flow.{run.flow_id}",
            "prefect.resource.role": "flow",
            "prefect.resource.name": flow.name,
        }

        def beat() -> None:
            while not (run.state and run.state.is_final()):
                emit_event(HEARTBEAT, resource=resource, related=[of_flow])
                if ended.wait(EVERY_SECONDS):
                    return

        # In this context: it has the address of the server.
        threading.Thread(target=copy_context().run, args=(beat,), name="heartbeats", daemon=True).start()

    try:
        yield begin
    finally:
        ended.set()
