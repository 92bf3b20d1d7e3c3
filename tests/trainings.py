"""Work in processes of its own, for tests that kill it or that need a TensorFlow which has not computed yet.

TensorFlow is imported once; each work is a fork.

    python tests/trainings.py [PROCESSORS]

PROCESSORS: on how many it runs, from its start on. Reads lines of JSON and answers each with one:

    {"store", "dataset", "settings", "output", "kill_at"}    starts a training -> its process id
    {"program", "arguments", "output"}                       starts a Python program -> its process id
    a process id                                             waits for its end -> its exit status, negative for signals

output: the file that takes what is printed; the last line of a training is the ref of the weights.
kill_at: a pattern, or null. The training kills itself with SIGKILL before it does what the pattern describes:
    `training, in epoch 3 of 12`, `os.link FILE` or `os.remove FILE`.
"""

import os
import sys

if __name__ == "__main__" and len(sys.argv) > 1:  # before TensorFlow counts them
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[: int(sys.argv[1])])

import dataclasses
import functools
import json
import re
import signal
import subprocess
import traceback
from pathlib import Path

from artifacts.refs import Ref
from artifacts.store import Store
from tasks.reports.progress import TrainingProgress
from tasks.shared.deadline import Deadline
from tasks.train import train_weights
from tasks.vision import training
from tasks.vision.recipes import TrainingSettings


def kill_at(pattern, doing):
    if pattern and re.search(pattern, doing):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class Watched(Deadline):
    """Never over, but the end of a training that is doing what the pattern describes."""

    pattern: str | None = None

    def check(self, doing):
        kill_at(self.pattern, doing)


def train(job):
    pattern = job["kill_at"]

    def watch(event, arguments):
        if event == "os.link":
            kill_at(pattern, f"{event} {arguments[1]}")
        if event == "os.remove":
            kill_at(pattern, f"{event} {arguments[0]}")

    sys.addaudithook(watch)
    training.STATE_SECONDS = 0
    settings = TrainingSettings(**job["settings"])
    store, dataset = Store(Path(job["store"])), Ref.parse(job["dataset"])
    say = functools.partial(print, flush=True)
    with TrainingProgress(settings.epochs, say, "train") as progress:
        print(train_weights(store, dataset, settings, "graph", "cpu", progress, Watched(1, 0, pattern)))


class Forks:
    """This program at work: starts trainings and other programs in processes of their own."""

    def __init__(self, *processors):
        self._process = subprocess.Popen(
            [sys.executable, __file__, *map(str, processors)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(60) == 0

    def ask(self, what):
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def run(self, program, output, *arguments):
        """Run a program: its exit status, negative for a signal, and what it printed, errors included."""
        pid = self.ask({"program": program, "arguments": list(map(str, arguments)), "output": str(output)})
        return self.ask(pid), output.read_text()


def fork(job):
    pid = os.fork()
    if pid:
        return pid
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        if "program" in job:
            sys.argv = ["-c", *job["arguments"]]
            exec(job["program"], {"__name__": "__main__"})
        else:
            train(job)
        status = 0
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        said = os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]) if isinstance(asked, int) else fork(asked)
        print(said, flush=True)
