"""pytest tests/test_up.py: what `lookbook up` makes, what is in its way, and whose runs it takes."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from commands import answer, complaint
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending
from pydantic import SecretStr
from upheld import asked
from waiting import eventually

from artifacts.settings import Settings
from flows.automations import create_automations
from flows.workers import environment, pending, worker_name

NOTIFY = "Lookbook: a scheduled run that failed sends word"


@pytest.fixture
def lookbook_environment(upheld_environment):
    return upheld_environment


def test_what_up_makes(up):
    pools = {pool["name"]: pool for pool in asked(up.api, "work_pools")}
    assert {name: pool["type"] for name, pool in pools.items()} == {"cpu": "process", "gpu": "process"}
    assert pools["gpu"]["concurrency_limit"] == 1
    assert pools["cpu"]["concurrency_limit"] >= 2
    assert {pool["status"] for pool in pools.values()} == {"READY"}
    [monday] = up.deployment("retrain/weekly")["schedules"]
    assert (monday["schedule"]["cron"], monday["schedule"]["timezone"], monday["active"]) == ("0 4 * * 1", "UTC", True)
    for asleep in ("score/nightly", "collect/sundays"):
        assert [each["active"] for each in up.deployment(asleep)["schedules"]] == [False]
    pull = up.deployment("train/for-a-retraining")["pull_steps"]
    assert pull == [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $LOOKBOOK_HOME }}"}}]
    automations = {each["name"] for each in asked(up.api, "automations")}
    assert automations == {
        "Lookbook: a run whose process died is marked crashed",
        "Lookbook: a scheduled run that failed sends word",
        "Lookbook: retrain when predictions drift, or when there are enough new labels",
    }


def test_the_processes_run_this_checkout_s_code_whatever_is_installed(up):
    root = str(Path(__file__).parents[1])
    for words in ("flows.serving", "worker start --pool cpu", "worker start --pool gpu"):
        [process] = up.processes(words)
        environment = Path(f"/proc/{process}/environ").read_text().split("\0")
        assert any(each.partition(os.pathsep)[0] == f"PYTHONPATH={root}" for each in environment), words
        assert " -P -m " in Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")


def test_the_weekly_run_is_on_the_calendar(up):
    """With SQLAlchemy 2.1 Prefect's scheduler fails without a word on any page."""
    later = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    coming = eventually(lambda: asked(up.api, "flow_runs", flow_runs=later), "a scheduled run")
    start = datetime.fromisoformat(coming[0]["expected_start_time"])
    assert (start.weekday(), start.hour) == (0, 4)
    assert "auto-scheduled" in coming[0]["tags"]


def test_a_second_up_names_the_first_and_ends(up, lookbook):
    said = lookbook("up")
    assert said.returncode == 0
    assert f"page         {up.url}" in said.stdout
    assert "It was up already" in said.stdout
    assert len(up.processes("worker start")) == 2


def test_a_command_beside_it_uses_its_server(up, lookbook):
    assert answer(lookbook("retrain", "--epochs", "1", "--name", "beside", "--json"))["promoted"]
    [run] = [
        run
        for run in asked(up.api, "flow_runs")
        if "command-line" in run["tags"] and "lookbook" in run["tags"] and run["name"].startswith("retrain")
    ]
    begin = datetime.fromisoformat(run["expected_start_time"]).astimezone(UTC)
    assert run["name"] == f"retrain-beside-{begin:%Y-%m-%d-%H:%M}-{run['id'][-4:]}"


@pytest.mark.slow
def test_up_says_what_is_in_its_way(lookbook, tmp_path, listener):
    elsewhere = {"PREFECT_HOME": str(tmp_path), "LOOKBOOK_CACHE": str(tmp_path / "cache")}
    told = complaint(lookbook("up", **elsewhere, PREFECT_API_URL="http://127.0.0.1:9/api"))
    assert "expected a Prefect server at PREFECT_API_URL http://127.0.0.1:9/api, found none" in told
    port = listener[0].partition("/hook")[0].rpartition(":")[2]  # whose server knows nothing of Prefect
    told = complaint(lookbook("up", **elsewhere, PREFECT_SERVER_API_PORT=port))
    assert (
        f"expected to listen at http://127.0.0.1:{port}, found: Address already in use (process {os.getpid()} (" in told
    )
    assert ") of user " in told
    assert told.endswith("PREFECT_SERVER_API_PORT names another port")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_s_server_is_not_joined_by_accident(lookbook, tmp_path):
    """It would be deployed to, and its workers would bring runs into the other's store."""
    program = (
        "from http.server import *\n"
        "class Healthy(BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b'true')\n"
        "server = HTTPServer(('127.0.0.1', 0), Healthy); print(server.server_port, flush=True); server.serve_forever()"
    )
    another = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
    other = subprocess.Popen([*another, "/usr/bin/env", "python3", "-c", program], stdout=subprocess.PIPE, text=True)
    port = other.stdout.readline().strip()
    elsewhere = {"PREFECT_HOME": str(tmp_path), "LOOKBOOK_CACHE": str(tmp_path / "cache")}
    told = complaint(lookbook("up", **elsewhere, PREFECT_SERVER_API_PORT=port))
    other.kill()
    other.communicate()
    assert f"(process {other.pid} (python3) of user 12345 has the port)" in told
    assert f"PREFECT_API_URL=http://127.0.0.1:{port}/api uses what is there, if that is a Prefect server" in told


def test_only_this_machine_s_runs_are_scheduled_again(up, champion):
    """Runs are taken by hand as a worker takes them, from a paused pool: pending, then its name in their labels."""
    elsewhere = "somebody@elsewhere-cpu"
    with temporary_settings({PREFECT_API_URL: up.api}), get_client(sync_client=True) as client:
        client.update_work_pool("cpu", WorkPoolUpdate(is_paused=True))
        try:
            ours, theirs, unnamed = (UUID(up.start("score/by-hand", folder="photos:shapes")) for _ in range(3))
            for run in (ours, theirs, unnamed):
                client.set_flow_run_state(run, Pending(), force=True)
            client.update_flow_run_labels(ours, {"prefect.worker.name": worker_name("cpu")})
            client.update_flow_run_labels(theirs, {"prefect.worker.name": elsewhere})
            assert pending() == {ours, unnamed}
            client.send_worker_heartbeat("cpu", elsewhere)
            assert pending() == {ours}, "the other may be about to write its name"
            for run in (ours, theirs, unnamed):
                client.delete_flow_run(run)
        finally:
            client.update_work_pool("cpu", WorkPoolUpdate(is_paused=False))


def test_a_user_without_a_name_has_workers(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert worker_name("cpu").startswith("12345@")


def test_runs_give_signs_of_life_whatever_this_user_has_set_for_them(monkeypatch):
    """Three minutes apart, `lookbook up` would take each for crashed."""
    monkeypatch.setenv("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "180")
    seen = environment(Settings(), "http://127.0.0.1:4200/api")
    assert seen["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


def test_without_the_setting_no_notice_goes_to_the_old_address(up):
    def made():
        automations = {each["name"] for each in asked(up.api, "automations")}
        blocks = {each["name"] for each in asked(up.api, "block_documents")}
        return NOTIFY in automations, "lookbook-notify" in blocks

    with temporary_settings({PREFECT_API_URL: up.api}), get_client(sync_client=True) as client:
        assert made() == (True, True)
        create_automations(client, None)
        assert made() == (False, False)
        create_automations(client, None)
        create_automations(client, SecretStr(up.environment["LOOKBOOK_NOTIFY_URL"]))
        assert made() == (True, True)
