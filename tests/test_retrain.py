"""pytest tests/test_retrain.py: the main job, as a person runs it: the real images, real servers, real signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import answer, complaint, run_flow_inside, run_process
from PIL import Image
from published import damage
from sweeper import wait_for_end
from upheld import asked, post

from artifacts import aliases, dataset, metrics, runs, weights
from artifacts.refs import Ref
from artifacts.store import Store
from flows.retrain import retrain
from flows.serving import only_server
from tasks.vision.recipes import settings_for

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lookbook_environment(shared_environment, server):
    return {**shared_environment, "PREFECT_API_URL": server}


@pytest.fixture(scope="module")
def own_home(tmp_path_factory):
    """For commands that bring a server: a database that no other server uses."""
    return {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")), "PREFECT_API_URL": ""}


@pytest.fixture
def store(home):
    return Store(home / "store")


def test_the_first_retraining_gives_a_champion(first, store):
    result = answer(first)
    assert result["promoted"]
    assert result["reason"].startswith("the first model, accuracy 8")
    assert result["accuracy"] > 0.86
    assert result["loss"] < 0.4
    assert set(result["seconds"]) == {"prepare", "train", "epoch", "evaluate", "total"}
    assert result["seconds"]["total"] > result["seconds"]["train"] > result["seconds"]["epoch"] > 0
    assert str(store.resolve("champion")) == result["weights"] == result["champion"]
    numbers = metrics.load(store, Ref.parse(result["metrics"]))
    test = dataset.load(store, Ref.parse(result["dataset"])).test
    assert np.mean(numbers.probabilities().argmax(1) == test.labels) == result["accuracy"]
    assert store.verify().corrupt == []


def test_progress_shows_every_100_batches_and_every_epoch(first):
    lines = first.stderr.splitlines()
    for epoch in (1, 20):
        batches = [line for line in lines if line.startswith(f"epoch {epoch}/20  batch ")]
        assert [line.split()[3] for line in batches] == [f"{batch}/907" for batch in [*range(100, 1000, 100), 907]]
        assert "58,020 items  loss " in batches[-1]
        [finished] = [line for line in lines if line.startswith(f"epoch {epoch}/20  loss ")]
        assert finished.endswith(" s")


def test_the_same_retraining_gives_the_same_weights_and_says_so(first, lookbook, store):
    """The first was a process of its own."""
    pixels = store.open(Ref.parse(answer(first)["dataset"])).folder / "train.arrow"
    written = pixels.stat().st_mtime_ns
    again = answer(lookbook("retrain", "--json"))
    assert {again[key] == answer(first)[key] for key in ("dataset", "weights", "metrics")} == {True}
    assert not again["promoted"]
    assert again["reason"].startswith("the same weights version came out, which is champion already")
    assert pixels.stat().st_mtime_ns == written


def test_a_worse_one_is_not_promoted_and_a_person_reads_why(first, lookbook, store):
    said = lookbook("retrain", "--epochs", "1", "--schedule", "constant")
    assert said.returncode == 0
    for part in ("not promoted: not better: accuracy ", "of the test images", "next: lookbook predict IMAGE..."):
        assert part in said.stdout
    assert str(store.resolve("champion")) == answer(first)["weights"]


def test_predict_reads_a_test_image_from_a_file(first, lookbook, fashion_mnist, tmp_path):
    Image.fromarray(fashion_mnist["test"].images[0, ..., 0]).save(tmp_path / "boot.png")
    assert "boot.png  Ankle boot " in lookbook("predict", tmp_path / "boot.png").stdout


def test_a_server_started_later_shows_the_run(first, server):
    runs = asked(server, "flow_runs", sort="START_TIME_ASC")
    assert runs[0]["name"].startswith("retrain-fashion-mnist-")
    assert runs[0]["state_type"] == "COMPLETED"
    run = {"id": {"any_": [runs[0]["id"]]}}
    tasks = asked(server, "task_runs", flow_runs=run)
    assert sorted(task["name"].rpartition("-")[0] for task in tasks) == [
        "decide on promotion", "evaluate network", "prepare dataset", "train network",
    ]  # fmt: skip
    assert {task["state_type"] for task in tasks} == {"COMPLETED"}
    logs = [log["message"] for log in asked(server, "logs", logs={"flow_run_id": run["id"]})]
    assert any(message.startswith("epoch 20/20  loss ") for message in logs)
    assert any(message.startswith("promote: the first model") for message in logs)


def test_a_command_uses_a_running_server_tells_it_that_it_lives_and_pickles_nothing(server, lookbook_environment, home):
    """Its end waits for no thread of Prefect's, and what it told has arrived nevertheless."""
    before = len(asked(server, "flow_runs"))
    pickled = set((home / "prefect").rglob("storage/*"))  # Prefect pickles the exceptions of other tests' failed flows
    done = answer(run_process(["retrain", "--epochs", "1", "--json"], lookbook_environment))
    assert done["accuracy"] > 0.7
    assert len(asked(server, "flow_runs")) == before + 1, "the training is a task of the retraining"
    assert set((home / "prefect").rglob("storage/*")) == pickled
    heartbeats = {"event": {"name": ["prefect.flow-run.heartbeat"]}}
    told = post(f"{server}/events/filter", {"filter": heartbeats}).json()["events"]
    [of_run] = [each for each in told if each["resource"]["prefect.resource.id"].endswith(done["numbers"]["run"])]
    assert ("flow", "retrain") in {
        (each["prefect.resource.role"], each.get("prefect.resource.name")) for each in of_run["related"]
    }, "what the automation of `lookbook up` looks for"


def test_a_training_that_diverges_is_one_line_and_leaves_the_champion(server, lookbook, store):
    before = list(store.refs())
    told = complaint(lookbook("retrain", "--learning-rate", "1e30"))
    assert "the loss is nan in epoch 1, by batch 100 of 907: the training diverged" in told
    assert list(store.refs()) == before
    assert store.verify().corrupt == []
    failed = asked(server, "flow_runs", sort="START_TIME_DESC")[0]
    assert failed["state_type"] == "FAILED"


def test_a_full_disk_publishes_nothing(server, lookbook, tmp_path):
    """A limit on the size of files stands for the full disk: the same refusal in the middle of a write."""
    run = lookbook(
        "retrain",
        behind=["prlimit", "--fsize=1000000"],
        LOOKBOOK_STORE=str(tmp_path / "store"),
    )
    assert "make room" in complaint(run)
    assert list(Store(tmp_path / "store").refs()) == []
    assert not list((tmp_path / "store/staging/scratch").iterdir())


def test_a_store_that_can_not_be_written(server, lookbook, tmp_path, without_roots_rights):
    (tmp_path / "store").mkdir(mode=0o500)
    run = lookbook(
        "retrain", behind=without_roots_rights, LOOKBOOK_STORE=str(tmp_path / "store"), PREFECT_API_URL=server
    )
    assert "Permission denied; make room or mend the permissions, or point LOOKBOOK_STORE at another" in complaint(run)


def test_a_damaged_dataset_is_made_again(server, lookbook, home, first, tmp_path):
    copy = tmp_path / "store"
    shutil.copytree(home / "store", copy)
    store, ref = Store(copy), Ref.parse(answer(first)["dataset"])
    path = store.open(ref).folder / "train.arrow"
    content = path.read_bytes()
    damage(path, content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    assert answer(lookbook("retrain", "--epochs", "1", "--json", LOOKBOOK_STORE=str(copy)))["dataset"] == str(ref)
    assert path.read_bytes() == content
    assert store.verify().corrupt == []


def test_settings_that_can_not_work_are_told_before_any_work(server, lookbook, tmp_path):
    told = complaint(lookbook("retrain", "--patience", "5", LOOKBOOK_STORE=str(tmp_path / "store")))
    assert "expected a validation share for a patience of 5 epochs, found none; 0.1 is a usual one" in told
    assert not (tmp_path / "store/datasets").exists()


def test_a_server_that_is_not_there(lookbook, first):
    told = complaint(lookbook("retrain", PREFECT_API_URL="http://127.0.0.1:9/api"))
    assert "expected a Prefect server at PREFECT_API_URL http://127.0.0.1:9/api, found: " in told


@pytest.mark.parametrize("verb", [["retrain"], ["score", "."], ["up"]])
def test_a_home_that_can_not_be_written_is_told_before_any_work(lookbook, without_roots_rights, tmp_path, verb):
    """As under `docker --user` of a number that nobody has."""
    (tmp_path / "locked").mkdir(mode=0o555)
    locked = {"HOME": str(tmp_path / "locked"), "PREFECT_HOME": "", "PREFECT_API_URL": ""}
    told = complaint(lookbook(*verb, behind=without_roots_rights, **locked))
    assert "expected a folder that Prefect can write to, found " in told
    assert "locked/.prefect: Permission denied; PREFECT_HOME names one, or HOME" in told


def start(lookbook_command, environment, *arguments):
    return subprocess.Popen(
        [*lookbook_command, "retrain", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process, text):
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"the command ended without saying {text!r}")


def children(process):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


@pytest.mark.long
@pytest.mark.kill
@pytest.mark.parametrize(
    ("kind", "own_server"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGKILL, True)]
)
def test_interrupted_half_way(
    lookbook_command, lookbook_environment, own_home, lookbook, store, first, kind, own_server
):
    before = list(store.refs())
    events = len(answer(lookbook("history", "--json")))
    environment = {**lookbook_environment, **own_home} if own_server else lookbook_environment
    process = start(lookbook_command, environment, "--epochs", "500", "--seed", "99")
    wait_for(process, "epoch 3/500  loss")
    servers = children(process)
    assert bool(servers) == own_server
    process.send_signal(kind)
    rest = process.communicate(timeout=60)[1]
    if kind == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert rest.strip().splitlines()[-1].startswith("lookbook: interrupted; nothing half-done was published")
        assert "Traceback" not in rest
    assert all(wait_for_end(each, seconds=120) for each in servers), (
        "the temporary server ends with its command, however that ends"
    )
    assert list(store.refs()) == before
    assert len(answer(lookbook("history", "--json"))) == events
    assert store.verify().corrupt == []


@pytest.mark.long
@pytest.mark.kill
def test_commands_wait_for_their_turn_with_the_database_and_say_so(
    lookbook_command, lookbook_environment, own_home, tmp_path
):
    """Prefect's database is taken when two commands start; then one of them goes first."""
    draw_corners(tmp_path / "pictures")
    environment = {**lookbook_environment, **own_home, "LOOKBOOK_STORE": str(tmp_path / "store")}
    asked = ("--images", str(tmp_path / "pictures"), "--epochs", "1")
    with only_server(Path(own_home["PREFECT_HOME"])):
        both = [start(lookbook_command, environment, *asked) for _ in range(2)]
        for each in both:
            wait_for(each, "another lookbook command uses Prefect's database; waiting until it is done")
            assert each.poll() is None
    said = [each.communicate(timeout=120) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert not any("database is locked" in told for _, told in said)


def draw_corners(top):
    """Two classes of 60 pictures of 28x28: a square on the left, or on the right."""
    random = np.random.default_rng(0)
    for name, place in (("left", slice(2, 10)), ("right", slice(18, 26))):
        (top / name).mkdir(parents=True)
        for index in range(60):
            pixels = random.integers(0, 60, (28, 28), dtype=np.uint8)
            pixels[place, place] += 150
            Image.fromarray(pixels).save(top / name / f"{index}.png")


def test_a_convolutional_network_of_ones_own_pictures(lookbook, tmp_path):
    """The recipe but for what is given, a validation share, and scoring by what came out."""
    draw_corners(tmp_path / "pictures")
    own = {"LOOKBOOK_STORE": str(tmp_path / "store")}
    result = answer(
        lookbook(
            "retrain", "--images", tmp_path / "pictures", "--name", "corners", "--architecture", "conv",
            "--epochs", "6", "--batch-size", "8", "--validation", "0.2", "--patience", "4", "--image-size", "28",
            "--color", "grey", "--json", **own,
        )
    )  # fmt: skip
    assert result["accuracy"] > 0.9
    published = weights.load(Store(tmp_path / "store"), Ref.parse(result["weights"]))
    recipe = settings_for("conv", epochs=6, batch_size=8, validation=0.2, patience=4)
    assert published.settings == recipe.to_dict()
    assert {"validation_loss", "validation_accuracy"} < published.history[0].keys()
    predicted = answer(lookbook("predict", tmp_path / "pictures/left/0.png", "--json", **own))
    assert predicted["results"][0]["label"] == "left"


DIE_BEFORE_THE_RECORD = """
import json, os, signal, sys
from artifacts import runs
from commands import run_flow_inside
from flows.retrain import retrain
record = runs.record
def die(disk, run, produced):
    if "metrics" not in produced:
        return record(disk, run, produced)
    print(run, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
runs.record = die
run_flow_inside(retrain, json.loads(sys.argv[1]), dict(os.environ))
"""


@pytest.fixture
def things(tmp_path):
    """What retrainings of two classes of pictures ask for."""
    random = np.random.default_rng(0)
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 60, 200))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(40):
            pixels = random.integers(165, 255, (16, 16, 3), dtype=np.uint8)
            if index % 10:
                pixels[4:12, 4:12] = colour
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{index}.png")
    return {"images": "pictures:", "name": "things", "image_size": 16}


@pytest.fixture
def run_environment(lookbook_environment, tmp_path):
    roots = {"pictures": str(tmp_path / "pictures")}
    own = {"LOOKBOOK_STORE": str(tmp_path / "store"), "LOOKBOOK_IMAGE_ROOTS": json.dumps(roots)}
    return {**lookbook_environment, **own}


@pytest.fixture
def retraining(run_environment):
    """Run the flow with what only forms ask for, perhaps again by a run's id: (run id, result)."""

    def run(asked, again=None):
        made, state = run_flow_inside(retrain, asked, run_environment, again)
        return made, {"message": state.message, **state.result()}

    return run


@pytest.mark.kill
def test_killed_between_the_decision_and_its_record_a_run_tells_its_own_decision(
    things, retraining, run_environment, tmp_path
):
    asked, store = {**things, "epochs": 2}, Store(tmp_path / "store")
    killed = subprocess.run(
        [sys.executable, "-c", DIE_BEFORE_THE_RECORD, json.dumps(asked)], capture_output=True, text=True, timeout=300,
        env={**run_environment, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    flow_run = killed.stdout.strip()
    [event] = aliases.history(store.disk, "weights", "things", "champion")
    assert runs.find(store.disk, flow_run) is None
    _, result = retraining(asked, flow_run)
    assert (result["promoted"], result["reason"]) == (True, event.reason)
    assert result["decision"] == 1
    assert aliases.history(store.disk, "weights", "things", "champion") == [event]
    made = runs.find(store.disk, flow_run)
    assert made == {
        **{kind: result[kind] for kind in ("dataset", "weights", "metrics")},
        "decision": "aliases/weights/things/champion/00000001.json",
    }
    assert store.disk.exists(made["decision"])


def test_a_run_that_is_done_decides_once_however_often_it_is_run(things, retraining, tmp_path):
    store = Store(tmp_path / "store")
    asked = {**things, "epochs": 1, "significance": 1.0, "max_recall_drop": 1.0}
    flow_run, first = retraining(asked)
    made = runs.find(store.disk, flow_run)
    Image.new("RGB", (16, 16), (250, 250, 250)).save(tmp_path / "pictures/red/new.png")
    _, again = retraining(asked, flow_run)
    assert {**again, "seconds": None, "message": None} == {**first, "seconds": None, "message": None}
    assert runs.find(store.disk, flow_run) == made
    assert len(list(store.refs("datasets"))) == 1
    assert len(aliases.history(store.disk, "weights", "things", "champion")) == 1
    (tmp_path / "pictures/red/new.png").unlink()
    stopped, message = retraining({**asked, "if_unchanged": "stop"})
    assert message["message"].startswith("nothing changed")
    Image.new("RGB", (16, 16), (250, 250, 250)).save(tmp_path / "pictures/red/new.png")
    _, again = retraining({**asked, "if_unchanged": "stop"}, stopped)
    assert again["message"].startswith("nothing had changed when this run was at work")
    assert (again["weights"], again["champion"], again["promoted"]) == (first["weights"], first["weights"], False)
    assert len(list(store.refs("datasets"))) == 1


def test_nothing_changed_names_the_weights_that_came_of_these_settings(things, retraining, tmp_path):
    store = Store(tmp_path / "store")
    gate = {"significance": 1.0, "max_recall_drop": 1.0, "if_unchanged": "stop"}
    weak, strong = {**things, "epochs": 1, "learning_rate": 0.0001, **gate}, {**things, "epochs": 8, **gate}
    champion, trial = retraining(strong)[1], retraining(weak)[1]
    assert trial["champion"] == champion["weights"] != trial["weights"]
    flow_run, again = retraining(strong)
    assert again["weights"] == again["champion"] == champion["weights"]
    assert again["message"] == (
        f"nothing changed: {champion['weights']} was trained from {champion['dataset']} with these settings, and is "
        "champion"
    )
    assert runs.find(store.disk, flow_run)["weights"] == champion["weights"]
    again = retraining(weak)[1]
    assert (again["weights"], again["champion"]) == (trial["weights"], champion["weights"])
    assert f"{trial['weights']} was trained from" in again["message"]
    assert f"and was judged already ({trial['reason']})" in again["message"]

    aliases.promote(store.disk, Ref.parse(trial["weights"]), "a trial")
    event = aliases.rollback(store.disk, "things", "bad on real pictures", store.open)
    again = retraining(weak)[1]
    assert again["champion"] == champion["weights"]
    assert (
        f"and was withdrawn by the rollback that is decision {event.number} (bad on real pictures); `lookbook promote "
        f"{trial['weights']} --reason ...`" in again["message"]
    )
    assert len(aliases.history(store.disk, "weights", "things", "champion")) == 4
