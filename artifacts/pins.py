"""Pins: what is never removed, and why. A history of pin and unpin for each version.

pins/<kind>/<name>/<version>/00000001.json
"""

from typing import Any

from artifacts import numbered
from artifacts.disk import Disk
from artifacts.documents import unseal
from artifacts.errors import NotFound
from artifacts.living import needing
from artifacts.refs import Ref
from artifacts.store import Store


def pin(store: Store, ref: Ref, reason: str) -> dict[str, Any]:
    """Keep a version whatever happens. Returns the event. Raises NotFound."""
    with needing(store.disk, ref):
        store.open(ref)
        return numbered.append(store.disk, _folder(ref), {"action": "pin", "ref": str(ref), "reason": reason})


def unpin(store: Store, ref: Ref, reason: str) -> dict[str, Any]:
    """Let a version go when nothing else keeps it. Returns the event. Raises NotFound where there is no pin."""
    newest = numbered.newest(store.disk, _folder(ref))
    if newest is None or newest["action"] != "pin":
        raise NotFound(f"expected a pinned version, found that {ref} has no pin; `lookbook show` tells of pins")
    return numbered.append(store.disk, _folder(ref), {"action": "unpin", "ref": str(ref), "reason": reason})


def pinned(disk: Disk) -> dict[Ref, str]:
    """The versions that have a pin, and why. Raises Corrupt."""
    newest = {key.rpartition("/")[0]: key for key in disk.list("pins")}
    events = (unseal(disk.read(key), key) for key in newest.values())
    return {Ref.parse(event["ref"]): event["reason"] for event in events if event["action"] == "pin"}


def _folder(ref: Ref) -> str:
    return f"pins/{ref.folder}"
