"""The step that wants a GPU: a flow of its own, in this process or as a run of `train/for-a-retraining`."""

import time
from contextlib import suppress
from typing import Any

import httpx
from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelling

from artifacts import runs
from artifacts.errors import LookbookError, NotFound
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from flows.names import run_name
from flows.needs import needs_of_run
from flows.parameters import asks_for, training_settings
from tasks.choose import choose
from tasks.embed import embed_pictures
from tasks.requests import Computing, TrainRequest
from tasks.shared.deadline import Deadline
from tasks.train import train as train_network
from tasks.vision.recipes import TrainingSettings

DEPLOYMENT = "train/for-a-retraining"
_POLL_SECONDS = 2.0


class TrainingFailed(LookbookError):
    """A training on the GPU pool that did not give weights."""


class TrainingCancelled(LookbookError):
    """Somebody cancelled the training on the GPU pool."""


def _run_name() -> str:
    return run_name("train", flow_run.parameters["dataset"].partition("@")[0].rpartition("/")[2])


@flow(
    name="train",
    description="Train a network on a published dataset, and publish its **weights**. `retrain` starts this where it "
    "is told to train on the GPU pool; by hand it makes a challenger that nothing judges.",
    flow_run_name=_run_name,
    persist_result=False,  # refs go into the store; nothing is pickled
)
@asks_for(TrainRequest)
def train(request: TrainRequest) -> dict[str, str]:
    """Train, and publish.

    Returns the refs of dataset and weights, which `runs/<flow-run-id>.json` in the store holds, too.
    """
    deadline = Deadline.after(request.deadline_hours)
    store = Store(Settings().store)
    ref = str(store.resolve(request.dataset, "datasets"))
    settings = training_settings(request.training, store.open(Ref.parse(ref)))
    if finished := _finished(store, str(flow_run.id), ref):
        get_run_logger().info("this run published %s before it was run again", finished["weights"])
        return finished
    check_device(request.computing.device)
    computing = request.computing
    with needs_of_run(store) as needs:
        needs.add(ref)
        weights = train_here(ref, settings, computing, deadline)
        needs.add(weights)
        produced = {"dataset": ref, "weights": weights}
        runs.record(store.disk, str(flow_run.id), produced)
    return produced


def train_here(dataset: str, settings: TrainingSettings, computing: Computing, deadline: Deadline) -> str:
    """The stages of a training, in this process and as tasks of this run: the weights' ref."""
    choice = None
    if settings.architecture == "transfer":
        choice = choose(dataset, settings, computing.device, deadline)
        settings = choice.settings
        embed_pictures(dataset, settings, computing.device, computing.run_on, deadline)
    return train_network(dataset, settings, computing.execution, computing.device, deadline, choice)


def check_device(device: str) -> None:
    """Raises DeviceError for `gpu` where there is none, before there is any work to lose."""
    if device == "gpu":
        from tasks.vision import device as devices

        devices.choose(device)


def train_on_gpu_pool(store: Store, parameters: dict[str, Any], deadline: Deadline) -> str:
    """The weights' ref from a run of `train/for-a-retraining`; in place when that deployment is in this run's own
    pool, where a waiting parent would hold the slot that its child needs.

    A run of an earlier attempt of this parent is taken over when it still works or is done. Raises TrainingFailed,
    TrainingCancelled and DeadlineExceeded; whatever ends this function early cancels the child.
    """
    logger = get_run_logger()
    with get_client(sync_client=True) as client:
        if _shares_pool(client):
            logger.warning(
                "%s is in this run's own pool: training here, so that neither waits for the other", DEPLOYMENT
            )
            return str(train(**parameters)["weights"])
        child = _start(store, client, parameters)
        logger.info("%s: started %s", DEPLOYMENT, child.name)
        try:
            child = _wait(client, child, deadline)
        except BaseException:
            with suppress(Exception):
                client.set_flow_run_state(child.id, Cancelling(message="the run that waited for it ended"))
            raise
    if child.state.is_cancelled():
        raise TrainingCancelled(f"the training {child.name} was cancelled, so there is nothing to evaluate")
    if not child.state.is_completed():
        how = f"{child.state.name}: {child.state.message}"
        raise TrainingFailed(f"the training {child.name} ended as {how}; its page has the logs")
    if (finished := _finished(store, str(child.id), parameters["dataset"])) is None:
        raise TrainingFailed(
            f"expected runs/{child.id}.json in the store {store.disk.root}, found none; LOOKBOOK_STORE must name one "
            "store on the workers of both pools"
        )
    return finished["weights"]


def _finished(store: Store, run: str, dataset: str) -> dict[str, str] | None:
    """What `run` has published of `dataset`, if it is still there."""
    with suppress(NotFound):
        found = runs.find(store.disk, run)
        if found and found["dataset"] == dataset:
            store.open(Ref.parse(found["weights"]))
            return found
    return None


def _shares_pool(client: SyncPrefectClient) -> bool:
    try:
        pool = client.read_deployment_by_name(DEPLOYMENT).work_pool_name
    except ObjectNotFound:
        raise TrainingFailed(
            f"expected a deployment {DEPLOYMENT} to train on, found none; `lookbook up` or `lookbook deploy` "
            "makes it, and train_on: here needs none"
        ) from None
    context = FlowRunContext.get()
    assert context
    assert context.flow_run
    return pool is not None and pool == client.read_flow_run(context.flow_run.id).work_pool_name


def _start(store: Store, client: SyncPrefectClient, parameters: dict[str, Any]) -> Any:
    """A run of the deployment. The key names this run and the attempt; a key's old run comes back, even failed.

    An old one is taken over when it trains, or has published, what is wanted now. One that trains on other data, as
    more of them arrived since, is cancelled.
    """
    attempt = 0
    while True:
        key = f"{flow_run.id}-{attempt}"
        child: Any = run_deployment(DEPLOYMENT, parameters=parameters, timeout=0, idempotency_key=key)
        if child.state.is_completed():
            if _finished(store, str(child.id), parameters["dataset"]):
                return child
        elif not child.state.is_final() and not child.state.is_cancelling():
            if _without_deadline(child.parameters) == _without_deadline(parameters):
                return child
            client.set_flow_run_state(child.id, Cancelling(message="the data changed before it was done"))
        attempt += 1


def _without_deadline(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name != "deadline_hours"}


def _wait(client: SyncPrefectClient, child: Any, deadline: Deadline) -> Any:
    """`child` in its final state. A server that is restarted meanwhile is waited for."""
    logger, state = get_run_logger(), None
    while True:
        with suppress(httpx.TransportError, httpx.HTTPStatusError):
            child = client.read_flow_run(child.id)
            if child.state.is_final():
                return child
            if child.state.name != state:
                state = child.state.name
                logger.info("%s is %s%s", child.name, state, _waiting_for(client) if child.state.is_scheduled() else "")
        deadline.check(f"waiting for the training {child.name}")
        time.sleep(_POLL_SECONDS)


def _waiting_for(client: SyncPrefectClient) -> str:
    pool = client.read_deployment_by_name(DEPLOYMENT).work_pool_name
    online = [each for each in client.read_workers_for_work_pool(str(pool)) if each.status == "ONLINE"]
    return f" until a worker of the pool {pool} is free ({len(online)} online)"
