"""Peak memory by image size, architecture and number of classes, beside TensorFlow's own.

    python benchmarks/memory.py

Each cell in a process of its own: 200 images predicted and evaluated, 300 images trained for an epoch of the batches
that many images have by default, and evaluations of made-up probabilities. Takes about six minutes.
"""

import subprocess
import sys
from pathlib import Path

SIZES, CLASSES, LIMIT = (28, 64, 128, 256, 512), (10, 1_000, 10_000), 2_000
COMMON = """
import resource, sys
import numpy as np
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
def told(before):
    print(before, peak() - before)
"""
PICTURES = """
from tasks.vision import device, network
from tasks.vision.images import ImageSpec
from tasks.vision.recipes import settings_for
architecture, size, items = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
images = np.random.default_rng(0).integers(0, 255, (items, size, size, 3), dtype=np.uint8)
labels, spec = (np.arange(items) % 10).astype(np.int32), ImageSpec(size, size, 3)
many = [10_000] * 10  # the batches of many images
settings = settings_for(architecture, many, pictures=True, pixels=size**2, epochs=1)
"""
PREDICT = """
from tasks.vision.inference import Predictor
from tasks.vision.metrics import evaluate
device.use_threads(1)
of = (0, settings.augmentation, settings.inputs, settings.width)
predict = Predictor(network.make_network(architecture, spec, 10, *of))
before = peak()
evaluate(predict(images), labels, list("abcdefghij"), 1.5)
told(before)
"""
TRAIN = """
from tasks.vision.training import fit
before = peak()
fit(images, labels, classes=10, spec=spec, settings=settings)
told(before)
"""
EVALUATE = """
from tasks.vision.metrics import evaluate
classes, items = int(sys.argv[1]), 10_000
before = peak()
probabilities = np.full((items, classes), 1 / classes, np.float32)
labels = (np.arange(items) % classes).astype(np.int32)
probabilities[np.arange(items), labels] *= 1 + np.arange(items) % 2
evaluate(probabilities, labels, [str(each) for each in range(classes)], 1.5)
told(before)
"""


def cell(program: str, *arguments: object) -> tuple[int, int]:
    """MB that the process had before, and how many more it had at its peak."""
    command = [sys.executable, "-c", COMMON + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    before, more = map(int, done.stdout.split())
    return before, more


def main() -> None:
    large = []
    print("| | " + " | ".join(f"{size}x{size}" for size in SIZES) + " |")
    for doing, program, items in (("predict", PICTURES + PREDICT, 200), ("train", PICTURES + TRAIN, 300)):
        for architecture in ("dense", "conv"):
            found = [cell(program, architecture, size, items)[1] for size in SIZES]
            print(f"| {doing} `{architecture}` | " + " | ".join(f"{more:,} MB" for more in found) + " |", flush=True)
            large += [f"{doing} {architecture}"] if max(found) > LIMIT else []
    for classes in CLASSES:
        more = cell(EVALUATE, classes)[1]
        print(f"10,000 items of {classes:,} classes: {more:,} MB", flush=True)
        large += [f"{classes} classes"] if more > LIMIT else []
    if large:
        sys.exit(f"expected {LIMIT:,} MB at most beside TensorFlow: {', '.join(large)}")


if __name__ == "__main__":
    main()
