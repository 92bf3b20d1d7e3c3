"""What decides pixels, numbers and files on a machine: two that differ in it can't write one table."""

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from PIL import features

from tasks.vision.processor import arithmetic

_ROOT = Path(__file__).absolute().parents[2]
_CODE = ("artifacts", "tasks")
_PACKAGES = {"NumPy": "numpy", "Pillow": "pillow", "pyarrow": "pyarrow"}
_LIBRARIES = {"libjpeg-turbo": "libjpeg_turbo", "zlib": "zlib", "libtiff": "libtiff", "libwebp": "webp"}


@cache
def likeness() -> Mapping[str, str]:
    """Name -> what this machine has: code, versions, the processor's instructions, and variables that TensorFlow reads.

    No TensorFlow is imported.
    """
    found = {"Lookbook's code": _code(), "Python": platform.python_version()}
    for name, package in _PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "none"
    found |= {name: str(features.version(feature)) for name, feature in _LIBRARIES.items()}
    return found | arithmetic()


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """What another machine has that is not ours, in words."""
    return [
        f"{name} {_shown(theirs.get(name, ''), ours.get(name, ''))} instead of "
        f"{_shown(ours.get(name, ''), theirs.get(name, ''))}"
        for name in ours
        if ours[name] != theirs.get(name)
    ]


def _shown(value: str, other: str) -> str:
    """Of a list of words only those that the other one has not."""
    if " " not in value and " " not in other:
        return value or "none"
    return " ".join(word for word in value.split() if word not in other.split()) or "none more"


def _code() -> str:
    """The SHA-256 (12 digits) of all code that machines run."""
    content = hashlib.sha256()
    for package in _CODE:
        for path in sorted((_ROOT / package).rglob("*.py")):
            content.update(path.relative_to(_ROOT).as_posix().encode() + b"\0")
            content.update(hashlib.sha256(path.read_bytes()).digest())
    return content.hexdigest()[:12]
