"""Preparing 100,000 small PNG files beside scoring them, in one run: images a second, and what is new the next time.

    python benchmarks/prepare.py

Makes its own folder in a temporary one: the 70,000 images of Fashion-MNIST, and 30,000 of them mirrored. Both look at
them as 28x28 grey, with as many decoder processes, on a warm page cache. Takes about two minutes.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from retrain import BIN, own_home
from score import run

from artifacts.settings import Settings
from tasks.vision.sources import FASHION_MNIST, fetch, read_side

FILES, NEW, RUNS = 100_000, 1_000, 5
PREPARE = """
import json, sys, tempfile, time
import pandas  # which pyarrow imports where it is there, in 0.35 s
from pathlib import Path
from artifacts.settings import Settings
from artifacts.store import Store
from tasks import prepare
from tasks.requests import PictureSettings
from tasks.shared.deadline import Deadline
settings = Settings(image_roots={"given": sys.argv[1]})
pictures = PictureSettings(image_size=28, color="grey")
new = {Path(path): Path(sys.argv[1]) / Path(path).name.partition("-")[0] / Path(path).name for path in sys.argv[2:]}
read_files, measured = prepare.read_files, {}
def timed(*given):
    started = time.perf_counter()
    read = read_files(*given)
    measured["read"], measured["decoded"] = time.perf_counter() - started, read.decoded
    return read
prepare.read_files = timed
with tempfile.TemporaryDirectory() as folder:
    store = Store(Path(folder))
    for what in ("all", "none", "new"):
        if what == "new":
            measured["rate"] = measured["decoded"] / measured["read"]
            measured["whole"] = measured["decoded"] / measured["all"]
            for path, place in new.items():
                path.rename(place)
        started = time.perf_counter()
        prepare.prepare_folder(store, settings, "given:", pictures, "benchmark", Deadline.after(1))
        measured[what] = time.perf_counter() - started
    for path, place in new.items():
        place.rename(path)
print(json.dumps(measured))
"""
SCORE = """
import json, sys, time
import pandas
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.commit import commit_predictions
from tasks.plan import plan_folder
from tasks.requests import ScoreRequest
from tasks.score import score_plan
from tasks.scoring.job import make_job
from tasks.shared.plans import load_plan
from tasks.shared import model
settings = Settings(image_roots={"given": sys.argv[1]})
store = Store(settings.store)
model.load(store, store.resolve("champion"))  # TensorFlow's import is left out: preparing needs none
started = time.perf_counter()
job = make_job(store, settings, ScoreRequest("given:", name="benchmark", fresh=True))
key = plan_folder(store, settings, job)
listed = load_plan(store.disk, key)
outcome = score_plan(store, settings, job, listed)
commit_predictions(store, settings, job, key, outcome)
whole = listed.rows / (time.perf_counter() - started)
print(json.dumps({"rate": listed.rows / outcome.seconds, "whole": whole}))
"""


def make_folder(top: Path) -> list[Path]:
    """FILES pictures, a folder a class, and NEW more beside them, which are returned."""
    settings = Settings()
    contents = fetch(FASHION_MNIST, settings.cache, settings.dataset_mirror, lambda *_: None)
    sides = [read_side(FASHION_MNIST, contents, side) for side in ("train", "test")]
    images, labels = (np.concatenate([getattr(side, name) for side in sides]) for name in ("images", "labels"))
    for label in range(10):
        (top / "all" / str(label)).mkdir(parents=True)
    (top / "new").mkdir()
    new = []
    for index in range(FILES + NEW):
        pixels = images[index % len(images), ..., 0]
        path = top / "all" / str(labels[index % len(images)]) / f"{index:06d}.png"
        if index >= FILES:
            path = top / "new" / f"{labels[index % len(images)]}-{index:06d}.png"
            new.append(path)
        Image.fromarray(pixels if index < len(images) else np.ascontiguousarray(pixels[:, ::-1])).save(path)
    return new


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        environment = own_home(top)
        new = make_folder(top)
        run([str(BIN / "lookbook"), "retrain", "--epochs", "1", "--json"], environment)
        folder = str(top / "all")
        pairs = []
        for _ in range(RUNS):
            prepared = run([sys.executable, "-c", PREPARE, folder, *map(str, new)], environment)[1]
            scored = run([sys.executable, "-c", SCORE, folder], environment)[1]
            pairs.append((prepared, scored))
            assert prepared["decoded"] == NEW, prepared
        ratios = {}
        for what, title in (("rate", "reading and decoding"), ("whole", "from the folder to the artifact")):
            mine, theirs = ([each[what] for each in column] for column in zip(*pairs, strict=True))
            each = [ours / others for ours, others in zip(mine, theirs, strict=True)]
            ratios[what] = statistics.median(each)
            print(
                f"{title}: prepared {statistics.median(mine):,.0f} images/s, scored {statistics.median(theirs):,.0f}; "
            )
            print(f"  ratio {ratios[what]:.2f} ({min(each):.2f} to {max(each):.2f})", flush=True)
        for what, title in (("all", f"{FILES:,} files"), ("none", "nothing new"), ("new", f"{NEW:,} new ones")):
            print(f"{title}: {statistics.median(prepared[what] for prepared, _ in pairs):.2f} s")
        if ratios["rate"] < 1:
            sys.exit("expected preparing to read and decode at least as fast as scoring does")


if __name__ == "__main__":
    main()
