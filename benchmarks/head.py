"""The last layer of `transfer`: how long it takes to solve, beside scikit-learn, and how much memory it takes.

    python benchmarks/head.py                      # 3,400 items of 1,280 features in ten classes
    python benchmarks/head.py 100000 1280 1000     # items, features and classes; the memory alone, minutes to an hour

The features are drawn around a mean for each class. scikit-learn solves the layer once, with the penalty that
cross-validation chose here; the loss of both solutions is told in float64.
"""

import resource
import sys
import time

import numpy as np

from tasks.vision import device
from tasks.vision.cross_validation import cross_validate, fold_items, solve


def main() -> None:
    items, width, classes = map(int, sys.argv[1:]) if len(sys.argv) > 1 else (3_400, 1_280, 10)
    device.use_threads(1)
    features, labels = draw(items, width, classes)
    weights, folds = np.ones(items, np.float32), fold_items(labels, np.arange(items), 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for run in ("first", "again") if len(sys.argv) == 1 else ("first",):
        started, spent = time.perf_counter(), time.process_time()
        found = cross_validate(features, labels, weights, folds, classes)
        validated = time.perf_counter()
        kernel, bias = solve(features, labels, weights, classes, found.chosen.penalty, found.start)
        ended = time.perf_counter()
        print(
            f"{run}: {len(found.tried)} penalties in {validated - started:.1f} s, {found.chosen.penalty:g} solved in "
            f"{ended - validated:.1f} s; {time.process_time() - spent:.1f} s of a processor; held out: loss "
            f"{found.chosen.loss:.4f}, accuracy {found.chosen.accuracy:.1%}",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"memory: {before / 1e6:.2f} GB with TensorFlow and the features, {peak / 1e6:.2f} GB at most")
    if len(sys.argv) == 1:
        from sklearn.linear_model import LogisticRegression

        penalty = found.chosen.penalty
        solving = ended - validated
        started = time.perf_counter()
        theirs = LogisticRegression(C=1 / penalty, max_iter=5_000, tol=1e-8).fit(features, labels)
        took = time.perf_counter() - started
        layers = (kernel, bias), (theirs.coef_.T, theirs.intercept_)
        losses = [loss(features, labels, *layer, penalty) for layer in layers]
        print(f"scikit-learn, one solution: {took:.1f} s, {took / solving:.1f} times as long")
        print(f"loss and penalty: {losses[0]:.7f}, scikit-learn's {losses[1]:.7f}")


def draw(items: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = (np.arange(items) % classes).astype(np.int32)
    means = random.normal(size=(classes, width)).astype(np.float32) * 4.5 / np.sqrt(width)
    features = random.standard_normal((items, width), dtype=np.float32)
    features += means[labels]
    return features, labels


def loss(features, labels, kernel, bias, penalty):
    logits = features.astype(np.float64) @ kernel + bias
    largest = logits.max(axis=1)
    losses = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return losses.mean() + penalty / len(labels) / 2 * np.sum(kernel.astype(np.float64) ** 2)


if __name__ == "__main__":
    main()
