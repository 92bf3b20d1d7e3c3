"""What `lookbook up` deploys: prefect.yaml, its schedules, the automations."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from artifacts.settings import HOME, Settings
from flows.crew import Say
from flows.serving import ServerError, with_our_code

NIGHTLY = "score/nightly"
NIGHTLY_ROOT = "nightly"
_DEPLOY_SECONDS = 300.0  # it takes some


def deploy(settings: Settings, api: str, say: Say) -> None:
    """What prefect.yaml says, and the automations. A schedule that was there before stays as somebody has switched it;
    that of `score/nightly` is awake when there is a folder for it. What an earlier Lookbook deployed under another name
    goes."""
    from prefect.client.orchestration import get_client

    from flows.automations import create_automations
    from flows.renamed import replace_renamed

    with get_client(sync_client=True) as client:
        known = client.read_deployments()
        before = {(each.id, schedule.slug): schedule.active for each in known for schedule in each.schedules}
    # Without LOOKBOOK_HOME: `prefect deploy` would write this machine's folder into the pull steps of all workers.
    environment = {name: value for name, value in os.environ.items() if name != "LOOKBOOK_HOME"}
    home = settings.home.absolute()
    if home != HOME:
        say(f"runs use the code of LOOKBOOK_HOME {home}, this command that of {HOME}")
    _deploy_all(home, with_our_code({**environment, "PREFECT_API_URL": api}, home))
    with get_client(sync_client=True) as client:
        create_automations(client, settings.notify_url)
        nightly = client.read_deployment_by_name(NIGHTLY).id
        for each in client.read_deployments():
            for schedule in each.schedules:
                awake = (
                    NIGHTLY_ROOT in settings.image_roots
                    if each.id == nightly
                    else before.get((each.id, schedule.slug), schedule.active)
                )
                if schedule.active != awake:
                    client.update_deployment_schedule(each.id, schedule.id, active=awake)
        replace_renamed(client, known, say)  # whose schedules that were on switch those of today on


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
