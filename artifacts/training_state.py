"""The state of a training that is not done yet, in the store's staging: safetensors and a document.

    staging/training/<digest>-00000007.safetensors     after 7 epochs
    staging/training/<digest>-00000007.json            its SHA-256, the history and the seconds: the commit

The digest is of all that decides the numbers, so no training goes on from a state of other settings, data or versions.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifacts.disk import Disk
from artifacts.documents import digest, seal, unseal
from artifacts.errors import AlreadyExists, Corrupt, NotFound

_FOLDER = "staging/training"


@dataclass(frozen=True)
class Saved:
    """A state that was saved.

    tensors: name -> float32 array.
    history: an entry for each finished epoch.
    seconds: how long each finished epoch took.
    """

    tensors: dict[str, np.ndarray]
    history: list[dict[str, Any]]
    seconds: list[float]


class TrainingStates:
    """The states of one training.

    decided_by: all that decides the training's numbers, as JSON has it. Trainings with equal values share their states.
    """

    def __init__(self, disk: Disk, decided_by: Mapping[str, Any]) -> None:
        self._disk = disk
        self._decided_by = dict(decided_by)
        self.prefix = f"{_FOLDER}/{digest(self._decided_by)}"

    def save(
        self, tensors: Mapping[str, np.ndarray], history: Sequence[Mapping[str, Any]], seconds: Sequence[float]
    ) -> None:
        """Commit a state, then remove older ones.

        tensors: name -> float32 array.
        history: an entry for each finished epoch; their number is the state's.
        seconds: how long each finished epoch took.
        """
        from safetensors.numpy import save as to_bytes

        content = to_bytes(dict(tensors))
        name = f"{self.prefix}-{len(history):08}"
        document = {
            "decided_by": self._decided_by,
            "sha256": hashlib.sha256(content).hexdigest(),
            "history": list(history),
            "seconds": list(seconds),
        }
        for suffix, each in ((".safetensors", content), (".json", seal(document))):
            with suppress(AlreadyExists):  # an equal run at the same time: the same bits, or `load` refuses them
                self._disk.create(f"{name}{suffix}", each)
        self._remove([key for key in self._keys() if key < name])

    def load(self) -> Saved | None:
        """The newest state, or None when there is none.

        Raises Corrupt, which names the file, when it is not what was committed.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load as from_bytes

        while committed := [key for key in self._keys() if key.endswith(".json")]:
            newest = committed[-1]
            file = newest.removesuffix("json") + "safetensors"
            try:
                document, content = unseal(self._disk.read(newest), newest), self._disk.read(file)
            except NotFound:
                if self._disk.exists(newest):
                    raise Corrupt(f"{file} is damaged: it is missing") from None
                continue  # an equal run has a newer one by now, or is done
            if document["decided_by"] != self._decided_by:
                raise Corrupt(f"{newest} is the state of a training with other settings or data")
            if hashlib.sha256(content).hexdigest() != document["sha256"]:
                raise Corrupt(f"{file} is damaged: its SHA-256 is not what was committed")
            try:
                return Saved(from_bytes(content), document["history"], document["seconds"])
            except SafetensorError as error:
                raise Corrupt(f"{file} is damaged: {error}") from None
        return None

    def remove(self) -> None:
        """Remove all states: the training is done, or they are of no use."""
        self._remove(self._keys())

    def _keys(self) -> list[str]:
        return [key for key in self._disk.list(_FOLDER) if key.startswith(f"{self.prefix}-")]

    def _remove(self, keys: Iterable[str]) -> None:
        """Remove the documents first: a document without its tensors would look damaged."""
        for key in sorted(keys, key=lambda key: not key.endswith(".json")):
            self._disk.remove(key)
