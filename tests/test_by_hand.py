"""pytest tests/test_by_hand.py: docs/operations.md followed line by line, from a server by hand to a run that crashed.

The commands are those of the page, as they stand; in its files an operator's own addresses, passwords and folders take
the place of the examples.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from commands import COMMAND
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from strangers import way_to_strangers
from upheld import answered, free_port
from waiting import eventually

from flows import deployments
from flows.guard import policy_of
from flows.heartbeats import HEARTBEAT
from flows.serving import healthy

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/operations.md").read_text()
FILES = dict(re.findall(r"`(\w+\.env)`:\n\n((?: {4}\S+=.*\n)+)", PAGE))
[SERVER, DEPLOY, WORKER, _GPU] = re.findall(r"^ {4}(sh -ac .*)$", PAGE, re.MULTILINE)
PASSWORD = "a $HOME of `one's` own"  # what a shell would read as something else


class ByHand:
    """A folder with the page's files, filled in, and the server that its line starts."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        quoted = PASSWORD.replace("'", "'\\''")
        own = {
            "https://prefect.example": self.url,
            "=4200\n": f"={self.port}\n",
            "'admin:...'": f"'admin:{quoted}'",
            "/opt/lookbook": str(ROOT),
            "/mnt/store": str(folder / "store"),
            "/srv/photos": str(folder / "photos"),
        }
        for name, text in FILES.items():
            for theirs, ours in own.items():
                text = text.replace(theirs, ours)
            assert ".." not in text.replace("admin:..", "")
            (folder / name).touch(0o600)
            (folder / name).write_text(text.replace("    ", ""))

    @contextmanager
    def started(self, line):
        """A line of the page as a process, with a session of its own."""
        with open(self.folder / "log", "ab") as log:
            process = subprocess.Popen(
                shlex.split(line), cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            process.wait(60)

    def run(self, line):
        return subprocess.run(
            shlex.split(line), cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300
        )

    def ask(self, method, what, body=None):
        answer = answered(method, f"{self.url}/api/{what}", json=body, auth=("admin", PASSWORD))
        return answer.json() if answer.content else None

    def known(self, what):
        return self.ask("POST", f"{what}/filter", {"limit": 200})

    def deployments(self):
        """All by their full names."""
        flows = {flow["id"]: flow["name"] for flow in self.known("flows")}
        return {f"{flows[each['flow_id']]}/{each['name']}": each for each in self.known("deployments")}


@pytest.fixture(scope="module")
def strangers():
    with way_to_strangers() as found:
        yield found


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory, strangers):
    """A server that runs; all that isn't on this machine is asked of a proxy that writes it down."""
    folder = tmp_path_factory.mktemp("by-hand")
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), strangers[0])
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("DO_NOT_TRACK", "PREFECT_API_URL")},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PREFECT_HOME": str(folder / "prefect"),
        "NO_PROXY": "127.0.0.1",
        **proxies,
    }
    made = ByHand(folder, environment)
    with made.started(SERVER):
        eventually(lambda: healthy(f"{made.url}/api"), "the Prefect server answers")
        yield made


@pytest.fixture(scope="module")
def deployed(by_hand):
    """What the page's line says that it made."""
    done = by_hand.run(DEPLOY)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.server
@pytest.mark.slow
def test_a_server_by_hand_gets_what_it_needs(by_hand, deployed):
    assert {each["name"]: each["type"] for each in by_hand.known("work_pools")} == {"cpu": "process", "gpu": "process"}
    found = by_hand.deployments()
    named = re.findall(r"^  - name: (\S+)", (ROOT / "prefect.yaml").read_text(), re.MULTILINE)
    assert sorted(name.partition("/")[2] for name in found) == sorted(named)
    for name, each in found.items():
        assert name in deployed
        [step] = each["pull_steps"]
        assert step == {"prefect.deployments.steps.set_working_directory": {"directory": "{{ $LOOKBOOK_HOME }}"}}
    automations = {each["name"]: each["enabled"] for each in by_hand.known("automations")}
    assert automations == {
        "Lookbook: a run whose process died is marked crashed": True,
        "Lookbook: retrain when predictions drift, or when there are enough new labels": False,
    }


@pytest.mark.server
@pytest.mark.slow
def test_deploying_again_keeps_what_people_changed(by_hand, deployed):
    def switched():
        schedules = {
            (name, each["slug"]): each["active"]
            for name, found in by_hand.deployments().items()
            for each in found["schedules"]
        }
        automations = {each["name"]: each["enabled"] for each in by_hand.known("automations")}
        return schedules, automations, {each["name"]: each["concurrency_limit"] for each in by_hand.known("work_pools")}

    for found in by_hand.deployments().values():
        for each in found["schedules"]:
            place = f"deployments/{found['id']}/schedules/{each['id']}"
            by_hand.ask("PATCH", place, {"active": not each["active"]})
    for each in by_hand.known("automations"):
        by_hand.ask("PATCH", f"automations/{each['id']}", {"enabled": not each["enabled"]})
    by_hand.ask("PATCH", "work_pools/cpu", {"concurrency_limit": 7})
    before = switched()
    ids = {name: each["id"] for name, each in by_hand.deployments().items()}
    try:
        done = by_hand.run(DEPLOY.removesuffix("'") + " --json'")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert switched() == before
        assert {name: each["id"] for name, each in by_hand.deployments().items()} == ids
        assert told["api"] == f"{by_hand.url}/api"
        assert sorted(told["deployments"]) == sorted(ids)
        assert sorted(told["automations"]) == sorted(before[1])
        assert told["pools"] == ["cpu", "gpu"]
    finally:
        for each in by_hand.known("automations"):
            by_hand.ask("PATCH", f"automations/{each['id']}", {"enabled": not before[1][each["name"]]})


@pytest.mark.server
@pytest.mark.slow
def test_all_deployments_are_known_however_many_there_are(by_hand, deployed, monkeypatch):
    """Prefect's API gives 200 at once: a schedule of another one would be taken for new, and wake."""
    monkeypatch.setattr(deployments, "_PAGE", 2)
    to_it = {PREFECT_API_URL: f"{by_hand.url}/api", PREFECT_API_AUTH_STRING: f"admin:{PASSWORD}"}
    with temporary_settings(to_it), get_client(sync_client=True) as client:
        known = deployments._known(client)
        assert sorted(str(each.id) for each in known) == sorted(each["id"] for each in by_hand.deployments().values())
        assert deployments._nightly(client) in {each.id for each in known}
        monkeypatch.setattr(deployments, "NIGHTLY", "score/of-nobody")
        assert deployments._nightly(client) is None


@pytest.mark.server
@pytest.mark.slow
def test_a_server_that_a_file_beside_it_names_is_deployed_to(by_hand, deployed, tmp_path):
    """Prefect's settings may be in a prefect.toml of the folder in which somebody works."""
    (tmp_path / "prefect.toml").write_text(f'[api]\nurl = "{by_hand.url}/api"\nauth_string = "admin:{PASSWORD}"\n')
    given = {name: value for name, value in by_hand.environment.items() if not name.startswith("PREFECT_API_")}
    done = subprocess.run(
        [*COMMAND, "deploy", "--json"], cwd=tmp_path, env=given, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["api"] == f"{by_hand.url}/api"


@pytest.mark.server
@pytest.mark.slow
def test_a_wrong_password_is_told_as_such(by_hand):
    wrong = DEPLOY.replace("exec lookbook", "PREFECT_API_AUTH_STRING=admin:guessed exec lookbook")
    done = by_hand.run(wrong)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith(f"lookbook: expected the password of the Prefect server {by_hand.url} in PREFECT_API_AUTH_STRING")
    )


@pytest.mark.server
@pytest.mark.slow
def test_a_server_by_hand_sends_nothing_to_strangers(by_hand, deployed, strangers):
    """As `server.env` tells it: its own service would, soon after its start."""
    assert by_hand.ask("GET", "admin/settings")["server"]["analytics_enabled"] is False
    assert strangers[1] == []


@pytest.mark.server
@pytest.mark.kill
@pytest.mark.long
def test_a_run_that_died_with_its_worker_is_reported_crashed(by_hand, deployed, fashion_mnist):
    """After the 90 seconds that the page tells."""
    [deployment] = [each for name, each in by_hand.deployments().items() if name == "retrain/weekly"]
    asking = {"parameters": {"epochs": 3000, "if_unchanged": "train"}, "state": {"type": "SCHEDULED"}}
    run = by_hand.ask("POST", f"deployments/{deployment['id']}/create_flow_run", asking)["id"]
    of_run = {"resource": {"id": [f"prefect.flow-run.{run}"]}, "event": {"name": [HEARTBEAT]}}
    with by_hand.started(WORKER) as worker:
        eventually(
            lambda: by_hand.ask("POST", "events/filter", {"filter": of_run})["events"],
            lambda: f"a sign of life, but {by_hand.ask('GET', f'flow_runs/{run}')['state']}",
        )
        for end in (signal.SIGSTOP, signal.SIGKILL):  # all at the same moment: a run notices that its worker is gone
            for pid in family_of(worker.pid):
                os.kill(pid, end)
    assert by_hand.ask("GET", f"flow_runs/{run}")["state_type"] == "RUNNING"
    ended = eventually(
        lambda: (found := by_hand.ask("GET", f"flow_runs/{run}")["state"])["type"] != "RUNNING" and found,
        "an end of the run",
    )
    assert (ended["type"], ended["message"].partition(":")[0]) == ("CRASHED", "no sign of life for 90 seconds")


def family_of(process):
    """A process and all below it, as whatever ends a machine finds them."""
    parents = {}
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(each.parent.name)] = int(each.read_text().rpartition(")")[2].split()[1])
    found = [process]
    for member in found:
        found += [pid for pid, parent in parents.items() if parent == member]
    return found


def test_the_page_has_the_policy_that_the_guard_sends():
    """Behind a proxy the page and its API have one name."""
    assert f'    add_header Content-Security-Policy "{policy_of(())}" always;\n' in PAGE


def test_the_page_s_files_are_what_a_shell_reads(tmp_path):
    """Of each line of a file all that stands behind the `=`, without its quotes."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.replace("    ", ""))
        names = re.findall(r"^ {4}(\w+)=", text, re.MULTILINE)
        program = f"import json, os; print(json.dumps([os.environ[each] for each in {names}]))"
        line = f'. ./{name} && exec "$0" -c "$1"'
        said = subprocess.run(
            ["sh", "-eac", line, sys.executable, program], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        values = [line.partition("=")[2].strip("'") for line in text.splitlines()]
        assert json.loads(said.stdout) == values
        for key, value in zip(names, values, strict=True):
            if key == "LOOKBOOK_IMAGE_ROOTS":
                assert json.loads(value) == {"photos": "/srv/photos"}
