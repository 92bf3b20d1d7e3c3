"""Deployments that are called something else now: their schedules move on, and they go, so that nothing runs twice."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from flows.crew import Say

RENAMED = {
    "train/gpu": "train/for-a-retraining",
    "score/folder": "score/by-hand",
    "group/cpu": "group/for-a-scoring",
    "collect/store": "collect/sundays",
}
_UNFINISHED = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]


def replace_renamed(client: SyncPrefectClient, before: Sequence[DeploymentResponse], say: Say) -> None:
    """Put the deployments of today in the place of those of earlier names, after prefect.yaml was deployed.

    before: the deployments as they were before that. What prefect.yaml still names has changed since, and stays; so
    does what starts another flow of the same name.

    Schedules and automations are the new deployment's then. One of an earlier name with runs that are not over stays
    for these, as they would be removed with it; the next `lookbook up` looks again.
    """
    for old, new in RENAMED.items():
        with suppress(ObjectNotFound):
            gone, here = client.read_deployment_by_name(old), client.read_deployment_by_name(new)
            untouched = any(each.id == gone.id and each.updated == gone.updated for each in before)
            if untouched and gone.entrypoint == here.entrypoint:
                _move_schedules(client, gone, here)
                _move_automations(client, gone, here)
                if _unfinished(client, gone):
                    say(f"{old} is called {new} now; it stays until its last run is over")
                else:
                    client.delete_deployment(gone.id)
                    say(f"{old} is called {new} now")


def _move_schedules(client: SyncPrefectClient, gone: DeploymentResponse, here: DeploymentResponse) -> None:
    """A schedule of prefect.yaml is there already, and needs only be switched on where it was on."""
    there = {each.slug: each for each in here.schedules if each.slug}
    for each in gone.schedules:
        if same := there.get(each.slug or ""):
            if each.active:
                client.update_deployment_schedule(here.id, same.id, active=True)
        else:
            fields = each.model_dump(include=set(DeploymentScheduleCreate.model_fields))
            client.create_deployment_schedules(here.id, [DeploymentScheduleCreate(**fields)])
        client.delete_deployment_schedule(gone.id, each.id)


def _move_automations(client: SyncPrefectClient, gone: DeploymentResponse, here: DeploymentResponse) -> None:
    """Those that somebody made, and that start it."""
    for automation in client.read_automations():
        actions: list[Any] = [each for each in automation.actions if getattr(each, "deployment_id", None) == gone.id]
        for each in actions:
            each.deployment_id = here.id
        if actions:
            fields = automation.model_dump(exclude={"id", "owner_resource"})
            client.update_automation(automation.id, AutomationCore(**fields))


def _unfinished(client: SyncPrefectClient, deployment: DeploymentResponse) -> bool:
    return bool(
        client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": _UNFINISHED}}}),
            deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment.id]}}),
            limit=1,
        )
    )
