"""pytest tests/test_year.py: a year of retrainings and nights, collected after each: what stays is whole, scores as it
did, and tells its whole lineage."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from artifacts import dataset as datasets
from artifacts import predictions
from artifacts.collecting.collector import Collector
from artifacts.collecting.retention import Rules
from artifacts.lineage import lineage
from artifacts.refs import Ref
from artifacts.settings import Settings
from tasks.commit import commit_predictions
from tasks.judging.measuring import evaluate_weights
from tasks.plan import plan_folder
from tasks.promote import decide_promotion
from tasks.reports.progress import TrainingProgress
from tasks.requests import Gate, ScoreRequest
from tasks.score import score_plan
from tasks.scoring.job import make_job
from tasks.shared.deadline import Deadline
from tasks.shared.plans import load_plan
from tasks.train import train_weights
from tasks.vision.recipes import settings_for

ROUNDS, NIGHTS = 8, 2  # retrainings in the year, and scorings after each; with 52 it takes minutes, and shows the same
KEPT, KEPT_PREDICTIONS = 2, 5  # versions, far fewer than are made
DAY = 86400
CLASSES = ["circle", "square", "line"]


@pytest.fixture
def settings(tmp_path, monkeypatch):
    (tmp_path / "shop").mkdir()
    monkeypatch.setenv("LOOKBOOK_IMAGE_ROOTS", json.dumps({"root": str(tmp_path)}))
    return Settings(store=str(tmp_path / "store"), decoders=1)


def pass_days(store, days):
    for path in store.disk.root.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - days * DAY
            os.utime(path, (then, then))


def retrain(store, shapes, number):
    train = shapes["train"]
    keep = np.random.default_rng(number).permutation(len(train.labels))[:200]  # each time other pictures
    side = datasets.Split(train.images[keep], train.labels[keep], [train.sources[each] for each in keep])
    dataset = datasets.save(
        store, "shop", train=side, test=shapes["test"], classes=CLASSES,
        image_spec={"height": 8, "width": 8, "channels": 1, "background": 0, "invert": False},
        settings={"source": "drawn"}, inputs={}, made={},
    )  # fmt: skip
    recipe = settings_for(architecture="dense", epochs=1 + number % 3, seed=number)
    with TrainingProgress(recipe.epochs, lambda _: None, None) as progress:
        weights = train_weights(store, dataset, recipe, "eager", "cpu", progress, Deadline.after(1))
    decide_promotion(store, evaluate_weights(store, weights, dataset), Gate(significance=1.0))


def score(store, settings, **asked):
    job = make_job(store, settings, ScoreRequest(folder="root:shop", **asked))
    key = plan_folder(store, settings, job)
    outcome = score_plan(store, settings, job, load_plan(store.disk, key))
    return commit_predictions(store, settings, job, key, outcome)


def rows(store, ref):
    found = predictions.load(store, ref)
    return [row for index in range(len(found.parts)) for row in found.read(index).to_pylist()]


@pytest.mark.long
def test_a_year_is_collected(store, settings, shapes, tmp_path):
    random = np.random.default_rng(0)
    made, removed = set(), []
    for number in range(ROUNDS):
        retrain(store, shapes, number)
        for _ in range(NIGHTS):
            pixels = random.integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"shop/{random.integers(30)}.png")
            score(store, settings)
            pass_days(store, 365 / ROUNDS / NIGHTS)
        before = {ref: lineage(store, ref)["made_from"] for ref in store.refs()}
        made |= before.keys()
        removed += Collector(store, Rules(keep=KEPT, keep_predictions=KEPT_PREDICTIONS)).carry_out().removed
        for ref in store.refs():
            assert lineage(store, ref)["made_from"] == before[ref]
    kept = {kind: list(store.refs(kind)) for kind in ("datasets", "weights", "metrics", "predictions")}
    assert len(kept["predictions"]) == KEPT_PREDICTIONS
    assert KEPT <= len(kept["weights"]) <= KEPT + 3  # what the champion and the newest tables were made by stays, too
    assert len(removed) > ROUNDS * 3
    versions = {each.what for each in removed} & {str(ref) for ref in made}
    assert versions == {str(ref) for ref in made} - {str(ref) for ref in store.refs()}
    found = store.verify()
    assert found.corrupt == []
    for ref in kept["predictions"]:
        assert "problem" not in json.dumps(lineage(store, ref))
    latest = store.resolve("shop@latest", "predictions")
    weights = Ref.parse(store.open(latest).identity["inputs"]["weights"])
    again = score(store, settings, weights=str(weights), fresh=True, name="again")
    assert rows(store, again) == rows(store, latest)
    for each in kept["weights"]:
        assert len(rows(store, score(store, settings, weights=str(each), name="others"))) == len(rows(store, latest))
    incremental = len(list(store.disk.list("staging/parts")))
    assert incremental < ROUNDS * NIGHTS, "parts of tables that went are gone"
