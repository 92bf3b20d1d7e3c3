"""The architectures of backbones that there are, and which one tensors are of."""

from collections.abc import Mapping

import numpy as np

from tasks.vision.architecture import Architecture
from tasks.vision.dinov2 import VITB14, VITB14_REG, VITS14, VITS14_REG
from tasks.vision.efficientnet_lite import LITE0, LITE1, LITE2
from tasks.vision.errors import WeightsError
from tasks.vision.mobilenetv4 import CONV_MEDIUM

ARCHITECTURES: dict[str, Architecture] = {
    each.name: each for each in (LITE0, LITE1, LITE2, VITS14, VITS14_REG, VITB14, VITB14_REG, CONV_MEDIUM)
}


def prefix(number: int) -> str:
    """What the names of a backbone's tensors begin with in weights that hold their own, moved by fine-tuning:
    `backbone/` of the first one (number 0), `backbone-2/` of the second."""
    return f"backbone-{number + 1}/" if number else "backbone/"


def architecture_of(name: str) -> Architecture:
    """Raises WeightsError for one that this Lookbook doesn't have."""
    if name not in ARCHITECTURES:
        raise WeightsError(
            f"expected a pretrained network out of {', '.join(ARCHITECTURES)}, found {name!r}; a newer Lookbook "
            "knows it"
        )
    return ARCHITECTURES[name]


def parted(
    tensors: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], list[tuple[Architecture, dict[str, np.ndarray]]]]:
    """The tensors of a head, and the backbones that it brings: of each the architecture, and tensors as `folded` has
    them. None of them if it brings none.

    The tensors alone say which architecture it is: so such weights predict even where the backbone that they were
    trained from is gone.

    Raises WeightsError when the tensors are of no backbone, or not all of them.
    """
    head = dict(tensors)
    own: list[tuple[Architecture, dict[str, np.ndarray]]] = []
    while found := [name for name in head if name.startswith(prefix(len(own)))]:
        own.append(_recognized({name.removeprefix(prefix(len(own))): head.pop(name) for name in found}))
    return head, own


def _recognized(tensors: dict[str, np.ndarray]) -> tuple[Architecture, dict[str, np.ndarray]]:
    shapes = {name: each.shape for name, each in tensors.items()}
    for architecture in ARCHITECTURES.values():
        if shapes == architecture.folded:
            return architecture, tensors
    raise WeightsError(
        f"expected all tensors of a pretrained network ({', '.join(ARCHITECTURES)}), or none, found others; a newer "
        "Lookbook knows them"
    )
