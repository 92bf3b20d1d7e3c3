"""A campaign of faults: operations of a store are disturbed at each call that changes a file.

    python tests/faults/campaign.py [--every N | --sample N [--seed SEED]] [--only OPERATION]... [--faults FAULT]...
                                    [--processes N]

Each operation runs undisturbed once, which counts its calls. Then, for the 1st, 2nd, ... of them (each Nth) it runs on
a fresh copy of the same store with a fault there, and once more without one:

- it is killed before or after the call;
- the call fails (ENOSPC, EIO, EDQUOT), or writes half of what it should;
- the clock on the wall jumps by a year, ahead or back, while that of the disk does not;
- the operation has stopped there while it runs a second time, to a call of that one's own, and then both go on, or the
  one that has stopped is killed.

Two faults have points of their own: it runs on a disk with 0, 1, 2, ... (each Nth) pages left, and with 0, 8, 16, ...
MiB of memory to map, until it ends well. A disk that is really full needs the right to mount one; where there is none,
the last line tells so.

A sample tries N points of each fault and operation. They are drawn by the seed, one of each of equal stretches of what
the operation does, so that all of it is disturbed by something.

However it is disturbed, it ends well, or by an error of Lookbook's, or because it was killed; without memory it may
also end by any other error, or abort, but not hang. Repeated, it ends well. What is then in the store must be what it
is without a fault: the same versions, rows and decisions; so a collection whose clock jumps has removed no more than it
would have. `verify` must be clean, and what is left in staging must be what a collection takes.

It needs a C compiler (cc): preload.c is what counts, kills, fails, stops and jumps. The process that starts it forks
one for each run, so that TensorFlow is imported once. Several processes take an operation each.
"""

import argparse
import ctypes
import itertools
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from children import DONE, REFUSED, Answer, in_child
from disturbances import COUNT, FAULTS, MEMORY_STEP, PAGE, Fault, arm, mapped, may_mount

HERE = Path(__file__).parent
KINDS = ("datasets/", "weights/", "metrics/", "predictions/", "backbones/")
_NEVER = 10**9
_DAY = 86400


@dataclass
class Report:
    """points: fault -> how often it was tried; holes: what was not as it must be."""

    points: Counter[str] = field(default_factory=Counter)
    holes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Undisturbed:
    """An operation without a fault.

    state: what is in the store then.
    calls: how many calls that change a file it takes.
    pages: how many pages the store grows by.
    memory: how many times 8 MiB it maps at once.
    """

    state: dict[str, Any]
    calls: int
    pages: int
    memory: int

    def last(self, fault: str) -> int:
        """The last point at which an operation meets this fault for certain."""
        return {"full disk": self.pages, "little memory": self.memory}.get(fault, self.calls)


@dataclass(frozen=True)
class Every:
    """Each Nth point."""

    step: int

    def points(self, name: str, faults: list[str], undisturbed: Undisturbed) -> dict[str, Iterable[int]]:
        """fault -> the points to try, in their order; without an end where it is rising."""
        calls = range(1, undisturbed.calls + 1, self.step)
        return {each: itertools.count(1, self.step) if FAULTS[each].rising else calls for each in faults}


@dataclass(frozen=True)
class Sample:
    """So many points of each fault."""

    size: int
    seed: int

    def points(self, name: str, faults: list[str], undisturbed: Undisturbed) -> dict[str, Iterable[int]]:
        drawn = random.Random(f"{self.seed} {name}")
        at_calls = [each for each in faults if not FAULTS[each].rising]
        calls = spread(drawn, undisturbed.calls, self.size * len(at_calls))
        drawn.shuffle(calls)
        found: dict[str, Iterable[int]] = {}
        for each in faults:
            if FAULTS[each].rising:
                found[each] = spread(drawn, undisturbed.last(each), self.size)
            else:
                found[each] = [calls.pop() for _ in range(self.size)]
        return found


def spread(drawn: random.Random, last: int, points: int) -> list[int]:
    """So many points from 1 to `last`, one of each of equal stretches."""
    begins = [1 + last * each // points for each in range(points)]
    return [drawn.randint(begin, max(begin, last * (each + 1) // points)) for each, begin in enumerate(begins)]


def compiled(folder: Path) -> Path:
    """The library that makes faults."""
    library = folder / "faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "preload.c", "-ldl"], check=True)
    return library


def campaign(top: Path, name: str, faults: list[str], choice: Every | Sample) -> Report:
    """Try points of an operation. Runs in a process that was started with the library of `compiled`. top: a folder."""
    from operations import OPERATIONS

    operation = OPERATIONS[name]
    report = Report()
    started = time.monotonic()
    top = top / name.replace(" ", "-")
    template = top / "template"
    template.mkdir(parents=True)
    must(in_child(template, operation.prepare), f"{name}: its store can't be made")
    undisturbed = expected(top, template, operation)
    for fault, points in choice.points(name, faults, undisturbed).items():
        for point in points:
            report.points[fault] += 1
            well, hole = tried(top, template, operation, FAULTS[fault], point, undisturbed)
            if hole:
                report.holes.append(f"{name}, {fault} at {point}: {hole}")
                print(report.holes[-1], flush=True)
            if FAULTS[fault].rising and well:
                break
    remove(template)
    seconds = time.monotonic() - started
    print(f"{name}: {undisturbed.calls} calls, {seconds:.0f} s, {len(report.holes)} holes", flush=True)
    return report


def expected(top: Path, template: Path, operation: Any) -> Undisturbed:
    work = copied(template, top / "work")
    read, write = os.pipe()

    def counted(folder: Path) -> None:
        before = mapped("VmSize")
        arm(folder, _NEVER, COUNT)
        operation.run(folder)
        calls = ctypes.CDLL(None).faults_met()
        os.write(write, json.dumps([calls, mapped("VmPeak") - before]).encode())

    must(in_child(work, counted), "it fails without a fault")
    calls, memory = json.loads(os.read(read, 100))
    os.close(read)
    os.close(write)
    grown = pages(work) - pages(template)
    must(in_child(work, operation.run), "it fails when it is repeated")
    found = state(work)
    remove(work)
    return Undisturbed(found, calls, max(grown, 1), -(-memory // MEMORY_STEP) or 1)


def pages(folder: Path) -> int:
    """How many pages the files of the store have together."""
    found = [os.lstat(path) for path in (folder / "store").rglob("*") if path.is_file()]
    return sum(-(-size // PAGE) for size in {status.st_ino: status.st_size for status in found}.values())


def tried(
    top: Path, template: Path, operation: Any, fault: Fault, point: int, undisturbed: Undisturbed
) -> tuple[bool, str | None]:
    """Whether the operation ended well in spite of the fault; and what is not as it must be after a repetition, None
    where all is."""
    work = copied(template, top / "work")
    try:
        answers = fault.disturb(work, operation.run, point, undisturbed.calls)
        return all(each.status == DONE for each in answers), problem(work, operation, fault, answers, undisturbed)
    finally:
        remove(work)


def problem(work: Path, operation: Any, fault: Fault, answers: list[Answer], undisturbed: Undisturbed) -> str | None:
    for answer in answers:
        if answer.status not in {DONE, REFUSED, *fault.ends}:
            return f"it ended as nothing should: {answer}"
    repeated = in_child(work, operation.run)
    if repeated.status != DONE:
        return f"repeated, it fails: {repeated}"
    if found := different(undisturbed.state, state(work)):
        return found
    judged = in_child(work, sound)
    return None if judged.status == DONE else judged.said


def sound(folder: Path) -> None:
    """Raises AssertionError unless `verify` is clean, and staging is as good as empty once it was collected."""
    from artifacts.collecting.collector import Collector
    from artifacts.collecting.retention import Rules
    from artifacts.store import Store

    store = Store(folder / "store")
    corrupt = store.verify().corrupt
    assert not corrupt, f"verify: {corrupt[:3]}"
    aged(folder / "store", 30)
    Collector(store, Rules(keep=100, keep_predictions=100)).carry_out()
    store.prepare()  # whoever comes next sweeps what processes have left
    left = [key for key in store.disk.list("staging") if not key.startswith(("staging/turns/", "staging/prepared/"))]
    kept = {key for key in left if key.startswith(("staging/shards/", "staging/parts/"))}
    assert set(left) <= kept, f"a collection leaves {sorted(set(left) - kept)[:3]} in staging"
    assert store.verify().corrupt == [], "verify after a collection"


def state(folder: Path) -> dict[str, Any]:
    """key -> what it holds, of all that is not on its way; without times and names of people. A version is there when
    its manifest is."""
    store = folder / "store"
    found: dict[str, Any] = {}
    for path in sorted(store.rglob("*")):
        key = path.relative_to(store).as_posix()
        published = not key.startswith(KINDS) or (store.joinpath(*key.split("/")[:3]) / "manifest.json").exists()
        if path.is_file() and published and not key.startswith(("staging/", "runs/living/")):
            found[key] = without_times(json.loads(path.read_bytes())) if path.suffix == ".json" else path.read_bytes()
    for key in [key for key in found if key.startswith("pins/")]:  # pinned twice is pinned
        event = found.pop(key)
        found[f"pins of {event['ref']}"] = event["action"], event["reason"]
    for key in [key for key in found if key.startswith("aliases/predictions/")]:  # found again, it is what it was
        if found[key]["action"] == "keep" and found[key]["challenger"] == found[key]["ref"]:
            del found[key]
    return found


def without_times(document: Any) -> Any:
    if isinstance(document, dict):
        hidden = ("provenance", "checksum", "at", "by", "rendered", "created", "removed_at", "seconds", "listed")
        return {name: without_times(value) for name, value in document.items() if name not in hidden}
    return [without_times(each) for each in document] if isinstance(document, list) else document


def different(expected: dict[str, Any], found: dict[str, Any]) -> str | None:
    lost, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = [key for key in expected.keys() & found.keys() if expected[key] != found[key] and not drawn(key)]
    if lost or more or other:
        return f"lost {lost[:3]}, more {more[:3]}, other {sorted(other)[:3]}"
    return None


def drawn(key: str) -> bool:
    """Pages and pictures for people tell how long things took."""
    return key.endswith((".html", ".png", ".md"))


def must(answer: Answer, what: str) -> None:
    if answer.status != DONE:
        raise AssertionError(f"{what}: {answer}")


def copied(template: Path, to: Path) -> Path:
    """With its hard links and times."""
    subprocess.run(["cp", "-a", template, to], check=True)
    return to


def remove(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)
    shutil.rmtree(folder)


def aged(store: Path, days: float) -> None:
    for path in store.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - days * _DAY
            os.utime(path, (then, then))


def started_with_faults(arguments: list[str]) -> int:
    """This program, started with the library; the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "LD_PRELOAD": str(compiled(Path(folder))), "LOOKBOOK_FAULTS": "1"}
        paths = [str(HERE.parents[1]), str(HERE), str(HERE.parent)]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        return subprocess.run([sys.executable, __file__, *arguments], env=environment, check=False).returncode


def main() -> int:
    from operations import OPERATIONS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try each Nth point only")
    parser.add_argument("--sample", type=int, metavar="N", help="try N points of each fault and operation only")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="draws the sample")
    parser.add_argument("--only", action="append", choices=list(OPERATIONS), help="an operation; may be repeated")
    parser.add_argument("--faults", action="append", choices=list(FAULTS), help="a fault; may be repeated")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="so many operations side by side")
    asked = parser.parse_args()
    names = asked.only or list(OPERATIONS)
    faults = asked.faults or list(FAULTS)
    untried = ""
    if "full disk" in faults and not may_mount():
        faults.remove("full disk")
        untried = "; full disk not tried: this user may not mount one"
    choice: Every | Sample = Every(asked.every)
    if asked.sample:
        choice = Sample(asked.sample, asked.seed)
        print(f"a sample of seed {asked.seed}", flush=True)
    report = Report()
    with (
        tempfile.TemporaryDirectory() as top,
        ProcessPoolExecutor(asked.processes, multiprocessing.get_context("fork")) as processes,
    ):
        running = [processes.submit(campaign, Path(top), name, faults, choice) for name in names]
        for each in running:
            report.points += each.result().points
            report.holes += each.result().holes
    tried = ", ".join(f"{count:,} {fault}" for fault, count in report.points.items())
    print(f"{sum(report.points.values()):,} points ({tried}){untried}; {len(report.holes)} holes")
    return 1 if report.holes else 0


if __name__ == "__main__":
    if "LOOKBOOK_FAULTS" in os.environ:
        sys.exit(main())
    sys.exit(started_with_faults(sys.argv[1:]))
