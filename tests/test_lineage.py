"""pytest tests/test_lineage.py: what an artifact was made from, and what was made from it."""

import json

import pytest
from commands import answer
from published import damage, remove

from artifacts import metrics, weights
from artifacts.errors import NotFound
from artifacts.lineage import lineage
from artifacts.refs import Ref


def refs(branches):
    """The tree of refs alone."""
    return {each["ref"]: refs(each["made_into"]) for each in branches}


@pytest.fixture
def family(store, shapes_dataset):
    """A dataset; weights of it with an evaluation, and predictions; other weights of it, measured on the same."""
    import numpy as np

    def trained(seed):
        return weights.save(
            store, "shapes", tensors={"x": np.zeros(1, np.float32)}, history=[], classes=["a"], image_spec={},
            settings={"architecture": "dense", "seed": seed}, dataset=shapes_dataset, made={},
        )  # fmt: skip

    one, two = trained(1), trained(2)
    measured = metrics.save(
        store, "shapes", numbers={"accuracy": 1.0, "loss": 0.0, "items": 1}, labels=np.zeros(1, np.int32),
        probabilities=np.ones((1, 1), np.float32), sources=["x"], weights=one, dataset=shapes_dataset,
        report=dict, fair=np.arange(1), made={},
    )  # fmt: skip
    scored = store.publish(
        "predictions", "pictures", {"data/part-00000.parquet": b"rows"}, settings={"scoring": 1},
        inputs={"weights": str(one), "dataset": str(shapes_dataset)}, facts={}, made={"folder": "/srv/pictures"},
    )  # fmt: skip
    return {"dataset": shapes_dataset, "one": one, "two": two, "metrics": measured, "predictions": scored}


def test_forwards_from_a_dataset_to_all_that_was_made_from_it(store, family):
    found = lineage(store, family["dataset"])
    made = {str(family["one"]): {str(family["metrics"]): {}, str(family["predictions"]): {}}, str(family["two"]): {}}
    assert refs(found["made_into"]) == made
    assert found["made_from"] == {}
    assert found["settings"] == {"source": "drawn"}


def test_backwards_from_predictions_to_weights_dataset_and_settings(store, family):
    found = lineage(store, family["predictions"])
    assert found["folder"] == "/srv/pictures"
    assert found["made_into"] == []
    behind = found["made_from"]["weights"]
    assert (behind["ref"], behind["settings"]["seed"]) == (str(family["one"]), 1)
    assert behind["made_from"]["dataset"]["ref"] == str(family["dataset"])


def test_files_are_named_by_their_digest_and_what_is_gone_is_told(store, family):
    ref = store.publish(
        "datasets", "other", {"x": b""}, settings={}, inputs={"train.gz": "sha256:12"}, facts={}, made={}
    )  # fmt: skip
    assert lineage(store, ref)["made_from"] == {"train.gz": "sha256:12"}
    remove(store.open(family["dataset"]).folder)
    behind = lineage(store, family["one"])["made_from"]["dataset"]
    assert behind["ref"] == str(family["dataset"])
    assert "is not in the store" in behind["problem"]
    with pytest.raises(NotFound):
        lineage(store, Ref("weights", "none", "0" * 16))


def test_a_damaged_relative_is_no_reason_to_fail(store, family):
    path = store.disk.local_path(f"{family['one'].folder}/manifest.json")
    damage(path, path.read_bytes().replace(b'"seed"', b'"sead"'))
    assert refs(lineage(store, family["dataset"])["made_into"]) == {
        str(family["metrics"]): {},
        str(family["predictions"]): {},
        str(family["two"]): {},
    }
    assert "damaged" in lineage(store, family["metrics"])["made_from"]["weights"]["problem"]


def test_the_command_shows_a_tree_and_gives_the_same_as_json(store, family, lookbook):
    said = lookbook("lineage", family["predictions"]).stdout
    for part in (str(family["one"]), str(family["dataset"]), "seed 1", "folder: /srv/pictures", "nothing was made"):
        assert part in said
    lines = lookbook("lineage", family["dataset"]).stdout.splitlines()
    [above] = [line for line in lines if str(family["one"]) in line]
    [below] = [line for line in lines if str(family["metrics"]) in line]
    assert above.index("weights/") < below.index("metrics/")
    assert answer(lookbook("lineage", family["dataset"], "--json")) == json.loads(
        json.dumps(lineage(store, family["dataset"]))
    )
