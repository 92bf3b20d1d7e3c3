"""Weights: safetensors with the training's history, and all else that scoring must know."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifacts import backbones
from artifacts import tensors as named
from artifacts.documents import canonical
from artifacts.refs import Ref
from artifacts.store import Artifact, Store

_FILE = "weights.safetensors"
_HISTORY, _PENALTIES, _OUT_OF_FOLD = "history.json", "penalties.json", "out-of-fold.safetensors"


@dataclass(frozen=True)
class View:
    """How a backbone looks at a picture. side: of the square that it sees, in pixels."""

    backbone: Ref
    side: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"backbone": str(self.backbone), "side": self.side}


@dataclass(frozen=True)
class Penalties:
    """What cross-validation made of the penalties of a head.

    tried: penalty, loss, loss_error and accuracy of each, from the strongest on, of items that were held out.
    taken: the one that the head has.
    """

    tried: list[dict[str, float]]
    taken: float


@dataclass(frozen=True)
class OutOfFold:
    """What a head's folds answered of the images of the train split that they had not learned from.

    items: int64, ascending, their places in the split. folds: int32 [items].
    probabilities: float32 [items, classes], as the network gives them.
    """

    items: np.ndarray
    folds: np.ndarray
    probabilities: np.ndarray


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
        validation_accuracy; none where a head was solved. Raises Corrupt."""
        return list(json.loads(self.artifact.read(_HISTORY)))

    @property
    def penalties(self) -> Penalties | None:
        """Of a head that was solved; None for all others. Raises Corrupt."""
        found = json.loads(self.artifact.read(_PENALTIES)) if _PENALTIES in self.artifact.files else None
        return Penalties(found["tried"], found["taken"]) if found else None

    @property
    def out_of_fold(self) -> OutOfFold | None:
        """Of a head that was solved; None for all others. Raises Corrupt."""
        if _OUT_OF_FOLD not in self.artifact.files:
            return None
        return OutOfFold(**named.from_bytes(self.artifact.read(_OUT_OF_FOLD)))

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
        """The first pretrained network that they stand on; None when there is none."""
        found = self.artifact.identity["inputs"].get("backbone")
        return Ref.parse(found) if found else None

    @property
    def views(self) -> tuple[View, ...]:
        """What of a picture the head sees, side by side; none where it stands on no pretrained network. Weights of an
        earlier Lookbook have one, of the size of their pictures."""
        return views_of(self.artifact)

    @property
    def mirrored(self) -> bool:
        """Whether features are the mean of those of a picture and of its mirror image."""
        return bool(self.artifact.facts.get("mirrored", False))

    @property
    def precision(self) -> str:
        """What that network computed in, where there is one: `float32` or `bfloat16`."""
        return str(self.artifact.facts.get("precision", "float32"))

    @property
    def image_spec(self) -> dict[str, Any]:
        """The fields of the ImageSpec that the images were made by."""
        return dict(self.artifact.facts["image_spec"])


def views_of(artifact: Artifact) -> tuple[View, ...]:
    """`Weights.views`, by their manifest alone."""
    if "backbone" not in artifact.identity["inputs"]:
        return ()
    alone = {"backbone": artifact.identity["inputs"]["backbone"], "side": artifact.facts["image_spec"]["height"]}
    told = artifact.facts.get("views", [alone])
    return tuple(View(Ref.parse(each["backbone"]), each["side"]) for each in told)


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
    views: Sequence[View] = (),
    mirrored: bool = False,
    precision: str | None = None,
    penalties: Penalties | None = None,
    out_of_fold: OutOfFold | None = None,
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
    views, mirrored: what of a picture a head sees; none where it stands on no pretrained network.
    precision: what these networks computed in, `float32` or `bfloat16`.
    penalties, out_of_fold: of a head that was solved.
    made: what the provenance tells besides, and may differ between equal runs.
    """
    files = {_FILE: named.to_bytes(tensors), _HISTORY: canonical(list(history))}
    if penalties is not None:
        files[_PENALTIES] = canonical({"tried": penalties.tried, "taken": penalties.taken})
    if out_of_fold is not None:
        files[_OUT_OF_FOLD] = named.to_bytes(vars(out_of_fold))
    below = list(dict.fromkeys(str(view.backbone) for view in views))
    names = ["backbone", *(f"backbone-{number}" for number in range(2, len(below) + 1))]
    return store.publish(
        "weights",
        name,
        files,
        settings=settings,
        inputs={"dataset": str(dataset), **dict(zip(names, below, strict=False))},
        facts={
            "classes": list(classes),
            "image_spec": dict(image_spec),
            "tensors": named.describe(tensors),
            **({} if calibration is None else {"temperature": calibration["temperature"], "calibration": calibration}),
            **({} if precision is None else {"precision": precision}),
            **({"views": [view.to_dict() for view in views], "mirrored": mirrored} if views else {}),
        },
        made=made,
    )


def load(store: Store, ref: Ref) -> Weights:
    """Read weights whose bytes, names, dtypes and shapes are the published ones. Raises NotFound and Corrupt."""
    artifact = store.open(ref)
    return Weights(artifact, named.load(artifact, _FILE))


def check_files(store: Store, ref: Ref) -> None:
    """Hash all that weights predict by: theirs, and the backbones' that they stand on and don't bring along. Raises
    NotFound and Corrupt."""
    artifact = store.open(ref)
    artifact.check_files()
    if not any(name.startswith("backbone/") for name in artifact.facts.get("tensors", ())):
        for backbone in dict.fromkeys(view.backbone for view in views_of(artifact)):
            backbones.check_files(store, backbone)
