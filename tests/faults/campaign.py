"""A campaign of faults: operations of a store that are killed, or whose calls fail, at each call that changes a file.

    python tests/faults/campaign.py [--every N] [--only OPERATION]... [--faults FAULT]...

Each operation runs undisturbed once, which counts its calls. Then, for the 1st, 2nd, ... of them (each Nth) it runs on
a fresh copy of the same store with a fault there, and once more without one. What is then in the store must be what it
is without a fault: the same versions, rows and decisions. `verify` must be clean, and what is left in staging must be
what a collection takes.

It needs a C compiler (cc): preload.c is what counts, kills and fails. The process that starts it forks one for each
run, so that TensorFlow is imported once.
"""

import argparse
import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COUNT, KILL_BEFORE, KILL_AFTER, FAIL, SHORT = range(5)  # as in preload.c
FAULTS = {
    "killed before": (KILL_BEFORE, 0),
    "killed after": (KILL_AFTER, 0),
    "ENOSPC": (FAIL, errno.ENOSPC),
    "EIO": (FAIL, errno.EIO),
    "EDQUOT": (FAIL, errno.EDQUOT),
    "short write": (SHORT, 0),
}
DONE, REFUSED, BROKE = 0, 3, 4  # how an operation ends: well, by an error of Lookbook's, by another one
KINDS = ("datasets/", "weights/", "metrics/", "predictions/", "backbones/")
_NEVER = 10**9
_DAY = 86400


@dataclass
class Report:
    """points: fault -> how often it was tried; holes: what was not as it must be."""

    points: Counter[str] = field(default_factory=Counter)
    holes: list[str] = field(default_factory=list)


def compiled(folder: Path) -> Path:
    """The library that makes faults."""
    library = folder / "faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "preload.c", "-ldl"], check=True)
    return library


def campaign(
    top: Path, operations: dict[str, Any], faults: list[str], every: int, say: Callable[[str], None] = print
) -> Report:
    """Try all points. Runs in a process that was started with the library of `compiled`. top: an empty folder."""
    report = Report()
    template = top / "template"
    for name, operation in operations.items():
        started = time.monotonic()
        template.mkdir()
        must(in_child(template, operation.prepare), f"{name}: its store can't be made")
        undisturbed, calls = expected(top, template, operation)
        for fault in faults:
            for point in range(1, calls + 1, every):
                report.points[fault] += 1
                if hole := tried(top, template, operation, fault, point, undisturbed):
                    report.holes.append(f"{name}, {fault} at call {point} of {calls}: {hole}")
                    say(report.holes[-1])
        remove(template)
        say(f"{name}: {calls} calls, {time.monotonic() - started:.0f} s, {len(report.holes)} holes so far")
    return report


def expected(top: Path, template: Path, operation: Any) -> tuple[dict[str, Any], int]:
    """What is in the store without a fault, and how many calls that takes."""
    work = copied(template, top / "work")
    read, write = os.pipe()

    def counted(folder: Path) -> None:
        arm(folder, _NEVER, COUNT, 0)
        operation.run(folder)
        os.write(write, str(ctypes.CDLL(None).faults_met()).encode())

    must(in_child(work, counted), "it fails without a fault")
    calls = int(os.read(read, 100))
    os.close(read)
    os.close(write)
    must(in_child(work, operation.run), "it fails when it is repeated")
    found = state(work)
    remove(work)
    return found, calls


def tried(top: Path, template: Path, operation: Any, fault: str, point: int, undisturbed: dict[str, Any]) -> str | None:
    """What is not as it must be after a fault and a repetition; None where all is."""
    work = copied(template, top / "work")
    kind, number = FAULTS[fault]

    def disturbed(folder: Path) -> None:
        arm(folder, point, kind, number)
        operation.run(folder)

    try:
        status, said = in_child(work, disturbed)
        if status == BROKE:
            return f"it ended with a traceback: {said}"
        if status == -9 and kind not in (KILL_BEFORE, KILL_AFTER):
            return "it was killed, though nobody did"
        status, said = in_child(work, operation.run)
        if status != DONE:
            return f"repeated, it fails: {said}"
        if problem := different(undisturbed, state(work)):
            return problem
        status, said = in_child(work, sound)
        return None if status == DONE else said
    finally:
        remove(work)


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


def in_child(folder: Path, work: Callable[[Path], object]) -> tuple[int, str]:
    """Run it in a process of its own: how that ended (-9: killed), and what it said."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        status, said = BROKE, ""
        try:
            status, said = ended(folder, work)
        finally:
            os.write(write, said.encode()[:4000])
            os._exit(status)
    os.close(write)
    with open(read, "rb") as answers:
        said = answers.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def ended(folder: Path, work: Callable[[Path], object]) -> tuple[int, str]:
    from artifacts.errors import LookbookError

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        work(folder)
    except LookbookError as error:
        return REFUSED, str(error)
    except BaseException as error:
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        return BROKE, f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    return DONE, ""


def arm(folder: Path, at: int, kind: int, number: int) -> None:
    ctypes.CDLL(None).faults_arm(os.fsencode(folder / "store"), ctypes.c_long(at), kind, number)


def must(answer: tuple[int, str], what: str) -> None:
    if answer[0] != DONE:
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
    parser.add_argument("--every", type=int, default=1, help="try each Nth call only")
    parser.add_argument("--only", action="append", choices=list(OPERATIONS), help="an operation; may be repeated")
    parser.add_argument("--faults", action="append", choices=list(FAULTS), help="a fault; may be repeated")
    asked = parser.parse_args()
    chosen = {name: OPERATIONS[name] for name in asked.only or OPERATIONS}
    with tempfile.TemporaryDirectory() as top:
        report = campaign(Path(top), chosen, asked.faults or list(FAULTS), asked.every)
    tried = ", ".join(f"{count:,} {fault}" for fault, count in report.points.items())
    print(f"{sum(report.points.values()):,} points ({tried}); {len(report.holes)} holes")
    return 1 if report.holes else 0


if __name__ == "__main__":
    if "LOOKBOOK_FAULTS" in os.environ:
        sys.exit(main())
    sys.exit(started_with_faults(sys.argv[1:]))
