"""Weights: safetensors with the training's history, and all else that scoring must know."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifacts.documents import canonical
from artifacts.errors import Corrupt
from artifacts.refs import Ref
from artifacts.store import Artifact, Store

_FILE = "weights.safetensors"
_DTYPES = {"float32": "F32", "int32": "I32", "int64": "I64"}


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
        """Logits divided by it give calibrated probabilities; None when no images were held out."""
        return self.artifact.facts.get("temperature")

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
    temperature: float | None = None,
    made: Mapping[str, Any],
) -> Ref:
    """Publish weights; returns their ref.

    tensors: name -> array of float32, int32 or int64.
    history: an entry for each epoch, without anything that differs between equal runs, such as times.
    classes: the names of the classes, in the order of the logits.
    image_spec: the fields of the ImageSpec that the images were made by.
    settings: all settings of the training.
    dataset: what was learned from.
    temperature: what calibrates the probabilities; None when no images were held out.
    made: what the provenance tells besides, and may differ between equal runs.
    """
    from safetensors.numpy import save as to_bytes

    return store.publish(
        "weights",
        name,
        {_FILE: to_bytes(dict(tensors)), "history.json": canonical(list(history))},
        settings=settings,
        inputs={"dataset": str(dataset)},
        facts={
            "classes": list(classes),
            "image_spec": dict(image_spec),
            "tensors": {name: _describe(tensor) for name, tensor in tensors.items()},
            **({} if temperature is None else {"temperature": temperature}),
        },
        made=made,
    )


def load(store: Store, ref: Ref) -> Weights:
    """Read weights whose bytes, names, dtypes and shapes are the published ones. Raises NotFound and Corrupt."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    artifact = store.open(ref)
    content = artifact.read(_FILE)
    expected = artifact.facts["tensors"]
    try:
        found = _header(content)
        if found != expected:
            raise ValueError(f"expected the tensors {sorted(expected)} as the manifest has them")
        return Weights(artifact, from_bytes(content))
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise Corrupt(f"{ref.folder}/{_FILE} is no set of weights of this Lookbook: {error}") from None


def _header(content: bytes) -> dict[str, dict[str, Any]]:
    """Names, dtypes and shapes as the file claims them, before anything is allocated. Raises ValueError.

    A file is 8 bytes of length, a JSON header and data: https://github.com/huggingface/safetensors#format
    """
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        raise ValueError(f"the header claims {length} bytes, the file has {len(content)}")
    header = json.loads(content[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    return {name: {"dtype": entry["dtype"], "shape": entry["shape"]} for name, entry in header.items()}


def _describe(tensor: np.ndarray) -> dict[str, Any]:
    return {"dtype": _DTYPES[tensor.dtype.name], "shape": list(tensor.shape)}
