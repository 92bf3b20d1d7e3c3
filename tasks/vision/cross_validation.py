"""How strongly a linear layer is penalized: what does best on items that were not learned from, by cross-validation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.vision.device import tf
from tasks.vision.logistic import Problems
from tasks.vision.trained import Tried

PENALTIES = tuple(float(f"{10**power:.3g}") for power in np.arange(4.5, -0.1, -0.5))
"""What is tried, from the strongest on: half the square of the weights times this, beside the sum of the losses.

In this form the best one hardly depends on the number of items: it is the precision of a Gaussian prior. None is below
1: with five items a class weaker ones seem better by chance, and cost a tenth of the loss (docs/photographs.md)."""

FOLDS = 5
_CHOOSE, _SOLVE = 1e-3, 1e-6  # how far from its least value the loss may be, as a share of it: of folds, of the layer
_WORSE, _FLAT = 1 + 2 * _CHOOSE, 2  # a loss so many times the least one ends the search, or so many that gain nothing
_HELD = 1 << 27  # logits of problems that are solved together, at most: 0.5 GB, some eight times
_SEARCHED = 1 << 31  # items x features x classes of what penalties are tried on, at most; then it is a sample
_OF_A_CLASS = 10  # items of it, at least
_AT_ONCE = 1 << 14  # items whose probabilities are computed together


@dataclass(frozen=True)
class Chosen:
    """What cross-validation chose.

    tried: each penalty, from the strongest on. chosen: the one with the least loss.
    folds: int32 [items], which fold held an item out; -1 where none did.
    probabilities: float32 [items, classes], of each item by the layer that did not learn from its fold; of what no fold
        held out, by the first fold's layer, which has learned from it.
    losses: float64 [items]: -log p(label) of these, in nats.
    start: float32 [features + 1, classes], the mean of the folds' layers.
    """

    tried: tuple[Tried, ...]
    chosen: Tried
    folds: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray
    start: np.ndarray

    @property
    def at_the_edge(self) -> bool:
        """Whether the penalty is the strongest or the weakest that is tried: the best one may lie beyond it."""
        return self.chosen.penalty in (PENALTIES[0], PENALTIES[-1])


def fold_items(labels: np.ndarray, first: np.ndarray, seed: int) -> np.ndarray:
    """int32 [items]: which of FOLDS folds holds an item out, as many of each class in each as can be; -1 for none.

    labels: int32 [items].
    first: int64 [items], for each item the first one with the same content (`duplicates.firsts`): copies stay together.
    seed: decides which items go where.

    The only content of a class is learned from in all folds, whatever else it is labelled: a layer that never saw the
    class can't name it.
    """
    folds = np.full(len(labels), -1, np.int32)
    random, next_fold = np.random.default_rng(seed), 0
    contents_of = {label: np.unique(first[labels == label]) for label in np.unique(labels)}
    only = [contents[0] for contents in contents_of.values() if len(contents) == 1]
    for label, contents in contents_of.items():
        contents = contents[labels[contents] == label]  # a content with two labels goes with the first one
        contents = contents[~np.isin(contents, only)]
        if len(contents) < 2:
            continue
        folds[random.permutation(contents)] = (next_fold + np.arange(len(contents))) % FOLDS
        next_fold = (next_fold + len(contents)) % FOLDS
    found: np.ndarray = folds[first]
    return found


def cross_validate(
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    folds: np.ndarray,
    classes: int,
    on_tried: Callable[[Tried], None] = lambda tried: None,
) -> Chosen:
    """Try penalties from the strongest on, each from the solutions of the one before, until one is clearly worse.

    features: float32 [items, features], of mean 0 and a like size.
    labels: int32 [items], 0 to classes - 1.
    weights: float32 [items], how much each item counts; their mean is 1.
    folds: as `fold_items` gives them.
    on_tried: is told of each penalty.

    Of many items of many classes a sample tells the penalty, and all are held out by it once. The same arguments give
    the same bits. Where no item is held out, as every class has a single content, there is nothing to choose by: the
    penalty is 1.
    """
    if not (folds >= 0).any():
        nothing = Tried(1.0, float(np.log(classes)), 0.0, 1 / classes)
        start = np.zeros((features.shape[1] + 1, classes), np.float32)
        return Chosen((), nothing, folds, *_answers(np.zeros((len(labels), classes), np.float32), labels), start)
    sample = _sample(labels, folds, features.shape[1], classes)
    search = _Folds(features[sample], labels[sample], weights[sample], folds[sample], classes)
    tried: list[Tried] = []
    best: tuple[Tried, list[np.ndarray], np.ndarray] | None = None
    for penalty in PENALTIES:
        logits = search.solve(penalty)
        tried.append(search.judge(penalty, logits))
        on_tried(tried[-1])
        if best is None or tried[-1].loss < (1 - _CHOOSE) * best[0].loss:
            best = tried[-1], search.at(), logits
        elif tried[-1].loss > _WORSE * best[0].loss or len(tried) - tried.index(best[0]) > _FLAT:
            break
    assert best is not None
    chosen, solutions, logits = best
    start = np.mean(np.concatenate(solutions, axis=1), axis=1)
    if len(sample) < len(labels):
        whole = _Folds(features, labels, weights, folds, classes, start)
        logits = whole.solve(chosen.penalty)
        chosen = whole.judge(chosen.penalty, logits)
        start = np.mean(np.concatenate(whole.at(), axis=1), axis=1)
    return Chosen(tuple(tried), chosen, folds, *_answers(logits, labels), start)


def solve(
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    classes: int,
    penalty: float,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The layer that learns from all items that count: its kernel, float32 [features, classes], and its bias,
    [classes].

    penalty, start: as Chosen has them; None for a start from zeros. The other arguments are those of `cross_validate`.
    """
    problem = Problems(features, labels, weights[:, np.newaxis], classes)
    at = problem.zeros() if start is None else tf.constant(start[:, np.newaxis])
    solution, _ = problem.solve(at, penalty, _SOLVE)
    layer = solution.numpy()[:, 0]
    return layer[:-1], layer[-1]


class _Folds:
    """The layers of all folds, each from where the penalty before left it."""

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray,
        folds: np.ndarray,
        classes: int,
        start: np.ndarray | None = None,
    ) -> None:
        self._labels, self._weights, self._folds = labels, weights, folds
        count = int(folds.max()) + 1
        kept = (folds[:, np.newaxis] != np.arange(count)) * weights[:, np.newaxis]
        together = max(1, _HELD // (len(labels) * classes))
        self._starts = range(0, count, together)
        self._groups = [Problems(features, labels, kept[:, at : at + together], classes) for at in self._starts]
        self._at = [group.zeros() for group in self._groups]
        if start is not None:
            self._at = [each + start[:, np.newaxis] for each in self._at]

    def solve(self, penalty: float) -> np.ndarray:
        """float32 [items, classes]: the logits of each item by the layer that held it out."""
        logits = np.empty((len(self._labels), self._at[0].shape[2]), np.float32)
        asked = np.maximum(self._folds, 0)
        for number, (group, first) in enumerate(zip(self._groups, self._starts, strict=True)):
            self._at[number], given = group.solve(self._at[number], penalty, _CHOOSE)
            mine = np.flatnonzero((asked >= first) & (asked < first + given.shape[1]))
            logits[mine] = given[mine, asked[mine] - first]
        return logits

    def at(self) -> list[np.ndarray]:
        """The solutions, as `Problems` has them."""
        return [each.numpy() for each in self._at]

    def judge(self, penalty: float, logits: np.ndarray) -> Tried:
        held_out = self._folds >= 0
        losses, weights = _answers(logits, self._labels)[1][held_out], self._weights[held_out]
        loss = np.average(losses, weights=weights)
        error = np.sqrt(np.sum((weights * (losses - loss)) ** 2)) / weights.sum()
        right = logits[held_out].argmax(axis=1) == self._labels[held_out]
        return Tried(penalty, float(loss), float(error), float(np.average(right, weights=weights)))


def _answers(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The softmax, float32 [items, classes], and -log p(label), float64 [items]."""
    probabilities, losses = np.empty_like(logits), np.empty(len(labels))
    for start in range(0, len(labels), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        exact = logits[part].astype(np.float64)
        exact -= exact.max(axis=1, keepdims=True)
        powers = np.exp(exact)
        sums = powers.sum(axis=1)
        probabilities[part] = powers / sums[:, np.newaxis]
        losses[part] = np.log(sums) - exact[np.arange(len(exact)), labels[part]]
    return probabilities, losses


def _sample(labels: np.ndarray, folds: np.ndarray, width: int, classes: int) -> np.ndarray:
    """int64, ascending: the items that penalties are tried on; all of them where that is affordable. Items are taken
    from all classes and folds alike: every one that has the rank of another in its class is as good."""
    most = max(_SEARCHED // (width * classes), _OF_A_CLASS * classes)
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.lexsort((folds, labels))  # of a class, one fold after another
    spread = np.linspace(0, len(order) - 1, most).astype(np.int64)
    return np.sort(order[np.unique(spread)])
