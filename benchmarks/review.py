"""The page that labels pictures: how soon a picture follows a key, how a table of a million rows opens, and what labels
are worth that the page chooses.

    python benchmarks/review.py [FOLDER]

FOLDER has a folder for each class, of photographs: with it, models are trained on a part of them, and get 100, 200 and
300 labels more, chosen by the page or at random; three seeds (ten minutes). The other figures take three minutes.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
from PIL import Image
from playwright.sync_api import sync_playwright

from artifacts import aliases, predictions
from artifacts.aliases import Choice
from artifacts.labels import Labels, Statement
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.shards import Shards, record_digest
from artifacts.store import Store
from tasks.reviewing.review import Review
from tasks.reviewing.rows import Seen
from tasks.vision.images import ImageSpec

BIN = Path(sys.executable).parent
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from reviewed import draw, publish_weights  # noqa: E402

PART, CLASSES = 10_000, [f"class {number}" for number in range(10)]
KEYS = 300
SEEDS, POINTS, OWN = (0, 1, 2), (100, 200, 300), 600
CHROMIUM = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]


def make_table(store: Store, name: str, rows: int, folder: Path) -> None:
    """A table of rows whose pictures are the few in the folder, again and again; a part has 10,000."""
    files = sorted(folder.iterdir())
    made_by = publish_weights(store)
    dataset = str(store.open(made_by).identity["inputs"]["dataset"])
    schema = predictions.schema(made_by, dataset, CLASSES, ImageSpec(28, 28, 3).to_dict(), None)
    random, shards, parts = np.random.default_rng(0), Shards(store.disk), []
    for number in range(-(-rows // PART)):
        size = min(PART, rows - number * PART)
        chosen = [files[item] for item in random.integers(0, len(files), size)]
        drawn = random.dirichlet(np.full(10, 0.3), size).astype(np.float32)
        table = pa.table(
            {
                "path": [f"{each.name}" for each in chosen],
                "sha256": [f"{number:08d}{row:056d}" for row in range(size)],
                "bytes": [each.stat().st_size for each in chosen],
                "mtime_ns": [each.stat().st_mtime_ns for each in chosen],
                "width": pa.array([28] * size, pa.int32()),
                "height": pa.array([28] * size, pa.int32()),
                "label": [CLASSES[each] for each in drawn.argmax(1)],
                "confidence": drawn.max(1),
                "probabilities": list(drawn),
                "weights": [str(made_by)] * size,
                "error": pa.array([None] * size, pa.string()),
                "detail": pa.array([None] * size, pa.string()),
            }
        ).cast(schema)
        digest = f"{name}{number:040d}"
        parts.append(shards.finish(record_digest(digest, str(folder)), digest, table))
    ref = predictions.save(
        store, name, parts=parts, weights=made_by, dataset=dataset, settings={}, classes=CLASSES,
        image_spec=ImageSpec(28, 28, 3).to_dict(), report={}, made={"folder": str(folder)},
    )  # fmt: skip
    choice = Choice("promote", str(ref), str(ref), "the newest")
    aliases.decide(store.disk, "predictions", name, "latest", lambda events: choice)


@contextmanager
def page_of(store: Store, name: str) -> Iterator[tuple[str, int]]:
    """The address of a `lookbook review`, and its process."""
    environment = {**os.environ, "LOOKBOOK_STORE": str(store.disk.root), "LOOKBOOK_REVIEW_PORT": "0"}
    command = [BIN / "lookbook", "review", name, "--json"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield json.loads(process.stdout.readline())["url"], process.pid
    finally:
        process.terminate()
        process.wait()


def peak(process: int) -> float:
    """MB."""
    return int(Path(f"/proc/{process}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def opening(top: Path) -> None:
    for item in range(20):
        draw(top / "few" / f"{item}.png", item)
    for rows in (10_000, 1_000_000):
        store = Store(top / f"store-{rows}")
        make_table(store, "many", rows, top / "few")
        with page_of(store, "many") as (url, process):
            before, started = peak(process), time.perf_counter()
            address = url.replace("/review/", "/api/tables/")
            answer = httpx.get(address, timeout=60).raise_for_status().json()
            first = time.perf_counter() - started
            started = time.perf_counter()
            httpx.get(address, timeout=60).raise_for_status()
            again = time.perf_counter() - started
            print(
                f"{answer['rows']:,} rows: {len(answer['items'])} pictures to label after {first:.2f} s, again after "
                f"{again:.2f} s; {peak(process) - before:.0f} MB more memory"
            )


WATCH = """
window.keyTimes = [];
document.addEventListener('keydown', () => {
  const started = performance.now(), before = document.querySelector('figure img');
  const look = () => {
    const now = document.querySelector('figure img');
    if (now && now !== before && now.complete) window.keyTimes.push(performance.now() - started);
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}, true);
"""


def keys(top: Path) -> None:
    """Two keys a second, as somebody who is quick; photographs of two megapixels."""
    folder = top / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for item in range(KEYS + 60):
        coarse = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((1632, 1224), Image.Resampling.BICUBIC).save(folder / f"{item:04d}.jpg")
    from reviewed import guesses, publish_table

    store = Store(top / "store")
    publish_table(store, folder, "night", guesses(KEYS + 60))
    with page_of(store, "night") as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium-headless-shell"), args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(url)
        page.wait_for_selector("figure img")
        page.wait_for_timeout(2000)
        page.evaluate(WATCH)
        for _ in range(KEYS):
            page.keyboard.press("1")
            page.wait_for_timeout(500)
        took = sorted(page.evaluate("window.keyTimes"))
        browser.close()
    print(
        f"{len(took)} keys, each until the next picture of 1632x1224 is on the screen: median "
        f"{statistics.median(took):.0f} ms, 95 of 100 within {took[int(0.95 * len(took))]:.0f} ms, the slowest "
        f"{took[-1]:.0f} ms"
    )


def lookbook(store: Store, *arguments: object) -> dict[str, object]:
    environment = {**os.environ, "LOOKBOOK_STORE": str(store.disk.root)}
    command = [BIN / "lookbook", *map(str, arguments), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def worth(folder: Path, top: Path) -> None:
    """Accuracy with labels that the page chose, and with as many random ones."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    curves: dict[str, list[list[float]]] = {"chosen": [], "random": []}
    bases = []
    for seed in SEEDS:
        own, truth = deal(files, folder, top / str(seed), seed)
        store = Store(top / f"store-{seed}")
        bases.append(lookbook(store, "retrain", "--images", own, "--name", "own")["accuracy"])
        lookbook(store, "score", top / str(seed) / "night", "--weights", "own@champion", "--name", "night")
        rows = chosen_by_page(store)
        order = np.random.default_rng(seed).permutation(sorted(truth))
        wanted = {"chosen": [each.path for each in rows], "random": order.tolist()}
        for how, paths in wanted.items():
            curve = []
            for start, stop in zip((0, *POINTS), POINTS, strict=False):
                say(store, how, paths[start:stop], truth, top / str(seed) / "night")
                asked = ("--images", own, "--name", "own", "--labels", how, "--significance", "1")
                curve.append(float(str(lookbook(store, "retrain", *asked)["accuracy"])))
            curves[how].append(curve)
        print(
            f"seed {seed}: {bases[-1]:.3f}, then {curves['chosen'][-1]} chosen, {curves['random'][-1]} random",
            flush=True,
        )
    for how, found in curves.items():
        means = ", ".join(f"{count}: {100 * mean:.1f} %" for count, mean in zip(POINTS, np.mean(found, 0), strict=True))
        print(f"{how}: 0: {100 * np.mean(bases):.1f} %, {means}")


def deal(files: list[Path], folder: Path, to: Path, seed: int) -> tuple[Path, dict[str, str]]:
    """A seventh to test with, OWN to learn from, and the rest, whose classes nobody knows."""
    order = np.random.default_rng(seed).permutation(len(files))
    truth: dict[str, str] = {}
    for place, item in enumerate(order):
        source, label = files[item], files[item].relative_to(folder).parts[0]
        side = "own/test" if place < len(files) // 7 else "own/train" if place < len(files) // 7 + OWN else "night"
        target = to / side / (f"{item:05d}.jpg" if side == "night" else f"{label}/{item:05d}.jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(source)
        if side == "night":
            truth[target.name] = label
    return to / "own", truth


def chosen_by_page(store: Store) -> list[Seen]:
    """In the page's order, once it knows what the pictures look like."""
    os.environ["LOOKBOOK_STORE"] = str(store.disk.root)
    review = Review(store, Settings(), "night")
    before = [each.place for each in review.to_label("unsure", 1000).rows]
    while True:
        rows = review.to_label("unsure", 1000).rows
        if [each.place for each in rows] != before:
            break
        time.sleep(0.5)
    review.close()
    return rows


def say(store: Store, name: str, paths: list[str], truth: dict[str, str], folder: Path) -> None:
    table = predictions.load(store, aliases.current(store.disk, "predictions", "night", "latest") or Ref.parse(""))
    rows = {
        row["path"]: row
        for part in range(len(table.parts))
        for row in table.read(part, ["path", "sha256", "label", "confidence"]).to_pylist()
    }
    said = [
        Statement(
            rows[path]["sha256"], "class", truth[path], path, str(folder), None, rows[path]["label"], None, "unsure"
        )
        for path in paths
    ]
    Labels(store.disk, name).say(f"{name}-{paths[0]}", "benchmark", said)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        opening(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        keys(Path(folder))
    if len(sys.argv) > 1:
        given = Path(sys.argv[1]).absolute()
        with tempfile.TemporaryDirectory(dir=given.parent) as folder:  # for hard links
            worth(given, Path(folder))


if __name__ == "__main__":
    main()
