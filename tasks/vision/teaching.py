"""Which pictures teach most: the least certain ones, spread over what they look like; plain NumPy."""

import numpy as np


def spread_over_classes(margin: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The order in which to show pictures: of each class the least certain one, then of each the next, and so on.

    margin: float32 [items], how far the most probable class is ahead of the next one, 0 to 1.
    labels: int64 [items], what the model said.

    Returns int64 [items].
    """
    by_margin = np.lexsort((np.arange(len(labels)), margin))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        mine = by_margin[labels[by_margin] == label]
        turn[mine] = np.arange(len(mine))
    return np.lexsort((np.arange(len(labels)), margin, turn))


def spread_over_features(margin: np.ndarray, features: np.ndarray, most: int) -> np.ndarray:
    """The order in which to show the first `most` pictures: each is the one that is both uncertain and far from all
    that come before it, by the product of the two.

    margin: float32 [items], as above.
    features: float32 [items, width]; distances are Euclidean between features of length one.

    Returns int64 [min(most, items)].

    Far pictures alone are odd ones, uncertain ones alone are copies of each other; Ash and others (Deep Batch Active
    Learning by Diverse, Uncertain Gradient Lower Bounds, 2020) weigh the two in much the same way. docs/review.md has
    what 300 such labels are worth.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    uncertain = np.maximum(1 - margin, 1e-6)
    far = np.full(len(unit), 2.0)
    order: list[int] = []
    left = np.ones(len(unit), bool)
    while len(order) < min(most, len(unit)):
        place = int(np.argmax(np.where(left, uncertain * far, -1)))
        order.append(place)
        left[place] = False
        far = np.minimum(far, np.sqrt(np.maximum(2 - 2 * unit @ unit[place], 0)))
    return np.array(order, np.int64)
