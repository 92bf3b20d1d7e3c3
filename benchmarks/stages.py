"""Where the time of a short command goes: the stages of a retraining, a scoring of 10,000 PNG and a prediction.

    python benchmarks/stages.py

Each command runs three times with a server and three times without one, in a process that notes when functions begin
and end; the medians are printed, in seconds since the process started. Takes about three minutes.
"""

import importlib.abc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import wraps
from pathlib import Path

RUNS = 3
WATCHED = {
    "retrain": (
        ("flows.server", "Api.wait", "import Prefect, TensorFlow and the flow"),
        ("flows.retrain", "prepare", "begin the flow"),
        ("flows.retrain", "train_here", "prepare"),
        ("tasks.train", "train_weights", "begin the training"),
        ("flows.retrain", "evaluate", "train and publish"),
        ("flows.retrain", "promote", "evaluate"),
        ("flows.retrain", "_report", "decide"),
        ("flows.cli.verb", "_print", "report, end the flow and the server"),
    ),
    "score": (
        ("flows.server", "Api.wait", "import Prefect and the flow"),
        ("flows.score", "plan", "begin the flow"),
        ("flows.score", "score_shards", "list and plan"),
        ("flows.score", "commit", "decode, import TensorFlow, predict"),
        ("flows.score", "_report", "publish"),
        ("flows.cli.verb", "_print", "report, end the flow and the server"),
    ),
    "predict": (
        ("tasks.shared.model", "load", "import NumPy, Pillow, Arrow and the settings"),
        ("tasks.predict", "predict_files", "import TensorFlow, load the weights"),
        ("flows.cli.verb", "_print", "decode and predict"),
    ),
}


class Watch(importlib.abc.MetaPathFinder):
    """Notes when functions begin, of modules that are not imported yet. marks: text -> when the first call began."""

    def __init__(self, watched: tuple[tuple[str, str, str], ...]) -> None:
        self.watched, self.marks = list(watched), {}

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:  # noqa: ARG002
        wanted = [each for each in self.watched if each[0] == name]
        if not wanted:
            return None
        self.watched = [each for each in self.watched if each[0] != name]
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def executed(module: object) -> None:
            execute(module)
            for _, path, text in wanted:
                self._wrap(module, path, text)

        spec.loader.exec_module = executed
        return spec

    def _wrap(self, module: object, path: str, text: str) -> None:
        *parents, name = path.split(".")
        owner = module
        for each in parents:
            owner = getattr(owner, each)
        function = getattr(owner, name)

        @wraps(function)
        def noted(*args: object, **kwargs: object) -> object:
            self.marks.setdefault(text, time.time())
            return function(*args, **kwargs)

        setattr(owner, name, noted)


def watched(verb: str, arguments: list[str]) -> None:
    """Be `lookbook`, and write the marks to standard error at the end."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    watch = Watch(WATCHED[verb])
    sys.meta_path.insert(0, watch)
    from flows.cli import main
    from flows.cli.runs import _process_started

    started = _process_started()
    sys.argv = ["lookbook", verb, *arguments]
    try:
        main()
    except SystemExit as end:
        marks = {text: when - started for text, when in watch.marks.items()}
        print(json.dumps({"marks": marks}), file=sys.stderr, flush=True)
        os._exit(int(end.code or 0))


def measured(verb: str, arguments: list[str], environment: dict[str, str]) -> dict[str, float]:
    """stage -> seconds, and the whole process."""
    started = time.perf_counter()
    run = subprocess.run(
        [sys.executable, __file__, "--watched", verb, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    whole = time.perf_counter() - started
    marks = json.loads(run.stderr.splitlines()[-1])["marks"]
    stages, before = {}, 0.0
    for _, _, text in WATCHED[verb]:
        stages[text], before = marks[text] - before, marks[text]
    return {**stages, "print, end": whole - before, "whole": whole}


def show(title: str, verb: str, arguments: list[str], environment: dict[str, str]) -> None:
    runs = [measured(verb, arguments, environment) for _ in range(RUNS)]
    print(title)
    for stage in runs[0]:
        print(f"  {stage:46} {statistics.median(run[stage] for run in runs):.2f} s", flush=True)


def main() -> None:
    from retrain import own_home, prefect_server
    from score import make_small

    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        environment = own_home(top)
        make_small(top / "png", copies=1)
        one = next((top / "png").rglob("*.png"))
        commands = [("retrain", []), ("score", [str(top / "png"), "--fresh"])]
        for verb, arguments in commands:
            measured(verb, arguments, environment)
            show(f"{verb}, without a server", verb, arguments, environment)
        show("predict", "predict", [str(one)], environment)
        with prefect_server(environment) as url:
            environment["PREFECT_API_URL"] = url
            for verb, arguments in commands:
                measured(verb, arguments, environment)
                show(f"{verb}, with a server", verb, arguments, environment)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--watched"]:
        watched(sys.argv[2], sys.argv[3:])
    else:
        main()
