"""Weights: safetensors with the training's history, and all else that scoring must know."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifacts import tensors as named
from artifacts.documents import canonical
from artifacts.refs import Ref
from artifacts.store import Artifact, Store

_FILE = "weights.safetensors"


@dataclass(frozen=True)
class Weights:
    """Published weights.

    artifact: the version in the store.
    tensors: name -> float32 array.
    """

    artifact: Artifact
    tensors: dict[str, np.ndarray]

    @property
    def ref(self) -> Ref:
        return self.artifact.ref

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.artifact.identity["settings"])

    @property
    def history(self) -> list[dict[str, Any]]:
        """An entry for each epoch: epoch, loss, accuracy, items, and with a validation share validation_loss and
        validation_accuracy. Raises Corrupt."""
        return list(json.loads(self.artifact.read("history.json")))

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return list(self.artifact.facts["classes"])

    @property
    def temperature(self) -> float | None:
        """Logits divided by it give calibrated probabilities; None when none was fitted."""
        return self.artifact.facts.get("temperature")

    @property
    def calibration(self) -> dict[str, Any] | None:
        """By what the temperature was fitted, as `save` describes it; None where there is none, and of an earlier
        Lookbook, which fitted it to held-out images and did not write down how many."""
        return self.artifact.facts.get("calibration")

    @property
    def backbone(self) -> Ref | None:
        """The pretrained network that they stand on; None when there is none."""
        found = self.artifact.identity["inputs"].get("backbone")
        return Ref.parse(found) if found else None

    @property
    def precision(self) -> str:
        """What that network computed in, where there is one: `float32` or `bfloat16`."""
        return str(self.artifact.facts.get("precision", "float32"))

    @property
    def image_spec(self) -> dict[str, Any]:
        """The fields of the ImageSpec that the images were made by."""
        return dict(self.artifact.facts["image_spec"])


def save(
    store: Store,
    name: str,
    *,
    tensors: Mapping[str, np.ndarray],
    history: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    image_spec: Mapping[str, Any],
    settings: Mapping[str, Any],
    dataset: Ref,
    calibration: Mapping[str, Any] | None = None,
    backbone: Ref | None = None,
    precision: str | None = None,
    made: Mapping[str, Any],
) -> Ref:
    """Publish weights; returns their ref.

    tensors: name -> array of float32, int32 or int64.
    history: an entry for each epoch, without anything that differs between equal runs, such as times.
    classes: the names of the classes, in the order of the logits.
    image_spec: the fields of the ImageSpec that the images were made by.
    settings: all settings of the training.
    dataset: what was learned from.
    calibration: the `temperature` that calibrates the probabilities, `by` what it was fitted (`held-out` or
        `out-of-fold`), to how many `items`, and `bound`: true where it is only a bound; None when none was fitted.
    backbone: the pretrained network that they stand on; None when there is none.
    precision: what that network computed in, `float32` or `bfloat16`.
    made: what the provenance tells besides, and may differ between equal runs.
    """
    return store.publish(
        "weights",
        name,
        {_FILE: named.to_bytes(tensors), "history.json": canonical(list(history))},
        settings=settings,
        inputs={"dataset": str(dataset), **({} if backbone is None else {"backbone": str(backbone)})},
        facts={
            "classes": list(classes),
            "image_spec": dict(image_spec),
            "tensors": named.describe(tensors),
            **({} if calibration is None else {"temperature": calibration["temperature"], "calibration": calibration}),
            **({} if precision is None else {"precision": precision}),
        },
        made=made,
    )


def load(store: Store, ref: Ref) -> Weights:
    """Read weights whose bytes, names, dtypes and shapes are the published ones. Raises NotFound and Corrupt."""
    artifact = store.open(ref)
    return Weights(artifact, named.load(artifact, _FILE))
