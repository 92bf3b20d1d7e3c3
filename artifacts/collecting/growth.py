"""How a store has grown: bytes by kind over time, with what was removed since."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime

from artifacts import tombstones
from artifacts.collecting.inventory import Version
from artifacts.disk import spread
from artifacts.refs import Ref
from artifacts.store import Store


def growth(store: Store, versions: Mapping[Ref, Version]) -> dict[str, list[tuple[datetime, int]]]:
    """kind -> when its versions changed in size (UTC, ascending), and how many bytes they had from then on. Files that
    several versions share count for each. Raises Corrupt."""
    changes: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for ref, version in versions.items():
        if version.created:
            changes[ref.kind].append((_time(version.created), version.size))
    disk = store.disk
    for buried in spread(disk.at_once, lambda ref: tombstones.find(disk, ref), tombstones.refs(disk)):
        if buried and buried.created and Ref.parse(buried.ref) not in versions:
            kind = Ref.parse(buried.ref).kind
            changes[kind] += [(_time(buried.created), buried.bytes), (_time(buried.at), -buried.bytes)]
    grown: dict[str, list[tuple[datetime, int]]] = {}
    for kind, found in changes.items():
        size = 0
        grown[kind] = [(at, size := size + change) for at, change in sorted(found)]
    return grown


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
