"""The stage that frees space: what no rule keeps goes, and nothing that something else needs."""

from prefect import get_run_logger, task

from artifacts.collecting.collector import Collection
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.requests import CollectRequest
from tasks.shared.collecting import collect_store
from tasks.shared.deadline import Deadline
from tasks.shared.retries import RETRIES


@task(
    name="collect store",
    persist_result=False,
    description="Find what no rule keeps, and remove it when that is asked for.",
    **RETRIES,
)
def collect(request: CollectRequest, deadline: Deadline) -> Collection:
    """What goes, or went, and what stays."""
    logger = get_run_logger()
    return collect_store(
        Store(Settings().store),
        request,
        deadline,
        logger.info,
        lambda removal: logger.info("removed %s (%s files, %s bytes)", removal.what, removal.files, removal.bytes),
    )
