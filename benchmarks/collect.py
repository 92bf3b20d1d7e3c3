"""How long a collection takes, what it holds in memory, and whether anything minds it.

    python benchmarks/collect.py [--loop MINUTES]

Makes a store of 1,000 weekly retrainings and 3,000 tables (two minutes), and plans and carries out a collection of it.
With --loop, commands that train and score in a loop, beside collections in a loop that keep as little as they may.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from artifacts import aliases, living, predictions
from artifacts.aliases import Choice
from artifacts.collecting.collector import Collector
from artifacts.collecting.retention import Rules
from artifacts.lineage import lineage
from artifacts.refs import Ref
from artifacts.shards import Shards, record_digest
from artifacts.store import Store

RETRAININGS, TABLES, PARTS = 1000, 3000, 10
COMMAND = str(Path(sys.executable).with_name("lookbook"))


def fill(store: Store) -> None:
    """Twenty years of weeks, eight of nights; each table has one part of its own, and others that it shares."""
    os.fsync = lambda _: None  # type: ignore[assignment]  # only the making would be slower
    shards = Shards(store.disk)
    weights: list[tuple[Ref, Ref]] = []

    def publish(kind: str, name: str, content: bytes, inputs: dict[str, str]) -> Ref:
        return store.publish(kind, name, {"a.json": content}, settings={}, inputs=inputs, facts={})

    for week in range(RETRAININGS):
        dataset = publish("datasets", "shop", b"%d" % week, {})
        made = publish("weights", "shop", b"%d" % week, {"dataset": str(dataset)})
        measured = publish("metrics", "shop", b"%d" % week, {"weights": str(made), "dataset": str(dataset)})
        weights.append((made, dataset))
        if week % 3 == 0:
            choice = Choice("promote", str(made), str(made), "better", {"metrics": str(measured)})
            event = json.loads(json.dumps(choice.__dict__))
            number = week // 3 + 1
            event |= {"number": number, "previous": None, "at": "2026-01-01T00:00:00Z", "by": "a@b"}
            from artifacts.documents import seal

            store.disk.create(aliases.event_key("weights", "shop", "champion", number), seal(event))
    for night in range(TABLES):
        made, dataset = weights[night * RETRAININGS // TABLES]
        folder = f"photos-{night % 3}"
        parts = []
        for part in range(PARTS):
            digest = f"{folder}-{part}-{night if part == PARTS - 1 else night // 30}"
            record = record_digest(digest, f"/srv/{folder}")
            parts.append(shards.finished(record) or shards.finish(record, digest, rows(digest)))
        predictions.save(
            store,
            folder,
            parts=parts,
            weights=made,
            dataset=str(dataset),
            settings={},
            classes=["x"],
            image_spec={},
            report={},
            made={"folder": f"/srv/{folder}"},
        )


def rows(path: str) -> pa.Table:
    none = pa.array([None], pa.string())
    return pa.table({"path": [path], "label": ["x"], "confidence": pa.array([0.9], pa.float32()), "error": none})


def age(top: Path, days: float) -> None:
    for path in top.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - days * 86400
            os.utime(path, (then, then))


MEASURE = """
import json, sys, time
from pathlib import Path
from artifacts.collecting.collector import Collector
from artifacts.collecting.retention import Rules
from artifacts.store import Store
def peak():  # kB; getrusage's is that of the parent at first
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
base = peak()
collector, started = Collector(Store(sys.argv[1]), Rules()), time.perf_counter()
found = collector.plan() if sys.argv[2] == "plan" else collector.carry_out()
seconds = time.perf_counter() - started
print(json.dumps([seconds, (peak() - base) / 1024, len(found.removed), found.kept, found.bytes]))
"""


def measure(top: Path, what: str) -> None:
    answer = subprocess.run([sys.executable, "-c", MEASURE, str(top), what], capture_output=True, text=True, check=True)
    seconds, memory, removed, kept, freed = json.loads(answer.stdout)
    print(
        f"{what}: {seconds:.1f} s, {memory:.0f} MB more than its imports; {removed:,} removals, {kept:,} stay, "
        f"{freed / 1e6:.1f} MB"
    )


def years(top: Path) -> None:
    store, started = Store(top), time.perf_counter()
    fill(store)
    age(top, 100)
    print(f"made a store of {RETRAININGS:,} retrainings and {TABLES:,} tables in {time.perf_counter() - started:.0f} s")
    measure(top, "plan")
    measure(top, "remove")
    assert store.verify().corrupt == []
    for ref in store.refs():
        assert "problem" not in json.dumps(lineage_of(store, ref))


def lineage_of(store: Store, ref: Ref) -> object:
    return lineage(store, ref)["made_from"]


def loop(top: Path, minutes: float) -> None:
    """Commands and collections at once, until the time is over."""
    pictures = top / "pictures"
    pictures.mkdir()
    store = Store(top / "store")
    environment = {**os.environ, "LOOKBOOK_STORE": str(top / "store")}
    ends = time.monotonic() + 60 * minutes
    counts = {"retrain": 0, "score": 0, "collect": 0, "removed": 0}

    def run(*arguments: str) -> None:
        done = subprocess.run([COMMAND, *arguments], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
        counts[arguments[0]] += 1

    def retrain() -> None:
        seed = 0
        while time.monotonic() < ends:
            run("retrain", "--epochs", "1", "--seed", str(seed % 4), "--significance", "1")
            seed += 1

    def score() -> None:
        random = np.random.default_rng(0)
        while time.monotonic() < ends:
            for number in random.integers(0, 50, 10):
                pixels = random.integers(0, 255, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(pictures / f"{number}.png")
            run("score", str(pictures), "--weights", "champion")

    def collect() -> None:
        while time.monotonic() < ends:
            with store.disk.hold(living.TURN) as mine:
                if mine:
                    found = Collector(store, Rules(keep=1, keep_predictions=1, grace=1.0)).carry_out()
                    counts["collect"] += 1
                    counts["removed"] += len(found.removed)

    run("retrain", "--epochs", "1")
    with ThreadPoolExecutor(3) as threads:
        for each in [threads.submit(retrain), threads.submit(score), threads.submit(collect)]:
            each.result()
    found = store.verify()
    assert found.corrupt == [], found.corrupt
    print(f"{minutes:g} minutes: {counts}, nothing failed, {found.checked:,} files checked, all sound")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        years(Path(folder))
    if "--loop" in sys.argv:
        with tempfile.TemporaryDirectory() as folder:
            loop(Path(folder), float(sys.argv[sys.argv.index("--loop") + 1]))


if __name__ == "__main__":
    main()
