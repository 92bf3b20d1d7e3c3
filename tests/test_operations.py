"""pytest tests/test_operations.py: runs of a `lookbook up`: a real server, real workers.

A run of a deployment is a process of a worker. Where that is not the point, the flow runs inside the test's own
process, with the same server, store and folders.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run_flow_inside
from upheld import asked, delete, post
from waiting import eventually

from artifacts import aliases, metrics, runs, weights
from artifacts.refs import Ref
from flows.collect import collect
from flows.retrain import retrain
from flows.score import score
from tasks.reports.tables import cell

LONG = {"name": "long", "epochs": 3000, "if_unchanged": "train"}  # minutes: whoever starts it ends it


def inside(up, flow, **asked):
    """Run a flow in this process, on the server and with the folders of `up`: its id and its final state."""
    return run_flow_inside(flow, asked, {**up.environment, "PREFECT_API_URL": up.api})


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
    report = up.report("retrain-fashion-mnist", champion)
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
    report = up.report("retrain-fashion-mnist", champion)
    assert f"| {cell(classes[is_])} | {cell(classes[called])} | {matrix.max():,} |" in report


def test_unchanged_data_and_settings_are_said_and_not_trained_on(up, champion):
    before = aliases.history(up.store.disk, "weights", "fashion-mnist", "champion")
    _, state = inside(up, retrain, epochs=2, if_unchanged="stop")
    assert state.is_completed(), state
    assert state.message.startswith("nothing changed: weights/fashion-mnist@")
    assert "**Nothing to do:** nothing changed" in up.report("retrain-fashion-mnist")
    assert aliases.history(up.store.disk, "weights", "fashion-mnist", "champion") == before


def test_a_folder_that_grows_is_trained_on_again(up, champion):
    asking = {"images": "photos:shapes", "epochs": 5, "if_unchanged": "stop"}
    one, state = inside(up, retrain, **asking)
    assert state.is_completed(), state
    assert up.run(one)["name"].startswith("retrain-shapes-20")
    first = runs.find(up.store.disk, one)
    bad = up.store.open(Ref.parse(first["dataset"])).facts["bad"]
    assert list(bad) == ["circle/zz notes.txt"]
    assert bad["circle/zz notes.txt"] == "unsupported: expected JPEG, PNG, GIF, BMP, WEBP or TIFF, found text"
    extra = next((up.top / "photos/shapes/square").iterdir())
    content = extra.read_bytes()
    (extra.parent / "another.png").write_bytes(content)
    two, state = inside(up, retrain, **asking)
    assert state.is_completed(), state
    second = runs.find(up.store.disk, two)
    assert second["dataset"] != first["dataset"]
    assert second["weights"] != first["weights"]
    three, _ = inside(up, retrain, **asking)
    assert runs.find(up.store.disk, three)["dataset"] == second["dataset"]


@pytest.mark.parametrize(
    ("flow", "parameters"),
    [
        (score, {"folder": "photos:way out/etc"}),
        (score, {"folder": "photos:../.."}),
        (score, {"folder": "/etc"}),
        (score, {"folder": "file:///etc"}),
        (score, {"folder": "elsewhere:x"}),
        (retrain, {"images": "photos:way out/etc", "name": "x"}),
        (retrain, {"images": "/etc", "name": "x"}),
    ],
)
def test_a_folder_outside_the_roots_is_refused_inside_the_flow(up, champion, flow, parameters):
    before = sorted(up.store.disk.list("staging"))
    _, state = inside(up, flow, **parameters)
    assert state.is_failed()
    assert "expected a folder " in state.message
    assert sorted(up.store.disk.list("staging")) == before


def test_a_folder_outside_the_roots_is_refused_by_runs_of_workers(up, champion):
    """With the schema's checks off, as whoever reaches the API can ask."""
    before = sorted(up.store.disk.list("staging"))
    refused = [
        up.start("score/by-hand", folder="/etc"),
        up.start("retrain/weekly", images="photos:way out/etc", name="x"),
    ]
    for run in map(up.wait, refused):
        assert run["state_type"] == "FAILED"
        assert "expected a folder " in run["state"]["message"]
    assert sorted(up.store.disk.list("staging")) == before


def test_scoring_a_folder_reports_counts_errors_and_pictures(up, champion):
    asking = {"folder": "photos:shapes", "weights": "fashion-mnist@champion"}
    run = up.start("score/by-hand", **asking)
    assert up.wait(run)["state_type"] == "COMPLETED", up.logs(run)
    ref = runs.find(up.store.disk, run)["predictions"]
    report = up.report("score-shapes")
    for part in (f"`{ref}`", "| unsupported | 1 | circle/zz notes.txt |", "| Trouser |", "without a prediction"):
        assert part in report
    assert report.count("data:image/jpeg;base64,") >= 5, "a strip a class"
    assert len(report) < 200_000
    _, state = inside(up, score, **asking)
    assert state.is_completed(), state
    assert report.partition("| class")[2] == up.report("score-shapes").partition("| class")[2]
    shown = [each for each in asked(up.api, "artifacts") if each["key"] == "score-shapes"]
    assert len(shown) == 2, "a key keeps its history"


def test_a_run_that_names_a_command_of_its_own_is_started_by_that(up):
    run = up.start("collect/sundays", job={"command": f"{sys.executable} -c 'raise SystemExit(7)'"}, remove=False)
    found = up.wait(run)
    assert found["state_type"] == "CRASHED"
    assert "status code: 7" in found["state"]["message"]


def test_a_deployment_that_brings_its_own_code_runs_that(up, tmp_path):
    """Though its flow is called as one of ours, and its package too."""
    for name, text in {
        "tasks/__init__.py": "",
        "tasks/words.py": "WORD = 'from elsewhere'",
        "flows/retrain.py": """
from prefect import flow
from prefect.states import Completed
from tasks.words import WORD

@flow(name="retrain")
def retrain():
    return Completed(message=WORD)
""",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    ours = up.deployment("retrain/weekly")
    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}
    named = {key: ours[key] for key in ("flow_id", "work_pool_name", "entrypoint")}
    post(f"{up.api}/deployments/", {**named, "name": "elsewhere", "pull_steps": [step]})
    found = up.wait(up.start("retrain/elsewhere"))
    assert (found["state_type"], found["state"]["message"]) == ("COMPLETED", "from elsewhere"), up.logs(found["id"])
    delete(f"{up.api}/deployments/{found['deployment_id']}")


def test_a_collection_that_asks_for_nonsense_fails_in_words(up):
    _, state = inside(up, collect, remove=False, older_than="yesterday")
    assert state.is_failed()
    assert "expected older_than to be a duration like 90d" in state.message


@pytest.mark.parametrize(
    ("parameters", "told"),
    [({"folder": "photos:", "colour": "red"}, "provided with parameters ['folder', 'colour']"), ({}, "folder: Field")],
)
def test_a_run_with_an_unknown_or_a_missing_parameter_fails_in_words(up, parameters, told):
    ended = up.wait(up.start("score/by-hand", **parameters))
    assert (ended["state_type"], ended["state"]["name"]) == ("FAILED", "Failed")
    assert told in ended["state"]["message"]


@pytest.mark.long
@pytest.mark.kill
def test_cancelling_goes_both_ways(up, champion):
    """The second waits for the first to leave the pool."""
    one, two = (up.start("retrain/weekly", **LONG, seed=seed, train_on="gpu pool") for seed in (3, 4))
    trainings = {parent: up.inner(parent)["id"] for parent in (one, two)}
    earlier = first_to_train(up, trainings)
    up.cancel(earlier)
    assert up.wait(trainings[earlier])["state_type"] == up.wait(earlier)["state_type"] == "CANCELLED"
    [later] = {one, two} - {earlier}
    up.wait_for_log(trainings[later], "epoch 2/3000")
    up.cancel(trainings[later])
    state = up.wait(later)["state"]
    assert state["type"] == "CANCELLED"
    assert "was cancelled, so there is nothing to evaluate" in state["message"]


def parent_of(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def first_to_train(up, trainings):
    """Of parents and their trainings, the parent whose training is under way first."""

    def began():
        for parent, child in trainings.items():
            if any(line.startswith("epoch 2/") for line in up.logs(child)):
                return parent
        return None

    return eventually(began, lambda: f"a training: {[up.run(child)['state'] for child in trainings.values()]}")


@pytest.mark.long
def test_a_child_that_fails_fails_its_parent_and_a_deadline_ends_a_training(up, champion):
    late = up.start("retrain/weekly", **LONG, seed=5, deadline_hours=0.003)
    without_gpu = up.start("retrain/weekly", name="no-gpu", epochs=1, device="gpu", train_on="gpu pool")
    run = up.wait(without_gpu)
    assert run["state_type"] == "FAILED"
    assert "ended as Failed: " in run["state"]["message"]
    assert "expected a GPU that TensorFlow can use, found none" in run["state"]["message"]
    run = up.wait(late)
    assert run["state_type"] == "FAILED"
    assert "DeadlineExceeded: expected to be done within 0.00" in run["state"]["message"]


@pytest.mark.long
def test_two_scheduled_runs_never_train_at_once(up, champion):
    """The first stands still until the other has come to wait for it."""
    pair = [up.start("retrain/weekly", name="pair", epochs=60, seed=seed) for seed in (11, 12)]
    first = first_to_train(up, {run: run for run in pair})
    [second] = {*pair} - {first}
    standing = up.engine(first)
    assert standing in up.processes("flows.working prefect.engine retrain")
    assert [parent_of(standing)] == up.processes("worker start --pool cpu")
    os.kill(standing, signal.SIGSTOP)
    up.wait_for_log(second, "waiting for another training of a deployment to end")
    os.kill(standing, signal.SIGCONT)
    assert [up.wait(run)["state_type"] for run in pair] == ["COMPLETED", "COMPLETED"]
    trained = {}
    for run in pair:
        up.wait_for_log(run, "epoch 60/60")  # logs come later than the states of their runs
        logs = asked(up.api, "logs", logs={"flow_run_id": {"any_": [run]}}, sort="TIMESTAMP_ASC")
        trained[run] = [log["timestamp"] for log in logs if log["message"].startswith("epoch ")]
        assert len(trained[run]) == 60
        waited = [log["message"] for log in logs if log["message"].startswith("waiting for another training")]
        assert len(waited) == (run == second)
    assert trained[second][0] > trained[first][-1]


def test_a_failed_scheduled_run_sends_word_and_one_that_a_person_started_does_not(up, listener, champion):
    """The scheduler makes a run of next year's, which is then due now."""
    by_hand, state = inside(up, retrain, images="nobody:")
    assert state.is_failed()
    schedule = {"cron": "0 0 1 1 *", "timezone": "UTC"}
    given = {"schedule": schedule, "parameters": {"images": "nowhere:"}, "active": True, "slug": "yearly"}
    schedules = f"{up.api}/deployments/{up.deployment('retrain/weekly')['id']}/schedules"
    made = post(schedules, [given]).json()
    later = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    coming = eventually(
        lambda: [run for run in asked(up.api, "flow_runs", flow_runs=later) if run["parameters"].get("images")],
        "a run of the schedule",
    )
    up.retry(coming[0]["id"])  # now
    eventually(lambda: listener[1], "a notice")
    delete(f"{schedules}/{made[0]['id']}")  # and with it what is still to come of it
    assert up.run(by_hand)["state_type"] == "FAILED"
    assert not any("nobody:" in notice["text"] for notice in listener[1]), "whoever starts a run is looking"
    notice = listener[1][0]
    assert notice["flow"] == "retrain"
    assert notice["state"] == "Failed"
    assert (
        "expected a folder as root:sub/path below one of LOOKBOOK_IMAGE_ROOTS (photos:), found 'nowhere:'"
        in notice["text"]
    )
    assert notice["url"].startswith(up.url)
