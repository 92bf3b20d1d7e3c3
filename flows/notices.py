"""Word of a scheduled run that failed, for the automation that passes it on."""

from typing import Any

from prefect.events import emit_event

FAILED = "lookbook.scheduled-run.failed"


def tell_of_failure(flow: Any, flow_run: Any, state: Any) -> None:  # noqa: ARG001
    """A flow's `on_failure` hook.

    Prefect's own event would do, but for a scheduled run it waits a quarter of an hour for an event before it, and the
    scheduler never sends that one (Prefect 3.8.8).
    """
    if "auto-scheduled" not in flow_run.tags:
        return
    emit_event(
        event=FAILED,
        resource={"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.name": flow_run.name},
        related=[
            {"prefect.resource.id": f"prefect.flow.{flow_run.flow_id}", "prefect.resource.role": "flow",
             "prefect.resource.name": flow.name},
            {"prefect.resource.id": "prefect.tag.auto-scheduled", "prefect.resource.role": "tag"},
        ],
    )  # fmt: skip
