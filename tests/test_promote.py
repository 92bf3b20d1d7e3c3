"""pytest tests/test_promote.py: the gate: what it lets through, what it keeps back, and what it writes down."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest
from conftest import SPEC
from hypothesis import given, settings
from hypothesis import strategies as st
from published import damage, remove

from artifacts import aliases, dataset, living, metrics, weights
from artifacts.collecting.collector import remove_version
from artifacts.errors import NotFound, NotPromotable
from artifacts.store import Store
from tasks import promote as stage
from tasks.judging.decision import Decision, Grounds
from tasks.judging.gate import Comparison, Recall, compare, judge, unprotected
from tasks.judging.measuring import Mismatch, evaluate_weights
from tasks.promote import decide_promotion
from tasks.reports import decision
from tasks.requests import Gate
from tasks.vision.images import ImageSpec
from tasks.vision.training import TrainingSettings, fit

CLASSES = ["circle", "square", "line"]
ANY_GAIN = Gate(significance=1, max_recall_drop=1)


def compared(**given):
    """A challenger that is better beyond chance."""
    recalls = {
        "shoe": Recall(champion=0.5, challenger=0.9, p_value=1.0, items=40),
        "boot": Recall(champion=8 / 10, challenger=6 / 10, p_value=0.03, items=10),
        "rare": Recall(champion=1.0, challenger=0.5, p_value=0.0625, items=8),
    }
    good = {"accuracy": 0.9, "champion_accuracy": 0.8, "items": 100, "gains": 15, "losses": 5, "p_value": 0.0207}
    return Comparison(**{**good, "recalls": recalls, **given})


NAN = {"p_value": None, "gains": None, "losses": None, "recalls": {}}


@pytest.mark.parametrize(
    ("given", "gate", "objection"),
    [
        ({}, Gate(max_recall_drop=0.2), None),
        ({"accuracy": None, **NAN}, Gate(), "its predictions are not numbers (NaN)"),
        ({"champion_accuracy": None, **NAN}, Gate(), None),
        ({}, Gate(minimum_accuracy=0.95), "accuracy 90.00% is below the minimum of 95.00%"),
        ({"champion_accuracy": None, **NAN}, Gate(minimum_accuracy=0.95), "accuracy 90.00% is below the minimum of"),
        ({}, Gate(minimum_accuracy=0.9, max_recall_drop=0.2), None),
        (
            {},
            Gate(significance=0.01),
            "not better beyond chance: accuracy 90.00%, the champion's 80.00% on the",
        ),
        ({"gains": 6, "losses": 5, "p_value": 0.5}, Gate(), "not better beyond chance: "),
        ({"p_value": 0.0501}, Gate(max_recall_drop=0.2), "not better beyond chance: "),
        ({"p_value": 0.05}, Gate(max_recall_drop=0.2), None),
        ({"gains": 6, "losses": 5, "p_value": 0.5}, Gate(significance=1, max_recall_drop=1), None),
        ({"gains": 5, "losses": 5, "p_value": 0.623}, Gate(significance=1), "not better: "),
        ({"gains": 0, "losses": 0, "p_value": 1.0}, Gate(significance=1), "not better: "),
        ({}, Gate(max_recall_drop=0.15), "better, but for boot: its recall fell from 80.00% to 60.00%, by more than"),
        ({}, Gate(significance=0.025), "better, but for boot: "),
        ({}, Gate(significance=1), "better, but for boot: "),
    ],
)
def test_what_the_gate_says(given, gate, objection):
    found = judge(compared(**given), gate)
    assert found is None if objection is None else str(found).startswith(objection)


def with_a_rare_class(items, right_before, right_now):
    """A challenger that is better on 100 images of a common class, and is this on a rare one."""
    labels = np.array([0] * 100 + [1] * items)
    ours, theirs = np.ones(100 + items, bool), np.ones(100 + items, bool)
    theirs[:60] = False
    ours[100 + right_now :] = theirs[100 + right_before :] = False
    return compare(ours, theirs, labels, ["common", "rare"])


@pytest.mark.parametrize("significance", [1, 0.05, 0.01, 0.001])
@pytest.mark.parametrize(
    ("items", "before", "now", "why"),
    [
        (6, 6, 0, "its recall fell from 100.00% to 0.00%, by more than 10.00%; accuracy "),
        (6, 6, 2, "its 6 test images are too few to tell that from chance (p = 0.062), and more than half of"),
        (6, 6, 3, None),
        (5, 5, 2, "its 5 test images are too few"),
        (4, 4, 0, "its 4 test images are too few"),
        (4, 4, 2, None),
        (3, 3, 1, "its 3 test images are too few"),
        (3, 2, 0, "its 3 test images are too few"),
        (2, 2, 0, "its 2 test images are too few"),
        (2, 2, 1, None),
        (1, 1, 0, None),
        (20, 20, 15, "its recall fell from 100.00% to 75.00%, by more than 10.00%; accuracy "),
        (20, 20, 16, None),
    ],
)
def test_a_rare_class_is_protected_however_sure_a_promotion_must_be(items, before, now, why, significance):
    comparison = with_a_rare_class(items, before, now)
    found = judge(comparison, Gate(significance=significance))
    assert found is None if why is None else found.startswith("better, but for rare: ") and why in found
    assert judge(comparison, Gate(significance=significance, max_recall_drop=1)) is None
    looked_at = unprotected(comparison, Gate(significance=significance))
    assert list(looked_at) == (["rare"] if why is None and items < 5 else [])


limits = st.tuples(
    st.sampled_from([0.0, 0.5, 0.8, 0.9, 1.0]),
    st.sampled_from([1e-6, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0]),
    st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 1.0]),
)


@settings(max_examples=400)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=120),
    limits,
    limits,
)
def test_a_stricter_gate_never_promotes_what_a_looser_one_keeps(items, one, other):
    """Each limit by itself, and all of them together."""
    labels, ours, theirs = (np.array(column) for column in zip(*items, strict=True))
    comparison = compare(ours < 9, theirs < 6, labels, list("abcde"))
    loose = Gate(min(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2]))
    strict = Gate(max(one[0], other[0]), min(one[1], other[1]), min(one[2], other[2]))
    steps = [
        dataclasses.replace(loose, **{field.name: getattr(strict, field.name)}) for field in dataclasses.fields(Gate)
    ]
    for each in (*steps, strict):
        if judge(comparison, loose):
            assert judge(comparison, each)


@functools.cache
def trained(seed, weak, *learned_from):
    """A dense network. learned_from: the bytes of images and of labels, and an image's shape: most datasets of these
    tests have the same ones to learn from, and are trained on once."""
    images, labels, shape = learned_from
    how = {"epochs": 1, "learning_rate": 0.001} if weak else {"epochs": 12}
    settings = TrainingSettings(**how, batch_size=16, seed=seed)
    labels = np.frombuffer(labels, np.int32)
    images = np.frombuffer(images, np.uint8).reshape(-1, *shape)
    return settings, fit(images, labels, classes=3, spec=ImageSpec(*shape), settings=settings)


def save(store, data, seed, weak=False):
    """Published dense weights; `weak` ones hardly tell the three shapes apart."""
    loaded = dataset.load(store, data)
    images = np.asarray(loaded.train.images)
    settings, found = trained(
        seed, weak, images.tobytes(), np.asarray(loaded.train.labels, np.int32).tobytes(), images.shape[1:]
    )
    return weights.save(
        store, "shapes", tensors=found.tensors, history=[result.to_dict() for result in found.history],
        classes=CLASSES, image_spec=loaded.image_spec, settings=settings.to_dict(), dataset=data, made={},
    )  # fmt: skip


def save_shapes(store, shapes):
    return dataset.save(
        store, "shapes", **shapes, classes=CLASSES, image_spec=SPEC.to_dict(), settings={"source": "drawn"}, inputs={},
        made={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(shapes, tmp_path_factory):
    """A store with the shapes, weights that were trained on them, and their evaluations: what most tests begin with."""
    store = Store(tmp_path_factory.mktemp("measured") / "store")
    data = save_shapes(store, shapes)
    for seed in (0, 1):
        for weak in (True, False):
            evaluate_weights(store, save(store, data, seed, weak), data)
    return store


@pytest.fixture
def store(measured, tmp_path):
    """A copy of it, so that a test trains and draws only what no other has."""
    return Store(shutil.copytree(measured.disk.root, tmp_path / "store"))


def decide(store, ref, data, gate=ANY_GAIN):
    return decide_promotion(store, evaluate_weights(store, ref, data), gate)


@pytest.mark.slow
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
    for event in (first, second):
        assert Grounds.from_numbers(event.numbers).to_numbers() == event.numbers
    older = {name: value for name, value in second.numbers.items() if name not in ("unknown", "uncompared")}
    assert Grounds.from_numbers(older).compared is None
    assert (first.numbers["decisions"], first.numbers["test_split"]) == (0, second.numbers["test_split"])
    assert len(first.numbers["test_split"]) == 32
    assert (
        f"just one is right on {expected['gains'] + expected['losses']}: this one on {expected['gains']} (p = "
        in second.reason
    )


@pytest.mark.slow
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


@pytest.mark.slow
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


def hashed(split, names):
    """Files of their own, known by these contents."""
    return dataclasses.replace(split, sources=names, sha256=names)


def numbered(split, places):
    return hashed(split, [str(index) for index in places])


def publish(store, like, **splits):
    spec = store.open(like).facts["image_spec"]
    return dataset.save(
        store, "shapes", **splits, classes=CLASSES, image_spec=spec, settings={}, inputs={}, made={}
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("seen", "compared_on"), [(2, 58), (30, 30), (31, None)])
def test_test_images_that_a_champion_has_learned_from_are_left_out(store, shapes_dataset, shapes, seen, compared_on):
    train, test = numbered(shapes["train"], range(300)), numbered(shapes["test"], range(300, 360))
    first = publish(store, shapes_dataset, train=train, test=test)
    decide(store, save(store, first, 0, weak=True), first)
    moved = numbered(shapes["test"], [*range(seen), *range(400, 460 - seen)])
    second = publish(store, shapes_dataset, train=hashed(shapes["train"], [f"new {n}" for n in range(300)]), test=moved)
    event = decide(store, save(store, second, 1), second)
    if compared_on is None:
        assert event.action == "keep"
        assert event.reason.startswith(
            "the models have learned from 31 of the 60 test images, which leaves fewer than half to compare them on: "
        )
        assert f"`lookbook promote {event.challenger} --reason ...`" in event.reason
        assert "p_value" not in event.numbers
        return
    assert event.action == "promote", event.reason
    assert (event.numbers["items"], event.numbers["seen"]) == (compared_on, seen)
    assert f"on the same {compared_on} test images; " in event.reason
    assert f"left out, as a model has learned from them: {seen}" in event.reason


@pytest.mark.slow
def test_a_rare_class_whose_only_test_image_was_learned_from_does_not_stop_promotions(store, shapes_dataset, shapes):
    train, test = numbered(shapes["train"], range(300)), numbered(shapes["test"], range(300, 360))
    rare = [*np.flatnonzero(test.labels != 2), np.flatnonzero(test.labels == 2)[0]]
    fewer = dataset.Split(test.images[rare], test.labels[rare], *[[test.sources[place] for place in rare]] * 2)
    first = publish(store, shapes_dataset, train=train, test=fewer)
    decide(store, save(store, first, 0, weak=True), first)
    moved = hashed(fewer, [*fewer.sources[:-1], "17"])
    second = publish(store, shapes_dataset, train=hashed(train, [f"new {n}" for n in range(300)]), test=moved)
    event = decide(store, save(store, second, 1), second)
    assert event.action == "promote"
    assert event.numbers["uncompared"] == ["line"]
    assert "no image is left of line: look at that yourself" in event.reason


@pytest.mark.slow
def test_images_that_are_no_files_are_known_by_their_pixels(store, shapes_dataset, shapes):
    decide(store, save(store, shapes_dataset, 0, weak=True), shapes_dataset)
    test, train = shapes["test"], shapes["train"]
    images, labels = test.images.copy(), test.labels.copy()
    images[:3], labels[:3] = train.images[:3], train.labels[:3]
    second = publish(store, shapes_dataset, train=shapes["train"], test=dataset.Split(images, labels, test.sources))
    assert decide(store, save(store, second, 1), second).numbers["seen"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_champion_whose_dataset_can_not_be_read_is_told(store, shapes_dataset, shapes, harm):
    decide(store, save(store, shapes_dataset, 0, weak=True), shapes_dataset)
    other = publish(store, shapes_dataset, train=shapes["train"], test=numbered(shapes["test"], range(60)))
    challenger = save(store, other, 1)
    if harm == "missing":
        remove(store.open(shapes_dataset).folder)
    else:
        path = store.open(shapes_dataset).folder / "train.arrow"
        damage(path, path.read_bytes()[:-1])
    event = decide(store, challenger, other)
    assert event.numbers["unknown"] == [str(shapes_dataset)]
    assert f"whether a model has learned from these images is not known, as {shapes_dataset} can't be" in event.reason
    assert "is missing or damaged" in report(store, event)


def report(store, event):
    return decision.markdown(store, event.challenger, Decision.from_event(event))


@pytest.mark.slow
def test_copies_among_the_test_images_count_once(store, shapes_dataset, shapes):
    """Each five times: five times as many gains would be beyond any chance."""
    few = dataclasses.replace(
        shapes["test"], images=shapes["test"].images[:20], labels=shapes["test"].labels[:20],
        sources=shapes["test"].sources[:20],
    )  # fmt: skip
    many = dataset.Split(*(np.repeat(each, 5, axis=0) for each in (few.images, few.labels)), [*few.sources] * 5)
    once, five = (publish(store, shapes_dataset, train=shapes["train"], test=test) for test in (few, many))
    weak, other = save(store, once, 0, weak=True), save(store, once, 1, weak=True)
    told = [metrics.load(store, evaluate_weights(store, weak, data)) for data in (once, five)]
    assert told[1].document == {**told[0].document, "copies": 80, "mistakes": told[1].document["mistakes"],
                               "label_errors": told[1].document["label_errors"]}  # fmt: skip
    assert "copies" not in told[0].document
    assert len(told[1].labels()) == 100, "the probabilities of each are there"
    for listed in ("mistakes",):
        for one, other_one in zip(told[0].document[listed], told[1].document[listed], strict=True):
            assert other_one["item"] == 5 * one["item"]
    page = told[1].artifact.read("report.html").decode()
    assert "20 test images (80 more are copies, not counted)" in page
    assert "20 test images (80 more are copies, not counted)" in told[1].artifact.read("model-card.md").decode()
    decide(store, weak, five)
    event = decide(store, other, five)
    assert (event.numbers["items"], event.numbers["copies"]) == (20, 80)
    decide_once = compare(
        *(metrics.load(store, evaluate_weights(store, each, once)).hits() for each in (other, weak)),
        few.labels, CLASSES,
    )  # fmt: skip
    assert event.numbers["p_value"] == decide_once.p_value
    assert "copies among the test images, which do not count: 80" in event.reason
    assert "80 of the test images are copies of others" in report(store, event)


@pytest.mark.slow
def test_what_was_withdrawn_stays_so_until_a_person_promotes_it(store, shapes_dataset):
    weak, strong = save(store, shapes_dataset, 0, weak=True), save(store, shapes_dataset, 1)
    for each in (weak, strong):
        assert decide(store, each, shapes_dataset).action == "promote"
    aliases.rollback(store.disk, "shapes", "bad on real pictures", store.open)
    event = decide(store, strong, shapes_dataset)
    assert (event.action, event.ref, event.challenger) == ("keep", str(weak), str(strong))
    assert event.reason == (
        "it is the version that was withdrawn by the rollback that is decision 3 (bad on real pictures), and stays so "
        f"until a person promotes it: where that is meant, `lookbook promote {strong} --reason ...`"
    )
    assert "p_value" not in event.numbers
    published = weights.load(store, strong)
    nearly = {name: np.nextafter(tensor, np.float32(1)) for name, tensor in published.tensors.items()}
    again = weights.save(
        store, "shapes", tensors=nearly, history=published.history, classes=CLASSES, image_spec=published.image_spec,
        settings=published.settings, dataset=shapes_dataset, made={},
    )  # fmt: skip
    event = decide(store, again, shapes_dataset)
    assert event.reason.startswith(f"it was trained from the same data with the same settings as {strong}, which was")
    with living.removing(store.disk):
        remove_version(store, strong, "damaged", "a bit flipped")
    event = decide(store, again, shapes_dataset)
    assert event.reason.startswith(f"it was trained from the same data with the same settings as {strong}, which was")
    save(store, shapes_dataset, 1)
    aliases.promote(store.disk, strong, "it was the pictures")
    assert decide(store, again, shapes_dataset).reason.startswith("not better: "), "as any other"


@pytest.mark.slow
def test_a_champion_that_is_gone_is_told_with_what_to_do(store, shapes_dataset):
    weak, strong = save(store, shapes_dataset, 0, weak=True), save(store, shapes_dataset, 1)
    decide(store, weak, shapes_dataset)
    remove(store.disk.local_path(weak.folder))
    with pytest.raises(
        NotFound, match=f"champion {weak} is not in the store any more.* `lookbook promote {strong} --re"
    ):
        decide(store, strong, shapes_dataset)


@pytest.mark.slow
def test_a_run_that_is_started_again_finds_its_own_decision(store, shapes_dataset):
    """Killed between the decision and the record of the run."""
    weak, strong = (evaluate_weights(store, each, shapes_dataset) for each in (
        save(store, shapes_dataset, 0, weak=True), save(store, shapes_dataset, 1)))  # fmt: skip
    first = decide_promotion(store, weak, Gate(), "run 1")
    second = decide_promotion(store, strong, ANY_GAIN, "run 2")
    kept = decide_promotion(store, weak, ANY_GAIN, "run 3")
    assert [each.action for each in (first, second, kept)] == ["promote", "promote", "keep"]
    for run, measured, event in (("run 2", strong, second), ("run 1", weak, first), ("run 3", weak, kept)):
        assert decide_promotion(store, measured, ANY_GAIN, run) == event
    assert len(aliases.history(store.disk, "weights", "shapes", "champion")) == 3
    assert decide_promotion(store, weak, ANY_GAIN, "run 2").number == 4, "other weights are another decision"


@pytest.mark.slow
def test_the_champion_is_evaluated_in_the_same_run(store, shapes_dataset, monkeypatch):
    one, two = save(store, shapes_dataset, 0), save(store, shapes_dataset, 1)
    decide(store, one, shapes_dataset)
    measured = evaluate_weights(store, two, shapes_dataset)
    asked = []
    monkeypatch.setattr(stage, "evaluate_weights", lambda *given: asked.append(given) or evaluate_weights(*given))
    decide_promotion(store, measured, Gate())
    assert asked == [(store, one, shapes_dataset)], "though the store has its evaluation"


@pytest.mark.slow
def test_a_first_model_below_the_minimum_is_no_champion(store, shapes_dataset):
    weak = save(store, shapes_dataset, 0, weak=True)
    with pytest.raises(NotPromotable, match=r"can't be the first champion: accuracy .* is below the minimum of 99.00%"):
        decide(store, weak, shapes_dataset, Gate(minimum_accuracy=0.99))
    assert aliases.history(store.disk, "weights", "shapes", "champion") == []
    event = aliases.promote(store.disk, weak, "for a demonstration")
    assert (event.action, event.ref) == ("promote", str(weak)), "a person may"


@pytest.mark.slow
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


@pytest.mark.slow
def test_weights_are_only_measured_on_what_they_are_meant_for(store, shapes_dataset, shapes):
    ref = save(store, shapes_dataset, 0)
    data = dataset.save(
        store, "shapes", **shapes, classes=["circle", "square", "star"], settings={}, inputs={}, made={},
        image_spec=store.open(shapes_dataset).facts["image_spec"],
    )  # fmt: skip
    with pytest.raises(Mismatch, match=r"tells 3 classes apart; .* has 3 \(differing: line, star\). Retrain, or name"):
        evaluate_weights(store, ref, data)


def leaking(shapes, leaked, brighter):
    """Splits of files whose first test images have a picture to train on, `brighter` by so much, in other files."""
    train, test = numbered(shapes["train"], range(300)), numbered(shapes["test"], range(300, 360))
    images = np.concatenate([train.images, np.minimum(test.images[:leaked], 255 - brighter) + np.uint8(brighter)])
    labels = np.concatenate([train.labels, test.labels[:leaked]])
    names = [*train.sources, *(f"again {place}" for place in range(leaked))]
    return {"train": dataset.Split(images, labels, names, names), "test": test}


@pytest.mark.slow
@pytest.mark.parametrize(("brighter", "left_out"), [(0, "seen"), (2, "near")])
def test_what_was_learned_from_in_another_file_counts_neither_in_accuracy_nor_in_the_gate(
    store, shapes_dataset, shapes, brighter, left_out
):
    sound = publish(store, shapes_dataset, **leaking(shapes, 0, 0))
    leaky = publish(store, shapes_dataset, **leaking(shapes, 25, brighter))
    assert decide(store, save(store, sound, 0, weak=True), sound).action == "promote"
    challenger = save(store, leaky, 1)
    measured = metrics.load(store, evaluate_weights(store, challenger, leaky))
    assert (measured.numbers.items, measured.numbers.learned) == (35, 25)
    assert measured.numbers.accuracy == measured.hits()[25:].mean()
    assert (
        "(25 more are the same, or nearly, as training images, not counted)"
        in measured.artifact.read("report.html").decode()
    )
    assert measured.fair().tolist() == [False] * 25 + [True] * 35
    event = decide(store, challenger, leaky)
    assert (event.numbers["items"], event.numbers[left_out]) == (35, 25)
    told = "a model has learned from them: 25" if left_out == "seen" else "learned from nearly the same pictures: 25"
    assert told in event.reason
    assert "25 test images" in report(store, event)
    clean = metrics.load(store, evaluate_weights(store, save(store, sound, 1), sound))
    assert (clean.numbers.items, "learned" in clean.document, clean.fair().all()) == (60, False, True)


@pytest.mark.slow
def test_where_all_is_learned_from_a_number_is_told_and_nothing_promoted(store, shapes_dataset, shapes):
    splits = leaking(shapes, 60, 2)
    data = publish(store, shapes_dataset, **splits)
    assert decide(store, save(store, data, 0, weak=True), data).numbers["items"] == 60, "the first is champion"
    event = decide(store, save(store, data, 1), data)
    assert event.action == "keep"
    assert "from nearly the same pictures as 60, which leaves fewer than half" in event.reason


def test_decisions_of_an_earlier_lookbook_are_read():
    numbers = dict.fromkeys(("metrics", "accuracy", "loss", "items", "test_split", "decisions"), 0)
    numbers |= {**dataclasses.asdict(Gate()), "copies": 1, "seen": 2, "unknown": []}
    assert Grounds.from_numbers(numbers).left_out.near == 0
