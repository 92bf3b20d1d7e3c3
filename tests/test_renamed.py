"""pytest tests/test_renamed.py: on a server that an earlier Lookbook deployed to, nothing runs twice or is lost."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Scheduled
from upheld import asked

from flows.renamed import RENAMED, replace_renamed

pytestmark = pytest.mark.server


@pytest.fixture
def client(up):
    with temporary_settings({PREFECT_API_URL: up.api}), get_client(sync_client=True) as client:
        yield client
        for each in client.read_deployment_by_name("score/by-hand").schedules:
            client.delete_deployment_schedule(each.deployment_id, each.id)
        [sunday] = client.read_deployment_by_name("collect/sundays").schedules
        client.update_deployment_schedule(sunday.deployment_id, sunday.id, active=False)


def deployed(client, name, entrypoint, *schedules):
    """A deployment as an earlier prefect.yaml made it; its id."""
    flow, _, called = name.partition("/")
    flow_id = client.create_flow_from_name(flow)
    return client.create_deployment(
        flow_id, called, entrypoint=entrypoint, schedules=list(schedules), work_pool_name="cpu"
    )


def at(cron, slug=None, active=True, **parameters):
    return DeploymentScheduleCreate(
        schedule=CronSchedule(cron=cron, timezone="UTC"), slug=slug, active=active, parameters=parameters
    )


def names(client):
    return {f"{client.read_flow(each.flow_id).name}/{each.name}" for each in client.read_deployments()}


def replaced(client, before=None):
    said = []
    replace_renamed(client, client.read_deployments() if before is None else before, said.append)
    return said


def test_schedules_and_automations_move_to_the_new_name(up, client):
    deployed(client, "collect/store", "flows/collect.py:collect", at("0 12 * * 0", "sunday"))
    old = deployed(client, "score/folder", "flows/score.py:score", at("5 5 * * *", folder="photos:shapes"))
    action = RunDeployment(source="selected", deployment_id=old, parameters={}, job_variables=None)
    trigger = EventTrigger(expect={"never"}, posture=Posture.Reactive, threshold=1, within=timedelta(0))
    mine = client.create_automation(AutomationCore(name="mine", trigger=trigger, actions=[action]))
    try:
        assert replaced(client) == [
            f"{name} is called {RENAMED[name]} now" for name in ("score/folder", "collect/store")
        ]
        assert not {"score/folder", "collect/store"} & names(client)
        [sunday] = client.read_deployment_by_name("collect/sundays").schedules
        assert (sunday.slug, sunday.active) == ("sunday", True), "somebody had switched it on"
        by_hand = client.read_deployment_by_name("score/by-hand")
        [moved] = by_hand.schedules
        assert (moved.schedule.cron, moved.active, moved.parameters) == ("5 5 * * *", True, {"folder": "photos:shapes"})
        [found] = [each for each in client.read_automations() if each.id == mine]
        assert [each.deployment_id for each in found.actions] == [by_hand.id]
        assert replaced(client) == []
    finally:
        client.delete_automation(mine)


def test_one_with_runs_that_are_not_over_stays_for_them_without_its_schedules(up, client):
    old = deployed(client, "score/folder", "flows/score.py:score", at("5 5 * * *", "mine"))
    tomorrow = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))  # no worker takes it before
    run = client.create_flow_run_from_deployment(old, parameters={"folder": "photos:shapes"}, state=tomorrow)
    assert replaced(client) == ["score/folder is called score/by-hand now; it stays until its last run is over"]
    assert client.read_deployment_schedules(old) == []
    assert asked(up.api, "flow_runs", flow_runs={"id": {"any_": [str(run.id)]}}), "the run is still there"
    client.set_flow_run_state(run.id, Cancelled(), force=True)
    assert replaced(client) == ["score/folder is called score/by-hand now"]
    assert "score/folder" not in names(client)


def test_what_prefect_yaml_still_names_and_what_starts_something_else_stays(client):
    own = deployed(client, "score/folder", "flows/score.py:score")
    other = deployed(client, "collect/store", "my/flows.py:collect")
    before = [each for each in client.read_deployments() if each.id != own]  # deployed after they were read
    try:
        assert replaced(client, before) == []
        assert {"score/folder", "collect/store"} <= names(client)
    finally:
        for each in (own, other):
            client.delete_deployment(each)


def test_no_old_name_is_left_anywhere_that_lookbook_deploys(up):
    for old, new in RENAMED.items():
        assert httpx.get(f"{up.api}/deployments/name/{old}").status_code == 404
        assert up.deployment(new)["entrypoint"]
