"""Folders of ten thousand to ten million files: time and peak memory of listing, planning, scoring and publishing.

    python benchmarks/scale.py [FILES] [--scored FILES] [--chart PICTURE]

Makes folders of 10,000, 100,000 and so on up to FILES names (1,000,000 by default), hard links to 10,000 PNG of 28x28:
10,000 names a sub-folder, and once more all in one. Each is listed and planned as `lookbook score` does it. Those in
sub-folders, up to --scored (by default all), are then scored and published. Every step is a process of its own; its
memory is its peak above what it held before it began, with everything imported. Takes two minutes; with 10000000 a
quarter of an hour and 2 GB of disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from retrain import BIN, own_home
from score import test_images

LEAST, MOST, SOURCES, A_FOLDER = 10_000, 1_000_000, 10_000, 10_000

# Not ru_maxrss: a process takes that over from the one that started it, however large that was.
COMMON = """
import json, re, sys, time
import pandas  # which pyarrow imports where it is there
from pathlib import Path
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.plan import plan_folder
from tasks.requests import ScoreRequest
from tasks.scoring.job import make_job
from tasks.shared.plans import load_plan
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
settings = Settings(image_roots={"given": sys.argv[1]})
store = Store(settings.store)
job = make_job(store, settings, ScoreRequest("given:", name=sys.argv[2]))
"""
PLAN = """
before = peak()
started = time.perf_counter()
key = plan_folder(store, settings, job)
seconds, memory = time.perf_counter() - started, peak() - before
plan = load_plan(store.disk, key)
size = len(store.disk.read(f"staging/plans/{plan.listing}.arrow")) + len(store.disk.read(key))
print(json.dumps({"key": key, "files": plan.rows, "shards": len(plan.digests), "seconds": seconds, "memory": memory,
    "size": size}))
"""
SCORE = """
from tasks.commit import commit_predictions
from tasks.score import score_plan
from tasks.shared import model
model.load(store, store.resolve("champion"))  # TensorFlow's import is left out
before = peak()
plan = load_plan(store.disk, sys.argv[3])
outcome = score_plan(store, settings, job, plan)
assert not any(part.errors for part in outcome.parts)
started = time.perf_counter()
ref = commit_predictions(store, settings, job, sys.argv[3], outcome)
published = time.perf_counter() - started
print(json.dumps({"scored": outcome.seconds, "published": published, "scored_memory": peak() - before,
    "table": sum(part.size for part in outcome.parts),
    "manifest": (store.open(ref).folder / "manifest.json").stat().st_size}))
"""


@dataclass(frozen=True)
class Planned:
    """A folder that was listed and planned.

    layout: "sub-folders" or "one folder".
    seconds; memory: MB; size: of the plan, in bytes.
    """

    key: str
    layout: str
    files: int
    shards: int
    seconds: float
    memory: float
    size: int


@dataclass(frozen=True)
class Scored:
    """A plan that was scored and published.

    scored, published: seconds. scored_memory: MB. table, manifest: bytes.
    """

    files: int
    scored: float
    published: float
    scored_memory: float
    table: int
    manifest: int


def make_sources(top: Path) -> list[Path]:
    sources = [top / f"{index:04d}.png" for index in range(SOURCES)]
    for (image, _), path in zip(test_images(), sources, strict=True):
        Image.fromarray(image).save(path)
    return sources


def make_folder(folder: Path, sources: list[Path], files: int, a_folder: int) -> None:
    """Names without bytes: ext4 lets an inode have 65,000."""
    for begin in range(0, files, a_folder):
        inner = folder / f"{begin // a_folder:04d}"
        inner.mkdir(parents=True)
        descriptor = os.open(inner, os.O_RDONLY)
        for index in range(begin, min(begin + a_folder, files)):
            os.link(sources[index % SOURCES], f"{index:08d}.png", dst_dir_fd=descriptor)
            if index % 100_000 == 0:
                print(f"\r{folder.name}: {index:,} of {files:,} names", end="", file=sys.stderr, flush=True)
        os.close(descriptor)
    print("\r\033[K", end="", file=sys.stderr, flush=True)


def remove_folder(folder: Path) -> None:
    """Python's rmtree holds all names of a folder."""
    subprocess.run(["rm", "-r", folder], check=True)


def step(program: str, environment: dict[str, str], *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-c", COMMON + program, *map(str, arguments)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment},
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def plan(folder: Path, layout: str, environment: dict[str, str]) -> Planned:
    planned = Planned(layout=layout, **step(PLAN, environment, folder, folder.name))
    print(
        f"{planned.files:,} files, {layout}: planned in {planned.seconds:.1f} s "
        f"({planned.files / planned.seconds:,.0f} a second), {planned.memory:.0f} MB, "
        f"{planned.shards:,} shards in {planned.size / 1e6:.1f} MB",
        flush=True,
    )
    return planned


def score(folder: Path, planned: Planned, environment: dict[str, str]) -> Scored:
    scored = Scored(files=planned.files, **step(SCORE, environment, folder, folder.name, planned.key))
    whole = planned.seconds + scored.scored + scored.published
    print(
        f"{scored.files:,} files: scored in {scored.scored:.1f} s ({scored.files / scored.scored:,.0f} a second), "
        f"published with a report in {scored.published:.1f} s, {scored.scored_memory:.0f} MB; with its plan "
        f"{whole:.1f} s, {scored.files / whole:,.0f} a second; table {scored.table / 1e6:.1f} MB, "
        f"manifest {scored.manifest / 1e3:.0f} KB",
        flush=True,
    )
    return scored


def chart(planned: list[Planned], scored: list[Scored], picture: Path) -> None:
    """Time and peak memory over the number of files, as the charts of reports are drawn."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), dpi=100, layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for layout, colour, marker in (("sub-folders", "#3b6ea5", "o"), ("one folder", "#6a9f58", "s")):
        found = [each for each in planned if each.layout == layout]
        files = [each.files for each in found]
        style = {"color": colour, "marker": marker, "markersize": 4, "label": f"list and plan, {layout}"}
        time_axes.plot(files, [each.seconds for each in found], **style)
        memory_axes.plot(files, [each.memory for each in found], **style)
    files, style = [each.files for each in scored], {"color": "#c8553d", "marker": "^", "markersize": 4}
    time_axes.plot(files, [each.scored + each.published for each in scored], **style, label="score and publish")
    memory_axes.plot(files, [each.scored_memory for each in scored], **style, label="score and publish")
    for axes, title in ((time_axes, "seconds"), (memory_axes, "peak memory (MB)")):
        axes.set(title=title, xlabel="files", xscale="log", yscale="log")
        axes.grid(alpha=0.3)
    time_axes.legend(frameon=False)
    memory_axes.set_ylim(1, 10_000)
    figure.savefig(picture)
    Image.open(picture).convert("RGB").quantize(64).save(picture, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", type=int, nargs="?", default=MOST)
    parser.add_argument("--scored", type=int)
    parser.add_argument("--chart", type=Path)
    asked = parser.parse_args()
    planned, scored = [], []
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        environment = own_home(top)
        sources = make_sources(top)
        subprocess.run([BIN / "lookbook", "retrain", "--epochs", "1"], env={**os.environ, **environment},
            check=True, capture_output=True)  # fmt: skip
        files = LEAST
        while files <= asked.files:
            for layout, a_folder in (("one folder", files), ("sub-folders", A_FOLDER)):
                folder = top / f"{layout[:3]}-{files}"
                make_folder(folder, sources, files, a_folder)
                planned.append(plan(folder, layout, environment))
                if layout == "sub-folders" and files <= (asked.scored or asked.files):
                    scored.append(score(folder, planned[-1], environment))
                remove_folder(folder)
            files *= 10
        if asked.chart:
            chart(planned, scored, asked.chart)


if __name__ == "__main__":
    main()
