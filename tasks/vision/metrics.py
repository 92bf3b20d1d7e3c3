"""Numbers about predictions, in plain NumPy: what is right, what is sure of itself and wrong, and who is better."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

CALIBRATION_BINS = 15  # as in Guo et al. (2017)
LISTED = 100  # mistakes and likely label errors that are listed, the gravest first
TOP_K = (2, 3, 5)
MATRIX_CLASSES = 500  # up to which the confusion matrix is written down: with 10,000 it would be 10^8 numbers
_AT_ONCE = 1 << 21  # probabilities that are looked at at once: a table of 10,000 classes is large enough by itself
_Z = 1.959964  # 97.5 % of the normal distribution lie below: 95 % between both ends
_TEMPERATURES = (0.05, 20.0)


def evaluate(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    temperature: float | None = None,
    counted: np.ndarray | None = None,
    learned: int = 0,
) -> dict[str, Any]:
    """All that is known of predictions.

    probabilities: float32 [items, classes], as people get them; temperature: by which they are calibrated, None where
    they are as the network gives them; labels: int32 [items]; counted: int64, ascending, the places of the items that
    count, None for all of them. The others are copies, as a content that counted twice would make an interval too
    narrow, but for `learned` contents that the model has learned from. What has no value (a precision without
    predictions, the loss of a model that answers NaN) is None. Raises ValueError without items.

    accuracy, and accuracy_interval: 95 %, Wilson's score interval (1927); top_k: k -> share of items whose label is
    among the k most probable; loss: mean of -log p(label) in nats; brier: mean over items of the sum over classes of
    (p - [is it])^2, 0 to 2; per_class: precision, recall, f1, support; confusion_matrix[i][j]: items of class i that
    were called j, None with more than MATRIX_CLASSES classes; calibration: see `calibration`; uncalibrated: loss, brier
    and calibration error of the network's own softmax, beside the `temperature`, where there is one; most_confused: the
    larger numbers beside the matrix's diagonal, 10 of them, or LISTED where the matrix is None; mistakes: items that
    were called something else, the most certain first; label_errors: see `label_errors`; items: how many count; copies,
    learned: how many do not, where there are any.
    """
    copies = 0
    if counted is not None:
        copies = len(labels) - len(counted) - learned
        probabilities, labels = probabilities[counted], labels[counted]
    if not len(labels):
        raise ValueError("expected at least one item to evaluate, found none")
    predicted = probabilities.argmax(axis=1)
    matrix = None
    if len(classes) <= MATRIX_CLASSES:
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        np.add.at(matrix, (labels, predicted), 1)
    sound = all(np.isfinite(probabilities[part]).all() for part in _parts(probabilities))
    hits = int(np.sum(predicted == labels))
    numbers: dict[str, Any] = {
        "accuracy": hits / len(labels) if sound else None,
        "accuracy_interval": list(wilson_interval(hits, len(labels))) if sound else None,
        "loss": log_loss(probabilities, labels) if sound else None,
        "brier": brier(probabilities, labels) if sound else None,
        "items": len(labels),
        **({"copies": copies} if copies else {}),
        **({"learned": learned} if learned else {}),
        "per_class": _class_metrics(labels, predicted, classes),
        "confusion_matrix": None if matrix is None else matrix.tolist(),
        "most_confused": most_confused(labels, predicted, classes, LISTED if matrix is None else 10),
    }
    if sound:
        wrong = np.flatnonzero(predicted != labels)
        confidence = probabilities[wrong, predicted[wrong]]
        worst = wrong[np.argsort(-confidence, kind="stable")]
        numbers |= {
            "top_k": {str(k): top_k_accuracy(probabilities, labels, k) for k in TOP_K if k < len(classes)},
            "calibration": calibration(probabilities, labels),
            "mistakes": [_mistake(item, predicted[item], probabilities, labels, classes) for item in worst[:LISTED]],
            "label_errors": label_errors(probabilities, labels, classes),
        }
        if temperature is not None:
            own = scale(probabilities, 1 / temperature)
            numbers["temperature"] = temperature
            numbers["uncalibrated"] = {
                "loss": log_loss(own, labels),
                "brier": brier(own, labels),
                "error": calibration(own, labels)["error"],
            }
        if counted is not None:
            for each in (*numbers["mistakes"], *numbers["label_errors"]["listed"]):
                each["item"] = int(counted[each["item"]])  # in the split, copies and all
    return numbers


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross entropy in nats; a probability of 0 counts as the smallest positive float32."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean())


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Brier's score of 1950: 0 for a sure and right model, 2 for a sure and wrong one."""
    squares = np.concatenate(
        [np.square(probabilities[part], dtype=np.float64).sum(axis=1) for part in _parts(probabilities)]
    )
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float((squares - 2 * chosen + 1).mean())


def top_k_accuracy(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of items whose label is among the `k` most probable classes; of equally probable ones the first counts, as
    for the prediction."""
    chosen = probabilities[np.arange(len(labels)), labels][:, None]
    hits = 0
    for part in _parts(probabilities):
        before = np.arange(probabilities.shape[1]) < labels[part, None]
        some, theirs = probabilities[part], chosen[part]
        hits += int(np.sum(((some > theirs) | ((some == theirs) & before)).sum(axis=1) < k))
    return hits / len(labels)


def wilson_interval(hits: int, items: int) -> tuple[float, float]:
    """95 % confidence interval of a share, within 0 and 1 also for few items (Wilson, 1927)."""
    share, spread = hits / items, _Z**2 / items
    middle = share + spread / 2
    half = _Z * np.sqrt(share * (1 - share) / items + spread / (4 * items))
    return float(max((middle - half) / (1 + spread), 0)), float(min((middle + half) / (1 + spread), 1))


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """How far confidence is from accuracy.

    bins: CALIBRATION_BINS equal ranges of confidence, each with items, mean confidence and accuracy (None when empty);
    error: the expected calibration error, the mean of |accuracy - confidence| weighted by items (Guo et al., "On
    Calibration of Modern Neural Networks", 2017, equation 3).
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    hits = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    items = np.bincount(bins, minlength=CALIBRATION_BINS)
    sums = [np.bincount(bins, values, CALIBRATION_BINS) for values in (confidence, hits)]
    bins = [
        {"items": int(n), "confidence": float(sure / n) if n else None, "accuracy": float(right / n) if n else None}
        for n, sure, right in zip(items, *sums, strict=True)
    ]
    return {"error": float(np.abs(sums[0] - sums[1]).sum() / len(labels)), "bins": bins}


def scale(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of log p / temperature, float32: what dividing the logits gives, as p is their softmax."""
    scaled = np.empty(probabilities.shape, np.float32)
    for part in _parts(probabilities):
        logits = np.log(np.maximum(probabilities[part].astype(np.float64), np.finfo(np.float32).tiny)) / temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scaled[part] = powers / powers.sum(axis=1, keepdims=True)
    return scaled


@dataclass(frozen=True)
class Calibration:
    """By what a network's confidence is made true.

    temperature: logits are divided by it.
    by: what it was fitted to: predictions of items that were `held-out`, or `out-of-fold`.
    items: how many these were.
    bound: whether all of them were right: a lower temperature may fit as well, and so many items don't tell.
    """

    temperature: float
    by: Literal["held-out", "out-of-fold"]
    items: int
    bound: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As weights have it: `bound` only where it is one."""
        return {name: value for name, value in asdict(self).items() if value is not False}


def calibrate(probabilities: np.ndarray, labels: np.ndarray, by: Literal["held-out", "out-of-fold"]) -> Calibration:
    """Fit a temperature to predictions of items that the network has not learned from, and say to what it was fitted.

    probabilities: float32 or float64 [items, classes]; labels: int32 [items].

    What is `out-of-fold` makes a network less sure, never surer: pictures of one burst are in different folds, which so
    answer better than the network will on other days (docs/evaluation.md has what that comes to).
    """
    right = bool((probabilities.argmax(axis=1) == labels).all())
    temperature = fit_temperature(probabilities, labels)
    if by == "out-of-fold":
        temperature = max(temperature, 1.0)
    return Calibration(temperature, by, len(labels), right)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature, 0.05 to 20, that makes the confidence of items that were not learned from true, to six digits.

    It is that of the least loss (Guo et al., 2017, section 4.2), but for Firth's penalty: half the logarithm of the
    information on 1 / temperature, the sum over items of the variance of the logits by their probabilities. It takes
    away the bias of a few items, and counts for nothing beside many (Firth, "Bias reduction of maximum likelihood
    estimates", 1993). Where all items are right the least loss is at temperature 0, which makes certainties; with the
    penalty about half a mistake is expected among so many (Heinze and Schemper, "A solution to the problem of
    separation in logistic regression", 2002).
    """

    def moments(part: slice, inverse: float) -> np.ndarray:
        logits = np.log(np.maximum(probabilities[part].astype(np.float64), np.finfo(np.float32).tiny))
        chosen = logits[np.arange(len(logits)), labels[part]]
        powers = np.exp(inverse * (logits - logits.max(axis=1, keepdims=True)))
        powers /= powers.sum(axis=1, keepdims=True)
        means = (powers * logits).sum(axis=1)
        logits -= means[:, None]
        powers *= logits * logits
        return np.array([chosen - means, powers.sum(axis=1), (powers * logits).sum(axis=1)])

    low, high, inverse, moved = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0], 1.0, np.inf
    while moved > 1e-8 * inverse:  # Newton's steps, and bisection where they don't halve
        found = np.concatenate([moments(part, inverse) for part in _parts(probabilities)], axis=1).sum(axis=1)
        gain, information, skew = found.tolist()
        slope = gain + skew / (2 * information) if information else -np.inf  # none is left: far too sure
        low, high = (inverse, high) if slope > 0 else (low, inverse)
        step = slope / information if information else -np.inf
        newton = low < inverse + step < high and abs(step) < moved / 2
        before, inverse = inverse, inverse + step if newton else float(np.sqrt(low * high))
        moved = abs(inverse - before)
    return round(1 / inverse, 6)


def most_confused(
    labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], most: int = 10
) -> list[dict[str, Any]]:
    """The largest numbers beside the confusion matrix's diagonal: {is, called, items}, most items first."""
    wrong = labels != predicted
    places, items = np.unique(labels[wrong].astype(np.int64) * len(classes) + predicted[wrong], return_counts=True)
    order = np.argsort(-items, kind="stable")[:most]
    return [
        {"is": classes[place // len(classes)], "called": classes[place % len(classes)], "items": count}
        for place, count in zip(places[order].tolist(), items[order].tolist(), strict=True)
    ]


def label_errors(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Items whose label is likely wrong, by confident learning (Northcutt, Jiang and Chuang, 2021, equation 1).

    A class's threshold is its mean probability over the items that are labelled so. An item counts whose most probable
    class among those above their threshold is not its label. items: how many; listed: the clearest first.
    """
    held = np.bincount(labels, minlength=len(classes))
    own = np.bincount(labels, probabilities[np.arange(len(labels)), labels].astype(np.float64), len(classes))
    thresholds = np.where(held > 0, own / np.maximum(held, 1), np.inf)
    rather, sure = np.zeros(len(labels), np.int64), np.zeros(len(labels), bool)
    for part in _parts(probabilities):
        above = np.where(probabilities[part] >= thresholds, probabilities[part], -1)
        rather[part], sure[part] = above.argmax(axis=1), above.max(axis=1) >= 0
    doubtful = np.flatnonzero(sure & (rather != labels))
    margin = probabilities[doubtful, rather[doubtful]] - probabilities[doubtful, labels[doubtful]]
    order = doubtful[np.argsort(-margin, kind="stable")]
    listed = [_mistake(item, rather[item], probabilities, labels, classes) for item in order[:LISTED]]
    return {"items": len(doubtful), "listed": listed}


def mcnemar(gains: int, losses: int) -> float:
    """The chance of at least so many gains among the items that just one of two models tells rightly, were both equally
    good: McNemar's exact test (1947), one-sided, as only a better model is looked for. 1.0 without any such item.

    gains: items that only the challenger tells rightly; losses: those that only the champion does.
    """
    items = gains + losses
    term, tail = 1, 0  # term: how many ways there are to choose `drawn` of the items
    for drawn in range(losses + 1):  # the tail of at least `gains` gains is that of at most `losses` losses
        tail += term
        term = term * (items - drawn) // (drawn + 1)
    return tail / (1 << items)


def _mistake(
    item: int, called: int, probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """An item of a list: its place in the split, what it is, what it is taken for, and how probable that is."""
    confidence = float(probabilities[item, called])
    return {"item": int(item), "is": classes[labels[item]], "called": classes[called], "confidence": confidence}


def _class_metrics(
    labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, float | int | None]]:
    counted = (labels[labels == predicted], labels, predicted)
    right, supports, calls = (np.bincount(items, minlength=len(classes)).tolist() for items in counted)
    return {
        name: {
            "precision": hits / called if called else None,
            "recall": hits / support if support else None,
            "f1": 2 * hits / (support + called) if support + called else None,
            "support": support,
        }
        for name, hits, support, called in zip(classes, right, supports, calls, strict=True)
    }


def _parts(probabilities: np.ndarray) -> Iterator[slice]:
    """Slices of items, so that what is computed of one of them is small beside the table."""
    items = max(1, _AT_ONCE // probabilities.shape[1])
    return (slice(start, start + items) for start in range(0, len(probabilities), items))
