"""The whole retraining beside the tutorial's script: seconds from start to end, and what both reach over five seeds.

    make bench

Runs both commands in turn and quotes medians and ratios: the machine's speed drifts, their ratio does not. Takes about
eight minutes. `lookbook retrain` trains 20 epochs and publishes every artifact; the tutorial's script trains 5.
"""

import contextlib
import gzip
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from artifacts.settings import Settings
from tasks.vision.sources import FASHION_MNIST, fetch

BIN = Path(sys.executable).parent
RUNS = 5
SEEDS = range(5)
THEIR_WAY = ("--epochs", "5", "--schedule", "constant", "--validation", "0")  # as the tutorial's script trains


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, dict]:
    started = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return time.perf_counter() - started, json.loads(run.stdout.splitlines()[-1])


def own_home(top: Path) -> dict[str, str]:
    """The environment of commands that have a store and a Prefect of their own, below `top`."""
    return {
        "LOOKBOOK_STORE": str(top / "store"),
        "PREFECT_HOME": str(top / "prefect"),
        "PREFECT_API_URL": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


@contextlib.contextmanager
def prefect_server(environment: dict[str, str]) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [BIN / "prefect", "server", "start", "--port", str(port), "--no-ui"]
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/api"
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/health")
                break
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def write_data_set(folder: Path) -> None:
    settings = Settings()
    contents = fetch(FASHION_MNIST, settings.cache, settings.dataset_mirror, lambda *_: None)
    for name, content in contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 6))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = own_home(Path(folder))
        write_data_set(Path(folder))
        ours = [str(BIN / "lookbook"), "retrain", "--json"]
        theirs = [sys.executable, str(Path(__file__).with_name("tutorial.py")), folder]
        timed(ours, environment)  # finds the data set, creates Prefect's database
        timed(theirs, environment)
        compare("without a server", ours, theirs, environment)
        compare("without a server, with an empty store", ours, theirs, environment, empty=True)
        with prefect_server(environment) as url:
            environment["PREFECT_API_URL"] = url
            compare("with a server running", ours, theirs, environment)
            results = {
                "20 epochs, linear": [timed([*ours, "--seed", str(seed)], environment)[1] for seed in SEEDS],
                "5 epochs, constant": [
                    timed([*ours, *THEIR_WAY, "--seed", str(seed)], environment)[1] for seed in SEEDS
                ],
                "the tutorial's script": [timed([*theirs, str(seed)], environment)[1] for seed in SEEDS],
            }
        for name, runs in results.items():
            accuracy = statistics.median(run["accuracy"] for run in runs)
            loss = statistics.median(run["loss"] for run in runs)
            print(f"{name:24} test accuracy {accuracy:.2%}  loss {loss:.3f}  (median of seeds 0-4)")


def compare(
    title: str, ours: list[str], theirs: list[str], environment: dict[str, str], *, empty: bool = False
) -> None:
    pairs = []
    for _ in range(RUNS):
        if empty:
            shutil.rmtree(environment["LOOKBOOK_STORE"])
        pairs.append((timed(ours, environment), timed(theirs, environment)))
    mine = statistics.median(seconds for (seconds, _), _ in pairs)
    other = statistics.median(seconds for _, (seconds, _) in pairs)
    ratio = statistics.median(a / b for (a, _), (b, _) in pairs)
    epoch = statistics.median(result["seconds"]["epoch"] for (_, result), _ in pairs)
    their_epoch = statistics.median(result["epoch"] for _, (_, result) in pairs)
    print(f"{title}: lookbook retrain {mine:.1f} s, the tutorial's script {other:.1f} s, ratio {ratio:.2f}")
    print(f"  an epoch {epoch:.3f} s against {their_epoch:.3f} s, ratio {their_epoch / epoch:.1f}", flush=True)


if __name__ == "__main__":
    main()
