"""pytest tests/test_vision_metrics.py"""

import math

import numpy as np
import pytest

from tasks.vision.metrics import evaluate

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]], np.float32)
LABELS = np.array([0, 1, 1, 2], np.int32)


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


def test_a_probability_of_zero_is_a_large_loss_not_an_infinite_one():
    numbers = evaluate(np.array([[0.0, 1.0]], np.float32), np.array([0], np.int32), ["a", "b"])
    assert 80 < numbers["loss"] < 90


def test_answers_that_are_not_numbers_have_no_accuracy():
    numbers = evaluate(np.full((2, 2), np.nan, np.float32), np.array([0, 1], np.int32), ["a", "b"])
    assert (numbers["accuracy"], numbers["loss"]) == (None, None)


def test_nothing_to_evaluate():
    with pytest.raises(ValueError, match="expected at least one item"):
        evaluate(np.zeros((0, 2), np.float32), np.zeros(0, np.int32), ["a", "b"])
