"""pytest tests/test_vision_metrics.py: by hand, at the edges, and against scikit-learn and SciPy where they have it."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import calibration as sklearn_calibration
from sklearn import metrics as sklearn_metrics

from tasks.vision import metrics
from tasks.vision.metrics import evaluate

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]], np.float32)
LABELS = np.array([0, 1, 1, 2], np.int32)


def drawn(items=2000, classes=6, seed=0, sharpness=2.0, lift=1.5):
    """Softmax over noisy logits in which the label is likely, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, items).astype(np.int32)
    logits = random.normal(0, 1, (items, classes))
    logits[np.arange(items), labels] += lift
    powers = np.exp(sharpness * logits)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), labels


def test_numbers_worked_out_by_hand():
    numbers = evaluate(PROBABILITIES, LABELS, ["a", "b", "c"])
    assert numbers["accuracy"] == 0.5
    assert numbers["loss"] == pytest.approx(-(math.log(0.7) + math.log(0.8) + math.log(0.3) + math.log(0.3)) / 4)
    assert numbers["items"] == 4
    assert numbers["confusion_matrix"] == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert numbers["per_class"] == {
        "a": {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
        "b": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2},
        "c": {"precision": None, "recall": 0.0, "f1": 0.0, "support": 1},
    }
    assert numbers["most_confused"] == [
        {"is": "b", "called": "a", "items": 1},
        {"is": "c", "called": "b", "items": 1},
    ]
    assert [(each["item"], each["is"], each["called"]) for each in numbers["mistakes"]] == [
        (2, "b", "a"),
        (3, "c", "b"),
    ]
    assert numbers["mistakes"][0]["confidence"] == pytest.approx(0.6)
    assert numbers["top_k"] == {"2": 1.0}
    assert numbers["brier"] == pytest.approx((0.14 + 0.06 + 0.86 + 0.78) / 4)
    assert not {"temperature", "uncalibrated"} & numbers.keys()


def test_what_scikit_learn_has_is_the_same():
    probabilities, labels = drawn()
    names = list("abcdef")
    numbers = evaluate(probabilities, labels, names)
    predicted = probabilities.argmax(axis=1)
    assert numbers["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    exact = probabilities.astype(np.float64)
    assert numbers["loss"] == pytest.approx(sklearn_metrics.log_loss(labels, exact / exact.sum(1, keepdims=True)))
    assert numbers["brier"] == pytest.approx(
        sklearn_metrics.brier_score_loss(labels, exact / exact.sum(1, keepdims=True), scale_by_half=False)
    )
    assert numbers["confusion_matrix"] == sklearn_metrics.confusion_matrix(labels, predicted).tolist()
    theirs = sklearn_metrics.precision_recall_fscore_support(labels, predicted)
    for name, *expected in zip(names, *theirs, strict=True):
        assert list(numbers["per_class"][name].values()) == pytest.approx(expected)
    for k, value in numbers["top_k"].items():
        assert value == pytest.approx(sklearn_metrics.top_k_accuracy_score(labels, probabilities, k=int(k)))
    right, sure = sklearn_calibration.calibration_curve(
        predicted == labels, probabilities.max(axis=1), n_bins=metrics.CALIBRATION_BINS
    )
    filled = [each for each in numbers["calibration"]["bins"] if each["items"]]
    assert [each["accuracy"] for each in filled] == pytest.approx(right)
    assert [each["confidence"] for each in filled] == pytest.approx(sure)
    gaps = [each["items"] * abs(each["accuracy"] - each["confidence"]) for each in filled]
    assert numbers["calibration"]["error"] == pytest.approx(sum(gaps) / len(labels))


@pytest.mark.parametrize(("hits", "items"), [(0, 10), (10, 10), (86, 100), (8641, 10000), (1, 2)])
def test_the_interval_is_wilsons(hits, items):
    expected = stats.binomtest(hits, items).proportion_ci(0.95, method="wilson")
    assert metrics.wilson_interval(hits, items) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(("gains", "losses"), [(0, 0), (5, 0), (0, 5), (10, 3), (300, 260), (3000, 2900)])
def test_mcnemars_test_is_the_binomial_one(gains, losses):
    expected = stats.binomtest(gains, gains + losses, alternative="greater").pvalue if gains + losses else 1
    assert metrics.mcnemar(gains, losses) == pytest.approx(expected)


def test_the_temperature_is_found_and_calibrates():
    """Logits that are half as large as they should be, then twice: the scale that they were drawn with comes back."""
    for sharpness in (0.5, 1.0, 2.0, 4.0):
        probabilities, labels = drawn(20_000, sharpness=sharpness)
        temperature = metrics.fit_temperature(probabilities, labels)
        assert temperature == pytest.approx(sharpness / 1.5, rel=0.05)
        scaled = metrics.scale(probabilities, temperature)
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled.sum(axis=1), 1, atol=1e-6)
        assert (scaled.argmax(axis=1) == probabilities.argmax(axis=1)).all()
        best = metrics.log_loss(scaled, labels)
        for other in (0.9, 1.1):
            assert metrics.log_loss(metrics.scale(probabilities, temperature * other), labels) > best
        scaled_numbers = evaluate(scaled, labels, list("abcdef"), temperature)
        assert scaled_numbers["loss"] == best
        assert scaled_numbers["calibration"]["error"] < 0.02
        assert scaled_numbers["temperature"] == temperature
        as_it_is = evaluate(probabilities, labels, list("abcdef"))
        for key, before in (("loss", as_it_is["loss"]), ("error", as_it_is["calibration"]["error"])):
            assert scaled_numbers["uncalibrated"][key] == pytest.approx(before, abs=1e-5)


def test_a_temperature_has_bounds():
    probabilities, labels = drawn(1000)
    assert metrics.fit_temperature(probabilities, (labels + 1) % 6) == pytest.approx(20, rel=1e-3)
    assert metrics.fit_temperature(np.full((9, 3), 1 / 3), np.zeros(9, np.int32)) == 20, "nothing is known of it"
    sure = metrics.calibrate(np.eye(6, dtype=np.float32)[labels], labels, "out-of-fold")
    assert 0.05 < sure.temperature < 20
    assert sure.to_dict() == {"temperature": sure.temperature, "by": "out-of-fold", "items": 1000, "bound": True}
    found = metrics.calibrate(probabilities, labels, "held-out")
    assert found.to_dict() == {"temperature": found.temperature, "by": "held-out", "items": 1000}


def test_what_is_out_of_fold_makes_a_network_less_sure_and_never_surer():
    for sharpness, held_out, out_of_fold in ((3.0, 2.0, 2.0), (0.75, 0.5, 1.0)):
        probabilities, labels = drawn(10_000, sharpness=sharpness)  # 1.5 would be true
        found = [metrics.calibrate(probabilities, labels, by).temperature for by in ("held-out", "out-of-fold")]
        assert found == pytest.approx([held_out, out_of_fold], rel=0.05)


@pytest.mark.parametrize("items", [1, 12, 50, 1000])
def test_items_that_are_all_right_make_no_certainty(items):
    """Of alike items, all of them right, half a mistake is expected: (n + 1/2) / (n + 1), as by Jeffreys' prior."""
    for confidence in (0.6, 0.9, 1 - 1e-6):
        few = np.full((items, 2), [confidence, 1 - confidence])
        found = metrics.calibrate(few, np.zeros(items, np.int32), "held-out")
        assert found.bound
        expected = max((items + 1 / 2) / (items + 1), metrics.scale(few[:1], 20).max())
        assert metrics.scale(few, found.temperature).max() == pytest.approx(expected, abs=1e-5)


def test_one_mistake_more_changes_little():
    """No threshold: the temperature grows with each mistake, and the first one is worth no more than the second."""
    probabilities, _ = drawn(400, lift=4.0)
    probabilities = probabilities[probabilities.max(axis=1) > 0.7]
    right = probabilities.argmax(axis=1)
    found = []
    for mistakes in range(12):
        labels = np.where(np.arange(len(right)) < mistakes, (right + 1) % 6, right)
        found.append(metrics.fit_temperature(probabilities, labels))
    steps = np.diff(np.log(found))
    assert (steps > 0).all()
    assert steps[0] < 2 * steps[1] + 0.2


@pytest.mark.parametrize(
    ("items", "unsure", "loss", "above"),
    [(20, 0.065, 0.035, 0.0), (50, 0.045, 0.015, 0.002), (500, 0.015, 0.0015, 0.002)],
)
def test_confidence_is_true_however_few_items_it_was_fitted_to(items, unsure, loss, above):
    """Items whose true probabilities are known, by networks that are too sure, not sure enough, or just right.

    unsure: mean distance of the scaled confidence from the true one, over 200 draws; loss: by how much more than that
    of the true probabilities, which no rule can beat; above: by how much confidence is above accuracy on average.
    """
    random = np.random.default_rng(1)
    for spread in (3.0, 8.0, 20.0):  # 66, 87 and 95 % are right
        logits = random.normal(0, spread, (1000, 10))
        truth = metrics.scale(np.exp(logits - logits.max(axis=1, keepdims=True)), 1)
        for sharpness in (0.5, 1.0, 3.0):
            answers, told = metrics.scale(truth, 1 / sharpness), []
            for _ in range(200):
                places = random.integers(0, len(truth), items)
                labels = (truth[places].cumsum(axis=1) > random.random((items, 1))).argmax(axis=1)
                scaled = metrics.scale(answers, metrics.fit_temperature(answers[places], labels))
                apart = scaled.max(axis=1) - truth.max(axis=1)
                excess = (truth * (np.log(np.maximum(truth, 1e-30)) - np.log(np.maximum(scaled, 1e-30)))).sum(axis=1)
                told.append((np.abs(apart).mean(), excess.mean(), apart.mean()))
            assert (np.mean(told, axis=0) < (unsure, loss, above)).all()


def test_of_equal_probabilities_the_first_counts():
    same = np.full((3, 4), 0.25, np.float32)
    labels = np.array([0, 1, 3])
    assert metrics.top_k_accuracy(same, labels, 1) == np.mean(same.argmax(axis=1) == labels) == pytest.approx(1 / 3)
    assert metrics.top_k_accuracy(same, labels, 2) == pytest.approx(2 / 3)


def test_wrong_labels_are_found():
    probabilities, labels = drawn(3000, lift=4.0)
    right = labels.copy()
    flipped = np.flatnonzero(probabilities.argmax(axis=1) == labels)[:40]
    labels[flipped] = (labels[flipped] + 1) % 6
    found = metrics.label_errors(probabilities, labels, list("abcdef"))
    listed = [each["item"] for each in found["listed"]]
    assert len(set(flipped.tolist()) & set(listed)) >= 33, "those of which the model is sure"
    assert found["items"] < 60
    margins = [probabilities[item].max() - probabilities[item, labels[item]] for item in listed]
    assert margins == sorted(margins, reverse=True)
    before = metrics.label_errors(probabilities, right, list("abcdef"))["items"]
    assert before < found["items"]


def test_a_probability_of_zero_is_a_large_loss_not_an_infinite_one():
    numbers = evaluate(np.array([[0.0, 1.0]], np.float32), np.array([0], np.int32), ["a", "b"])
    assert 80 < numbers["loss"] < 90
    assert numbers["brier"] == 2


def test_answers_that_are_not_numbers_have_no_accuracy():
    numbers = evaluate(np.full((2, 2), np.nan, np.float32), np.array([0, 1], np.int32), ["a", "b"])
    assert {numbers[key] for key in ("accuracy", "accuracy_interval", "loss", "brier")} == {None}
    assert not {"calibration", "mistakes", "label_errors", "top_k"} & numbers.keys()


def test_a_class_without_items():
    numbers = evaluate(PROBABILITIES[:3], LABELS[:3], ["a", "b", "c"])
    assert numbers["per_class"]["c"] == {"precision": None, "recall": None, "f1": None, "support": 0}
    assert numbers["label_errors"]["items"] <= 1


def test_nothing_to_evaluate():
    with pytest.raises(ValueError, match="expected at least one item"):
        evaluate(np.zeros((0, 2), np.float32), np.zeros(0, np.int32), ["a", "b"])
