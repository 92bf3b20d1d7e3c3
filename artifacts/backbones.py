"""Backbones: pretrained networks that others stand on, as safetensors, with where they are from and their licence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifacts import tensors as named
from artifacts.errors import NotFound
from artifacts.refs import Ref
from artifacts.store import Artifact, Store

_FILE = "weights.safetensors"


@dataclass(frozen=True)
class Backbone:
    """A published backbone.

    artifact: the version in the store.
    tensors: name -> float32 array.
    """

    artifact: Artifact
    tensors: dict[str, np.ndarray]

    @property
    def ref(self) -> Ref:
        return self.artifact.ref

    @property
    def architecture(self) -> str:
        """The name of its architecture, such as `efficientnet-lite0`."""
        return _architecture_of(self.artifact)


def _architecture_of(artifact: Artifact) -> str:
    return str(artifact.identity["settings"]["architecture"])


def save(
    store: Store,
    name: str,
    *,
    architecture: str,
    tensors: Mapping[str, np.ndarray],
    image_spec: Mapping[str, Any],
    scaling: Mapping[str, Any],
    features: int,
    checkpoint: str,
    source: str,
    licence: str,
    citation: str,
) -> Ref:
    """Publish a backbone; returns its ref.

    architecture: the name of its architecture, such as `efficientnet-lite0`.
    tensors: name -> float32 array.
    image_spec: the fields of the ImageSpec that it was trained with.
    scaling: `subtract` and `divide`: what is done to a pixel, 0 to 255; a number for all channels, or one each.
    features: how many numbers it makes of a picture.
    checkpoint: SHA-256 (hex) of the file that the tensors were read from.
    source, licence, citation: where the file is from, who may use it, and whose work it is.
    """
    return store.publish(
        "backbones",
        name,
        {_FILE: named.to_bytes(tensors)},
        settings={"architecture": architecture},
        inputs={"checkpoint": f"sha256:{checkpoint}"},
        facts={
            "image_spec": dict(image_spec),
            "scaling": dict(scaling),
            "features": features,
            "tensors": named.describe(tensors),
            "source": source,
            "licence": licence,
            "citation": citation,
        },
    )


def load(store: Store, ref: Ref) -> Backbone:
    """Read a backbone whose bytes, names, dtypes and shapes are the published ones. Raises NotFound and Corrupt."""
    artifact = _open(store, ref)
    return Backbone(artifact, named.load(artifact, _FILE))


def check_files(store: Store, ref: Ref) -> None:
    """Hash all that a backbone consists of. Raises NotFound and Corrupt."""
    _open(store, ref).check_files()


def _open(store: Store, ref: Ref) -> Artifact:
    try:
        return store.open(ref)
    except NotFound as error:
        raise type(error)(
            f"{error}; what stands on it needs it: `lookbook backbone add` of the same name or file brings it back"
        ) from None


def architecture_of(store: Store, ref: Ref) -> str:
    """The name of a backbone's architecture; its tensors are not read. Raises NotFound and Corrupt."""
    return _architecture_of(store.open(ref))


def made_from(store: Store, checkpoint: str) -> Ref | None:
    """The backbone that was read from the file with this SHA-256 (hex); None when there is none."""
    for ref in store.refs("backbones"):
        if store.open(ref).identity["inputs"]["checkpoint"] == f"sha256:{checkpoint}":
            return ref
    return None
