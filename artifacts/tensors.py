"""Named tensors as safetensors, read back only when names, dtypes and shapes are those that were published."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from artifacts.errors import Corrupt
from artifacts.store import Artifact

_DTYPES = {"float32": "F32", "int32": "I32", "int64": "I64"}


def to_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file. tensors: name -> array of float32, int32 or int64."""
    from safetensors.numpy import save

    return bytes(save(dict(tensors)))


def describe(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Dtype and shape of each tensor, as a manifest's facts hold them."""
    return {name: {"dtype": _DTYPES[each.dtype.name], "shape": list(each.shape)} for name, each in tensors.items()}


def load(artifact: Artifact, file: str) -> dict[str, np.ndarray]:
    """The tensors of a published file, as the facts `tensors` describe them. Raises NotFound and Corrupt."""
    content = artifact.read(file)
    try:
        if header(content) != artifact.facts["tensors"]:
            raise ValueError(f"expected the tensors {sorted(artifact.facts['tensors'])} as the manifest has them")
        return from_bytes(content)
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{artifact.ref.folder}/{file} is no set of weights of this Lookbook: {error}") from None


def from_bytes(content: bytes) -> dict[str, np.ndarray]:
    """name -> array. Raises ValueError for what is no safetensors file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as read

    try:
        return dict(read(content))
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def header(content: bytes) -> dict[str, dict[str, Any]]:
    """Names, dtypes and shapes as the file claims them, before anything is allocated. Raises ValueError.

    A file is 8 bytes of length, a JSON header and data: https://github.com/huggingface/safetensors#format
    """
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        raise ValueError(f"the header claims {length} bytes, the file has {len(content)}")
    found = json.loads(content[8 : 8 + length])
    if not isinstance(found, dict):
        raise ValueError("the header is no JSON object")
    return {name: {"dtype": entry["dtype"], "shape": entry["shape"]} for name, entry in found.items()}
