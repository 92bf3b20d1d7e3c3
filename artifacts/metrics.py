"""Metrics: what an evaluation found, and the probabilities of each test item, which paired comparisons need."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.documents import canonical
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref
from artifacts.store import Artifact, Store

_NUMBERS = "metrics.json"
_ITEMS = "predictions.parquet"


@dataclass(frozen=True)
class ClassNumbers:
    """What an evaluation says of one class.

    precision, recall, f1: 0 to 1, None where there is nothing to divide by.
    support: how many of the items are of this class.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class Mistake:
    """An item that the model takes for another class.

    item: its place in the test split.
    is_, called: the class that it has, and the one that it is taken for.
    confidence: 0 to 1, the probability of `called`.
    """

    item: int
    is_: str
    called: str
    confidence: float


@dataclass(frozen=True)
class Confusion:
    """How many `items` of the class `is_` are `called` another one."""

    is_: str
    called: str
    items: int


@dataclass(frozen=True)
class Uncalibrated:
    """The calibration error and the loss of the network's own softmax, where the other numbers are calibrated."""

    error: float
    loss: float


@dataclass(frozen=True)
class Numbers:
    """What an evaluation found, as far as code reads it. `metrics.json` may hold more, and an older one less.

    Loss, Brier score, calibration and confidences are of the probabilities that people get: calibrated by the
    temperature, where there is one. An evaluation of an earlier Lookbook has none: its numbers are of the network's own
    softmax, which is what people got.

    accuracy, loss: 0 to 1 and nats, None where the predictions are not numbers.
    accuracy_interval: of 95 % confidence.
    items: how many test images were counted.
    copies: how many more are copies of others, and were not.
    learned: how many more were not, as the model has learned from the same pixels or from nearly the same.
    per_class: by class.
    confusion_matrix: rows are what items are, columns what they are called; None with many classes.
    most_confused: the largest numbers beside its diagonal.
    brier: 0 to 2; top_k: k -> share that is right among the k most probable classes.
    calibration: the bins of the reliability diagram and the error.
    temperature: by which the probabilities are calibrated; uncalibrated: some of the numbers without it. None for none.
    mistakes: the most confident ones; doubtful: how many labels are likely wrong; doubtful_items: the likeliest.
    doubtful_training, doubtful_training_items: the same of the images that were learned from, each by a head that had
    not; None and empty where no such answers were kept.
    """

    accuracy: float | None
    loss: float | None
    items: int
    per_class: dict[str, ClassNumbers]
    confusion_matrix: list[list[int]] | None
    most_confused: list[Confusion]
    accuracy_interval: tuple[float, float] | None
    copies: int
    learned: int
    brier: float | None
    top_k: dict[str, float]
    calibration: dict[str, Any] | None
    temperature: float | None
    uncalibrated: Uncalibrated | None
    mistakes: list[Mistake]
    doubtful: int | None
    doubtful_items: list[Mistake]
    doubtful_training: int | None
    doubtful_training_items: list[Mistake]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Numbers":
        """Of what `metrics.json` holds."""
        interval, own = document.get("accuracy_interval"), document.get("uncalibrated")
        doubtful, training = document.get("label_errors"), document.get("training_label_errors")
        return cls(
            accuracy=document["accuracy"],
            loss=document["loss"],
            items=document["items"],
            per_class={name: ClassNumbers(**each) for name, each in document["per_class"].items()},
            confusion_matrix=document["confusion_matrix"],
            most_confused=[
                Confusion(each["is"], each["called"], each["items"]) for each in document.get("most_confused", [])
            ],
            accuracy_interval=(interval[0], interval[1]) if interval else None,
            copies=document.get("copies", 0),
            learned=document.get("learned", 0),
            brier=document.get("brier"),
            top_k=document.get("top_k", {}),
            calibration=document.get("calibration"),
            temperature=document.get("temperature"),
            uncalibrated=Uncalibrated(own["error"], own["loss"]) if own else None,
            mistakes=_mistakes(document.get("mistakes", [])),
            doubtful=doubtful["items"] if doubtful else None,
            doubtful_items=_mistakes(doubtful["listed"]) if doubtful else [],
            doubtful_training=training["items"] if training else None,
            doubtful_training_items=_mistakes(training["listed"]) if training else [],
        )


def _mistakes(listed: Sequence[Mapping[str, Any]]) -> list[Mistake]:
    return [Mistake(each["item"], each["is"], each["called"], each["confidence"]) for each in listed]


LESSONS, LESSONS_CHART = "labels.json", "labels.png"
"""Files of an evaluation whose dataset has people's labels: what these changed (tasks/judging/lessons.py)."""


@dataclass(frozen=True)
class Metrics:
    """A published evaluation. document: all of `metrics.json`; numbers: what code reads of it."""

    artifact: Artifact
    document: dict[str, Any]

    @property
    def ref(self) -> Ref:
        return self.artifact.ref

    @cached_property
    def numbers(self) -> Numbers:
        return Numbers.from_document(self.document)

    @property
    def lessons(self) -> dict[str, Any] | None:
        """What people's labels changed; None where the dataset has none."""
        return dict(json.loads(self.artifact.read(LESSONS))) if LESSONS in self.artifact.files else None

    @property
    def temperature(self) -> float | None:
        """By which `probabilities` are calibrated; None where they are as the network gives them."""
        return self.numbers.temperature

    def probabilities(self) -> np.ndarray:
        """float32 [items, classes], in the order of the test split."""
        column = self._items.column("probabilities").combine_chunks()
        return np.asarray(column.flatten()).reshape(len(column), column.type.list_size)

    def hits(self) -> np.ndarray:
        """bool [items], in the order of the test split: whether the most probable class is the label."""
        return np.asarray(self.probabilities().argmax(axis=1) == self.labels())

    def fair(self) -> np.ndarray | None:
        """bool [items], in the order of the test split: one image of each content that the model has not learned from.
        The numbers count these; where there is none, one image of each content. None in an evaluation of an earlier
        Lookbook, which did not write it down."""
        if "counted" not in self._items.column_names:
            return None
        return np.asarray(self._items.column("counted").to_numpy(zero_copy_only=False))

    def labels(self) -> np.ndarray:
        """int32 [items], in the order of the test split."""
        return np.asarray(self._items.column("label").to_numpy())

    @cached_property
    def _items(self) -> pa.Table:
        return pq.read_table(io.BytesIO(self.artifact.read(_ITEMS)))


def save(
    store: Store,
    name: str,
    *,
    numbers: Mapping[str, Any],
    labels: np.ndarray,
    probabilities: np.ndarray,
    sources: Sequence[str],
    weights: Ref,
    dataset: Ref,
    report: Callable[[], Mapping[str, bytes]],
    fair: np.ndarray,
    made: Mapping[str, Any],
) -> Ref:
    """Publish an evaluation of `weights` on the test split of `dataset`.

    labels: int32 [items]; probabilities: float32 [items, classes], those that `numbers` are of; report: draws pages and
    pictures, where the version is not there yet; fair: int64, the places of one item of each content that the weights
    have not learned from.
    """
    table = pa.table(
        {
            "source": sources,
            "label": pa.array(labels, pa.int32()),
            "probabilities": pa.FixedSizeListArray.from_arrays(probabilities.ravel(), probabilities.shape[1]),
            "counted": pa.array(np.isin(np.arange(len(labels)), fair)),
        }
    )
    parquet = io.BytesIO()
    pq.write_table(table, parquet, compression="zstd")
    return store.publish(
        "metrics",
        name,
        {_NUMBERS: canonical(dict(numbers)), _ITEMS: parquet.getvalue()},
        settings={"split": "test"},
        inputs={"weights": str(weights), "dataset": str(dataset)},
        facts={key: numbers[key] for key in ("accuracy", "loss", "items")},
        rendered=report,
        made=made,
    )


def find(store: Store, weights: Ref, dataset: str) -> Metrics | None:
    """The newest evaluation of weights on the test split of a dataset: an earlier Lookbook may have counted other
    images. None where there is none that can be read."""
    made: list[tuple[str, str]] = []
    for ref in store.refs("metrics", weights.name):
        with suppress(NotFound, Corrupt):  # who asks shows it beside something else; `lookbook verify` tells
            artifact = store.open(ref)
            if artifact.identity["inputs"] == {"weights": str(weights), "dataset": dataset}:
                made.append((artifact.manifest["provenance"]["created"], str(ref)))
    for _, found in sorted(made, reverse=True):
        with suppress(NotFound, Corrupt):
            return load(store, Ref.parse(found))
    return None


def load(store: Store, ref: Ref) -> Metrics:
    """Open an evaluation. Raises NotFound and Corrupt."""
    artifact = store.open(ref)
    return Metrics(artifact, json.loads(artifact.read(_NUMBERS)))
