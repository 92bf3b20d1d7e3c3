"""Retention: what of the store no rule keeps is shown, or removed."""

from dataclasses import asdict
from typing import Any

from prefect import flow

from artifacts.settings import Settings
from artifacts.store import Store
from flows.names import run_name
from flows.notices import tell_of_failure
from flows.parameters import asks_for
from flows.reports import report
from tasks.collect import collect as collect_store
from tasks.reports import collecting
from tasks.requests import CollectRequest
from tasks.shared.deadline import Deadline


def _run_name() -> str:
    return run_name("collect", "store")


@flow(
    name="collect",
    description="""
Free **space**: what no rule keeps goes, and nothing that what stays was made from. Champions, the newest tables and
what is pinned stay, and so does whatever a run needs.

Without `remove` it only tells what would go. The result is a report on this run's *Artifacts* page.
""",
    flow_run_name=_run_name,
    on_failure=[tell_of_failure],
    persist_result=False,
)
@asks_for(CollectRequest)
def collect(request: CollectRequest) -> dict[str, Any]:
    """Find what goes, and remove it when that is asked for.

    Returns what was removed, or would be, how many versions stay, and the bytes that are free then.
    """
    found = collect_store(request, Deadline.after(request.deadline_hours))
    store = Store(Settings().store)
    report(
        lambda: collecting.markdown(store, found, done=request.remove),
        "collect", "store", description="What the store keeps",
    )  # fmt: skip
    return {**asdict(found), "done": request.remove}
