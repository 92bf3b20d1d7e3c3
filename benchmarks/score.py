"""Scoring a folder beside a bare Keras script, in one run: images a second, whole commands, a rerun, memory.

    python benchmarks/score.py [--million]

Makes its own folders in a temporary one: 70,000 PNG of 28x28 (hard links to the 10,000 test images) and 1,500 JPEG of
1024x1024. With --million also 1,000,000 hard links, for the memory. Takes about five minutes, two more with --million.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from retrain import BIN, own_home, prefect_server

from artifacts.settings import Settings
from tasks.vision.sources import FASHION_MNIST, fetch, read_side

RUNS = 5
OWN_RATE = """
import json, os, sys
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.plan import plan_folder
from tasks.requests import ScoreRequest
from tasks.score import score_plan
from tasks.scoring.job import make_job
from tasks.shared.plans import load_plan
from tasks.shared import model
settings = Settings(image_roots={"given": sys.argv[1]})
store = Store(settings.store)
model.load(store, store.resolve("champion"))  # TensorFlow's import is left out, as it is for Keras
# A name of its own: no run goes on with another.
job = make_job(store, settings, ScoreRequest("given:", name=f"run-{os.getpid()}", fresh=True))
key = plan_folder(store, settings, job)
listed = load_plan(store.disk, key)
outcome = score_plan(store, settings, job, listed)
print(json.dumps({"images_per_second": listed.rows / outcome.seconds}))
"""


def test_images() -> Iterator[tuple[np.ndarray, int]]:
    """The 10,000 test images, uint8 [28, 28], and their labels."""
    settings = Settings()
    contents = fetch(FASHION_MNIST, settings.cache, settings.dataset_mirror, lambda *_: None)
    test = read_side(FASHION_MNIST, contents, "test")
    yield from zip(test.images[..., 0], map(int, test.labels), strict=True)


def make_small(folder: Path, copies: int) -> None:
    """`copies` times 10,000 PNG of 28x28, in a folder a class."""
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for index, (image, label) in enumerate(test_images()):
        first = folder / str(label) / f"0-{index:05d}.png"
        Image.fromarray(image).save(first)
        for copy in range(1, copies):
            os.link(first, first.with_name(f"{copy}-{index:05d}.png"))


def make_large(folder: Path) -> None:
    """1,500 noisy JPEG of 1024x1024, in a folder a class."""
    random = np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for index, (image, label) in enumerate(islice(test_images(), 1500)):
        large = np.asarray(Image.fromarray(image).resize((1024, 1024), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = large[..., None] + random.normal(0, 6, (1024, 1024, 3)).astype(np.int16)
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        picture.save(folder / str(label) / f"{index:05d}.jpg", quality=88)


def run(command: list[str], environment: dict[str, str]) -> tuple[float, dict, int]:
    """Seconds, the JSON line, and the peak memory in MB of the largest process."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **environment}
    )
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{command} failed")
    return seconds, json.loads(said.splitlines()[-1]), used.ru_maxrss // 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        environment = own_home(top)
        make_small(top / "png", copies=7)
        make_large(top / "jpg")
        lookbook = str(BIN / "lookbook")
        run([lookbook, "retrain", "--epochs", "5", "--json"], environment)
        with prefect_server(environment) as url:
            environment["PREFECT_API_URL"] = url
            for kind in ("png", "jpg"):
                folder = str(top / kind)
                keras = [
                    sys.executable,
                    str(Path(__file__).with_name("keras_score.py")),
                    folder,
                    str(top / "k.parquet"),
                ]
                rates(kind, [sys.executable, "-c", OWN_RATE, folder], keras, environment)
                whole(kind, [lookbook, "score", folder, "--json"], keras, environment)
            if "--million" in sys.argv:
                million(top, lookbook, environment)


def rates(kind: str, ours: list[str], keras: list[str], environment: dict[str, str]) -> None:
    pairs = []
    for _ in range(RUNS):
        mine, theirs = (run(command, environment)[1]["images_per_second"] for command in (ours, keras))
        pairs.append((mine, theirs))
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    low, high = min(a / b for a, b in pairs), max(a / b for a, b in pairs)
    print(f"{kind}: {mine:,.0f} images/s, Keras {theirs:,.0f}; ratio {ratio:.2f} ({low:.2f} to {high:.2f})", flush=True)


def whole(kind: str, ours: list[str], keras: list[str], environment: dict[str, str]) -> None:
    pairs = [(run([*ours, "--fresh"], environment), run(keras, environment)) for _ in range(RUNS)]
    mine = statistics.median(seconds for (seconds, _, _), _ in pairs)
    theirs = statistics.median(seconds for _, (seconds, _, _) in pairs)
    ratio = statistics.median(a[0] / b[0] for a, b in pairs)
    print(f"{kind}: the whole command {mine:.1f} s, the bare script {theirs:.1f} s, ratio {ratio:.2f}")
    fresh = statistics.median(result["seconds"] for (_, result, _), _ in pairs)
    again = statistics.median(run(ours, environment)[1]["seconds"] for _ in range(RUNS))
    print(f"{kind}: `seconds` {fresh:.2f}, with nothing new {again:.2f}, ratio {again / fresh:.2f}", flush=True)


def million(top: Path, lookbook: str, environment: dict[str, str]) -> None:
    peaks = {}
    source = sorted((top / "png").rglob("0-*.png"))
    for count in (10_000, 1_000_000):
        folder = top / f"links-{count}"
        for index in range(count):
            path = folder / f"{index // 20_000:02d}" / f"{index:07d}.png"
            if index % 20_000 == 0:
                path.parent.mkdir(parents=True)
            os.link(source[(index + index // 20_000) % len(source)], path)
        seconds, result, peaks[count] = run([lookbook, "score", str(folder), "--json"], environment)
        rate = result["images_per_second"]
        print(f"{count:,} files: {seconds:.1f} s, {rate:,.0f} images/s, peak {peaks[count]} MB", flush=True)
    print(f"a million files take {peaks[1_000_000] - peaks[10_000]} MB more than ten thousand")


if __name__ == "__main__":
    main()
