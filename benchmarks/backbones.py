"""python benchmarks/backbones.py: how fast each pretrained network makes features of pictures, and beside what else.

Weights are random: they change no time. Each way in turn, and again, so that a busy machine slows all of them. What is
told is the processor's time a picture, which other programs beside hardly change, and pictures a second of two
processors that have nothing else to do, which follows from it.
"""

import os
import statistics
import time

import numpy as np

from tasks.vision.backbone import Embedder
from tasks.vision.families import ARCHITECTURES
from tasks.vision.processor import precision

SIDES, ROUNDS, PICTURES = (224, 288), 2, 8


def main() -> None:
    ways = {}
    random = np.random.default_rng(0)
    fastest = precision("auto", "/CPU:0")
    for architecture in ARCHITECTURES.values():
        if architecture.name.endswith("-reg"):
            continue  # four tokens more
        folded = {name: 0.02 * random.standard_normal(shape, np.float32) for name, shape in architecture.folded.items()}
        for side in SIDES:
            looks_at = architecture.looks_at(side, side)
            for computed_in in dict.fromkeys(("float32", fastest)):
                embedder = Embedder(architecture, folded, computed_in, looks_at=looks_at)
                ways[architecture.name, looks_at[0], computed_in] = embedder
    images = {side: random.integers(0, 256, (PICTURES, side, side, 3), dtype=np.uint8) for _, side, _ in ways}
    seconds: dict[tuple[str, int, str], list[float]] = {way: [] for way in ways}
    for turn in range(1 + ROUNDS):
        for way, embedder in ways.items():
            started = time.process_time()
            embedder(images[way[1]])
            if turn:  # the first one traces
                seconds[way].append((time.process_time() - started) / PICTURES)
    for (name, side, computed_in), each in seconds.items():
        middle = statistics.median(each)
        rate = (os.cpu_count() or 1) / middle
        print(
            f"{name:24} {side} {computed_in:9} {1000 * middle:7.1f} ms of a processor a picture, {rate:6.0f} pictures/s"
        )


if __name__ == "__main__":
    main()
