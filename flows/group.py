"""Groups of a scoring: runs that share a folder, each on a worker of its own. The one that asks takes part, too."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Cancelling, Completed

from artifacts.errors import LookbookError, NotFound
from artifacts.settings import Settings
from artifacts.store import Store
from flows.parameters import asks_for
from tasks.requests import GroupRequest
from tasks.score import score
from tasks.scoring.groups import shared, take_part
from tasks.scoring.job import Job
from tasks.shared.deadline import Deadline

DEPLOYMENT = "group/for-a-scoring"


class GroupsFailed(LookbookError):
    """Groups that can't be started."""


@flow(
    name="group",
    description="Take part in a scoring that another run has begun with several **groups**, which starts this.",
    persist_result=False,  # rows go into the store; nothing is pickled
)
@asks_for(GroupRequest)
def group(request: GroupRequest) -> Any:
    """Score shards that nobody has scored, from a place of this group's own on."""
    deadline = Deadline.after(request.deadline_hours)
    store = Store(Settings().store)
    done: Any = Completed(message="nothing left to do: the scoring is done")
    asked = take_part(store, request.scoring)
    if asked is None:
        return done
    begin = (request.group - 1) / request.groups
    try:
        score(asked.plan, asked.job, deadline, begin=begin, sample=asked.sample)
    except NotFound:
        if take_part(store, request.scoring):
            raise
        return done  # while this was about to begin: the plan went with the run that asked
    return Completed(message="all shards are on record")


@contextmanager
def groups_of(store: Store, settings: Settings, job: Job, plan: str, deadline: Deadline) -> Iterator[None]:
    """Have as many runs take part as the request wants, beside what is done meanwhile.

    At the end, those that have not begun are cancelled, and when that end is an error, all. Raises GroupsFailed.
    """
    if job.request.groups == 1:
        yield
        return
    children: list[Any] = []
    with shared(store, settings, job, plan) as known_by:
        try:
            children.extend(_start(known_by, job.request.groups, deadline))
            yield
            _leave(children, Cancelled(message="nothing left to do: the scoring is done"), only_waiting=True)
        except BaseException:
            _leave(children, Cancelling(message="the run that asked for it ended"), only_waiting=False)
            raise


def _start(shared: str, groups: int, deadline: Deadline) -> Iterator[Any]:
    for group in range(2, groups + 1):
        name = f"{flow_run.name}-group-{group}-of-{groups}"
        parameters = {"scoring": shared, "group": group, "groups": groups}
        parameters["deadline_hours"] = round(deadline.hours_left(), 3)
        try:
            child: Any = run_deployment(
                DEPLOYMENT,
                parameters=parameters,
                timeout=0,
                flow_run_name=name,
                idempotency_key=f"{flow_run.id} {shared} {group}",
            )
        except ObjectNotFound:
            raise GroupsFailed(
                f"expected a deployment {DEPLOYMENT} for the groups, found none; `lookbook up` or `prefect deploy "
                "--all` makes it, and a scoring without groups needs none"
            ) from None
        get_run_logger().info("%s: started %s", DEPLOYMENT, name)
        yield child


def _leave(children: list[Any], state: Any, *, only_waiting: bool) -> None:
    """Put children that are not done into a state, and tell of those that failed: their shards were done here."""
    logger = get_run_logger()
    with suppress(Exception), get_client(sync_client=True) as client:
        for each in children:
            child = client.read_flow_run(each.id)
            if child.state is None:
                continue
            if child.state.is_failed() or child.state.is_crashed():
                logger.warning("%s ended as %s: %s", child.name, child.state.name, child.state.message)
            elif not child.state.is_final() and (child.state.is_scheduled() or not only_waiting):
                client.set_flow_run_state(child.id, state)
