"""pytest tests/test_promote.py: the gate: what it lets through, what it keeps back, and what it writes down."""

import dataclasses

import numpy as np
import pytest

from artifacts import aliases, dataset, metrics, weights
from artifacts.errors import NotPromotable
from tasks import promote as stage
from tasks.evaluate import Mismatch, evaluate_weights
from tasks.promote import Gate, decide_promotion, judge
from tasks.vision.images import ImageSpec
from tasks.vision.training import TrainingSettings, fit

CLASSES = ["circle", "square", "line"]
ANY_GAIN = Gate(significance=1, max_recall_drop=1)


def told(**given):
    """What `compare` gives of a challenger that is better beyond chance."""
    recalls = {
        "shoe": {"champion": 0.5, "challenger": 0.9, "p_value": 1.0},
        "boot": {"champion": 8 / 10, "challenger": 6 / 10, "p_value": 0.03},
        "rare": {"champion": 1.0, "challenger": 0.0, "p_value": 0.0625},
    }
    good = {"accuracy": 0.9, "champion_accuracy": 0.8, "items": 100, "gains": 15, "losses": 5, "p_value": 0.0207}
    return {**good, "recalls": recalls, **given}


@pytest.mark.parametrize(
    ("given", "gate", "objection"),
    [
        ({}, Gate(max_recall_drop=0.2), None),
        ({"accuracy": None}, Gate(), "its predictions are not numbers (NaN)"),
        ({"champion_accuracy": None, "p_value": None, "gains": None, "losses": None}, Gate(), None),
        ({}, Gate(minimum_accuracy=0.95), "accuracy 90.00% is below the minimum of 95.00%"),
        ({}, Gate(minimum_accuracy=0.9, max_recall_drop=0.2), None),
        (
            {},
            Gate(significance=0.01),
            "not better beyond chance: accuracy 90.00%, the champion's 80.00% on the",
        ),
        ({"gains": 6, "losses": 5, "p_value": 0.5}, Gate(), "not better beyond chance: "),
        ({"gains": 6, "losses": 5, "p_value": 0.5}, Gate(significance=1, max_recall_drop=1), None),
        ({"gains": 5, "losses": 5, "p_value": 0.623}, Gate(significance=1), "not better: "),
        ({"gains": 0, "losses": 0, "p_value": 1.0}, Gate(significance=1), "not better: "),
        ({}, Gate(max_recall_drop=0.15), "better, but for boot: its recall fell from 80.00% to 60.00%, by more than"),
        ({}, Gate(significance=0.025), None),
        ({"gains": 15, "losses": 5}, Gate(significance=1, max_recall_drop=0.3), "better, but for rare: "),
    ],
)
def test_what_the_gate_says(given, gate, objection):
    found = judge(told(**given), gate)
    assert found is None if objection is None else str(found).startswith(objection)


def save(store, data, seed, weak=False):
    """Published dense weights; `weak` ones hardly tell the three shapes apart."""
    loaded = dataset.load(store, data)
    how = {"epochs": 1, "learning_rate": 0.001} if weak else {"epochs": 12}
    settings = TrainingSettings(**how, batch_size=16, seed=seed)
    spec = ImageSpec.from_dict(loaded.image_spec)
    trained = fit(loaded.train.images, loaded.train.labels, classes=3, spec=spec, settings=settings)
    return weights.save(
        store, "shapes", tensors=trained.tensors, history=trained.history, classes=CLASSES,
        image_spec=loaded.image_spec, settings=settings.to_dict(), dataset=data, made={},
    )  # fmt: skip


def decide(store, ref, data, gate=ANY_GAIN):
    return decide_promotion(store, evaluate_weights(store, ref, data), gate)


def test_a_decision_tells_what_it_was_made_by(store, shapes_dataset):
    weak, strong = save(store, shapes_dataset, 0, weak=True), save(store, shapes_dataset, 1)
    first, second = (decide(store, each, shapes_dataset, Gate()) for each in (weak, strong))
    assert second.action == "promote"
    ours, theirs = (metrics.load(store, evaluate_weights(store, each, shapes_dataset)) for each in (strong, weak))
    hits, before = ours.hits(), theirs.hits()
    expected = {
        "accuracy": hits.mean(),
        "champion_accuracy": before.mean(),
        "gains": (hits & ~before).sum(),
        "losses": (before & ~hits).sum(),
        "significance": 0.05,
        "minimum_accuracy": 0.0,
        "max_recall_drop": 0.1,
        "metrics": str(ours.ref),
        "champion_metrics": str(theirs.ref),
        "decisions": 1,
    }
    assert {key: second.numbers[key] for key in expected} == expected
    assert second.numbers["p_value"] < 0.05
    assert (first.numbers["decisions"], first.numbers["test_split"]) == (0, second.numbers["test_split"])
    assert len(first.numbers["test_split"]) == 32
    assert (
        f"just one is right on {expected['gains'] + expected['losses']}: this one on {expected['gains']} (p = "
        in second.reason
    )


def test_how_often_a_split_decided_is_counted(store, shapes_dataset, shapes):
    one, two = save(store, shapes_dataset, 0), save(store, shapes_dataset, 1)
    counts = [decide(store, each, shapes_dataset).numbers["decisions"] for each in (one, two, one, two, two)]
    assert counts[:2] == [0, 1]
    assert counts == sorted(counts)
    events = aliases.history(store.disk, "weights", "shapes", "champion")
    unjudged = sum("p_value" not in event.numbers for event in events)
    assert counts[-1] == 4 - unjudged + 1, "to be champion already is no decision, to be the first is one"
    swapped = dataclasses.replace(shapes["test"], labels=shapes["test"].labels[::-1])
    spec = store.open(shapes_dataset).facts["image_spec"]
    other = dataset.save(
        store, "shapes", train=shapes["train"], test=swapped, classes=CLASSES, image_spec=spec, settings={}, inputs={},
        made={},
    )  # fmt: skip
    assert decide(store, save(store, shapes_dataset, 2), other).numbers["decisions"] == 0, "another test split"


def test_a_split_is_known_again_by_its_contents(store, shapes_dataset, shapes):
    """Renamed files, another order and some new images: it is mostly the same. With most of them new it is another."""
    decide(store, save(store, shapes_dataset, 0), shapes_dataset)
    test, train = shapes["test"], shapes["train"]
    spec = store.open(shapes_dataset).facts["image_spec"]
    for old, decisions in ((50, 1), (5, 0)):
        images = np.concatenate([test.images[:old][::-1], train.images[:10]])
        labels = np.concatenate([test.labels[:old][::-1], train.labels[:10]])
        split = dataset.Split(images, labels, [f"renamed {index}" for index in range(old + 10)])
        other = dataset.save(
            store, "shapes", train=train, test=split, classes=CLASSES, image_spec=spec, settings={}, inputs={}, made={}
        )
        assert decide(store, save(store, other, 1), other).numbers["decisions"] == decisions


def test_a_champion_that_has_learned_from_the_test_images_is_no_measure(store, shapes_dataset, shapes):
    def hashed(split, names):
        return dataclasses.replace(split, sources=names, sha256=names)

    train, test = (
        hashed(shapes[side], [str(index) for index in places])
        for side, places in (("train", range(300)), ("test", range(300, 360)))
    )
    spec = store.open(shapes_dataset).facts["image_spec"]
    given = {"classes": CLASSES, "image_spec": spec, "settings": {}, "inputs": {}, "made": {}}
    first = dataset.save(store, "shapes", train=train, test=test, **given)
    decide(store, save(store, first, 0), first)
    seen = hashed(shapes["test"], ["7", "8", *map(str, range(400, 458))])
    second = dataset.save(store, "shapes", train=train, test=seen, **given)
    event = decide(store, save(store, second, 1), second)
    assert event.action == "keep"
    assert event.reason.startswith("the champion has learned from 2 of the 60 test images, so no comparison is fair: ")
    assert f"`lookbook promote {event.challenger} --reason ...`" in event.reason
    assert "p_value" not in event.numbers


def test_the_champion_is_evaluated_in_the_same_run(store, shapes_dataset, monkeypatch):
    one, two = save(store, shapes_dataset, 0), save(store, shapes_dataset, 1)
    decide(store, one, shapes_dataset)
    measured = evaluate_weights(store, two, shapes_dataset)
    asked = []
    monkeypatch.setattr(stage, "evaluate_weights", lambda *given: asked.append(given) or evaluate_weights(*given))
    decide_promotion(store, measured, Gate())
    assert asked == [(store, one, shapes_dataset)], "though the store has its evaluation"


def test_a_first_model_below_the_minimum_is_no_champion(store, shapes_dataset):
    weak = save(store, shapes_dataset, 0, weak=True)
    with pytest.raises(NotPromotable, match=r"can't be the first champion: accuracy .* is below the minimum of 99.00%"):
        decide(store, weak, shapes_dataset, Gate(minimum_accuracy=0.99))
    assert aliases.history(store.disk, "weights", "shapes", "champion") == []
    event = aliases.promote(store.disk, weak, "for a demonstration")
    assert (event.action, event.ref) == ("promote", str(weak)), "a person may"


def test_pictures_of_another_size_are_not_compared(store, shapes_dataset, shapes):
    decide(store, save(store, shapes_dataset, 0), shapes_dataset)
    smaller = {
        side: dataclasses.replace(split, images=np.ascontiguousarray(split.images[:, :4]))
        for side, split in shapes.items()
    }
    data = dataset.save(
        store, "shapes", **smaller, classes=CLASSES, image_spec={"height": 4, "width": 8, "channels": 1}, settings={},
        inputs={}, made={},
    )  # fmt: skip
    event = decide(store, save(store, data, 0), data)
    assert event.action == "keep"
    assert event.reason.startswith("it looks at pictures of 4x8x1, the champion at 8x8x1, so no test split fits both: ")
    assert "p_value" not in event.numbers


def test_weights_are_only_measured_on_what_they_are_meant_for(store, shapes_dataset, shapes):
    ref = save(store, shapes_dataset, 0)
    data = dataset.save(
        store, "shapes", **shapes, classes=["circle", "square", "star"], settings={}, inputs={}, made={},
        image_spec=store.open(shapes_dataset).facts["image_spec"],
    )  # fmt: skip
    with pytest.raises(Mismatch, match=r"tells 3 classes apart; .* has 3 \(differing: line, star\). Retrain, or name"):
        evaluate_weights(store, ref, data)
