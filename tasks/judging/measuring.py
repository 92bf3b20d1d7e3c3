"""Weights measured on the test split of a dataset: numbers, probabilities and the report, published."""

import time
from contextlib import suppress
from typing import Any

from artifacts import dataset as datasets
from artifacts import metrics
from artifacts import weights as published_weights
from artifacts.dataset import Dataset
from artifacts.errors import Corrupt, LookbookError, NotFound
from artifacts.metrics import Numbers
from artifacts.refs import Ref
from artifacts.store import Store
from artifacts.weights import Weights
from tasks.judging.fairness import fair_test
from tasks.judging.lessons import lessons
from tasks.reports import evaluation
from tasks.shared import model
from tasks.vision.metrics import evaluate, label_errors, scale


class Mismatch(LookbookError):
    """Weights that are not meant for these images or classes."""


def evaluate_weights(store: Store, weights: Ref, dataset: Ref) -> Ref:
    """Predict the test split now, and publish what came out: the probabilities of every image, and numbers in which
    each content counts once, and none that the weights have learned from. Where they have learned from all, the numbers
    count them all the same; `Metrics.fair` tells.

    Raises NotFound, Corrupt, WeightsError and Mismatch.
    """
    started = time.perf_counter()
    data = datasets.load(store, dataset)
    measured = published_weights.load(store, weights)
    if (measured.classes, measured.image_spec) != (data.classes, data.image_spec):
        theirs, ours = set(measured.classes), set(data.classes)
        differing = ", ".join(sorted(theirs ^ ours)) or "their order, or the pictures' size or colour"
        raise Mismatch(
            f"{weights} tells {len(theirs)} classes apart; {dataset} has {len(ours)} (differing: {differing}). "
            "Retrain, or name another dataset"
        )
    learned_from = _learned_from(store, measured)
    predict = model.load(store, weights).predict_kept  # calibrated, as people get it
    probabilities = predict(data.test.images)
    fair = fair_test(store, dataset, [weights])
    learned = fair.seen + fair.near if len(fair.items) else 0
    counted = fair.counted if len(fair.counted) < len(data.test.labels) else None
    numbers = {
        **evaluate(probabilities, data.test.labels, measured.classes, measured.temperature, counted, learned),
        **_training_errors(measured, learned_from),
    }
    return metrics.save(
        store,
        dataset.name,
        numbers=numbers,
        labels=data.test.labels,
        probabilities=probabilities,
        sources=data.test.sources,
        weights=weights,
        dataset=dataset,
        report=lambda: {
            **evaluation.draw(measured, learned_from, data, Numbers.from_document(numbers), probabilities, counted),
            **lessons(data, probabilities, fair.counted, predict),
        },
        fair=fair.items,
        made={"seconds": round(time.perf_counter() - started, 3)},
    )


def _training_errors(weights: Weights, learned_from: Dataset | None) -> dict[str, Any]:
    """Likely label errors of what weights have learned from, by the answers of heads that had not."""
    answered = weights.out_of_fold
    if answered is None or learned_from is None:
        return {}
    probabilities = scale(answered.probabilities, weights.temperature or 1.0)
    found = label_errors(probabilities, learned_from.train.labels[answered.items], weights.classes)
    for each in found["listed"]:
        each["item"] = int(answered.items[each["item"]])  # in the split
    return {"training_label_errors": found}


def _learned_from(store: Store, weights: Weights) -> Dataset | None:
    """The dataset that weights were trained on, not always the one they are measured on; None when it is gone."""
    with suppress(NotFound, Corrupt):
        return datasets.load(store, Ref.parse(weights.artifact.identity["inputs"]["dataset"]))
    return None
