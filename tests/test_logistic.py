"""pytest tests/test_logistic.py: logistic regression by hand, and how strongly cross-validation has it penalized."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tasks.vision import cross_validation, device
from tasks.vision.cross_validation import FOLDS, PENALTIES, cross_validate, fold_items, solve
from tasks.vision.errors import WeightsError
from tasks.vision.heads import LEAST_DEVIATION, solve_head
from tasks.vision.logistic import Problems

device.use_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # of an old scikit-learn's


def draw(items=400, width=30, classes=4, seed=0, apart=1.0):
    """Features around a mean for each class, and their labels, which are right for nine of ten."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(items) % classes).astype(np.int32)
    features = (random.normal(size=(classes, width)) * apart)[labels] + random.normal(size=(items, width))
    wrong = random.random(items) < 0.1
    labels[wrong] = random.integers(0, classes, wrong.sum())
    return (features - features.mean(axis=0)).astype(np.float32), labels


def loss_of(kernel, bias, features, labels, weights, penalty):
    """What is to be least, in float64: the mean loss, and the penalty by the sum of the weights."""
    logits = features.astype(np.float64) @ kernel + bias
    largest = logits.max(axis=1)
    losses = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return np.average(losses, weights=weights) + penalty / weights.sum() / 2 * np.sum(kernel.astype(np.float64) ** 2)


def validated(features, labels, classes, seed=0, weights=None, first=None):
    weights = np.ones(len(labels), np.float32) if weights is None else weights
    folds = fold_items(labels, np.arange(len(labels)) if first is None else first, seed)
    found = cross_validate(features, labels, weights, folds, classes)
    return found, *solve(features, labels, weights, classes, found.chosen.penalty, found.start)


@pytest.mark.parametrize("penalty", [1000.0, 10.0, 0.01])
@pytest.mark.parametrize("balanced", [False, True])
def test_it_is_the_optimum_of_scikit_learn(penalty, balanced):
    features, labels = draw()
    weights = np.random.default_rng(1).uniform(0.2, 3, len(labels)) if balanced else np.ones(len(labels))
    weights = (weights / weights.mean()).astype(np.float32)
    problem = Problems(features, labels, weights[:, None], 4)
    layer = problem.solve(problem.zeros(), penalty, 1e-6)[0].numpy()[:, 0]
    theirs = LogisticRegression(C=1 / penalty, max_iter=10_000, tol=1e-10).fit(features, labels, weights)
    ours = loss_of(layer[:-1], layer[-1], features, labels, weights, penalty)
    best = loss_of(theirs.coef_.T, theirs.intercept_, features, labels, weights, penalty)
    assert ours <= best * (1 + 1e-5)
    assert ours >= best * (1 - 1e-5)


def test_problems_side_by_side_are_those_alone():
    features, labels = draw()
    weights = np.random.default_rng(2).uniform(0, 2, (400, 3)).astype(np.float32)
    together = Problems(features, labels, weights, 4)
    found, logits = together.solve(together.zeros(), 3.0, 1e-7)
    for number in range(3):
        alone = Problems(features, labels, weights[:, number : number + 1], 4)
        solution, given = alone.solve(alone.zeros(), 3.0, 1e-7)
        np.testing.assert_allclose(found[:, number], solution[:, 0], atol=5e-3)
        np.testing.assert_allclose(logits[:, number], given[:, 0], atol=2e-2)


def test_the_penalty_is_the_best_that_is_tried():
    features, labels = draw(items=200, apart=0.3)
    found, kernel, _ = validated(features, labels, 4)
    losses = [each.loss for each in found.tried]
    assert [each.penalty for each in found.tried] == list(PENALTIES[: len(losses)])
    assert found.chosen == found.tried[int(np.argmin(losses))]
    assert not found.at_the_edge
    assert len(losses) == losses.index(min(losses)) + 2, "a worse one ends it"
    assert np.abs(kernel).max() > 0


def test_what_is_held_out_was_not_learned_from():
    features, labels = draw()
    found, _, _ = validated(features, labels, 4)
    for fold in range(FOLDS):
        held_out = found.folds == fold
        theirs = LogisticRegression(C=1 / found.chosen.penalty, max_iter=10_000, tol=1e-8)
        theirs.fit(features[~held_out], labels[~held_out])
        np.testing.assert_allclose(found.probabilities[held_out], theirs.predict_proba(features[held_out]), atol=0.02)
    chosen = found.probabilities[np.arange(len(labels)), labels]
    np.testing.assert_allclose(found.losses, -np.log(chosen.astype(np.float64)), rtol=1e-4, atol=1e-6)
    assert found.chosen.loss == pytest.approx(found.losses.mean())


def test_folds_have_as_many_of_each_class_and_keep_copies_together():
    labels = np.repeat(np.arange(4), [50, 23, 7, 1]).astype(np.int32)
    first = np.arange(81)
    first[[10, 11, 12]] = 9
    folds = fold_items(labels, first, seed=3)
    assert (folds[[9, 10, 11, 12]] == folds[9]).all()
    assert folds[80] == -1, "a class with one picture is learned from by all"
    for label, contents in enumerate((47, 23, 7)):
        once = first == np.arange(81)
        counts = np.bincount(folds[once & (labels == label)], minlength=FOLDS)
        assert counts.sum() == contents
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(folds[(folds >= 0) & (first == np.arange(81))], minlength=FOLDS)
    assert sizes.max() - sizes.min() <= 1, "classes don't all begin with the same fold"
    np.testing.assert_array_equal(folds, fold_items(labels, first, seed=3))
    assert (folds != fold_items(labels, first, seed=4)).any()


def test_a_content_with_two_labels_is_held_out_as_one():
    labels, first = np.array([0, 0, 0, 1, 1, 1], np.int32), np.array([0, 1, 2, 2, 4, 5])
    folds = fold_items(labels, first, 0)
    assert folds[2] == folds[3] >= 0


def test_the_only_content_of_a_class_is_learned_from_though_another_class_has_it():
    labels, first = np.array([0, 0, 0, 0, 1], np.int32), np.array([0, 1, 2, 3, 0])
    folds = fold_items(labels, first, 0)
    assert folds[0] == folds[4] == -1
    assert (folds[1:4] >= 0).all()


def test_one_picture_a_class():
    features, labels = draw(items=6, classes=6)
    labels = np.arange(6, dtype=np.int32)
    found, kernel, bias = validated(features, labels, 6)
    assert found.tried == ()
    assert (found.folds == -1).all()
    assert ((features @ kernel + bias).argmax(axis=1) == labels).all()


@pytest.mark.parametrize("items", [2, 3, 5])
def test_so_few_pictures_that_parts_of_them_are_empty(items):
    features, labels = draw(items=items)[0], (np.arange(items) % 2).astype(np.int32)
    problem = Problems(features, labels, np.ones((items, 1), np.float32), 2)
    layer = problem.solve(problem.zeros(), 0.1, 1e-6)[0].numpy()[:, 0]
    assert ((features @ layer[:-1] + layer[-1]).argmax(axis=1) == labels).all()
    assert np.isfinite(validated(features, labels, 2)[0].probabilities).all()


def test_more_classes_than_pictures_of_most():
    labels = np.array([0, 0, 0, 0, 1, 2, 3, 4], np.int32)
    features = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    found, kernel, _ = validated(features, labels, 5)
    assert found.folds.tolist()[4:] == [-1] * 4
    assert np.isfinite(found.probabilities).all()
    assert np.isfinite(kernel).all()


def test_perfectly_separated_classes_have_an_end():
    features, labels = draw(apart=0.0)
    features[np.arange(400), labels] += 50
    found, kernel, _ = validated(features, labels, 4)
    assert found.chosen.accuracy == 1
    assert found.at_the_edge
    assert found.chosen.penalty == 1, "a weaker one would be surer than so many items can tell"
    assert np.isfinite(kernel).all()
    assert np.isfinite(found.losses).all()


def test_columns_that_are_copies_or_constant_do_no_harm():
    features, labels = draw()
    odd = np.concatenate([features, features[:, :5], np.zeros((400, 3), np.float32)], axis=1)
    found, kernel, _ = validated(odd, labels, 4)
    assert np.isfinite(kernel).all()
    np.testing.assert_allclose(kernel[:5], kernel[30:35], atol=1e-2)
    assert np.abs(kernel[35:]).max() < 1e-5
    assert found.chosen.accuracy > 0.8


def test_few_numbers_of_many_items_are_held_at_a_time(monkeypatch):
    features, labels = draw()
    at_once, _, _ = validated(features, labels, 4)
    monkeypatch.setattr(cross_validation, "_HELD", 2 * 400 * 4)
    in_groups, _, _ = validated(features, labels, 4)
    assert in_groups.chosen.penalty == at_once.chosen.penalty
    np.testing.assert_allclose(in_groups.probabilities, at_once.probabilities, atol=0.01)


def test_of_many_items_a_sample_tells_the_penalty_and_all_are_held_out(monkeypatch):
    features, labels = draw(items=2000, apart=0.3)
    whole, _, _ = validated(features, labels, 4)
    monkeypatch.setattr(cross_validation, "_SEARCHED", 500 * 30 * 4)
    sampled, kernel, _ = validated(features, labels, 4)
    assert abs(np.log10(sampled.chosen.penalty / whole.chosen.penalty)) <= 1
    assert sampled.tried[0].loss > whole.tried[0].loss, "fewer items, more strongly penalized"
    assert sampled.chosen.loss == pytest.approx(whole.chosen.loss, rel=0.05)
    assert np.isfinite(kernel).all()


def test_a_head_sees_features_of_mean_0_and_one_deviation_a_backbone():
    features, labels = draw()
    features = np.concatenate([5 + features, 1000 * features, np.full((400, 2), 7, np.float32)], axis=1)
    head = solve_head(features, labels, 4, widths=[30, 30, 2], first=np.arange(400))
    deviations = head.tensors["features/deviation"]
    assert deviations.shape == (3,)
    assert deviations[1] == pytest.approx(1000 * deviations[0], rel=1e-3)
    assert deviations[2] == np.float32(LEAST_DEVIATION)
    kernel = head.tensors["output/kernel"]
    np.testing.assert_allclose(kernel[:30], kernel[30:60], atol=1e-3)
    again = solve_head(features, labels, 4, widths=[30, 30, 2], first=np.arange(400))
    for name, tensor in head.tensors.items():
        np.testing.assert_array_equal(tensor, again.tensors[name])


def test_balanced_classes_count_the_same():
    """Of a class with few items more are found where every class counts the same."""
    features, labels = draw(items=600, classes=2, apart=0.15)
    kept = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:20]])
    features, labels = features[kept], labels[kept]
    called = {}
    for balanced in (False, True):
        head = solve_head(features, labels, 2, widths=[30], first=np.arange(len(labels)), balanced=balanced)
        called[balanced] = int(head.found.probabilities.argmax(axis=1).sum())
    assert called[True] > 2 * called[False]


def test_features_that_are_no_numbers_are_refused():
    features, labels = draw()
    features[3, 3] = np.nan
    with pytest.raises(WeightsError, match="NaN"):
        solve_head(features, labels, 4, widths=[30], first=np.arange(400))
