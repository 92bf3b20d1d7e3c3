"""What Prefect does by itself: a run whose machine died is marked crashed, a scheduled run that failed sends word, and
a retraining that is wished for starts, once somebody has switched that on."""

from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from flows.heartbeats import HEARTBEAT
from flows.notices import FAILED
from flows.wishes import WISHED

FLOWS = ["retrain", "train", "score", "group", "collect"]
SILENT_SECONDS = 90  # three signs of life (prefect.yaml: every 30 seconds)
_CRASHED = "Lookbook: a run whose process died is marked crashed"
_NOTIFY = "Lookbook: a scheduled run that failed sends word"
_RETRAIN = "Lookbook: retrain when predictions drift, or when there are enough new labels"
RETRAINING = "retrain/weekly"
_BLOCK = "lookbook-notify"
_ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut", "AwaitingRetry", "Scheduled")
# Slack, Mattermost and others show `text`; the rest is for programs. tojson quotes what strangers' messages hold.
_PAYLOAD = """{
 "text": {{ ("Lookbook: " ~ flow_run.name ~ " " ~ flow_run.state.name ~ ": " ~ flow_run.state.message) | tojson }},
 "flow": {{ flow.name | tojson }},
 "run": {{ flow_run.name | tojson }},
 "state": {{ flow_run.state.name | tojson }},
 "message": {{ flow_run.state.message | tojson }},
 "url": {{ flow_run | ui_url | tojson }}
}"""


def create_automations(client: SyncPrefectClient, notify_url: SecretStr | None) -> list[str]:
    """Make them, or bring those that are there up to date: their names.

    Without a `notify_url` the notices are removed with its address: names and errors of runs go nowhere unasked.
    """
    made = [_crashed()]
    with suppress(ObjectNotFound):  # a prefect.yaml of somebody's own may not have it
        made.append(_wished(client.read_deployment_by_name(RETRAINING).id))
    if notify_url is not None:
        block: Any = Webhook(method="POST", url=notify_url)
        made.append(_notify(block.save(_BLOCK, overwrite=True)))
    else:
        _remove_notices(client)
    for each in made:
        _put(client, each)
    return [each.name for each in made]


def _remove_notices(client: SyncPrefectClient) -> None:
    for automation in client.read_automations_by_name(_NOTIFY):
        client.delete_automation(automation.id)
    with suppress(ObjectNotFound):
        kept = client.read_block_document_by_name(_BLOCK, Webhook.get_block_type_slug(), include_secrets=False)
        client.delete_block_document(kept.id)


def _crashed() -> AutomationCore:
    """A process that was killed with its worker can't say so, and its run would stay Running for ever."""
    return AutomationCore(
        name=_CRASHED,
        description=f"No sign of life for {SILENT_SECONDS} seconds. Retried, it goes on from what it committed.",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _ENDS)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                message=f"no sign of life for {SILENT_SECONDS} seconds: its process or machine died; "
                "retry it, and it goes on from what it committed",
                force=False,
            )
        ],
    )


def _notify(block: Any) -> AutomationCore:
    return AutomationCore(
        name=_NOTIFY,
        description="Runs that a person started are left out: that person is looking.",
        trigger=EventTrigger(
            expect={FAILED, "prefect.flow-run.Crashed"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=[
                {"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
                {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.auto-scheduled"},
            ],
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[CallWebhook(block_document_id=block, payload=_PAYLOAD)],
    )


def _wished(deployment: UUID) -> AutomationCore:
    """Off until somebody switches it on: a retraining costs time, and what it promotes predicts."""
    return AutomationCore(
        name=_RETRAIN,
        description="Two tables in a row beyond LOOKBOOK_RETRAIN_WHEN, or so many new labels; once a day at most.",
        enabled=False,
        trigger=EventTrigger(expect={WISHED}, posture=Posture.Reactive, threshold=1),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment,
                job_variables=None,
                parameters={"because": {"__prefect_kind": "jinja", "template": "{{ event.payload.because }}"}},
            )
        ],
    )


def _put(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """One that is there stays switched on or off."""
    if found := client.read_automations_by_name(automation.name):
        automation.enabled = found[0].enabled
        client.update_automation(found[0].id, automation)
    else:
        client.create_automation(automation)
