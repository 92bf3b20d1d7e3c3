"""What a store holds, each once: the kinds of artifacts, and all other folders. What is listed, copied, published and
kept follows from here, and in which order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

MODELS: Final = "models"
TABLES: Final = "tables"


@dataclass(frozen=True)
class Kind:
    """A kind of artifact.

    made_from: the kinds that are among its inputs.
    part: by what name a collection takes it (`--only`).
    stays: which of its versions stay, beside those that something refers to. all; newest: that of each name, and
    datasets that alone have a labelled picture; several: as many of each name as are asked for; none.
    """

    made_from: tuple[str, ...]
    part: Literal["models", "tables"]
    stays: Literal["all", "newest", "several", "none"]


KINDS: Mapping[str, Kind] = {  # what something is made from comes before it
    "datasets": Kind((), MODELS, "newest"),
    "backbones": Kind((), MODELS, "all"),  # new weights may stand on it
    "weights": Kind(("datasets", "backbones"), MODELS, "newest"),
    "metrics": Kind(("weights", "datasets"), MODELS, "none"),
    "predictions": Kind(("weights", "datasets"), TABLES, "several"),
}


@dataclass(frozen=True)
class Folder:
    """A folder of the store that holds no versions.

    copied: how documents get into a copy. history: all of it, or it is no copy; once: where the copy has one of that
    key, which it may have written itself, that one stays; None: not at all.
    goes: whether a collection may remove files of it, when nothing needs them any more.
    """

    copied: Literal["history", "once"] | None
    goes: bool


FOLDERS: Mapping[str, Folder] = {  # what names something comes before it
    "runs": Folder("once", goes=False),
    "runs/living": Folder(None, goes=True),
    "aliases": Folder("history", goes=False),
    "pins": Folder("history", goes=False),
    "labels": Folder("history", goes=False),
    "audits": Folder("history", goes=False),
    "collected": Folder("once", goes=False),
    "features": Folder(None, goes=False),  # pictures are embedded again
    "parts": Folder(None, goes=True),
    "staging": Folder(None, goes=True),
}


def may_go(key: str) -> bool:
    """Whether a collection may remove `key`, which is of no version. What is in no folder of the list stays."""
    folders = [name for name in FOLDERS if key.startswith(f"{name}/")]
    return bool(folders) and FOLDERS[max(folders, key=len)].goes
