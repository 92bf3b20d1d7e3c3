"""Numbers about predictions, in plain NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def evaluate(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, loss and the confusion matrix, with precision, recall, F1 and support a class.

    probabilities: float32 [items, classes]; labels: int32 [items]. `loss` is the mean of -log p(label) in nats.
    `confusion_matrix[i][j]` counts items of class i that were called j. What has no value (a precision without
    predictions, the loss of a model that answers NaN) is None. Raises ValueError without items.
    """
    if not len(labels):
        raise ValueError("expected at least one item to evaluate, found none")
    predicted = probabilities.argmax(axis=1)
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    sound = bool(np.isfinite(probabilities).all())
    return {
        "accuracy": float(np.mean(predicted == labels)) if sound else None,
        "loss": log_loss(probabilities, labels) if sound else None,
        "items": len(labels),
        "per_class": {name: _class_metrics(matrix, index) for index, name in enumerate(classes)},
        "confusion_matrix": matrix.tolist(),
    }


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross entropy in nats; a probability of 0 counts as the smallest positive float32."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean())


def stability_index(expected: np.ndarray, found: np.ndarray) -> float:
    """Population stability index of two histograms over the same bins: the sum of (q - p) ln(q / p) over their shares.

    0 for equal shares. An empty bin counts as half an item, so that the logarithm exists. It is the symmetric
    Kullback-Leibler divergence (Jeffreys, 1946), with the name and the thresholds that credit scoring gave it.
    """
    p, q = (np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum() for counts in (expected, found))
    return float(((q - p) * np.log(q / p)).sum())


def _class_metrics(matrix: np.ndarray, index: int) -> dict[str, float | int | None]:
    hits, support, called = int(matrix[index, index]), int(matrix[index].sum()), int(matrix[:, index].sum())
    return {
        "precision": hits / called if called else None,
        "recall": hits / support if support else None,
        "f1": 2 * hits / (support + called) if support + called else None,
        "support": support,
    }
