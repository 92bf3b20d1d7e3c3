"""What the convolutional network reaches on Fashion-MNIST in 5 and in 30 minutes: three seeds each, start to end.

    python benchmarks/conv.py          # both, about two hours
    python benchmarks/conv.py 5        # one, 15 minutes

Each is a whole `lookbook retrain --architecture conv --minutes N` on a store of its own, imports and a Prefect server
included. Processor seconds are those of the command and of all processes that it started, user and system: they
are what the record is about, as they hardly depend on what else a machine does.
"""

import os
import resource
import statistics
import sys
import tempfile

from retrain import BIN, timed

from tasks.vision.processor import processor

SEEDS = range(3)
EXPECTED = {5: 0.937, 30: 0.944}
"""Accuracy on the test images, by minutes: what was measured (docs/training.md), less a standard error."""


def processor_seconds() -> float:
    """Of all processes that this one has started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(minutes: int) -> bool:
    """Print what three seeds come to. Returns whether the median is what is expected of so many minutes."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {"LOOKBOOK_STORE": f"{folder}/store", "PREFECT_HOME": f"{folder}/prefect", "PREFECT_API_URL": ""}
        for seed in SEEDS:
            before = processor_seconds()
            command = [str(BIN / "lookbook"), "retrain", "--architecture", "conv", "--minutes", str(minutes)]
            seconds, result = timed([*command, "--seed", str(seed), "--json"], environment)
            runs.append((result["accuracy"], result["loss"], seconds, processor_seconds() - before))
            print(f"{minutes} minutes, seed {seed}: {_told(runs[-1])}", flush=True)
    median = [statistics.median(each) for each in zip(*runs, strict=True)]
    print(f"{minutes} minutes, median: {_told(median)} ({os.cpu_count()} processors, {processor()})", flush=True)
    return median[0] >= EXPECTED[minutes] and median[2] <= 60 * minutes


def _told(run: list[float] | tuple[float, ...]) -> str:
    return "{:.2%}, loss {:.4f}, {:.0f} s, {:.0f} s of processors".format(*run)


def main() -> None:
    wanted = [int(each) for each in sys.argv[1:]] or list(EXPECTED)
    short = [minutes for minutes in wanted if not measure(minutes)]
    if short:
        sys.exit("; ".join(f"expected {EXPECTED[each]:.1%} within {each} minutes" for each in short))


if __name__ == "__main__":
    main()
