"""pytest tests/test_compatibility.py: a store that an earlier Lookbook wrote is read as it was meant.

`example-store` was made by `python tests/test_compatibility.py`; it is not made anew when the code changes.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from artifacts import aliases, dataset, metrics
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.shared import model

EXAMPLE = Path(__file__).with_name("example-store")
DATASET = Ref("datasets", "shapes", "42ca18a78fda8289")
WEIGHTS = Ref("weights", "shapes", "1789558e692cec29")
METRICS = Ref("metrics", "shapes", "eaeec889fba5988d")
GOLDEN_ROW = [0.981, 0.0051, 0.0139]


@pytest.fixture
def example(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "store")
    return Store(tmp_path / "store")


def test_everything_is_there_and_whole(example):
    assert list(example.refs()) == [DATASET, WEIGHTS, METRICS]
    assert example.verify().corrupt == []
    assert example.resolve("champion") == WEIGHTS
    [event] = aliases.history(example.disk, "weights", "shapes", "champion")
    assert (event.action, event.challenger, event.number) == ("promote", str(WEIGHTS), 1)


def test_golden_weights_give_golden_predictions(example):
    test = dataset.load(example, DATASET).test
    golden = metrics.load(example, METRICS).probabilities()
    np.testing.assert_allclose(model.load(example, WEIGHTS).predict(test.images), golden, atol=1e-6)
    assert golden[0].tolist() == pytest.approx(GOLDEN_ROW, abs=5e-5)


def make() -> None:
    """Write the example store: run once for a format, and commit what it wrote."""
    from conftest import CLASSES, SPEC

    from tasks.judging.measuring import evaluate_weights
    from tasks.promote import decide_promotion
    from tasks.reports.progress import TrainingProgress
    from tasks.requests import Gate
    from tasks.shared.deadline import Deadline
    from tasks.train import train_weights
    from tasks.vision.training import TrainingSettings

    random = np.random.default_rng(0)
    store = Store(EXAMPLE)
    splits = {}
    for side, items in (("train", 60), ("test", 12)):
        labels = np.arange(items, dtype=np.int32) % 3
        images = random.integers(0, 60, (items, 8, 8, 1), dtype=np.uint8)
        for label, place in enumerate(((slice(2, 6), slice(2, 6)), (slice(0, 2),), (slice(None), slice(6, 8)))):
            chosen = images[labels == label]
            chosen[(slice(None), *place)] += 150
            images[labels == label] = chosen
        splits[side] = dataset.Split(images, labels, [f"{side}[{index}]" for index in range(items)])
    data = dataset.save(
        store, "shapes", **splits, classes=CLASSES, image_spec=SPEC.to_dict(), settings={}, inputs={}, made={}
    )
    with TrainingProgress(20, log=lambda line: None, key="train") as progress:
        settings = TrainingSettings(epochs=20, batch_size=8)
        weights = train_weights(store, data, settings, "graph", "cpu", progress, Deadline.after(1))
    measured = evaluate_weights(store, weights, data)
    decide_promotion(store, measured, Gate())
    shutil.rmtree(EXAMPLE / "staging")
    print(data, weights, measured, metrics.load(store, measured).probabilities()[0].round(4).tolist(), file=sys.stderr)


if __name__ == "__main__":
    make()
