"""Tensors of a checkpoint -> which backbone they are, and its tensors under our names. Plain NumPy."""

from typing import NamedTuple

import numpy as np

from tasks.vision.architecture import Architecture, Arrays, Layout, Shapes
from tasks.vision.errors import CheckpointError
from tasks.vision.families import ARCHITECTURES

_SHOWN, _LONGEST = 5, 200  # of what is odd, and characters of each
_LEAST = 0.5  # of a network's tensors: with fewer of them, it is another network


class Recognized(NamedTuple):
    """The architecture of a checkpoint, and whose names it has."""

    architecture: Architecture
    layout: Layout


def recognize(found: Shapes) -> Recognized:
    """What a checkpoint is of, by the names and shapes of its tensors.

    Raises CheckpointError: of the network that is nearest it says what is missing, too much, or of another shape.
    """
    known = [Recognized(each, layout) for each in ARCHITECTURES.values() for layout in each.layouts]
    odd = {place: _odd(found, each.layout) for place, each in enumerate(known)}
    nearest = min(odd, key=lambda place: len(odd[place]))
    architecture, layout = known[nearest]
    if not odd[nearest]:
        return known[nearest]
    if len(layout.shapes.keys() & found.keys()) < _LEAST * len(layout.shapes):
        titles = ", ".join(each.title for each in ARCHITECTURES.values())
        raise CheckpointError(
            f"expected the tensors of a network out of {titles}, found {_some(sorted(found) or ['nothing'], ', ')}: "
            "another network's; docs/backbones.md says which checkpoints can be read"
        )
    raise CheckpointError(
        f"expected the tensors of {architecture.title} under the names of {layout.whose}, found "
        f"{_some(odd[nearest], '; ')}: another network's, or not all of it"
    )


def to_backbone(tensors: Arrays) -> tuple[Architecture, dict[str, np.ndarray]]:
    """The backbone that these tensors are: its architecture, and float32 arrays under its names.

    tensors: under names that one of its layouts has; float32, or float16, which is converted.

    Raises CheckpointError.
    """
    architecture, layout = recognize({name: each.shape for name, each in tensors.items()})
    odd, taken = [], {}
    for name, tensor in tensors.items():
        if name not in layout.shapes and not np.issubdtype(tensor.dtype, np.floating):
            continue  # a counter
        if tensor.dtype not in (np.float32, np.float16):
            odd.append(f"{name} of {tensor.dtype} instead of float32, float16 or bfloat16")
        elif not np.isfinite(tensor).all():
            odd.append(f"{name} with numbers that are not finite")
        taken[name] = tensor.astype(np.float32)
    if odd:
        raise CheckpointError(
            f"expected the tensors of {architecture.title}, found {_some(odd, '; ')}: get the file again from its owner"
        )
    return architecture, layout.converted(taken)


def _odd(found: Shapes, layout: Layout) -> list[str]:
    """What is wrong with a checkpoint if it were of this layout."""
    odd = [f"no {name}" for name in layout.shapes if name not in found]
    odd += [f"{name}, which it has not" for name in sorted(found.keys() - layout.shapes.keys() - layout.spare)]
    odd += [
        f"{name} of {list(found[name])} instead of {list(shape)}"
        for name, shape in layout.shapes.items()
        if name in found and found[name] != shape
    ]
    return odd


def _some(odd: list[str], between: str) -> str:
    more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
    return between.join(map(shortened, odd[:_SHOWN])) + more


def shortened(text: str) -> str:
    """For a message: a stranger's name or shape may have megabytes."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
