"""Trainings in processes of their own, for tests that kill them. TensorFlow is imported once; each training is a fork.

    python tests/trainings.py

Reads lines of JSON and answers each with one:

    {"store", "dataset", "settings", "output", "kill_at"}    starts a training -> its process id
    a process id                                             waits for its end -> its exit status, negative for signals

output: the file that takes what the training prints; its last line is the ref of the weights.
kill_at: a pattern, or null. The training kills itself with SIGKILL before it does what the pattern describes:
    `training, in epoch 3 of 12`, `os.link FILE` or `os.remove FILE`.
"""

import dataclasses
import json
import os
import re
import signal
import sys
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
    with TrainingProgress(settings.epochs, print, "train") as progress:
        print(train_weights(store, dataset, settings, "graph", "cpu", progress, Watched(1, 0, pattern)))


def fork(job):
    pid = os.fork()
    if pid:
        return pid
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
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
