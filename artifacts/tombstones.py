"""What was removed: when, by whom, by which rule; and what it had been made from, so that lineage keeps its place.

collected/<kind>/<name>/<version>/00000001.json
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from artifacts import numbered
from artifacts.disk import Disk
from artifacts.errors import Removed
from artifacts.refs import Ref

FOLDER = "collected"


@dataclass(frozen=True)
class Tombstone:
    """A version that was removed, or is about to be.

    rule, reason: why; bytes: of its files; created: when it was made; inputs, settings: as its manifest had them.
    number, at (UTC), by (user@host): of this record.
    """

    ref: str
    rule: str
    reason: str
    bytes: int
    created: str
    inputs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    at: str = ""
    by: str = ""

    def error(self) -> Removed:
        """What to say to whoever asks for the version."""
        return Removed(
            f"{self.ref} was removed on {self.at} by {self.by}: {self.reason} ({self.rule}); "
            "`lookbook list` shows what there is, and `lookbook pin` keeps what must stay"
        )


def bury(disk: Disk, tombstone: Tombstone) -> None:
    """Write down that a version goes, before it does."""
    document = {name: value for name, value in asdict(tombstone).items() if name not in ("number", "at", "by")}
    numbered.append(disk, _folder(Ref.parse(tombstone.ref)), document)


def find(disk: Disk, ref: Ref) -> Tombstone | None:
    """Of a version that is not there. Raises Corrupt."""
    found = numbered.newest(disk, _folder(ref))
    return Tombstone(**found) if found else None


def refs(disk: Disk, kind: str | None = None, name: str | None = None) -> Iterator[Ref]:
    """The versions that were ever removed, by kind and name; some may be there again."""
    before = None
    for key in disk.list("/".join(filter(None, (FOLDER, kind, name if kind else None)))):
        parts = key.split("/")
        ref = Ref(*parts[1:4]) if len(parts) == 5 else None
        if ref and ref != before and name in (None, ref.name):
            before = ref
            yield ref


def _folder(ref: Ref) -> str:
    return f"{FOLDER}/{ref.folder}"
