"""What each test costs, and by what: `make test-costs` loads this as a plugin of pytest and prints three tables.

Wall time is what a worker spends in a test; processor time is that of the worker and of all processes below it, those
that still work included. What a fixture of the session costs is on the account of the test that asks for it first. What
a test starts is seen by an audit hook in the worker: processes by the program that they run, forks, and the import of
TensorFlow or Prefect. All of it stays in pytest's cache as `lookbook/costs`, one entry a test.
"""

import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TICKS = os.sysconf("SC_CLK_TCK")
HEAVY = ("tensorflow", "prefect")
PROGRAMS = {  # a word of a command -> what it starts; the first that fits
    "serving": "server",
    "prefect": "server",
    "lookbook": "lookbook",
    "playwright": "browser",
    "decoder.py": "decoder",
    "moto": "bucket",
    "trainings.py": "training",
    "campaign.py": "campaign",
}
DEAREST = 40  # tests that the last table names

started: Counter[str] = Counter()


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        words = [os.fsdecode(each) for each in arguments[1]]
        found = next((PROGRAMS[part] for part in PROGRAMS if any(part in word for word in words)), None)
        started[found or Path(words[0]).name] += 1
    elif event in ("os.fork", "os.posix_spawn"):
        started["fork"] += 1
    elif event == "import" and arguments[0] in HEAVY:
        started[f"import {arguments[0]}"] += 1


def _processor_seconds(pid: int) -> float:
    """Of a process, the children that it has waited for, and those that still live."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [
            child
            for thread in Path(f"/proc/{pid}/task").iterdir()
            for child in (thread / "children").read_text().split()
        ]
    except OSError:  # it has just ended
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS + sum(_processor_seconds(int(child)) for child in children)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Brackets set-up, test and tear-down; the last report to come carries what they cost together."""
    started.clear()
    item.stash[BEGAN] = (time.monotonic(), time.process_time(), _processor_seconds(os.getpid()))
    return (yield)


BEGAN = pytest.StashKey[tuple[float, float, float]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    report = yield
    if report.when == "teardown":
        wall, own, processor = item.stash[BEGAN]
        # What was below a process that was killed is on nobody's account any more.
        spent = max(_processor_seconds(os.getpid()) - processor, time.process_time() - own)
        cost = {"wall": time.monotonic() - wall, "processor": spent}
        report.user_properties.append(("cost", {**cost, "started": dict(started)}))
    return report


class Costs:
    """What the workers report, gathered where the tables are printed."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, cost in report.user_properties:
            if name == "cost":
                self.of[report.nodeid] = cost

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        config.cache.set("lookbook/costs", self.of)
        files, kinds = defaultdict(list), defaultdict(list)
        for name, cost in self.of.items():
            files[name.partition("::")[0].removeprefix("tests/")].append(cost)
            for kind in cost["started"] or ("nothing",):
                kinds[kind].append(cost)
        dearest = sorted(self.of.items(), key=lambda each: each[1]["wall"], reverse=True)[:DEAREST]
        _write(terminalreporter, "by file", files)
        _write(terminalreporter, "by what a test starts (a test may start several)", kinds)
        _write(terminalreporter, "the dearest tests", {name: [cost] for name, cost in dearest})


def _write(terminal: Any, title: str, accounts: dict[str, list[dict[str, Any]]]) -> None:
    terminal.section(f"what tests cost, {title}")
    terminal.write_line(" tests     wall  processor")
    total = lambda costs, what: sum(cost[what] for cost in costs)  # noqa: E731
    for name, costs in sorted(accounts.items(), key=lambda each: -total(each[1], "wall")):
        begun: Counter[str] = sum((Counter(cost["started"]) for cost in costs), Counter())
        what = ", ".join(f"{count:.0f} {kind}" for kind, count in begun.most_common() if count >= 1)
        figures = f"{len(costs):6d} {total(costs, 'wall'):8.1f}   {total(costs, 'processor'):8.1f}"
        terminal.write_line(f"{figures}  {name}  ({what or 'nothing'})")
    everything = [cost for costs in accounts.values() for cost in costs]
    terminal.write_line(f"       {total(everything, 'wall'):8.1f}   {total(everything, 'processor'):8.1f}  together")


def pytest_configure(config: pytest.Config) -> None:
    sys.addaudithook(_watch)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Costs())
