"""One store into another: versions as they are, then what runs produced, then every decision.

What is there already is compared, not copied: so a copy that was interrupted goes on, and one that is repeated brings
what is new. Every file is hashed on its way. What is only kept to save work (features, staging) stays behind.
"""

from collections.abc import Callable
from dataclasses import dataclass

from artifacts import audits, labels, tombstones
from artifacts.errors import AlreadyExists, NotFound, StoreError
from artifacts.living import EVERYTHING, FOLDER, needing
from artifacts.refs import Ref
from artifacts.store import Store

_ORDER = ("datasets", "backbones", "weights", "metrics", "predictions")  # what something is made of comes first
_RECORDS = ("runs", "aliases", "pins", tombstones.FOLDER, labels.FOLDER, audits.FOLDER)


@dataclass
class Copied:
    """copied: versions, events and runs' records that were written; present: those that were there; bytes: of the files
    of versions that were written."""

    copied: int = 0
    present: int = 0
    bytes: int = 0


def copy(source: Store, target: Store, on_version: Callable[[Ref], None] = lambda _: None) -> Copied:
    """Copy all that is published.

    on_version: called with each version before it is copied.

    Raises Corrupt for what is damaged, and StoreError where the target has another history: then it is no copy.
    """
    target.prepare()
    with needing(target.disk, EVERYTHING):
        return _copy(source, target, on_version)


def _copy(source: Store, target: Store, on_version: Callable[[Ref], None]) -> Copied:
    found = Copied()
    for kind in _ORDER:
        for ref in source.refs(kind):
            try:
                artifact = source.open(ref)
            except NotFound:  # it was removed meanwhile
                continue
            if target.has(ref):
                found.present += 1
                continue
            on_version(ref)
            target.adopt(artifact)
            found.copied += 1
            found.bytes += sum(file["bytes"] for file in artifact.files.values())
    for key in (key for records in _RECORDS for key in source.disk.list(records)):
        if key.startswith(f"{FOLDER}/"):  # what runs of that store need
            continue
        content = source.disk.read(key)
        try:
            target.disk.create(key, content)
            found.copied += 1
        except AlreadyExists:
            if target.disk.read(key) != content:
                raise StoreError(
                    f"expected {target.disk.root} to be a copy of {source.disk.root}, found another {key} in it; copy "
                    "into an empty store"
                ) from None
            found.present += 1
    return found
