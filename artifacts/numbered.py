"""Histories in numbered, create-only documents: `<folder>/00000001.json`, and so on."""

from collections.abc import Mapping
from typing import Any

from artifacts.disk import Disk
from artifacts.documents import seal, unseal
from artifacts.errors import AlreadyExists
from artifacts.provenance import now, user_at_host


def append(disk: Disk, folder: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Write the next document, with its number, the time in UTC (`at`) and who wrote it (`by`). Returns it."""
    while True:
        number = len(list(disk.list(folder))) + 1
        written = {**document, "number": number, "at": now(), "by": user_at_host()}
        try:
            disk.create(f"{folder}/{number:08d}.json", seal(written))
        except AlreadyExists:
            continue
        return written


def newest(disk: Disk, folder: str) -> dict[str, Any] | None:
    """The last document; None without any. Raises Corrupt."""
    keys = list(disk.list(folder))
    return unseal(disk.read(keys[-1]), keys[-1]) if keys else None
