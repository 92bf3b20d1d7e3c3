"""pytest tests/test_operations.py: `lookbook up` at work: real server, real workers, real kills."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import httpx
import numpy as np
import pytest
from commands import answer, complaint
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending
from pydantic import SecretStr
from upheld import asked, bring_down, bring_up, delete, free_port, post

from artifacts import aliases, metrics, runs, weights
from artifacts.refs import Ref
from flows.automations import create_automations
from flows.workers import pending, worker_name
from tasks.reports.tables import cell

NOTIFY = "Lookbook: a scheduled run that failed sends word"
LONG = {"epochs": 3000, "if_unchanged": "train"}  # minutes: whoever starts it ends it


@pytest.fixture
def lookbook_environment(upheld_environment):
    return upheld_environment


@pytest.fixture(scope="session")
def champion(up):
    """The first champion, from a run that trained on the GPU pool."""
    run = up.start("retrain/weekly", epochs=2, train_on="gpu pool")
    assert up.wait(run)["state_type"] == "COMPLETED", up.logs(run)
    return run


def test_what_up_makes(up):
    pools = {pool["name"]: pool for pool in asked(up.api, "work_pools")}
    assert {name: pool["type"] for name, pool in pools.items()} == {"cpu": "process", "gpu": "process"}
    assert pools["gpu"]["concurrency_limit"] == 1
    assert pools["cpu"]["concurrency_limit"] >= 2
    assert {pool["status"] for pool in pools.values()} == {"READY"}
    [monday] = up.deployment("retrain/weekly")["schedules"]
    assert (monday["schedule"]["cron"], monday["schedule"]["timezone"], monday["active"]) == ("0 4 * * 1", "UTC", True)
    assert [each["active"] for each in up.deployment("score/nightly")["schedules"]] == [False]
    pull = up.deployment("train/gpu")["pull_steps"]
    assert pull == [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $LOOKBOOK_HOME }}"}}]
    automations = {each["name"] for each in asked(up.api, "automations")}
    assert automations == {
        "Lookbook: a run whose process died is marked crashed",
        "Lookbook: a scheduled run that failed sends word",
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
    until = time.monotonic() + 60
    while not (coming := asked(up.api, "flow_runs", flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}})):
        assert time.monotonic() < until, "nothing was scheduled"
        time.sleep(1)
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
    assert run["name"] == f"retrain-beside-{datetime.now(UTC):%Y-%m-%d}"


def test_a_retraining_on_the_gpu_pool_gives_weights_by_the_runs_record(up, champion):
    parent, child = up.run(champion), up.inner(champion)
    assert (parent["work_pool_name"], child["work_pool_name"]) == ("cpu", "gpu")
    made = runs.find(up.store.disk, champion)
    assert runs.find(up.store.disk, child["id"]) == {"dataset": made["dataset"], "weights": made["weights"]}
    assert up.store.open(Ref.parse(made["weights"])).identity["inputs"] == {"dataset": made["dataset"]}
    assert set(made) == {"dataset", "weights", "metrics", "decision"}
    assert made["decision"] == "aliases/weights/fashion-mnist/champion/00000001.json"
    assert parent["name"].startswith("retrain-fashion-mnist-20")
    assert child["name"].startswith("train-fashion-mnist-20")
    assert set(parent["tags"]) == {"lookbook", "training"}


def test_the_report_tells_what_was_promoted_and_why(up, champion):
    report = up.report("retrain-fashion-mnist")
    for part in ("Promoted.", "the first model, accuracy", "## Learning curve", "## Confusion matrix", "Shirt"):
        assert part in report
    assert report.count("data:image/png;base64,") == 2
    assert len(report) < 200_000
    made = runs.find(up.store.disk, champion)
    for kind in ("dataset", "weights", "metrics"):
        assert f"`{made[kind]}`" in report


def test_the_report_s_confused_classes_are_those_of_the_metrics(up, champion):
    """JSON objects are sorted by their names; the matrix is in the order of the labels."""
    made = runs.find(up.store.disk, champion)
    matrix = np.array(metrics.load(up.store, Ref.parse(made["metrics"])).document["confusion_matrix"])
    classes = weights.load(up.store, Ref.parse(made["weights"])).classes
    np.fill_diagonal(matrix, 0)
    is_, called = np.unravel_index(matrix.argmax(), matrix.shape)
    report = up.report("retrain-fashion-mnist")
    assert f"| {cell(classes[is_])} | {cell(classes[called])} | {matrix.max():,} |" in report


def test_unchanged_data_and_settings_are_said_and_not_trained_on(up, champion):
    before = aliases.history(up.store.disk, "weights", "fashion-mnist", "champion")
    run = up.start("retrain/weekly", epochs=2)
    state = up.wait(run)["state"]
    assert state["type"] == "COMPLETED"
    assert state["message"].startswith("nothing changed: weights/fashion-mnist@")
    assert "**Nothing to do:** nothing changed" in up.report("retrain-fashion-mnist")
    assert aliases.history(up.store.disk, "weights", "fashion-mnist", "champion") == before


def test_a_folder_that_grows_is_trained_on_again(up, champion):
    one = up.start("retrain/weekly", images="photos:shapes", epochs=5)
    assert up.wait(one)["state_type"] == "COMPLETED", up.logs(one)
    assert up.run(one)["name"].startswith("retrain-shapes-20")
    first = runs.find(up.store.disk, one)
    bad = up.store.open(Ref.parse(first["dataset"])).facts["bad"]
    assert list(bad) == ["circle/zz notes.txt"]
    assert bad["circle/zz notes.txt"].startswith("unsupported: expected a picture")
    extra = next((up.top / "photos/shapes/square").iterdir())
    content = extra.read_bytes()
    (extra.parent / "another.png").write_bytes(content)
    two = up.start("retrain/weekly", images="photos:shapes", epochs=5)
    assert up.wait(two)["state_type"] == "COMPLETED", up.logs(two)
    second = runs.find(up.store.disk, two)
    assert second["dataset"] != first["dataset"]
    assert second["weights"] != first["weights"]
    three = up.start("retrain/weekly", images="photos:shapes", epochs=5)
    up.wait(three)
    assert runs.find(up.store.disk, three)["dataset"] == second["dataset"]


@pytest.mark.parametrize(
    ("deployment", "parameters"),
    [
        ("score/folder", {"folder": "photos:way out/etc"}),
        ("score/folder", {"folder": "photos:../.."}),
        ("score/folder", {"folder": "/etc"}),
        ("score/folder", {"folder": "file:///etc"}),
        ("score/folder", {"folder": "elsewhere:x"}),
        ("retrain/weekly", {"images": "photos:way out/etc", "name": "x"}),
        ("retrain/weekly", {"images": "/etc", "name": "x"}),
    ],
)
def test_a_folder_outside_the_roots_is_refused_inside_the_flow(up, champion, deployment, parameters):
    before = sorted(up.store.disk.list("staging"))
    run = up.wait(up.start(deployment, **parameters))
    assert run["state_type"] == "FAILED"
    assert "expected a folder " in run["state"]["message"]
    assert sorted(up.store.disk.list("staging")) == before


def test_scoring_a_folder_reports_counts_errors_and_pictures(up, champion):
    run = up.start("score/folder", folder="photos:shapes", weights="fashion-mnist@champion")
    assert up.wait(run)["state_type"] == "COMPLETED", up.logs(run)
    ref = runs.find(up.store.disk, run)["predictions"]
    report = up.report("score-shapes")
    for part in (f"`{ref}`", "| unsupported | 1 | circle/zz notes.txt |", "| Trouser |", "without a prediction"):
        assert part in report
    assert report.count("data:image/jpeg;base64,") >= 5, "a strip a class"
    assert len(report) < 200_000
    again = up.start("score/folder", folder="photos:shapes", weights="fashion-mnist@champion")
    up.wait(again)
    assert report.partition("| class")[2] == up.report("score-shapes").partition("| class")[2]
    shown = [each for each in asked(up.api, "artifacts") if each["key"] == "score-shapes"]
    assert len(shown) == 2, "a key keeps its history"


def test_cancelling_goes_both_ways(up, champion):
    parent = up.start("retrain/weekly", **LONG, seed=3, train_on="gpu pool")
    child = up.inner(parent)["id"]
    up.wait_for_log(child, "epoch 2/3000")
    cancel(up, parent)
    assert up.wait(child)["state_type"] == up.wait(parent)["state_type"] == "CANCELLED"
    parent = up.start("retrain/weekly", **LONG, seed=3, train_on="gpu pool")
    child = up.inner(parent)["id"]
    up.wait_for_log(child, "epoch 2/3000")
    cancel(up, child)
    state = up.wait(parent)["state"]
    assert state["type"] == "CANCELLED"
    assert "was cancelled, so there is nothing to evaluate" in state["message"]


def test_a_child_that_fails_fails_its_parent_with_its_words(up, champion):
    run = up.wait(up.start("retrain/weekly", epochs=1, device="gpu", train_on="gpu pool"))
    assert run["state_type"] == "FAILED"
    assert "ended as Failed: " in run["state"]["message"]
    assert "expected a GPU that TensorFlow can use, found none" in run["state"]["message"]


def test_two_scheduled_runs_never_train_at_once(up, champion):
    pair = [up.start("retrain/weekly", epochs=60, seed=seed) for seed in (11, 12)]
    assert [up.wait(run)["state_type"] for run in pair] == ["COMPLETED", "COMPLETED"]
    trained = []
    for run in pair:
        logs = asked(up.api, "logs", logs={"flow_run_id": {"any_": [up.inner(run)["id"]]}}, sort="TIMESTAMP_ASC")
        epochs = [log["timestamp"] for log in logs if log["message"].startswith("epoch ")]
        trained.append((epochs[0], epochs[-1]))
        assert len(epochs) == 60
    (_, first_end), (second_start, _) = sorted(trained)
    assert second_start > first_end
    waited = [line for run in pair for line in up.logs(up.inner(run)["id"]) if line.startswith("waiting for ")]
    assert waited == ["waiting for another training of a deployment to end"]


def test_a_deadline_ends_a_training(up, champion):
    run = up.wait(up.start("retrain/weekly", **LONG, seed=4, deadline_hours=0.004))
    assert run["state_type"] == "FAILED"
    assert "DeadlineExceeded: expected to be done within 0.00" in run["state"]["message"]


def test_a_failed_scheduled_run_sends_word(up, listener, champion):
    deployment = up.deployment("retrain/weekly")["id"]
    schedule = {
        "schedule": {"interval": 15, "anchor_date": datetime.now(UTC).isoformat(), "timezone": "UTC"},
        "parameters": {"images": "nowhere:"},
        "active": True,
        "slug": "often",
    }
    by_hand = up.start("retrain/weekly", images="nobody:")
    schedules = f"{up.api}/deployments/{deployment}/schedules"
    made = post(schedules, [schedule]).json()
    until = time.monotonic() + 150  # the scheduler looks once a minute
    while not listener[1]:
        assert time.monotonic() < until, "no notice came"
        time.sleep(0.5)
    delete(f"{schedules}/{made[0]['id']}")
    up.wait(by_hand)
    time.sleep(2)
    assert not any("nobody:" in notice["text"] for notice in listener[1]), "whoever starts a run is looking"
    notice = listener[1][0]
    assert notice["flow"] == "retrain"
    assert notice["state"] == "Failed"
    assert (
        "expected a folder as root:sub/path below one of LOOKBOOK_IMAGE_ROOTS (photos:), found 'nowhere:'"
        in notice["text"]
    )
    assert notice["url"].startswith(up.url)


def cancel(up, run):
    state = {"state": {"type": "CANCELLING"}}
    post(f"{up.api}/flow_runs/{run}/set_state", state)


def retry(up, run):
    """As the page's Retry button does it."""
    state = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    post(f"{up.api}/flow_runs/{run}/set_state", state)


def engine(up, run):
    """The process of a run."""
    for pid in up.processes("prefect.engine"):
        with contextlib.suppress(OSError):
            if run.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                return pid
    pytest.fail(f"no process of {run}")


def test_killed_with_its_worker_a_run_is_crashed_and_its_rerun_goes_on(up, champion, fashion_mnist):
    """One training and one scoring at once, as a machine's end would end both: marked by the missing signs of life."""
    many = up.top / "photos/many"
    many.mkdir()
    for index, image in enumerate(fashion_mnist["train"].images[:30_000, ..., 0]):
        Image.fromarray(image).save(many / f"{index:05d}.png", compress_level=0)
    training = up.start("retrain/weekly", **LONG | {"epochs": 250}, seed=21)
    up.wait_for_log(child := up.inner(training)["id"], "epoch 2/250")
    scoring = up.start("score/folder", folder="photos:many", weights="fashion-mnist@champion")
    up.wait(scoring, "RUNNING")
    victims = [engine(up, training), engine(up, scoring)]
    shards = up.top / "store/staging/shards"
    known = set(shards.glob("*/*.json"))
    until = time.monotonic() + 90
    while not set(shards.glob("*/*.json")) - known:
        assert time.monotonic() < until, up.logs(scoring)
        time.sleep(0.02)
    for pid in [*victims, *up.processes("worker start --pool cpu")]:
        os.kill(pid, signal.SIGKILL)
    finished = sum(json.loads(each.read_text())["rows"] for each in set(shards.glob("*/*.json")) - known)
    assert up.store.verify().corrupt == []
    for run in (training, scoring, child):
        state = up.wait(run, "CRASHED", seconds=200)["state"]
        assert state["message"].startswith("no sign of life for 90 seconds")
    retry(up, scoring)
    assert up.wait(scoring)["state_type"] == "COMPLETED", up.logs(scoring)
    up.wait_for_log(scoring, " rows predicted, ")  # logs come a little later
    said = [line for line in up.logs(scoring) if " rows predicted, " in line][-1]
    assert int(said.split(" reused")[0].split()[-1].replace(",", "")) == finished > 0, said
    retry(up, training)
    up.wait(training, "RUNNING")
    assert up.wait(training, seconds=200)["state_type"] == "COMPLETED", up.logs(training)
    assert up.store.verify().corrupt == []


def test_a_server_that_is_killed_comes_back_and_the_training_goes_on(up, champion):
    run = up.start("retrain/weekly", epochs=150, seed=31)
    up.wait_for_log(up.inner(run)["id"], "epoch 2/150")
    for pid in up.processes("flows.serving"):
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{up.api}/health").is_success:
                break
        assert time.monotonic() < until
        time.sleep(0.2)
    found = up.wait(run)
    assert (found["state_type"], found["run_count"]) == ("COMPLETED", 1)
    assert runs.find(up.store.disk, run)["weights"]


def test_ctrl_c_ends_all_and_the_next_up_goes_on(up, upheld_environment, tmp_path):
    """On a home of its own, so that the others' stays up."""
    folders = {"PREFECT_HOME": "prefect", "LOOKBOOK_STORE": "store", "LOOKBOOK_CACHE": "cache"}
    environment = {**upheld_environment, **{name: str(tmp_path / folder) for name, folder in folders.items()}}
    environment["PREFECT_SERVER_API_PORT"] = str(free_port())
    first = bring_up(environment)
    run = first.start("retrain/weekly", images="photos:shapes", epochs=10_000, train_on="gpu pool")
    child = first.inner(run)["id"]
    first.wait_for_log(child, "epoch 2/10000")
    names = ("prefect worker start", "flows.serving", "prefect.engine")
    processes = [pid for name in names for pid in first.processes(name)]
    assert len(processes) >= 5
    assert bring_down(first) < 40
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    second = bring_up(environment)
    try:
        assert second.wait(run, "RUNNING")["run_count"] == 2
        assert second.inner(run)["id"] == child
        assert second.wait(child, "RUNNING")["run_count"] == 2
        cancel(second, run)
        assert second.wait(run)["state_type"] == "CANCELLED"
    finally:
        bring_down(second)


def test_up_says_what_is_in_its_way(lookbook, tmp_path):
    elsewhere = {"PREFECT_HOME": str(tmp_path), "LOOKBOOK_CACHE": str(tmp_path / "cache")}
    told = complaint(lookbook("up", **elsewhere, PREFECT_API_URL="http://127.0.0.1:9/api"))
    assert "expected a Prefect server at PREFECT_API_URL http://127.0.0.1:9/api, found none" in told
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = complaint(lookbook("up", **elsewhere, PREFECT_SERVER_API_PORT=str(port)))
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


def test_a_retraining_with_a_server_of_its_own_needs_no_proxy(up, lookbook, tmp_path):
    """The environment of the `up` fixture has dead proxies, too."""
    alone = {"PREFECT_HOME": str(tmp_path / "prefect"), "LOOKBOOK_STORE": str(tmp_path / "store")}
    shapes = up.top / "photos/shapes"
    assert answer(lookbook("retrain", "--images", shapes, "--epochs", "1", "--json", **alone))["promoted"]


def test_only_this_machine_s_runs_are_scheduled_again(up, champion):
    """Runs are taken by hand as a worker takes them, from a paused pool: pending, then its name in their labels."""
    elsewhere = "somebody@elsewhere-cpu"
    with temporary_settings({PREFECT_API_URL: up.api}), get_client(sync_client=True) as client:
        client.update_work_pool("cpu", WorkPoolUpdate(is_paused=True))
        try:
            ours, theirs, unnamed = (UUID(up.start("score/folder", folder="photos:shapes")) for _ in range(3))
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
