"""pytest tests/test_memory.py: large pictures and many classes take little memory, and batches the same numbers."""

import subprocess
import sys

import numpy as np
import pytest

from tasks.vision.images import ImageSpec
from tasks.vision.inference import BATCH, Predictor, batch_of
from tasks.vision.network import ARCHITECTURES, make_network

# Not ru_maxrss: a process takes that over from the one that started it, and these tests' own may be large.
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))  # KiB
"""
# One process imports, and forks one for each network, before TensorFlow has threads.
PREDICT = f"""{PEAK}
import os, sys
import numpy as np
from tasks.vision.images import ImageSpec
from tasks.vision.inference import Predictor
from tasks.vision.network import make_network
for architecture, size in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    if not os.fork():
        predict = Predictor(make_network(architecture, ImageSpec(size, size, 3), 10, augmentation="flips"))
        before = peak()
        predict(np.zeros((1, size, size, 3), np.uint8))
        print(peak() - before, flush=True)
        os._exit(0)
    os.wait()
"""
NETWORKS = [(architecture, size) for architecture in ARCHITECTURES for size in (64, 512)]


@pytest.mark.slow
@pytest.mark.kill
def test_a_picture_of_any_size_takes_half_a_gigabyte():
    asked = [str(each) for network in NETWORKS for each in network]
    done = subprocess.run([sys.executable, "-c", PREDICT, *asked], capture_output=True, text=True)
    peaks = dict(zip(NETWORKS, map(int, done.stdout.split()), strict=True))
    assert max(peaks.values()) < 1000 << 10, (peaks, done.stderr)


@pytest.mark.parametrize(
    ("architecture", "size", "channels", "batch"),
    [("dense", 28, 1, BATCH), ("dense", 128, 3, BATCH), ("dense", 512, 3, 32), ("conv", 28, 1, BATCH),
     ("conv", 64, 3, BATCH), ("conv", 128, 3, 64), ("conv", 256, 3, 16), ("conv", 512, 1, 4), ("conv", 2048, 3, 4)],
)  # fmt: skip
def test_batches_are_smaller_for_larger_images_alone(architecture, size, channels, batch):
    assert batch_of(make_network(architecture, ImageSpec(size, size, channels), 2)) == batch


@pytest.mark.slow
def test_in_a_smaller_batch_a_row_does_not_depend_on_its_neighbours_either():
    predict = Predictor(make_network("conv", ImageSpec(160, 160, 3), 3, augmentation="flips"))
    assert predict.batch == 32
    images = np.random.default_rng(0).integers(0, 255, (predict.batch + 3, 160, 160, 3), dtype=np.uint8)
    together = predict(images)
    for item in (0, predict.batch - 1, predict.batch, len(images) - 1):
        assert (predict(images[item : item + 1])[0] == together[item]).all()


@pytest.mark.slow
def test_ten_thousand_classes_are_evaluated_beside_little_more_than_their_table(tmp_path):
    program = f"""{PEAK}
import sys
import numpy as np
from tasks.vision.metrics import evaluate
probabilities = np.full((2_000, 10_000), 1e-4, np.float32)
probabilities[np.arange(2_000), np.arange(2_000) // 2] += 1e-3
before = peak()
numbers = evaluate(probabilities, np.arange(2_000, dtype=np.int32), [str(each) for each in range(10_000)], 1.5)
assert numbers["confusion_matrix"] is None and len(numbers["most_confused"]) == 100
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(done.stdout) < 300 << 10, done.stderr  # 77 MB are the scaled table
