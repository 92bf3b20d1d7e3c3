"""pytest tests/test_training_data.py: images and labels are checked, and a share of them is held out."""

import numpy as np
import pytest
from conftest import SPEC
from hypothesis import given
from hypothesis import strategies as st

from tasks.vision.errors import SettingsError
from tasks.vision.recipes import TrainingSettings
from tasks.vision.training import fit
from tasks.vision.training_data import check_labels, hold_out


def held_out(labels, share, seed):
    """The split where no image is a copy."""
    return hold_out(labels, share, seed, np.arange(len(labels)))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            lambda x: x / 255,
            lambda y: y,
            r"expected images of uint8 \[items, 8, 8, 1\], found float64 \[300, 8, 8, 1\]",
        ),
        (lambda x: x[..., 0], lambda y: y, r"expected images of uint8 \[items, 8, 8, 1\], found uint8 \[300, 8, 8\]"),
        (lambda x: x, lambda y: y[:-1], r"expected 300 labels of int32, found int32 \[299\]"),
        (lambda x: x[:-1], lambda y: y, r"expected 299 labels of int32, found int32 \[300\]"),
        (lambda x: x, lambda y: y * 1.0, r"expected 300 labels of int32, found float64 \[300\]"),
        (lambda x: x, lambda y: y.astype(np.int64) + 2**32, r"expected labels from 0 to 2, found 4294967296 to"),
    ],
)
def test_arrays_that_are_no_images_and_labels(shapes, images, labels, message):
    split = shapes["train"]
    with pytest.raises(SettingsError, match=message):
        fit(
            images(split.images),
            labels(split.labels),
            classes=3,
            spec=SPEC,
            settings=TrainingSettings(epochs=3, batch_size=16),
        )


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 0, 0], ["boot"], "expected two classes or more to tell apart, found 1: boot"),
        ([0, 0, 2], ["boot", "shoe", "hat"], "expected training images of every class, found none of shoe; add some"),
        ([0, 1, 2], ["boot", "shoe"], "expected labels from 0 to 1, found 0 to 2"),
        ([], ["boot", "shoe"], "expected training images of every class, found none of boot, shoe"),
    ],
)
def test_labels_that_nothing_can_be_learned_from(labels, names, message):
    with pytest.raises(SettingsError, match=message):
        check_labels(np.array(labels, np.int32), names)


def test_the_held_out_share_is_of_each_class_and_the_seeds():
    labels = np.repeat(np.arange(3, dtype=np.int32), [100, 50, 9])
    learned, held = held_out(labels, 0.1, seed=0)
    assert np.bincount(labels[held]).tolist() == [10, 5, 1]
    assert len(held_out(labels[:100], 0.29, seed=0)[1]) == 29
    assert sorted([*learned, *held]) == list(range(159))
    assert (held_out(labels, 0.1, seed=0)[1] == held).all()
    assert (held_out(labels, 0.1, seed=1)[1] != held).any()
    assert len(held_out(labels, 0.0, seed=0)[1]) == 0


def split_by_index(labels, share, seed):
    """As it was before copies were kept together."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        items = np.flatnonzero(labels == label)
        order = np.random.default_rng([seed, 1 << 32, int(label)]).permutation(items)
        held[order[: round(share * len(items))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.floats(0.001, 0.5), st.integers(0, 9), st.data())
def test_copies_stay_on_one_side_and_without_any_the_split_is_that_of_before(labels, share, seed, data):
    labels = np.array(labels, np.int32)
    alone = hold_out(labels, share, seed, np.arange(len(labels)))
    for found, expected in zip(alone, split_by_index(labels, share, seed), strict=True):
        np.testing.assert_array_equal(found, expected)
    contents = np.array(data.draw(st.lists(st.integers(0, 30), min_size=len(labels), max_size=len(labels))))
    first = np.unique(contents, return_index=True)[1][np.unique(contents, return_inverse=True)[1]]
    labels = labels[first]  # equal contents have equal labels
    learned, held = hold_out(labels, share, seed, first)
    assert not set(contents[learned]) & set(contents[held])
    assert len(set(contents[held])) == len(held), "of the held out each content once"
    gone = np.bincount(labels, minlength=5) - np.bincount(labels[learned], minlength=5)
    assert (gone <= np.round(share * np.bincount(labels, minlength=5))).all(), "never more than the share"


def test_what_is_mostly_copies_of_one_image_holds_out_others():
    labels = np.zeros(40, np.int32)
    first = np.array([0] * 30 + list(range(30, 40)))
    held = hold_out(labels, 0.1, 0, first)[1]
    assert len(held) == 4
    assert held.min() >= 30
    few = TrainingSettings(epochs=2, batch_size=2, validation=0.1, patience=1)
    with pytest.raises(SettingsError, match="which is none of any \\(copies of an image stay together\\); raise it"):
        fit(np.zeros((40, 8, 8, 1), np.uint8), labels[:] + np.arange(40) // 20, classes=2, spec=SPEC,
            settings=few)  # fmt: skip
