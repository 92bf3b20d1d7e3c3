"""pytest tests/test_drift.py: what a table is compared with: of the test split of its weights, what these have not
learned from, each content once."""

import dataclasses
import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from published import remove
from reviewed import draw_folder, publish_table
from test_promote import CLASSES, leaking, numbered, publish, save

from artifacts import dataset, metrics, predictions
from artifacts.documents import canonical
from artifacts.shards import Part, confidences
from tasks.judging.fairness import fair_to
from tasks.judging.measuring import evaluate_weights
from tasks.reports.summary import read_part, summarize

pytestmark = pytest.mark.slow

TABLE = 30


def compared(store, weights, data, folder):
    """The summary of a table whose rows are all `circle`, of middling confidence."""
    draw_folder(folder, TABLE)
    ref = publish_table(store, folder, "night", np.full((TABLE, 3), [0.45, 0.3, 0.25], np.float32), made_by=weights)
    table, file = store.open(ref), predictions.file_name(0)
    part = Part(table.key(file), table.files[file]["sha256"], "digest", "000000.png", TABLE, {"circle": TABLE}, {})
    confidence, least = confidences(read_part(store, part))
    part = dataclasses.replace(part, confidence=confidence, least=least)
    return summarize(store, weights, str(data), CLASSES, [part])


def as_before(store, ref, **document):
    """The same evaluation as an earlier Lookbook wrote it: it does not tell what is fair."""
    now = metrics.load(store, ref)
    items = pq.read_table(io.BytesIO(now.artifact.read("predictions.parquet"))).drop_columns("counted")
    parquet = io.BytesIO()
    pq.write_table(items, parquet)
    numbers = {**now.document, **document}
    return store.publish(
        "metrics", ref.name, {"metrics.json": canonical(numbers), "predictions.parquet": parquet.getvalue()},
        settings={"split": "test"}, inputs=now.artifact.identity["inputs"],
        facts={key: numbers[key] for key in ("accuracy", "loss", "items")}, made={"created": "2026-01-02T03:04:05Z"},
    )  # fmt: skip


def four_times(shapes):
    """Splits with 60 contents to test on, in four files each."""
    train, test = numbered(shapes["train"], range(300)), numbered(shapes["test"], range(300, 360))
    names = [f"{copy} of {source}" for copy in range(4) for source in test.sources]
    copied = dataset.Split(np.concatenate([test.images] * 4), np.concatenate([test.labels] * 4), names, names)
    return {"train": train, "test": copied}


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(("splits", "fair"), [(four_times, 60), (lambda shapes: leaking(shapes, 25, 2), 35)])
def test_what_a_table_is_compared_with(store, shapes_dataset, shapes, tmp_path, splits, fair, earlier):
    data = publish(store, shapes_dataset, **splits(shapes))
    weights = save(store, data, 0)
    measured = evaluate_weights(store, weights, data)
    if earlier:
        as_before(store, measured)
        remove(store.open(measured).folder)
    summary = compared(store, weights, data, tmp_path / "night")
    assert (summary.class_shift.sizes, summary.confidence_shift.sizes) == ((fair, TABLE), (fair, TABLE))
    assert summary.low_confidence_rise > 0.9
    assert len(fair_to(store, weights, data)) == fair


def test_where_all_is_learned_from_there_is_nothing_to_compare_with(store, shapes_dataset, shapes, tmp_path):
    data = publish(store, shapes_dataset, **leaking(shapes, 60, 2))
    weights = save(store, data, 0)
    measured = metrics.load(store, evaluate_weights(store, weights, data))
    assert (measured.numbers.items, measured.fair().any()) == (60, False)
    summary = compared(store, weights, data, tmp_path / "night")
    assert (summary.class_shift, summary.confidence_shift, summary.low_confidence_rise) == (None, None, None)


def test_the_newest_evaluation_is_the_one_that_counts(store, shapes_dataset, shapes):
    """An earlier Lookbook counted what its weights had learned from: whatever comes first by its name."""
    data = publish(store, shapes_dataset, **leaking(shapes, 25, 2))
    weights = save(store, data, 0)
    now = evaluate_weights(store, weights, data)
    before = [as_before(store, now, items=60, note=number) for number in range(8)]
    assert len({now, *before}) == 9
    assert min(before, key=str).version < now.version, "otherwise the test shows nothing"
    assert metrics.find(store, weights, str(data)).ref == now
