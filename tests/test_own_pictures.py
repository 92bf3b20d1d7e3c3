"""pytest tests/test_own_pictures.py: pictures of one's own, from the folder to the decision, as a person does it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial

import duckdb
import numpy as np
import pytest
from browser import open_page
from commands import answer, complaint
from PIL import Image

from artifacts import dataset, predictions, weights
from artifacts.errors import LookbookError
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from flows.parameters import training_settings
from tasks.commit import commit_predictions
from tasks.judging.measuring import evaluate_weights
from tasks.plan import plan_folder
from tasks.prepare import prepare_folder
from tasks.preparing.labelled import allow_images, split_table
from tasks.promote import decide_promotion
from tasks.reports import terminal
from tasks.reports.progress import TrainingProgress
from tasks.requests import Gate, PictureSettings, ScoreRequest
from tasks.score import score_plan
from tasks.scoring.job import make_job
from tasks.shared.deadline import Deadline
from tasks.shared.listing import default_name
from tasks.shared.plans import load_plan
from tasks.train import train_weights
from tasks.vision.files import CHUNK
from tasks.vision.metrics import calibration, scale

FORMATS = ("png", "jpg", "bmp", "webp", "gif", "tiff")
QUICK = ("--image-size", "16", "--epochs", "8")
ANY_GAIN = Gate(significance=1, max_recall_drop=1)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def draw(top, first, last, hidden=0.1):
    """Colour pictures of two classes, of mixed formats, sizes and modes: a red or a blue square on noise, on the share
    `hidden` of them nothing but noise."""
    for name, colour in (("red mug", (200, 40, 40)), ("🌵 cactus", (40, 60, 200))):
        (top / name).mkdir(parents=True, exist_ok=True)
        for index in range(first, last):
            random = np.random.default_rng([index, len(name)])
            width, height = random.integers(30, 90, 2)
            pixels = random.integers(165, 255, (height, width, 3), dtype=np.uint8)
            if random.random() > hidden:
                pixels[5 : height // 2 + 5, 5 : width // 2 + 5] = colour
            picture = Image.fromarray(pixels)
            picture = picture.convert("RGBA") if index % 6 in (0, 3) and index % 5 == 0 else picture
            picture.save(top / name / f"{index:04d}.{FORMATS[index % 6]}")


def settings_of(top):
    return Settings(image_roots={"root": top.parent}, decoders=1)


def prepared(store, top, table="", **how):
    """A dataset of a folder, or of a table in it, as a retraining makes it. It is called like the folder."""
    asked = PictureSettings(**{"image_size": 16, **how})
    return prepare_folder(store, settings_of(top), f"root:{top.name}{table}", asked, top.name, Deadline.after(1))


def trained(store, dataset, epochs=8, **given):
    """Weights of a dataset, as a retraining makes them, but that no training loop is compiled."""
    settings = training_settings({"epochs": epochs, "architecture": "dense", **given}, store.open(dataset))
    with TrainingProgress(epochs, lambda line: None, dataset.name) as progress:
        return train_weights(store, dataset, settings, "eager", "cpu", progress, Deadline.after(1))


def judged(store, weights, dataset, gate):
    return decide_promotion(store, evaluate_weights(store, weights, dataset), gate)


@pytest.mark.browser
def test_from_a_folder_to_a_decision_and_again_with_more_pictures(lookbook, server, store, tmp_path, capsys):
    lookbook = partial(lookbook, PREFECT_API_URL=server)
    draw(tmp_path / "things", 0, 60)
    (tmp_path / "things/red mug/notes.txt").write_text("no picture")
    (tmp_path / "things/pot").mkdir()
    run = lookbook("retrain", "--images", tmp_path / "things", *QUICK, "--json")
    first = answer(run)
    assert first["promoted"]
    assert first["dataset"].startswith("datasets/things@")
    told = ("1 file left out: unsupported", "1 folder without a picture, which made no class: pot")
    assert set(told) <= {each["text"] for each in first["findings"]}
    for each in told:
        assert f"warning: {each}" in run.stderr
    terminal.retraining(first)
    assert (
        "next: lookbook predict IMAGE... --weights things@champion, lookbook history things" in capsys.readouterr().out
    )
    with open_page(f"file://{store.open(Ref.parse(first['metrics'])).path('report.html')}") as page:
        text = page.inner_text("body")
        assert "🌵 cactus" in text
        for each in told:
            assert each in text
        page.locator(".matrix a").first.click()
        assert page.locator("section.cell:visible img").count() > 0
    of_before = answer(lookbook("score", tmp_path / "things", "--weights", first["weights"], "--calibrated", "--json"))
    made = store.open(Ref.parse(of_before["predictions"])).manifest["provenance"]
    assert made["confidence"] == "not calibrated: these weights have no temperature"

    draw(tmp_path / "things", 60, 200)
    gate = {"significance": 0.04, "minimum_accuracy": 0.01, "max_recall_drop": 0.2}
    asked = (word for name, value in gate.items() for word in (f"--{name.replace('_', '-')}", value))
    second = answer(lookbook("retrain", "--images", tmp_path / "things", *QUICK, *asked, "--json"))
    assert second["numbers"].items() >= gate.items()
    data = dataset.load(store, Ref.parse(second["dataset"]))
    assert data.artifact.manifest["provenance"]["decoded"] == 280, "those that are new"
    assert second["numbers"]["champion_metrics"].startswith("metrics/things@")
    assert store.open(Ref.parse(second["numbers"]["champion_metrics"])).identity["inputs"] == {
        "weights": first["weights"],
        "dataset": second["dataset"],
    }, "the champion is measured on the new test split"
    assert "on the same" in second["reason"]
    assert second["numbers"]["decisions"] == 0, "the first decision of this split"
    said = lookbook("history", "things").stdout
    assert second["reason"][:40] in said
    assert "0 times" in said
    said = lookbook("show", second["metrics"]).stdout
    for part in ("accuracy  ", " to ", "Brier score", "🌵 cactus: precision", "report.html"):
        assert part in said
    shown = lookbook("show", second["dataset"]).stdout
    assert "left out  " in shown
    assert "red mug/notes.txt: unsupported" in shown
    assert "things@" in lookbook("lineage", second["weights"]).stdout


@pytest.mark.slow
def test_with_any_gain_the_better_is_promoted_and_a_person_can_go_back(lookbook, store, tmp_path):
    draw(tmp_path / "things", 0, 60)
    data = prepared(store, tmp_path / "things")
    weak = trained(store, data, epochs=1, learning_rate=0.0001)
    assert judged(store, weak, data, Gate()).action == "promote"
    other = trained(store, data, epochs=1, learning_rate=0.0002)
    strict = judged(store, other, data, Gate(minimum_accuracy=1))
    assert strict.action == "keep"
    assert "is below the minimum of 100.00%" in strict.reason
    strong = trained(store, data, epochs=12)
    better = judged(store, strong, data, ANY_GAIN)
    assert better.action == "promote", better.reason
    assert better.reason.startswith("better: accuracy ")
    assert answer(lookbook("rollback", "things", "--json"))["ref"] == str(weak)
    event = answer(lookbook("promote", strong, "--reason", "looks better", "--json"))
    assert (event["ref"], event["reason"]) == (str(strong), "looks better")


@pytest.mark.slow
def test_scores_are_calibrated_unless_somebody_says_otherwise(store, tmp_path):
    draw(tmp_path / "things", 0, 90, hidden=0.6)
    settings = settings_of(tmp_path / "things")
    data = prepared(store, tmp_path / "things")

    def score(weights, **asked):
        job = make_job(store, settings, ScoreRequest("root:things", weights=str(weights), **asked))
        plan = plan_folder(store, settings, job)
        outcome = score_plan(store, settings, job, load_plan(store.disk, plan))
        return commit_predictions(store, settings, job, plan, outcome), outcome

    without = trained(store, data, epochs=1)
    assert weights.load(store, without).calibration is None
    table = store.open(score(without)[0])
    assert not {"temperature"} & table.identity["settings"].keys() | {"calibration"} & table.facts.keys()
    for page in ("report.html", "report.md"):
        assert "not calibrated: these weights have no temperature" in table.read(page).decode()
    assert score(without, calibrated=True)[0] == table.ref, "what schedules of an earlier Lookbook say changes nothing"
    held_out = trained(store, data, validation=0.4)
    found = weights.load(store, held_out)
    temperature = found.temperature
    assert 0.05 <= temperature <= 20
    assert found.calibration.items() >= {"temperature": temperature, "by": "held-out", "items": 60}.items()
    (plain, _), (calibrated, outcome) = score(held_out, uncalibrated=True), score(held_out)
    assert outcome.reused == 0
    again, outcome = score(held_out, calibrated=True)
    assert (again, outcome.predicted) == (calibrated, 0)
    for told, page in ((plain, "not calibrated, as was asked for"), (calibrated, "fitted to 60 images held out")):
        artifact = store.open(told)
        assert page in artifact.read("report.html").decode()
        assert page in artifact.manifest["provenance"]["confidence"]
    assert f"calibrated by the temperature {temperature:.3f}" in store.open(calibrated).read("report.html").decode()
    assert store.open(calibrated).facts["calibration"] == found.calibration
    assert "calibration" not in store.open(plain).facts
    asking = "select path, probabilities from '{}/*.parquet' where error is null order by path"
    rows = [duckdb.sql(asking.format(predictions.load(store, each).folder)).fetchall() for each in (plain, calibrated)]
    before, after = (np.array([row[1] for row in table], np.float32) for table in rows)
    np.testing.assert_allclose(after, scale(before, temperature), atol=1e-5)
    assert store.open(calibrated).identity["settings"]["temperature"] == temperature


@pytest.mark.slow
def test_confidence_on_pictures_that_nobody_learned_from_is_true(store, tmp_path):
    """Half of the pictures show nothing, and smoothed labels make a network less sure than it should be."""
    for top, first, last in (("things", 0, 400), ("new", 400, 800)):
        draw(tmp_path / top, first, last, hidden=0.5)
    data = prepared(store, tmp_path / "things")
    ref = trained(store, data, validation=0.3, label_smoothing=0.4, epochs=12)
    settings, off = settings_of(tmp_path / "new"), []
    for uncalibrated in (False, True):
        job = make_job(store, settings, ScoreRequest("root:new", weights=str(ref), uncalibrated=uncalibrated))
        plan = plan_folder(store, settings, job)
        table = commit_predictions(
            store, settings, job, plan, score_plan(store, settings, job, load_plan(store.disk, plan))
        )
        asking = "select path, probabilities from '{}/*.parquet' where error is null order by path"
        rows = duckdb.sql(asking.format(predictions.load(store, table).folder)).fetchall()
        labels = np.array([job.classes.index(path.split("/")[0]) for path, _ in rows])
        off.append(calibration(np.array([each for _, each in rows], np.float32), labels)["error"])
    assert off[0] < 0.05 < 0.08 < off[1], off


@pytest.mark.slow
def test_a_table_of_weights_of_an_earlier_lookbook_is_as_it_was(store, tmp_path):
    """They have a temperature, and don't say by what it was fitted: nothing of that may make another version."""
    draw(tmp_path / "things", 0, 30)
    data, settings = prepared(store, tmp_path / "things"), settings_of(tmp_path / "things")
    like = weights.load(store, trained(store, data, epochs=1))
    facts = {**like.artifact.facts, "temperature": 2.5}
    ref = store.publish(
        "weights", "old", {file: like.artifact.read(file) for file in like.artifact.identity["files"]},
        settings=like.settings, inputs={"dataset": str(data)}, facts=facts, made={},
    )  # fmt: skip
    job = make_job(store, settings, ScoreRequest("root:things", weights=str(ref)))
    plan = plan_folder(store, settings, job)
    table = store.open(
        commit_predictions(store, settings, job, plan, score_plan(store, settings, job, load_plan(store.disk, plan)))
    )
    assert table.identity["settings"]["temperature"] == 2.5
    assert "calibration" not in table.facts
    assert "; calibrated by the temperature 2.500.</p>" in table.read("report.html").decode()


@pytest.mark.slow
def test_a_table_of_labels_and_grey(store, tmp_path):
    draw(tmp_path / "things", 0, 40)
    paths = sorted(path.relative_to(tmp_path / "things") for path in (tmp_path / "things").rglob("*.*"))
    rows = [f"{path},{'mug/cup' if 'mug' in str(path) else 'plant'}" for path in paths]
    (tmp_path / "things/labels.csv").write_text("\n".join(["path,label", *rows, "gone.png,plant"]))
    table = allow_images(str(tmp_path / "things/labels.csv"))
    assert default_name(Settings(), split_table(table)[0]) == "things"
    data = dataset.load(store, prepared(store, tmp_path / "things", "/labels.csv", color="grey", max_bad=0.02))
    assert data.classes == ["mug/cup", "plant"]
    assert data.train.images.shape[1:] == (16, 16, 1)
    assert list(data.bad) == ["gone.png"]
    learned = trained(store, data.artifact.ref, epochs=1)
    assert judged(store, learned, data.artifact.ref, Gate()).action == "promote"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda top: shutil.rmtree(top / "red mug"),
            "expected a folder for each class in .*things, two of them at least",
        ),
        (lambda top: [each.write_text("x") for each in top.rglob("*.*")], "expected at most 1% of the files"),
        (
            lambda top: draw_one(top / "rare/1.png"),
            "none of rare found among .*; a class needs two of",
        ),
        (lambda top: (top / "empty").mkdir(), None),
        (lambda top: (top / "Red Mug").mkdir() or shutil.copytree(top / "🌵 cactus", top / "RED mug"), "conflicting"),
    ],
    ids=["one class", "all bad", "one image", "an empty folder", "copied class"],
)
def test_folders_that_can_not_be_learned_from(store, tmp_path, make, told):
    draw(tmp_path / "things", 0, 40)
    make(tmp_path / "things")
    if told is None:
        assert dataset.load(store, prepared(store, tmp_path / "things")).classes == ["red mug", "🌵 cactus"]
        return
    with pytest.raises(LookbookError, match=told):
        prepared(store, tmp_path / "things")
    assert list(store.refs()) == []
    assert not (tmp_path / "store/datasets").exists(), "nothing half-published"


def draw_one(path):
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(path)


@pytest.mark.slow
def test_two_champions_and_names_that_a_terminal_would_obey(lookbook, store, tmp_path):
    for name in ("one", "two"):
        draw(tmp_path / name, 0, 30)
        (tmp_path / name / "red mug").rename(tmp_path / name / "red \x1b[31mmug")
        data = prepared(store, tmp_path / name)
        assert judged(store, trained(store, data, epochs=1), data, Gate()).action == "promote"
    picture = next((tmp_path / "one/🌵 cactus").iterdir())
    assert "'champion' fits 2 artifacts, name one" in complaint(lookbook("predict", picture))
    told = answer(lookbook("predict", picture, "--weights", "two@champion", "--json"))
    assert told["weights"].startswith("weights/two@")
    for verb in (
        ("show", "one@champion"),
        ("lineage", "one@champion"),
        ("predict", picture, "--weights", "one@champion"),
    ):
        said = lookbook(*verb)
        assert "\x1b[31m" not in said.stdout + said.stderr
        assert said.returncode == 0


def test_options_about_pictures_go_with_pictures(lookbook):
    """It is refused before a server is asked for."""
    for option in (("--image-size", "32"), ("--color", "grey"), ("--max-bad", "0.5"), ("--split-seed", "1")):
        told = complaint(lookbook("retrain", *option, PREFECT_API_URL="http://127.0.0.1:9/api"), status=2)
        assert told == f"Error: {option[0]} is about pictures of your own: it goes with --images"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("score", "{}/nope"), "expected a folder of pictures at {}/nope, found: No such file or directory"),
        (("score", "{}/file"), "expected a folder of pictures at {}/file, found: Not a directory"),
        (("score", "{}/empty"), "expected pictures in {}/empty, found an empty folder"),
        (("retrain", "--images", "{}/nope"), "expected a folder of pictures at {}/nope, found: No such file"),
        (("retrain", "--images", "{}/nope/a.csv"), "expected a folder of pictures at {}/nope, found: No such file"),
        (("retrain", "--images", "{}/a.csv"), "expected a file at {}/a.csv, found: No such file or directory"),
    ],
)
def test_a_folder_that_is_not_there_starts_no_run(lookbook, tmp_path, words, told):
    """It is refused before a server is asked for: this one would not answer."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    ran = lookbook(*(word.format(tmp_path) for word in words), PREFECT_API_URL="http://127.0.0.1:9/api")
    assert complaint(ran).startswith(f"lookbook: {told.format(tmp_path)}")
    assert not (tmp_path / "store").exists()


INTERRUPTED = """
import os, signal, sys
from artifacts import segments
from flows.cli import main

def interrupt(event, arguments):
    # A file is linked to its name, and the name that it was written under is removed: then it is there.
    if event == "os.remove" and linked:
        os.kill(os.getpid(), linked.pop())
    elif event == "os.link" and "staging/decoded" in os.fspath(arguments[1]) and kinds:
        linked.append(kinds.pop())

kinds, linked = [int(sys.argv.pop(1))], []
segments._BYTES = 0
sys.addaudithook(interrupt)
main()
"""


@pytest.mark.long
@pytest.mark.kill
def test_killed_and_interrupted_while_reading_it_goes_on_and_gives_the_same_dataset(server, store, tmp_path):
    """The signal comes when the first request's pictures are committed, with 256 pictures each."""
    random = np.random.default_rng(0)
    files = 4 * CHUNK
    for name in ("a", "b"):
        (tmp_path / "things" / name).mkdir(parents=True)
        for index in range(files // 2):
            pixels = random.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "things" / name / f"{index}.png", compress_level=0)
    asked = ("retrain", "--images", str(tmp_path / "things"), "--image-size", "16")
    environment = {**os.environ, "LOOKBOOK_STORE": str(store.disk.root), "PREFECT_API_URL": server}
    left: set[str] = set()
    for kind in (signal.SIGKILL, signal.SIGINT):
        command = [sys.executable, "-c", INTERRUPTED, str(int(kind)), *asked]
        process = subprocess.run(
            command, env={**environment, "LOOKBOOK_DECODERS": "1"}, capture_output=True, timeout=300
        )
        assert process.returncode == (130 if kind == signal.SIGINT else -signal.SIGKILL), process.stderr
        assert list(store.refs()) == []
        before, left = left, set(store.disk.list("staging/decoded"))
        assert before < left
    resumed, undisturbed = (prepared(each, tmp_path / "things") for each in (store, Store(tmp_path / "other")))
    assert resumed == undisturbed
    assert store.open(resumed).manifest["provenance"]["decoded"] <= files - 2 * CHUNK
    assert list(store.disk.list("staging/decoded")) == []
    assert store.verify().corrupt == []


RETRAINED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_own_pictures import ANY_GAIN, judged, prepared, trained
from artifacts.store import Store

def retrain(root, top):
    store = Store(Path(root))
    data = prepared(store, Path(top))
    weights = trained(store, data)
    return data, weights, judged(store, weights, data, ANY_GAIN).ref

begin, go = os.pipe()
runs = []
for _ in range(2):  # forks, which have everything imported
    said, say = os.pipe()
    if os.fork() == 0:
        os.close(go)
        os.read(begin, 1)  # until both are there
        os.write(say, "\\n".join(map(str, retrain(*sys.argv[2:]))).encode())
        os._exit(0)
    os.close(say)
    runs.append(said)
os.close(go)
for said in runs:
    with open(said) as file:
        print(*file.read().split("\\n"))
for _ in runs:
    assert os.wait()[1] == 0
"""


@pytest.mark.long
@pytest.mark.kill
def test_two_at_once_publish_one_dataset(store, tmp_path):
    draw(tmp_path / "things", 0, 60)
    command = [
        sys.executable,
        "-c",
        RETRAINED,
        os.path.dirname(__file__),
        str(store.disk.root),
        str(tmp_path / "things"),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    one, other = run.stdout.splitlines()
    assert one == other
    assert len(one.split()) == 3
    assert sorted(ref.kind for ref in store.refs()) == ["datasets", "metrics", "weights"]
    assert store.verify().corrupt == []


PHOTOGRAPHS = ("--image-size", "64", "--precision", "float32")


def photograph(top, first, last, side="."):
    """Larger pictures of two classes: noise with dots or with stripes, of several modes."""
    for name in ("dots", "stripes"):
        (top / side / name).mkdir(parents=True, exist_ok=True)
        for index in range(first, last):
            random = np.random.default_rng([index, len(name)])
            width, height = random.integers(100, 160, 2)
            pixels = random.integers(0, 150, (height, width, 3), dtype=np.uint8)
            pixels[:: 16 if name == "dots" else 1, ::16] = 255
            mode, kind = (("RGB", "png"), ("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "webp"))[index % 4]
            Image.fromarray(pixels).convert(mode).save(top / side / name / f"{index:04d}.{kind}")


def test_photographs_are_learned_by_the_pretrained_network_unless_somebody_says_otherwise(
    lookbook, server, store, tmp_path
):
    lookbook = partial(lookbook, PREFECT_API_URL=server)
    photograph(tmp_path / "photographs", 0, 30)
    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "photographs/dots/pixel.png")
    run = lookbook("retrain", "--images", tmp_path / "photographs", *PHOTOGRAPHS, "--json")
    first = answer(run)
    published = weights.load(store, Ref.parse(first["weights"]))
    assert published.settings["architecture"] == "transfer"
    assert published.image_spec["height"] == 64
    assert "took over the pretrained network efficientnet-lite0 (Apache-2.0)" in run.stderr
    assert "choosing a pretrained network by 48 of 48 training images" in run.stderr
    assert "of no effect" not in run.stderr
    assert first["seconds"]["epoch"] is None
    assert first["accuracy"] > 0.8
    told = lookbook("lineage", first["weights"]).stdout
    assert "licence: Apache-2.0" in told
    assert "datasets/photographs@" in told

    photograph(tmp_path / "photographs", 30, 36)
    run = lookbook("retrain", "--images", tmp_path / "photographs", *PHOTOGRAPHS, "--epochs", "5", "--json")
    second = answer(run)
    assert second["weights"] != first["weights"]
    assert "epochs: of no effect, as the last layer of transfer is solved to its optimum" in run.stderr
    assert "choosing" not in run.stderr, "what the champion stands on is kept"
    looks = len(published.views) * (2 if published.mirrored else 1)
    assert re.search(rf"{73 * looks} of {73 * looks} pictures .* {61 * looks} taken over", run.stderr), "12 are new"

    scored = answer(lookbook("score", tmp_path / "photographs", "--weights", "photographs@champion", "--json"))
    assert (scored["images"], scored["errors"]) == (73, {})
    rows = duckdb.sql(f"select path, label, confidence from read_parquet('{scored['path']}/*.parquet')").fetchall()
    right = np.mean([path.startswith(label.encode() if isinstance(path, bytes) else label) for path, label, _ in rows])
    assert right > 0.85
    some = sorted((tmp_path / "photographs/dots").iterdir())[:3]
    told = answer(lookbook("predict", *some, "--weights", "photographs@champion", "--json"))
    by_path = {str(path): confidence for path, _, confidence in rows}
    for each in told["results"]:
        name = str(each["path"]).removeprefix(f"{tmp_path}/photographs/")
        assert each["confidence"] == pytest.approx(by_path[name], abs=1e-6)
