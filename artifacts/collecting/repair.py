"""What is damaged: mended where another version has the same bytes; else what depends on it, and its removal, through
the door that collecting uses."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from artifacts import aliases, living, pins
from artifacts.collecting.collector import remove_version
from artifacts.collecting.inventory import Inventory, Version
from artifacts.dataset import load
from artifacts.errors import Corrupt, NotFound
from artifacts.labels import Labels
from artifacts.refs import Ref, refs_of
from artifacts.store import Store

DAMAGED = "damaged"


@dataclass(frozen=True)
class Repair:
    """A damaged version.

    dependants: what was made from it.
    refused: why it can't go, or None.
    bytes: what was freed when it was removed, or None.
    same: a version whose files have the bytes that are damaged here: by these it is mended, and never removed.
    mended: whether it was.
    """

    ref: str
    problem: str
    dependants: list[str]
    refused: str | None = None
    bytes: int | None = None
    same: str | None = None
    mended: bool = False


def offers(store: Store, damaged: Mapping[str, str]) -> list[Repair]:
    """What can be done about damaged versions. `damaged`: ref -> what is wrong. Raises Corrupt for histories that can't
    be read."""
    versions = Inventory(store).look()
    held = {**_only_pictures(store, versions, damaged), **_held(store)}
    whole = _whole_files(store, damaged)
    return [
        Repair(
            text,
            problem,
            sorted(map(str, _dependants(versions, ref))),
            held.get(ref),
            same=str(next(iter(whole[ref].values())).ref) if whole[ref] else None,
        )
        for ref, (text, problem) in zip(map(Ref.parse, damaged), damaged.items(), strict=True)
    ]


def carry_out(store: Store, damaged: Mapping[str, str]) -> list[Repair]:
    """Mend those that can be mended, and remove those that nothing holds. Only for whoever holds `living.TURN`."""
    with living.removing(store.disk):
        done: list[Repair] = []
        for offer in offers(store, damaged):
            ref = Ref.parse(offer.ref)
            if offer.same:
                for file, other in _whole_files(store, [offer.ref])[ref].items():
                    store.disk.replace(store.open(ref).key(file), other.path)
                done.append(replace(offer, mended=True))
            elif offer.refused is None:
                _, freed = remove_version(store, ref, DAMAGED, offer.problem)
                done.append(replace(offer, bytes=freed))
            else:
                done.append(offer)
        return done


class _Same(NamedTuple):
    """A file of the version `ref` that has the bytes which are damaged elsewhere; path: of them on this machine."""

    ref: Ref
    path: Path


def _whole_files(store: Store, damaged: Iterable[str]) -> dict[Ref, dict[str, _Same]]:
    """Of each version its damaged files, with the same bytes in another version; none where one file has none."""
    found: dict[Ref, dict[str, _Same]] = {}
    wanted: dict[tuple[str, int], list[tuple[Ref, str]]] = defaultdict(list)
    for ref in map(Ref.parse, damaged):
        found[ref] = {}
        with suppress(Corrupt, NotFound):
            artifact = store.open(ref)
            for file, described in artifact.files.items():
                try:
                    artifact.check(file)
                except Corrupt:
                    wanted[described["sha256"], described["bytes"]].append((ref, file))
    readable = (each for _, each in store.opened() if not isinstance(each, Corrupt)) if wanted else ()
    for other in readable:
        for file, described in other.files.items():
            for damaged_ref, damaged_file in wanted.get((described["sha256"], described["bytes"]), ()):
                if damaged_file not in found[damaged_ref]:
                    with suppress(Corrupt):
                        found[damaged_ref][damaged_file] = _Same(other.ref, other.path(file))
    lost = {ref for files in wanted.values() for ref, file in files if file not in found[ref]}
    return {ref: {} if ref in lost else files for ref, files in found.items()}


def _held(store: Store) -> dict[Ref, str]:
    """What must not go, however damaged it is, and what to do first."""
    disk = store.disk
    needs, _ = living.needed(disk, disk.now() - 24 * 3600)
    held = dict.fromkeys(refs_of(needs), "something that goes on needs it: wait until that is over")
    held |= {ref: f"it is pinned: `lookbook unpin {ref}` first" for ref in pins.pinned(disk)}
    for name in aliases.names(disk, "weights", "champion"):
        if champion := aliases.current(disk, "weights", name, "champion"):
            held[champion] = f"it is champion of {name}: `lookbook rollback {name}`, or promote another one, first"
    for name in aliases.names(disk, "predictions", "latest"):
        if latest := aliases.current(disk, "predictions", name, "latest"):
            held[latest] = f"it is the latest table of {name}: score that folder again (--fresh) first"
    return held


def _only_pictures(store: Store, versions: Mapping[Ref, Version], damaged: Mapping[str, str]) -> dict[Ref, str]:
    """Damaged datasets that have labelled pictures, in a file that is whole, which no other dataset has: the files of
    these pictures may be gone."""
    elsewhere: dict[tuple[str, bytes], set[str]] = defaultdict(set)
    for ref, version in versions.items():
        if version.learned and version.learned.pictures and str(ref) not in damaged:
            elsewhere[ref.name, version.learned.spec] |= version.learned.pictures
    held: dict[Ref, str] = {}
    for ref in map(Ref.parse, damaged):
        learned = versions[ref].learned if ref in versions else None
        if learned is None:
            continue
        labelled = learned.pictures
        if labelled is None:  # the list of them is damaged: all that were ever labelled
            said = Labels(store.disk, learned.labels).events
            labelled = frozenset(each.sha256 for event in said for each in event.statements)
        with suppress(NotFound):  # it is removed just now
            there = {str(each) for _, side in load(store, ref).whole_sides() for each in side.sha256 or ()}
            if there & labelled - elsewhere[ref.name, learned.spec]:
                held[ref] = (
                    "it has labelled pictures that no other dataset has: restore it from a copy, or retrain with "
                    f"--labels {learned.labels} first"
                )
    return held


def _dependants(versions: Mapping[Ref, Version], ref: Ref) -> set[Ref]:
    """All that was made from a version, and from that."""
    found: set[Ref] = set()
    waiting = [ref]
    while waiting:
        each = waiting.pop()
        made = {other.ref for other in versions.values() if each in other.inputs} - found
        found |= made
        waiting += made
    return found
