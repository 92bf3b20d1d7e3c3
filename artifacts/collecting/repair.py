"""What is damaged: mended where another version has the same bytes; else what depends on it, and its removal, through
the door that collecting uses."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from artifacts import aliases, living, pins
from artifacts.collecting.collector import remove_version
from artifacts.collecting.inventory import Inventory, Learned, Version
from artifacts.dataset import load
from artifacts.errors import Corrupt, NotFound
from artifacts.labels import Labels, label_names
from artifacts.opening import use
from artifacts.refs import Ref, refs_of
from artifacts.store import Artifact, Store

DAMAGED = "damaged"


@dataclass(frozen=True)
class Repair:
    """A damaged version.

    dependants: what was made from it.
    refused: why it can't go, or None.
    bytes: what was freed when it was removed, or None.
    same: a version whose files have the bytes that are damaged here: by these it is mended, and never removed.
    mended: whether it was.
    whole: whether it was damaged, and is no more: nothing is to be done.
    """

    ref: str
    problem: str
    dependants: list[str]
    refused: str | None = None
    bytes: int | None = None
    same: str | None = None
    mended: bool = False
    whole: bool = False


def offers(store: Store, damaged: Mapping[str, str]) -> list[Repair]:
    """What can be done about damaged versions. `damaged`: ref -> what was wrong; each is hashed anew, and one that is
    removed meanwhile is left out. Raises Corrupt for histories that can't be read, and StoreError for files."""
    return [offer for offer, _ in _offers(store, damaged)]


def carry_out(store: Store, damaged: Mapping[str, str]) -> list[Repair]:
    """Mend those that can be mended, and remove those that nothing holds. Only for whoever holds `living.TURN`. Raises
    what `offers` does, before anything is changed."""
    with living.removing(store.disk):
        found = _offers(store, damaged)
        for offer, damage in found:  # first: what is removed then may have the bytes
            if offer.same:
                _mend(store, Ref.parse(offer.ref), damage.same)
        return [_carried_out(store, offer) for offer, _ in found]


def _carried_out(store: Store, offer: Repair) -> Repair:
    if offer.same:
        return replace(offer, mended=True)
    if offer.whole or offer.refused:
        return offer
    _, freed = remove_version(store, Ref.parse(offer.ref), DAMAGED, offer.problem)
    return replace(offer, bytes=freed)


def _mend(store: Store, ref: Ref, same: "Mapping[str, tuple[Artifact, str]]") -> None:
    """Put files of other versions in the place of its own."""
    artifact = store.open(ref)
    for file, (other, whole) in same.items():
        use(partial(other.path, whole), partial(store.disk.replace, artifact.key(file)))


def _offers(store: Store, damaged: Mapping[str, str]) -> "list[tuple[Repair, _Damage]]":
    """The offers, each with what they are made of."""
    versions = Inventory(store).look()
    found = _look(store, map(Ref.parse, damaged))
    held = {**_only_pictures(store, versions, damaged), **_held(store)}
    return [
        (
            Repair(
                str(ref),
                damaged[str(ref)],
                sorted(map(str, _dependants(versions, ref))),
                refused=None if damage.whole else held.get(ref),
                same=damage.mended_by,
                whole=damage.whole,
            ),
            damage,
        )
        for ref, damage in found.items()
    ]


@dataclass
class _Damage:
    """What is wrong with a version now.

    manifest: whether its manifest is damaged: nothing else is known then.
    files: its damaged files, with what each should be: SHA-256 (hex) and bytes.
    same: those of them that are whole in another version, with that version.
    """

    manifest: bool = False
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    same: dict[str, tuple[Artifact, str]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return not self.manifest and not self.files

    @property
    def mended_by(self) -> str | None:
        """The first version that has the bytes, where all files are mended by others."""
        if self.manifest or not self.files or self.files.keys() != self.same.keys():
            return None
        return str(next(iter(self.same.values()))[0].ref)


def _look(store: Store, refs: Iterable[Ref]) -> dict[Ref, _Damage]:
    """What is wrong with each version that is there. Raises StoreError for what can't be read: it may be whole."""
    found: dict[Ref, _Damage] = {}
    wanted: dict[tuple[str, int], list[tuple[_Damage, str]]] = defaultdict(list)
    for ref in refs:
        try:
            artifact = store.open(ref)
        except NotFound:
            continue
        except Corrupt:
            found[ref] = _Damage(manifest=True)
            continue
        damage = found[ref] = _Damage()
        for file, described in artifact.files.items():
            try:
                artifact.check(file)
            except Corrupt:
                damage.files[file] = described["sha256"], described["bytes"]
                wanted[damage.files[file]].append((damage, file))
    others = (each for _, each in store.opened() if not isinstance(each, Corrupt)) if wanted else ()
    for other in others:
        for file, described in other.files.items():
            for damage, damaged_file in wanted.get((described["sha256"], described["bytes"]), ()):
                if damaged_file not in damage.same:
                    with suppress(Corrupt):
                        other.path(file)
                        damage.same[damaged_file] = other, file
    return found


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
    """Damaged datasets that have labelled pictures, in a file that is whole, which no other dataset has, or that may
    have them: the files of these pictures may be gone."""
    elsewhere: dict[tuple[str, bytes], set[str]] = defaultdict(set)
    for ref, other in versions.items():
        if other.learned and other.learned.pictures and str(ref) not in damaged:
            elsewhere[ref.name, other.learned.spec] |= other.learned.pictures
    held: dict[Ref, str] = {}
    for ref in map(Ref.parse, damaged):
        version = versions.get(ref)
        if version is None or ref.kind != "datasets":
            continue
        if version.problem:
            had = set().union(*(pictures for (name, _), pictures in elsewhere.items() if name == ref.name))
            what, labels = "its manifest can't be read, and it may have", _only_there(store, ref, had)
        elif version.learned:
            what, labels = "it has", _only_in_it(store, ref, version.learned, elsewhere[ref.name, version.learned.spec])
        else:
            continue
        if labels:
            held[ref] = (
                f"{what} labelled pictures that no other dataset has: restore it from a copy, or retrain with "
                f"--labels {' and --labels '.join(labels)} first"
            )
    return held


def _only_in_it(store: Store, ref: Ref, learned: Learned, had: Set[str]) -> list[str]:
    """The names of labels with pictures that are whole in a dataset alone. `had`: those that others have."""
    labelled = learned.pictures
    if labelled is None:  # the list of them is damaged: all that were ever labelled
        labelled = _labelled(store, learned.labels)
    with suppress(NotFound):  # it is removed just now
        there = {str(each) for _, side in load(store, ref).whole_sides() for each in side.sha256 or ()}
        return [learned.labels] if there & labelled - had else []
    return []


def _only_there(store: Store, ref: Ref, had: Set[str]) -> list[str]:
    """The names of labels with pictures that may be in a dataset alone of which only the images are there. `had`: those
    that others have."""
    if not any(store.disk.exists(f"{ref.folder}/{side}.arrow") for side in ("train", "test")):
        return []
    return [name for name in label_names(store.disk) if _labelled(store, name) - had]


def _labelled(store: Store, name: str) -> frozenset[str]:
    """SHA-256 (hex) of all pictures that were ever labelled under a name, with a class."""
    said = (each for event in Labels(store.disk, name).events for each in event.statements)
    return frozenset(each.sha256 for each in said if each.verdict == "class")


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
