"""Which versions stay, and why: the rules, and all that what they name was made from."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from artifacts import aliases, pins
from artifacts.collecting.inventory import Version
from artifacts.disk import Disk
from artifacts.living import EVERYTHING
from artifacts.printable import many
from artifacts.refs import Ref, refs_of
from artifacts.registry import KINDS

DAY_SECONDS = 24 * 3600.0
LEFTOVERS = "leftovers"


@dataclass(frozen=True)
class Rules:
    """What stays.

    keep: how many champions of each name, the newest ones.
    keep_predictions: how many tables of each name, the newest ones; only where there is no `older_than`.
    older_than: nothing stays away that is younger than this, in seconds; and of tables all goes that is older.
    grace: nothing goes that is younger than this, in seconds, and nothing that a run needs which gave a sign of life
    since.
    only: what goes at all: MODELS (datasets, weights, metrics), TABLES (predictions) or LEFTOVERS (what is no version).
    """

    keep: int = 5
    keep_predictions: int = 30
    older_than: float | None = None
    grace: float = DAY_SECONDS
    only: str | None = None

    @property
    def youngest(self) -> float:
        """The age, in seconds, from which on a version may go."""
        return max(self.grace, self.older_than or 0.0)


@dataclass
class Staying:
    """why: the versions that stay, each with the first reason that was found; notes: what a person should mend."""

    why: dict[Ref, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, refs: Iterable[Ref], why: str) -> None:
        for ref in refs:
            self.why.setdefault(ref, why)


def staying(disk: Disk, versions: Mapping[Ref, Version], needs: set[str], rules: Rules, now: float) -> Staying:
    """What stays of the versions.

    needs: what is needed by what goes on, found before the versions were listed.
    now: by the disk's clock, in seconds since the epoch.

    Raises Corrupt for a history that can't be read.
    """
    stay = Staying()
    if EVERYTHING in needs:
        stay.add(versions, "something goes on that needs all of the store")
        return stay
    named: dict[tuple[str, str], list[Version]] = defaultdict(list)
    for version in sorted(versions.values(), key=lambda each: (each.created, each.ref)):
        if version.published and not version.problem:
            named[version.ref.kind, version.ref.name].append(version)
    _champions(disk, stay, rules)
    for name in aliases.names(disk, "predictions", "latest"):
        if latest := aliases.current(disk, "predictions", name, "latest"):
            stay.add([latest], f"the latest table of {name}")
    stay.add(pins.pinned(disk), "pinned")
    stay.add(_parsed(needs), "needed by something that goes on")
    for (kind, name), found in named.items():
        rule = KINDS[kind].stays
        if rule == "all":
            stay.add((each.ref for each in found), f"all {kind} stay")
        elif rule == "newest":
            stay.add([found[-1].ref], f"the newest of {kind}/{name}")
            _labelled(found, stay)
        elif rule == "several" and rules.older_than is None:
            newest = (each.ref for each in found[-rules.keep_predictions :])
            stay.add(newest, f"of the newest {rules.keep_predictions} tables of {name}")
    young = (each.ref for each in versions.values() if now - each.written < rules.youngest)
    stay.add(young, f"younger than {many(rules.youngest / 3600, 'hour')}")
    stay.add((each.ref for each in versions.values() if rules.only not in (None, part_of(each))), "not asked for")
    _damaged(versions, stay)
    _odd(versions, stay)
    _made_from(versions, stay)
    _own_metrics(versions, stay)
    return stay


def part_of(version: Version) -> str:
    """Which part of a store it is."""
    if not version.published:
        return LEFTOVERS
    return KINDS[version.ref.kind].part


def _odd(versions: Mapping[Ref, Version], stay: Staying) -> None:
    """Files that Lookbook does not write are somebody's."""
    for version in versions.values():
        if version.odd:
            stay.add([version.ref], "it has a file that is not Lookbook's")
            stay.notes.append(
                f"{version.ref.folder}/{version.odd} is no file that Lookbook writes, so {version.ref} stays; move it"
            )


def _labelled(found: list[Version], stay: Staying) -> None:
    """Pictures that people labelled stay once they were learned from: their files may be gone, and then a dataset is
    all that has their pixels. Of each the newest that has it, in each size and colour.

    found: the versions of one name, the oldest first.
    """
    logs: set[str] = set()
    pictures: dict[bytes, set[str]] = defaultdict(set)
    for version in reversed(found):
        learned = version.learned
        if learned is None:
            continue
        if learned.pictures is None:
            stay.add([version.ref], "which labelled pictures it has can't be read")
            stay.notes.append(
                f"{learned.problem}; until then {version.ref} stays: `lookbook verify --repair` tells what can be done"
            )
        elif learned.pictures - pictures[learned.spec]:
            stay.add([version.ref], "it has labelled pictures that no newer dataset has")
            pictures[learned.spec] |= learned.pictures
        if learned.labels not in logs:  # by it new labels are counted
            logs.add(learned.labels)
            stay.add([version.ref], f"the newest of {version.ref.name} that learned from the labels {learned.labels}")


def _champions(disk: Disk, stay: Staying, rules: Rules) -> None:
    """The newest champions with what they were promoted by, and what the newest decision was about: a retraining of the
    same data looks at that."""
    for name in aliases.names(disk, "weights", "champion"):
        events = aliases.history(disk, "weights", name, "champion")
        reigns = list(dict.fromkeys(event.ref for event in reversed(events)))[: rules.keep]
        stay.add(_parsed(reigns), f"of the last {rules.keep} champions of {name}")
        promoted = [each for each in events if each.action == "promote" and each.challenger in reigns]
        stay.add(_parsed(each.numbers.get("metrics") for each in promoted), "what a champion was promoted by")
        stay.add(_parsed([events[-1].challenger]), f"what the newest decision on {name} was about")


def _damaged(versions: Mapping[Ref, Version], stay: Staying) -> None:
    """What a damaged manifest refers to can't be known: all stays that it may refer to."""
    for version in versions.values():
        if version.problem:
            kinds = KINDS[version.ref.kind].made_from
            reach = [each for each in versions if each.name == version.ref.name or each.kind in _with_theirs(kinds)]
            why = f"{version.ref} can't be read, and may be made from it"
            stay.add([version.ref, *reach], why)
            stay.notes.append(
                f"{version.problem}; until then all of {version.ref.name} stays"
                + (f", and all {', '.join(kinds)}" if kinds else "")
                + ": `lookbook verify --repair` tells what can be done"
            )


def _with_theirs(kinds: Iterable[str]) -> set[str]:
    """Kinds, and what those are made from."""
    return {each for kind in kinds for each in (kind, *KINDS[kind].made_from)}


def _made_from(versions: Mapping[Ref, Version], stay: Staying) -> None:
    waiting = list(stay.why)
    while waiting:
        ref = waiting.pop()
        for each in versions[ref].inputs if ref in versions else ():
            if each not in stay.why:
                stay.why[each] = f"{ref} was made from it"
                waiting.append(each)


def _own_metrics(versions: Mapping[Ref, Version], stay: Staying) -> None:
    """How weights that stay did in their own retraining."""
    for ref, version in versions.items():
        if ref.kind == "metrics" and all(each in stay.why for each in version.inputs):
            weights = next((each for each in version.inputs if each.kind == "weights"), None)
            dataset = next((each for each in version.inputs if each.kind == "datasets"), None)
            if weights and weights in versions and dataset in versions[weights].inputs:
                stay.add([ref], "the evaluation of weights that stay")


def _parsed(texts: Iterable[object]) -> list[Ref]:
    return list(refs_of(text for text in texts if isinstance(text, str)))
