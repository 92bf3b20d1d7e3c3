"""The last layer of a network on features that are kept: solved to its optimum, with a cross-validated penalty."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.vision import device
from tasks.vision.cross_validation import Chosen, cross_validate, fold_items, solve
from tasks.vision.device import tf
from tasks.vision.errors import WeightsError
from tasks.vision.trained import Tried
from tasks.vision.training_data import class_weights

LEAST_DEVIATION = 0.01  # of features that are nearly the same in all pictures: a division must not blow them up


@dataclass(frozen=True)
class Solved:
    """A head at its optimum.

    tensors: those of a Head.
    found: what cross-validation made of the penalties.
    """

    tensors: dict[str, np.ndarray]
    found: Chosen


def solve_head(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    widths: Sequence[int],
    first: np.ndarray,
    balanced: bool = False,
    seed: int = 0,
    on_tried: Callable[[Tried], None] = lambda tried: None,
) -> Solved:
    """The head with the least loss and penalty on features; cross-validation chooses the penalty.

    features: float32 [items, the sum of widths].
    labels: int32 [items], 0 to classes - 1.
    widths: of each backbone, how many of the features are its own.
    first: int64 [items], for each item the first one with the same picture.
    balanced: whether every class counts the same, however few items it has.
    seed: decides the folds.
    on_tried: is told of each penalty.

    The same arguments give the same bits, whatever the number of processors. Raises WeightsError where features are no
    numbers.
    """
    standard, mean, deviation = _standard(features, widths)
    weights = _weights(labels, classes, balanced)
    with tf.device("/CPU:0"):
        found = cross_validate(standard, labels, weights, fold_items(labels, first, seed), classes, on_tried)
        kernel, bias = solve(standard, labels, weights, classes, found.chosen.penalty, found.start)
    tensors = {"features/mean": mean, "features/deviation": deviation, "output/kernel": kernel, "output/bias": bias}
    return Solved(tensors, found)


def solve_head_on(
    items: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    penalty: float,
    balanced: bool = False,
) -> dict[str, np.ndarray]:
    """The tensors of a head on one backbone that learns from some of the items alone, with a penalty that is known.

    items: int64. penalty: as `Tried` has it. The other arguments are those of `solve_head`.
    """
    standard, mean, deviation = _standard(features, features.shape[1:])
    weights = np.zeros(len(labels), np.float32)
    weights[items] = _weights(labels, classes, balanced)[items]
    with tf.device("/CPU:0"):
        kernel, bias = solve(standard, labels, weights, classes, penalty)
    return {"features/mean": mean, "features/deviation": deviation, "output/kernel": kernel, "output/bias": bias}


def cross_validate_head(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    widths: Sequence[int],
    first: np.ndarray,
    balanced: bool = False,
    seed: int = 0,
) -> Chosen:
    """What cross-validation makes of such a head, which is not solved. The arguments are those of `solve_head`."""
    standard, _, _ = _standard(features, widths)
    with tf.device("/CPU:0"):
        folds = fold_items(labels, first, seed)
        return cross_validate(standard, labels, _weights(labels, classes, balanced), folds, classes)


def _standard(features: np.ndarray, widths: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The features as a Head sees them, their means, and the deviation of those of each backbone."""
    if not np.isfinite(features).all():
        raise WeightsError("expected features that are numbers, found NaN or infinity; stand on another backbone")
    device.use_threads(1)
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    variances = np.split(features.var(axis=0, dtype=np.float64), np.cumsum(widths)[:-1])
    deviation = np.array([max(np.sqrt(each.mean()), LEAST_DEVIATION) for each in variances], np.float32)
    return (features - mean) / np.repeat(deviation, list(widths)), mean, deviation


def _weights(labels: np.ndarray, classes: int, balanced: bool) -> np.ndarray:
    """float32 [items], how much each counts."""
    return class_weights(labels, classes)[labels] if balanced else np.ones(len(labels), np.float32)
