"""pytest tests/test_own_pictures.py: pictures of one's own, from the folder to the decision, as a person does it."""

import json
import re
import shutil
import signal
import subprocess
import time

import duckdb
import numpy as np
import pytest
from browser import open_page
from commands import answer, complaint
from PIL import Image

from artifacts import dataset, weights
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.prepare import prepare_folder
from tasks.requests import PictureSettings
from tasks.shared.deadline import Deadline
from tasks.vision.metrics import scale

FORMATS = ("png", "jpg", "bmp", "webp", "gif", "tiff")
QUICK = ("--image-size", "16", "--epochs", "8")


@pytest.fixture
def lookbook_environment(shared_environment, server, tmp_path):
    return {**shared_environment, "LOOKBOOK_STORE": str(tmp_path / "store"), "PREFECT_API_URL": server}


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


@pytest.mark.browser
def test_from_a_folder_to_a_decision_and_again_with_more_pictures(lookbook, store, tmp_path):
    draw(tmp_path / "things", 0, 60)
    (tmp_path / "things/red mug/notes.txt").write_text("no picture")
    run = lookbook("retrain", "--images", tmp_path / "things", *QUICK, "--json")
    first = answer(run)
    assert first["promoted"]
    assert first["dataset"].startswith("datasets/things@")
    assert "warning: 1 file left out: unsupported" in run.stderr
    with open_page(f"file://{store.open(Ref.parse(first['metrics'])).path('report.html')}") as page:
        text = page.inner_text("body")
        assert "🌵 cactus" in text
        assert "1 file left out: unsupported" in text
        page.locator(".matrix a").first.click()
        assert page.locator("section.cell:visible img").count() > 0

    draw(tmp_path / "things", 60, 200)
    second = answer(lookbook("retrain", "--images", tmp_path / "things", *QUICK, "--json"))
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


def test_with_any_gain_the_better_is_promoted_and_a_person_can_go_back(lookbook, store, tmp_path):
    draw(tmp_path / "things", 0, 60)
    asked = ("retrain", "--images", tmp_path / "things", "--image-size", "16", "--json")
    weak = answer(lookbook(*asked, "--epochs", "1", "--learning-rate", "0.0001"))
    strict = answer(lookbook(*asked, "--epochs", "1", "--learning-rate", "0.0002", "--minimum-accuracy", "1"))
    assert not strict["promoted"]
    assert "is below the minimum of 100.00%" in strict["reason"]
    strong = answer(lookbook(*asked, "--epochs", "12", "--significance", "1", "--max-recall-drop", "1"))
    assert strong["promoted"], strong["reason"]
    assert strong["reason"].startswith("better: accuracy ")
    assert answer(lookbook("rollback", "things", "--json"))["ref"] == weak["weights"]
    event = answer(lookbook("promote", strong["weights"], "--reason", "looks better", "--json"))
    assert (event["ref"], event["reason"]) == (strong["weights"], "looks better")


def test_calibrated_scores(lookbook, store, tmp_path):
    draw(tmp_path / "things", 0, 90, hidden=0.6)
    asked = ("retrain", "--images", tmp_path / "things", *QUICK, "--json")
    without = answer(lookbook(*asked))
    told = complaint(lookbook("score", tmp_path / "things", "--weights", without["weights"], "--calibrated"))
    assert "expected weights with a temperature, fitted on held-out images" in told
    assert "retrain with a validation share (--validation 0.1)" in told
    held_out = answer(lookbook(*asked, "--validation", "0.4"))
    temperature = weights.load(store, Ref.parse(held_out["weights"])).temperature
    assert 0.05 <= temperature <= 20
    scored = ("score", tmp_path / "things", "--weights", held_out["weights"], "--json")
    plain, calibrated = answer(lookbook(*scored)), answer(lookbook(*scored, "--calibrated"))
    assert calibrated["reused"] == 0
    assert answer(lookbook(*scored, "--calibrated"))["predictions"] == calibrated["predictions"]
    pages = [store.open(Ref.parse(each["predictions"])).read("report.html").decode() for each in (plain, calibrated)]
    assert [f"calibrated by the temperature {temperature:.3f}" in page for page in pages] == [False, True]
    asking = "select path, probabilities from '{}/*.parquet' where error is null order by path"
    rows = [duckdb.sql(asking.format(each["path"])).fetchall() for each in (plain, calibrated)]
    before, after = (np.array([row[1] for row in table], np.float32) for table in rows)
    np.testing.assert_allclose(after, scale(before, temperature), atol=1e-5)
    assert store.open(Ref.parse(calibrated["predictions"])).identity["settings"]["temperature"] == temperature


def test_a_table_of_labels_and_grey(lookbook, store, tmp_path):
    draw(tmp_path / "things", 0, 40)
    paths = sorted(path.relative_to(tmp_path / "things") for path in (tmp_path / "things").rglob("*.*"))
    rows = [f"{path},{'mug/cup' if 'mug' in str(path) else 'plant'}" for path in paths]
    (tmp_path / "things/labels.csv").write_text("\n".join(["path,label", *rows, "gone.png,plant"]))
    result = answer(
        lookbook("retrain", "--images", tmp_path / "things/labels.csv", *QUICK, "--color", "grey", "--max-bad", "0.02",
                 "--json")
    )  # fmt: skip
    data = dataset.load(store, Ref.parse(result["dataset"]))
    assert data.artifact.ref.name == "things"
    assert data.classes == ["mug/cup", "plant"]
    assert data.train.images.shape[1:] == (16, 16, 1)
    assert list(data.bad) == ["gone.png"]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda top: shutil.rmtree(top / "red mug"), "expected a folder a class in .*things, two of them at least"),
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
def test_folders_that_can_not_be_learned_from(lookbook, store, tmp_path, make, told):
    draw(tmp_path / "things", 0, 40)
    make(tmp_path / "things")
    run = lookbook("retrain", "--images", tmp_path / "things", *QUICK)
    if told is None:
        assert run.returncode == 0, run.stderr
        return
    assert re.search(told, complaint(run))
    assert list(store.refs()) == []
    assert not (tmp_path / "store/datasets").exists(), "nothing half-published"


def draw_one(path):
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(path)


def test_two_champions_and_names_that_a_terminal_would_obey(lookbook, store, tmp_path):
    for name in ("one", "two"):
        draw(tmp_path / name, 0, 30)
        (tmp_path / name / "red mug").rename(tmp_path / name / "red \x1b[31mmug")
        said = lookbook("retrain", "--images", tmp_path / name, *QUICK)
        assert f"next: lookbook predict IMAGE... --weights {name}@champion, lookbook history {name}" in said.stdout
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
    for option in (("--image-size", "32"), ("--color", "grey"), ("--max-bad", "0.5"), ("--split-seed", "1")):
        told = complaint(lookbook("retrain", *option), status=2)
        assert told == f"Error: {option[0]} is about pictures of your own: it goes with --images"


@pytest.mark.long
@pytest.mark.kill
def test_killed_and_interrupted_while_reading_it_goes_on_and_gives_the_same_dataset(
    lookbook_command, lookbook_environment, store, tmp_path
):
    """What is decoded is committed by 64 MiB of pixels: 342 pictures of this size."""
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "things" / name).mkdir(parents=True)
        for index in range(550):
            pixels = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "things" / name / f"{index}.png", compress_level=0)
    command = [*lookbook_command, "retrain", "--images", str(tmp_path / "things"), "--image-size", "256"]
    left: set[str] = set()
    for kind in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            command, env=lookbook_environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        until = time.monotonic() + 120
        while set(store.disk.list("staging/decoded")) <= left and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(kind)
        process.wait(timeout=60)
        assert process.returncode in (-signal.SIGKILL, 130)
        assert list(store.refs()) == []
        before, left = left, set(store.disk.list("staging/decoded"))
        assert before < left
    settings = Settings(image_roots={"root": tmp_path})
    asked = (settings, "root:things", PictureSettings(image_size=256), "things", Deadline.after(1))
    resumed, undisturbed = (prepare_folder(each, *asked) for each in (store, Store(tmp_path / "other")))
    assert resumed == undisturbed
    assert store.open(resumed).manifest["provenance"]["decoded"] <= 1100 - 2 * 342
    assert list(store.disk.list("staging/decoded")) == []
    assert store.verify().corrupt == []


@pytest.mark.long
@pytest.mark.kill
def test_two_at_once_publish_one_dataset(lookbook_command, lookbook_environment, store, tmp_path):
    draw(tmp_path / "things", 0, 60)
    command = [*lookbook_command, "retrain", "--images", str(tmp_path / "things"), *QUICK, "--json"]
    both = [
        subprocess.Popen(command, env=lookbook_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    results = [json.loads(out.splitlines()[-1]) for out, _ in said]
    for kind in ("dataset", "weights", "metrics"):
        assert results[0][kind] == results[1][kind]
    assert len(list(store.refs())) == 3
    assert store.verify().corrupt == []


PHOTOGRAPHS = ("--epochs", "10", "--image-size", "64", "--precision", "float32")


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


def test_photographs_are_learned_by_the_pretrained_network_unless_somebody_says_otherwise(lookbook, store, tmp_path):
    photograph(tmp_path / "photographs", 0, 30)
    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "photographs/dots/pixel.png")
    run = lookbook("retrain", "--images", tmp_path / "photographs", *PHOTOGRAPHS, "--json")
    first = answer(run)
    published = weights.load(store, Ref.parse(first["weights"]))
    assert published.settings["architecture"] == "transfer"
    assert published.image_spec["height"] == 64
    assert "took over the pretrained network efficientnet-lite0 (Apache-2.0)" in run.stderr
    assert first["accuracy"] > 0.8
    told = lookbook("lineage", first["weights"]).stdout
    assert "licence: Apache-2.0" in told
    assert "datasets/photographs@" in told

    photograph(tmp_path / "photographs", 30, 36)
    run = lookbook("retrain", "--images", tmp_path / "photographs", *PHOTOGRAPHS, "--json")
    second = answer(run)
    assert second["weights"] != first["weights"]
    assert re.search(r"73 of 73 pictures .* 61 taken over", run.stderr), "12 are new"

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
