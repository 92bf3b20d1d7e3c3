"""pytest tests/test_scoring_report.py: what the page of a scoring says of shifts against the test split."""

import numpy as np
import pytest

from tasks.reports.scoring import page
from tasks.reports.summary import Summary
from tasks.vision.stability import shift

SAME, OTHER = np.array([6_000, 4_000]), np.array([1_500, 8_500])


def told(classes, confidence):
    summary = Summary(
        rows=20, classes={"a": 12, "b": 8}, class_shift=shift(*classes), confidence_shift=shift(*confidence)
    )
    return page("shop", "weights/shop@0123456789abcdef", "datasets/shop@0123456789abcdef", summary, {}).decode()


def test_as_in_the_test_split():
    assert told((SAME, SAME), (SAME, SAME)).count("much the same as in the test split") == 2


def test_other_confidences_are_other_pictures_and_other_shares_may_be_somebodys_choice():
    text = told((SAME, OTHER), (SAME, SAME))
    assert "the shares differ from those in the test split" in text
    assert "balanced by hand" in text
    assert "these are other pictures" not in text
    text = told((SAME, SAME), (SAME, OTHER))
    assert "these are other pictures" in text
    assert "balanced by hand" not in text


def test_a_few_images_vary_by_chance():
    few = np.array([9, 11])  # of 60% and 40%
    assert shift(SAME, few).index > 0.05
    text = told((SAME, few), (np.full(10, 1_000), np.array([0, 4, 1, 2, 3, 0, 2, 1, 3, 4])))
    assert "no more than 20 images vary by chance (up to " in text
    assert "these are other pictures" not in text


@pytest.mark.parametrize("summary", [Summary(), Summary(rows=1, errors={"corrupt": 1})])
def test_where_there_is_nothing_to_compare_with_the_page_says_so(summary):
    assert "Nothing to compare" in page("shop", "w", "d", summary, {}).decode()
