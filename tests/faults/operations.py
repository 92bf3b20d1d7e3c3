"""What a campaign disturbs: for each operation how its store is made, and what is then run on it, in the stages that
flows run. Pictures are few and small; all else is as it is for a user."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import tasks.vision.training  # noqa: F401  (once, before processes are forked; nothing is computed here)
from artifacts import dataset as datasets
from artifacts import pins, weights
from artifacts.copying import copy
from artifacts.labels import Labels, Statement
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.commit import commit_predictions
from tasks.judging.measuring import evaluate_weights
from tasks.plan import plan_folder
from tasks.prepare import prepare_folder
from tasks.promote import decide_promotion
from tasks.reports.progress import TrainingProgress
from tasks.requests import CollectRequest, Gate, PictureSettings, ScoreRequest
from tasks.score import score_plan
from tasks.scoring.job import make_job
from tasks.shared.collecting import collect_store
from tasks.shared.deadline import Deadline
from tasks.shared.plans import load_plan, remove_plan
from tasks.train import train_weights
from tasks.vision.recipes import settings_for

SPEC = {"height": 8, "width": 8, "channels": 3, "background": 0, "invert": False, "resample": "bilinear"}
CLASSES = ["circle", "square"]


@dataclass(frozen=True)
class Operation:
    """prepare: makes the folder that it finds, with a store and pictures; run: what is disturbed, and repeated."""

    prepare: Callable[[Path], object]
    run: Callable[[Path], object]


def settings_of(folder: Path) -> Settings:
    os.environ["LOOKBOOK_STORE"] = str(folder / "store")
    return Settings(store=str(folder / "store"), image_roots={"root": str(folder)}, decoders=1)


def draw(folder: Path, items: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for item in range(items):
        Image.fromarray(random.integers(0, 256, (10, 10, 3), dtype=np.uint8)).save(folder / f"{seed}-{item}.png")


def pictures(folder: Path) -> None:
    """A folder to learn from, one to score, and a store."""
    Store(folder / "store").prepare()
    for seed, label in enumerate(CLASSES):
        draw(folder / "own" / label, 16, seed)
    draw(folder / "night", 8, 9)


def prepare(folder: Path) -> str:
    settings = settings_of(folder)
    asked = PictureSettings(image_size=8, labels="night" if (folder / "store/labels").exists() else None)
    return str(prepare_folder(Store(settings.store), settings, "root:own", asked, "own", Deadline.after(1)))


def train(folder: Path) -> str:
    store = Store(settings_of(folder).store)
    [dataset] = store.refs("datasets", "own")
    recipe = settings_for(architecture="dense", epochs=2, batch_size=8)
    with TrainingProgress(recipe.epochs, lambda _: None, None) as progress:
        return str(train_weights(store, dataset, recipe, "graph", "cpu", progress, Deadline.after(1)))


def judge(folder: Path) -> object:
    """Evaluate what was trained, and decide about it; a run's id makes a repetition the same decision."""
    store = Store(settings_of(folder).store)
    [dataset] = store.refs("datasets", "own")
    [trained] = store.refs("weights", "own")
    return decide_promotion(store, evaluate_weights(store, trained, dataset), Gate(), "a-run")


def score(folder: Path) -> object:
    settings = settings_of(folder)
    store = Store(settings.store)
    job = make_job(store, settings, ScoreRequest(folder="root:night"))
    key = plan_folder(store, settings, job)
    ref = commit_predictions(store, settings, job, key, score_plan(store, settings, job, load_plan(store.disk, key)))
    remove_plan(store.disk, key)
    return ref


def label(folder: Path) -> None:
    store = Store(settings_of(folder).store)
    log = Labels(store.disk, "night")
    for number in range(3):
        log.say(f"word-number-{number}", "ann", [Statement(f"{number:064x}", "bad")])
    log.undo("word-taken-back", "ann", 2)


def collected(folder: Path) -> None:
    """Six weeks of small versions, all old."""
    store = Store(folder / "store")
    for week in range(6):
        side = datasets.Split(
            np.full((2, 8, 8, 3), week, np.uint8), np.array([0, 1], np.int32), [f"{week}-a", f"{week}-b"]
        )
        made = datasets.save(
            store, "shop", train=side, test=side, classes=CLASSES, image_spec=SPEC, settings={}, inputs={}, made={}
        )
        weights.save(
            store, "shop", tensors={"output/bias": np.full(2, week, np.float32)}, history=[], classes=CLASSES,
            image_spec=SPEC, settings={"architecture": "dense"}, dataset=made, made={},
        )  # fmt: skip
    for path in (folder / "store").rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - 40 * 86400
            os.utime(path, (then, then))


def collect(folder: Path) -> object:
    asked = CollectRequest(remove=True, keep=1, keep_predictions=1)
    return collect_store(Store(folder / "store"), asked, Deadline.after(1), lambda _: None)


def duplicate(folder: Path) -> object:
    """Into another store, which is beside this one: what is written there is what is disturbed."""
    return copy(Store(folder / "source"), Store(folder / "store"))


def pin(folder: Path) -> object:
    store = Store(settings_of(folder).store)
    [ref] = store.refs("datasets", "own")
    return pins.pinned(store.disk).get(ref) or pins.pin(store, ref, "for the fair")


def after(*steps: Callable[[Path], Any]) -> Callable[[Path], None]:
    def all_of(folder: Path) -> None:
        for step in steps:
            step(folder)

    return all_of


def moved_away(folder: Path) -> None:
    os.rename(folder / "store", folder / "source")


def labelled(folder: Path) -> None:
    """A correction, and a word about a picture that the folder has not."""
    import hashlib

    def sha256(path: str) -> str:
        return hashlib.sha256((folder / path).read_bytes()).hexdigest()

    said = [
        Statement(sha256("own/circle/0-3.png"), "class", "square", "own/circle/0-3.png"),
        Statement(sha256("night/9-1.png"), "class", "circle", "9-1.png", str(folder / "night")),
    ]
    Labels(Store(folder / "store").disk, "night").say("two-words", "ann", said)


OPERATIONS = {
    "prepare": Operation(pictures, prepare),
    "prepare with labels": Operation(after(pictures, labelled), prepare),
    "train": Operation(after(pictures, prepare), train),
    "evaluate and promote": Operation(after(pictures, prepare, train), judge),
    "score": Operation(after(pictures, prepare, train, judge), score),
    "label": Operation(pictures, label),
    "pin": Operation(after(pictures, prepare), pin),
    "collect": Operation(collected, collect),
    "copy": Operation(after(pictures, prepare, pin, moved_away), duplicate),
}
