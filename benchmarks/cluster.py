"""Work on Ray beside the same work without it, in one run: overhead, efficiency, and what a kill costs.

    python benchmarks/cluster.py [--kills]

Makes its own folder in a temporary one: 70,000 PNG of 28x28 (hard links to the 10,000 test images), scored by a network
that is trained for it. With --kills actors are killed 100 times during one scoring, and the tables compared. Takes
four minutes, fifteen more with --kills. On one machine nothing gets faster by Ray: this measures what it costs.
"""

import json
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from clusters import Cluster
from retrain import BIN

from artifacts.settings import Settings
from tasks.vision.sources import FASHION_MNIST, fetch, read_side

RUNS = 5
ACTORS, SHARDS = 16, 320

SCORE = """
import json, sys, time
from artifacts.settings import Settings
from artifacts.store import Store
from tasks import plan as plans
from tasks.commit import commit_predictions
from tasks.plan import plan_folder
from tasks.requests import ScoreRequest
from tasks.score import score_plan
from tasks.scoring.job import make_job
from tasks.shared.plans import load_plan
from tasks.shared.watching import Watch
asked = json.loads(sys.argv[1])
plans.SHARD_FILES = asked.get("shard_files", plans.SHARD_FILES)
settings = Settings(image_roots={"given": asked["folder"]})
store = Store(settings.store)
job = make_job(store, settings, ScoreRequest("given:", name=asked["name"], fresh=True, run_on=asked["run_on"]))
key = plan_folder(store, settings, job)
plan = load_plan(store.disk, key)
said = {"warned": 0, "connected": 0.0}
started = time.perf_counter()
def tell(line): said["connected"] = said["connected"] or time.perf_counter() - started
def warn(line):
    said["warned"] += 1
    if "left out" in line:
        print(line, file=sys.stderr)
print("started", flush=True)
outcome = score_plan(store, settings, job, plan, Watch(tell=tell, warn=warn), asked.get("begin"))
seconds = time.perf_counter() - started
ref = commit_predictions(store, settings, job, key, outcome) if asked.get("commit") else None
files = {name: each["sha256"] for name, each in store.open(ref).identity["files"].items()} if ref else {}
print(json.dumps({"seconds": seconds, "rows": plan.rows, "files": files, **said}))
"""

RAY = """
import logging, os, time
started = time.perf_counter()
import ray
processors = os.cpu_count()
ray.init(address="local", include_dashboard=False, num_cpus=processors, object_store_memory=75 << 20,
    log_to_driver=False, logging_level=logging.ERROR)
class Nothing:
    def do(self): pass
ray.get(ray.remote(Nothing).options(num_cpus=processors).remote().do.remote())
started_in = time.perf_counter() - started
ray.shutdown()
print(started_in, time.perf_counter() - started)
"""


def run(environment: dict[str, str], **asked: Any) -> subprocess.Popen[str]:
    command = [BIN / "python", "-c", SCORE, json.dumps(asked)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)


def answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, _ = process.communicate()
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def make_folder(top: Path) -> None:
    settings = Settings()
    test = read_side(
        FASHION_MNIST, fetch(FASHION_MNIST, settings.cache, settings.dataset_mirror, lambda *_: None), "test"
    )
    for index, image in enumerate(test.images[..., 0]):
        (top / f"{index % 100:02d}").mkdir(parents=True, exist_ok=True)
        first = top / f"{index % 100:02d}" / f"0-{index:05d}.png"
        Image.fromarray(image).save(first)
        for copy in range(1, 7):
            os.link(first, first.with_name(f"{copy}-{index:05d}.png"))


def overhead(folder: Path, environment: dict[str, str]) -> None:
    """`local` beside `here`, in turns, beside a Ray that starts an actor that does nothing, and ends."""
    took: list[list[float]] = []
    for _ in range(RUNS):
        ray_alone = list(map(float, subprocess.check_output([BIN / "python", "-c", RAY]).split()[-2:]))
        turn = [*ray_alone]
        for run_on in ("here", "cluster"):
            started = time.perf_counter()
            settings = {**environment, "LOOKBOOK_CLUSTER": "local"}
            found = answer(run(settings, folder=str(folder), name="png", run_on=run_on, commit=True))
            turn += [found["seconds"], time.perf_counter() - started]
        took.append(turn)
    start, whole, here, here_whole, local, local_whole = (
        statistics.median(column) for column in zip(*took, strict=True)
    )
    print(f"Ray alone: start {start:.2f} s, with its end {whole:.2f} s")
    print(f"70,000 PNG: the stage here {here:.2f} s, on a local Ray {local:.2f} s")
    print(f"70,000 PNG: the process here {here_whole:.2f} s, on a local Ray {local_whole:.2f} s")
    stages = statistics.median((each[4] - each[0]) / each[2] for each in took)
    processes = statistics.median((each[5] - each[1]) / each[3] for each in took)
    print(f"beside here, Ray left out: the stage {stages:.2f}, the process {processes:.2f}")


def efficiency(folder: Path, environment: dict[str, str]) -> None:
    """Two actors of one processor each beside two processes that were started by hand, each with half of the shards."""
    with Cluster() as cluster:
        for name in ("one", "two"):
            cluster.start(name)
        ray = {**environment, **cluster.environment, "LOOKBOOK_CLUSTER": cluster.address, "LOOKBOOK_DECODERS": "1"}
        ratios = []
        for _ in range(RUNS):
            both = [
                run(
                    {**environment, "LOOKBOOK_DECODERS": "1"},
                    folder=str(folder), name="hand", run_on="here", shard_files=4000, begin=begin,
                )
                for begin in (0.0, 0.5)
            ]  # fmt: skip
            by_hand = max(answer(each)["seconds"] for each in both)
            found = answer(run(ray, folder=str(folder), name="ray", run_on="cluster", shard_files=4000))
            ratios.append(by_hand / (found["seconds"] - found["connected"]))
    print(f"two actors beside two processes: {statistics.median(ratios):.2f} of their rate, the connection left out")


class Sleeping:
    """A work whose pieces take a second each, in which nothing is done."""

    def do(self, numbers: list[int], on_rows: Any) -> Any:
        for number in numbers:
            time.sleep(1.0)
            on_rows(1, 0, 0)
            yield number, {"rows": 1, "errors": 0, "reused": 0}


def simulated() -> None:
    """Shards that only sleep, on 16 logical processors; then an actor is killed."""
    import ray

    from tasks.cluster import conductor
    from tasks.cluster.actor import Worker
    from tasks.cluster.likeness import likeness

    class Sleeper(Worker):
        def look(self) -> dict[str, Any]:
            self._work = Sleeping()
            return {}

    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    ray.init(address="local", num_cpus=ACTORS, include_dashboard=False, object_store_memory=75 << 20,
        log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
    conductor.Worker = Sleeper  # type: ignore[misc]
    conductor._MOST_PROCESSORS = 1
    free = ray.available_resources()["object_store_memory"]
    task = {"likeness": dict(likeness()), "numbers": list(range(SHARDS)), "piece": "shard", "work": {}}
    at_work: list[float] = []

    class Timed(conductor.Conductor):
        def _end(self, hand: conductor.Hand) -> None:
            at_work.append(time.monotonic() - (hand.started or time.monotonic()))
            super()._end(hand)

    Timed(task, lambda _: None, threading.Event()).run()
    print(f"{SHARDS} shards of 1 s on {ACTORS} actors: {SHARDS / sum(at_work):.3f} of their time is work")
    print(f"object store in use: {free - ray.available_resources()['object_store_memory']:.0f} bytes")
    restarts = [_restart_seconds(conductor, task) for _ in range(RUNS)]
    median, most = statistics.median(restarts), max(restarts)
    print(f"from an actor's SIGKILL to its shard's restart: {median:.1f} s, at most {most:.1f}, without what it loads")
    ray.shutdown()


def _restart_seconds(conductor: Any, task: dict[str, Any]) -> float:
    """Kill the one actor at work; how long until another process is at its shard."""
    ended, times = threading.Event(), {}

    class Watched(conductor.Conductor):  # type: ignore[misc]
        def _look_at_hands(self) -> None:
            super()._look_at_hands()
            [hand] = self._hands.values()
            if hand.doing == "do" and hand.pid and not times:
                os.kill(hand.pid, signal.SIGKILL)
                times["killed"], times["pid"] = time.perf_counter(), hand.pid
            elif times and hand.pid != times["pid"] and "again" not in times:
                times["again"] = time.perf_counter()
                ended.set()

    conductor._MOST_PROCESSORS = ACTORS
    Watched({**task, "numbers": [0, 1]}, lambda _: None, ended).run()
    return float(times["again"] - times["killed"])


def kills(top: Path, environment: dict[str, str]) -> None:
    """Kill actors at 100 random moments while 70,000 JPEG are scored; is the table that of one process?"""
    large = np.random.default_rng(0).integers(0, 255, (1024, 1024), np.uint8)
    folder = top / "large"
    folder.mkdir()
    for index in range(200):
        large[index] = index
        Image.fromarray(large).save(folder / f"{index:03d}-000.jpg", quality=60)
        for copy in range(1, 350):
            os.link(folder / f"{index:03d}-000.jpg", folder / f"{index:03d}-{copy:03d}.jpg")
    asked = {"folder": str(folder), "shard_files": 100, "commit": True}
    with Cluster() as cluster:
        for name in ("one", "two"):
            cluster.start(name)
        ray = {**environment, **cluster.environment, "LOOKBOOK_CLUSTER": cluster.address, "LOOKBOOK_DECODERS": "1"}
        process = run(ray, **asked, name="killed", run_on="cluster")
        killed = 0
        chance = random.Random(0)
        while killed < 100 and process.poll() is None:
            # In turns: an actor needs some six seconds for its first shard, and without any a node is left out.
            time.sleep(chance.uniform(4, 6))
            for pid in cluster.actors(("one", "two")[killed % 2])[:1]:
                os.kill(pid, signal.SIGKILL)
                killed += 1
        found = answer(process)
    alone = answer(run(environment, **asked, name="alone", run_on="here"))
    print(f"{killed} kills in {found['seconds']:.0f} s ({found['warned']} told), {alone['seconds']:.0f} s without")
    print(f"tables of {found['rows']:,} rows: {'equal' if found['files'] == alone['files'] else 'DIFFERENT'}")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        environment = {"LOOKBOOK_STORE": str(top / "store"), "PREFECT_HOME": str(top / "prefect")}
        subprocess.run([BIN / "lookbook", "retrain", "--epochs", "1"], env={**os.environ, **environment},
            check=True, capture_output=True)  # fmt: skip
        make_folder(top / "png")
        overhead(top / "png", environment)
        for copy in range(7, 28):  # so that what is started once counts little
            for first in sorted((top / "png").glob("*/0-*.png")):
                os.link(first, first.with_name(first.name.replace("0-", f"{copy}-", 1)))
        efficiency(top / "png", environment)
        if "--kills" in sys.argv:
            kills(top, environment)
    simulated()


if __name__ == "__main__":
    main()
