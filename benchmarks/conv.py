"""What the convolutional network reaches on Fashion-MNIST, and how long it takes: three seeds, start to end.

    python benchmarks/conv.py

Each is a whole `lookbook retrain --architecture conv` on a store of its own, imports and a Prefect server of its own
included. Takes about fifteen minutes.
"""

import os
import statistics
import sys
import tempfile

from retrain import BIN, timed

SEEDS = range(3)


def main() -> None:
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {"LOOKBOOK_STORE": f"{folder}/store", "PREFECT_HOME": f"{folder}/prefect", "PREFECT_API_URL": ""}
        for seed in SEEDS:
            command = [str(BIN / "lookbook"), "retrain", "--architecture", "conv", "--seed", str(seed), "--json"]
            seconds, result = timed(command, environment)
            runs.append((result["accuracy"], result["loss"], seconds, result["seconds"]["epoch"]))
            print("seed {}: {:.2%}, loss {:.4f}, {:.0f} s, {:.1f} s an epoch".format(seed, *runs[-1]), flush=True)
    accuracy, loss, seconds, epoch = map(statistics.median, zip(*runs, strict=True))
    print(f"median: {accuracy:.2%}, loss {loss:.4f}, {seconds:.0f} s, {epoch:.1f} s an epoch ({os.cpu_count()} cores)")
    if accuracy < 0.925 or seconds > 300:
        sys.exit("expected 92.5% within 300 s")


if __name__ == "__main__":
    main()
