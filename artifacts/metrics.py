"""Metrics: what an evaluation found, and the probabilities of each test item, which paired comparisons need."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.documents import canonical
from artifacts.refs import Ref
from artifacts.store import Artifact, Store

_NUMBERS = "metrics.json"
_ITEMS = "predictions.parquet"


@dataclass(frozen=True)
class Metrics:
    """A published evaluation. `numbers` holds at least accuracy, loss, items, per_class and confusion_matrix."""

    artifact: Artifact
    numbers: dict[str, Any]

    @property
    def ref(self) -> Ref:
        return self.artifact.ref

    def probabilities(self) -> np.ndarray:
        """float32 [items, classes], in the order of the test split."""
        column = self._items.column("probabilities").combine_chunks()
        return np.asarray(column.flatten()).reshape(len(column), column.type.list_size)

    def hits(self) -> np.ndarray:
        """bool [items], in the order of the test split: whether the most probable class is the label."""
        return np.asarray(self.probabilities().argmax(axis=1) == self.labels())

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
    made: Mapping[str, Any],
) -> Ref:
    """Publish an evaluation of `weights` on the test split of `dataset`.

    labels: int32 [items]; probabilities: float32 [items, classes]; report: draws pages and pictures, where the version
    is not there yet.
    """
    table = pa.table(
        {
            "source": sources,
            "label": pa.array(labels, pa.int32()),
            "probabilities": pa.FixedSizeListArray.from_arrays(probabilities.ravel(), probabilities.shape[1]),
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


def load(store: Store, ref: Ref) -> Metrics:
    """Open an evaluation. Raises NotFound and Corrupt."""
    artifact = store.open(ref)
    return Metrics(artifact, json.loads(artifact.read(_NUMBERS)))
