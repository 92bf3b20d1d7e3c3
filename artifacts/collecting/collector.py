"""Removal: what a plan says is gone, a version whole or not at all, and nothing that somebody needs.

One collects at a time (`living.TURN`). A removal is a look at all that stays, and then the removing, for a few seconds;
it is announced, so that whoever needs something either is seen by the look, or waits until the removal is over
(artifacts/living.py). Dependants go before what they were made from. Of a version first its tombstone is written, then
its manifest removed, and then the rest: so there is the whole version, or none; and what a kill left of it is found by
the next one.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from artifacts import living, tombstones
from artifacts.collecting.inventory import Inventory, Version
from artifacts.collecting.leftovers import Leftover, Leftovers
from artifacts.collecting.retention import LEFTOVERS, Rules, Staying, staying
from artifacts.disk import Stored, spread
from artifacts.errors import Corrupt, NotFound, StoreError
from artifacts.publishing import MANIFEST
from artifacts.refs import KINDS, Ref
from artifacts.registry import MODELS, TABLES, may_go
from artifacts.store import Store
from artifacts.tombstones import Tombstone

_REMOVING_SECONDS = 3.0  # for which those wait at most who need something meanwhile, beside the look
_ASLEEP_SECONDS = 30.0  # late: then look again before anything else is removed; a lease lasts for 90
_CLOCKS_SECONDS = 300.0  # by which two clocks may differ
_UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Removal:
    """Something that goes. what: a ref, or a kind of leftovers, `files` of them; why: the reason, and rule its name;
    bytes: what is free then."""

    what: str
    rule: str
    why: str
    files: int
    bytes: int


@dataclass
class Collection:
    """What goes, or went, and what stays.

    removed: in the order of removal; bytes: what is free then.
    kept: how many versions stay; stays: the reason -> how many; kept_bytes: kind -> bytes of those.
    notes: what a person should mend.
    """

    removed: list[Removal] = field(default_factory=list)
    bytes: int = 0
    kept: int = 0
    stays: dict[str, int] = field(default_factory=dict)
    kept_bytes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Look:
    """What goes by one look at a store: versions in the order of removal, then leftovers."""

    versions: list[Version]
    why: dict[Ref, tuple[str, str]]
    leftovers: list[Leftover]
    stay: Staying
    all: dict[Ref, Version]

    @property
    def is_empty(self) -> bool:
        return not self.versions and not any(each.files for each in self.leftovers)


class Collector:
    """Collects one store by rules."""

    def __init__(self, store: Store, rules: Rules) -> None:
        self._store, self._disk, self._rules = store, store.disk, rules
        self._inventory = Inventory(store)
        self._clocks: tuple[float, float] | None = None

    def plan(self) -> Collection:
        """What would go. Raises Corrupt for histories that can't be read, StoreError where a clock is in doubt."""
        look = self._look()
        found = self._kept(look)
        names = Counter(stored.file for _, files in self._items(look) for stored in files)
        for (what, rule, why), files in self._items(look):
            # A file is free with the last of its names: it counts where the first one is met.
            size = sum(stored.size for stored in files if names.pop(stored.file, 0) == stored.names)
            found.removed.append(Removal(what, rule, why, len(files), size))
            found.bytes += size
        return found

    def _items(self, look: _Look) -> Iterator[tuple[tuple[str, str, str], list[Stored]]]:
        """What goes, by which rule, why, and which files that are."""
        for version in look.versions:
            yield (str(version.ref), *look.why[version.ref]), list(self._disk.survey(version.ref.folder))
        for leftover in look.leftovers:
            if leftover.files:
                yield (leftover.what, LEFTOVERS, leftover.why), leftover.files

    def carry_out(self, on_removed: Callable[[Removal], None] = lambda _: None) -> Collection:
        """Remove it. Only for whoever holds `living.TURN`. What could be removed until an error is removed.

        Raises Corrupt for histories that can't be read, StoreError where a clock is in doubt, or the store refuses.
        """
        removed: list[Removal] = []
        while True:
            with living.removing(self._disk) as announced:
                look = self._look()
                if not self._disk.exists(announced):
                    raise StoreError(
                        "expected to be the only one that collects, found that this one was asleep, and another took "
                        "its turn over: nothing more is removed; run it again"
                    )
                if look.is_empty:
                    found = self._kept(look)
                    found.removed = _merged(removed)
                    found.bytes = sum(each.bytes for each in removed)
                    return found
                for removal in self._remove(look, time.monotonic() + _REMOVING_SECONDS):
                    removed.append(removal)
                    on_removed(removal)

    def _look(self) -> _Look:
        now = self._checked_now()
        since = now - self._rules.grace
        needs, over = living.needed(self._disk, since)  # before the versions: what is done with has its manifest
        versions = self._inventory.look()
        stay = staying(self._disk, versions, needs, self._rules, now)
        going = [each for each in versions.values() if each.ref not in stay.why]
        going.sort(key=lambda each: (-KINDS.index(each.ref.kind), each.created, each.ref))
        leftovers: list[Leftover] = []
        if self._rules.only in (None, LEFTOVERS):
            leftovers = list(Leftovers(self._store, versions, stay, needs, over, since).find())
        for each in leftovers:
            each.files = [stored for stored in each.files if may_go(stored.key)]
        return _Look(going, {each.ref: self._why(each) for each in going}, leftovers, stay, versions)

    def _why(self, version: Version) -> tuple[str, str]:
        kind, name = version.ref.kind, version.ref.name
        if not version.published:
            return _UNFINISHED, "it was never published, or its removal was interrupted"
        if kind == "predictions":
            if self._rules.older_than is not None:
                return TABLES, f"older than {self._rules.older_than / 86400:g} days, and not the latest of {name}"
            return TABLES, f"not of the newest {self._rules.keep_predictions} tables of {name}"
        if kind == "weights":
            return MODELS, f"not of the last {self._rules.keep} champions of {name}, and no table that stays is of it"
        return MODELS, "nothing that stays was made from it, or is measured by it"

    def _kept(self, look: _Look) -> Collection:
        gone = set(look.why)
        found = Collection(notes=list(look.stay.notes))
        for ref, version in look.all.items():
            if ref not in gone:
                found.kept += 1
                found.kept_bytes[ref.kind] = found.kept_bytes.get(ref.kind, 0) + version.size
                why = look.stay.why[ref]
                why = "something that stays was made from it" if why.endswith(" was made from it") else why
                found.stays[why] = found.stays.get(why, 0) + 1
        return found

    def _remove(self, look: _Look, ends: float) -> Iterator[Removal]:
        """Remove something, and go on until the time `ends` (monotonic, s)."""
        for version in look.versions:
            if time.monotonic() > ends + _ASLEEP_SECONDS:
                return
            rule, why = look.why[version.ref]
            files, size = remove_version(self._store, version.ref, rule, why)
            yield Removal(str(version.ref), rule, why, files, size)
            if time.monotonic() > ends:
                return
        for leftover in look.leftovers:
            files = size = 0
            for freed in spread(self._disk.at_once, self._disk.free, _until(leftover.files, ends)):
                files, size = files + 1, size + freed
            if files:
                yield Removal(leftover.what, LEFTOVERS, leftover.why, files, size)
                if time.monotonic() > ends:
                    return

    def _checked_now(self) -> float:
        """The time by the disk's clock, which must agree with this machine's, and go as fast as time does."""
        now = self._disk.now()
        started, then = self._clocks = self._clocks or (time.monotonic(), now)
        apart, jumped = now - time.time(), now - then - (time.monotonic() - started)
        if abs(apart) > _CLOCKS_SECONDS or abs(jumped) > _CLOCKS_SECONDS:
            raise StoreError(
                f"expected the clock of the store {self._disk.root} to agree with this machine's, found them "
                f"{abs(apart):,.0f} s apart{f', after a jump of {jumped:,.0f} s' if abs(jumped) > 1 else ''}: what is "
                "old can't be known, and nothing more is removed; set the clocks and run it again"
            )
        return now


def remove_version(store: Store, ref: Ref, rule: str, why: str) -> tuple[int, int]:
    """Remove a version, or what is left of one. Returns how many files that were, and the bytes that are free now.

    Only in a removal (`living.removing`). Raises StoreError.
    """
    disk = store.disk
    files = list(disk.survey(ref.folder))
    manifest = next((each for each in files if each.key == f"{ref.folder}/{MANIFEST}"), None)
    freed = 0
    if manifest:
        _bury(store, ref, rule, why, sum(each.size for each in files))
        freed = disk.free(manifest, durably=True)
        files.remove(manifest)
    freed += sum(spread(disk.at_once, disk.free, files))
    return len(files) + bool(manifest), freed


def _bury(store: Store, ref: Ref, rule: str, why: str, size: int) -> None:
    """Write the tombstone, unless a removal of this very version was interrupted after that."""
    try:
        manifest = store.open(ref).manifest
        identity, created = manifest["identity"], str(manifest["provenance"]["created"])
        inputs, settings = identity["inputs"], identity["settings"]
    except (Corrupt, NotFound):
        inputs, settings, created = {}, {}, ""
    before = tombstones.find(store.disk, ref)
    if before is None or (before.created, before.rule) != (created, rule):
        tombstones.bury(store.disk, Tombstone(str(ref), rule, why, size, created, inputs, settings))


def _until(files: list[Stored], ends: float) -> Iterator[Stored]:
    """The first of them, and more until the time is over."""
    for each in files:
        if time.monotonic() > ends + _ASLEEP_SECONDS:
            return
        yield each
        if time.monotonic() > ends:
            return


def _merged(removed: list[Removal]) -> list[Removal]:
    """Leftovers of one kind, which went a part at a time, as one."""
    found: dict[str, Removal] = {}
    for each in removed:
        before = found.get(each.what)
        files, size = (before.files, before.bytes) if before else (0, 0)
        found[each.what] = replace(each, files=each.files + files, bytes=each.bytes + size)
    return list(found.values())
