"""Histories in numbered, create-only documents: `<folder>/00000001.json`, and so on."""

import re
from collections.abc import Mapping
from typing import Any

from artifacts.disk import Disk
from artifacts.documents import seal, unseal
from artifacts.errors import AlreadyExists
from artifacts.provenance import now, user_at_host

_DOCUMENT = re.compile(r"/[0-9]{8}\.json$")


def append(disk: Disk, folder: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Write the next document, with its number, the time in UTC (`at`) and who wrote it (`by`). Returns it."""
    while True:
        keys = _keys(disk, folder)
        number = int(keys[-1][-len("00000001.json") : -len(".json")]) + 1 if keys else 1
        written = {**document, "number": number, "at": now(), "by": user_at_host()}
        try:
            disk.create(f"{folder}/{number:08d}.json", seal(written))
        except AlreadyExists:
            continue
        return written


def newest(disk: Disk, folder: str) -> dict[str, Any] | None:
    """The last document; None without any. Raises Corrupt."""
    keys = _keys(disk, folder)
    return unseal(disk.read(keys[-1]), keys[-1]) if keys else None


def _keys(disk: Disk, folder: str) -> list[str]:
    """Of the documents, in order; other files are somebody's."""
    return [key for key in disk.list(folder) if _DOCUMENT.search(key)]
