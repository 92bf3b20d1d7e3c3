"""What a Prefect server needs of Lookbook: work pools, the deployments of prefect.yaml with their schedules, and the
automations. `lookbook up` makes it, and `lookbook deploy` on a server that somebody else brings up."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.settings import HOME, Settings
from flows.crew import Say
from flows.serving import ServerError, with_our_code
from flows.workers import make_pools, pools

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

NIGHTLY = "score/nightly"
NIGHTLY_ROOT = "nightly"
_DEPLOY_SECONDS = 300.0  # it takes some
_PAGE = 200  # that Prefect's API gives at once, at most


@dataclass(frozen=True)
class Deployed:
    """What a server has then, by name: of the deployments (flow/deployment) those in our pools."""

    pools: list[str]
    deployments: list[str]
    automations: list[str]


def deploy(settings: Settings, api: str, say: Say, *, with_workers: bool) -> Deployed:
    """Make it on the server at `api`, which Prefect's settings name, too; where it is there, bring it up to date.

    The limits of pools stay, and schedules and automations stay as somebody has switched them. The schedule of
    `score/nightly` is awake when these settings have a folder for it: where the workers have the same settings
    (`with_workers`) each time, elsewhere when it is new. What an earlier Lookbook deployed under another name goes.
    Raises ServerError.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    from flows.automations import create_automations
    from flows.renamed import replace_renamed

    make_pools()
    with get_client(sync_client=True) as client:
        before = _known(client)
    # Without LOOKBOOK_HOME: `prefect deploy` would write this machine's folder into the pull steps of all workers.
    environment = {name: value for name, value in os.environ.items() if name != "LOOKBOOK_HOME"}
    # A profile's and those of a file in this folder, where `prefect deploy` isn't: how the server is reached.
    environment |= get_current_settings().api.to_environment_variables(exclude_unset=True)
    home = settings.home.absolute()
    if home != HOME:
        say(f"runs use the code of LOOKBOOK_HOME {home}, this command that of {HOME}")
    _deploy_all(home, with_our_code({**environment, "PREFECT_API_URL": api}, home))
    with get_client(sync_client=True) as client:
        automations = create_automations(client, settings.notify_url)
        nightly = _nightly(client)
        switched = {(each.id, schedule.slug): schedule.active for each in before for schedule in each.schedules}
        for each in _known(client):
            for schedule in each.schedules:
                was = switched.get((each.id, schedule.slug))
                awake = schedule.active if was is None else was
                if each.id == nightly and (with_workers or was is None):
                    awake = NIGHTLY_ROOT in settings.image_roots
                if schedule.active != awake:
                    client.update_deployment_schedule(each.id, schedule.id, active=awake)
        replace_renamed(client, before, say)  # whose schedules that were on switch those of today on
        return Deployed(list(pools()), _names(client, _known(client)), automations)


def _known(client: "SyncPrefectClient") -> "list[DeploymentResponse]":
    """All deployments of the server."""
    from prefect.client.schemas.sorting import DeploymentSort

    found: list[DeploymentResponse] = []
    while page := client.read_deployments(limit=_PAGE, offset=len(found), sort=DeploymentSort.NAME_ASC):
        found += page
    return found


def _nightly(client: "SyncPrefectClient") -> "UUID | None":
    from prefect.exceptions import ObjectNotFound

    with suppress(ObjectNotFound):  # a prefect.yaml of somebody's own may not have it
        return client.read_deployment_by_name(NIGHTLY).id
    return None


def _names(client: "SyncPrefectClient", deployments: "list[DeploymentResponse]") -> list[str]:
    ours = [each for each in deployments if each.work_pool_name in pools()]
    flows = {flow: client.read_flow(flow).name for flow in {each.flow_id for each in ours}}
    return sorted(f"{flows[each.flow_id]}/{each.name}" for each in ours)


def _deploy_all(home: Path, environment: Mapping[str, str]) -> None:
    """Raises ServerError when that fails, or does not end."""
    command = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"]
    try:
        deployed = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, timeout=_DEPLOY_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ServerError(
            f"expected `prefect deploy --all` in {home} to be done within {_DEPLOY_SECONDS:g} s, found it still at "
            "work; look whether the Prefect server answers, and start it again"
        ) from None
    if deployed.returncode:
        last = (deployed.stdout + deployed.stderr).strip().splitlines()[-3:]
        raise ServerError(f"`prefect deploy --all` failed in {home}: {' '.join(last)}")
