"""Aliases (`champion`, `latest`): an append-only, numbered history of decisions. There is no mutable "current"."""

import getpass
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from artifacts.disk import LocalDisk
from artifacts.documents import seal, unseal
from artifacts.errors import AlreadyExists, Corrupt, InvalidRef, NotFound
from artifacts.provenance import now
from artifacts.refs import Ref


@dataclass(frozen=True)
class Choice:
    """What to write down next: the action, the ref that the alias means from now on, and why.

    `numbers` holds the figures that the decision was made by. `challenger` is the ref that was judged.
    """

    action: Literal["promote", "keep", "rollback"]
    ref: str
    challenger: str
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event(Choice):
    """A written choice: the `number`th of its alias, `previous` the ref before it, `at` in UTC, `by` user@host."""

    number: int = 0
    previous: str | None = None
    at: str = ""
    by: str = ""


def history(disk: LocalDisk, kind: str, name: str, alias: str) -> list[Event]:
    """All events, oldest first. Raises Corrupt when one is damaged or missing."""
    events = [read_event(disk, key) for key in disk.list(_folder(kind, name, alias))]
    for expected, event in enumerate(events, start=1):
        if event.number != expected:
            raise Corrupt(f"{event_key(kind, name, alias, expected)} is missing from the store {disk.root}")
    return events


def current(disk: LocalDisk, kind: str, name: str, alias: str) -> Ref | None:
    """What the alias means now; None when nothing was ever decided."""
    events = history(disk, kind, name, alias)
    return Ref.parse(events[-1].ref) if events else None


def names(disk: LocalDisk, kind: str, alias: str) -> list[str]:
    """The artifact names that have this alias, sorted."""
    keys = (key.split("/") for key in disk.list(f"aliases/{kind}"))
    return sorted({parts[2] for parts in keys if len(parts) == 5 and parts[3] == alias})


def decide(disk: LocalDisk, kind: str, name: str, alias: str, choose: Callable[[list[Event]], Choice]) -> Event:
    """Append what `choose` says of the history so far. Whoever loses the race for a number looks and chooses anew.

    An Event that `choose` finds in the history, as its own of an earlier attempt, is given back and not written again.
    """
    while True:
        events = history(disk, kind, name, alias)
        choice = choose(events)
        if isinstance(choice, Event):
            return choice
        event = Event(
            **asdict(choice),
            number=len(events) + 1,
            previous=events[-1].ref if events else None,
            at=now(),
            by=f"{getpass.getuser()}@{socket.gethostname()}",
        )
        try:
            disk.create(event_key(kind, name, alias, event.number), seal(asdict(event)))
        except AlreadyExists:
            continue
        return event


def promote(disk: LocalDisk, weights: Ref, reason: str) -> Event:
    """Make published `weights` champion because a person says so."""
    choice = Choice("promote", ref=str(weights), challenger=str(weights), reason=reason)
    return decide(disk, "weights", weights.name, "champion", lambda events: choice)


def rollback(disk: LocalDisk, name: str, reason: str) -> Event:
    """Make the champion before the current one champion again, and withdraw the current one. One that was withdrawn
    before is passed over. Raises NotFound when there is none."""

    def choose(events: list[Event]) -> Choice:
        reigns: list[str] = []
        for event in events:
            if event.action == "rollback":
                while reigns and reigns[-1] != event.ref:
                    reigns.pop()
            elif not reigns or event.ref != reigns[-1]:
                reigns.append(event.ref)
        gone = withdrawn(events)
        before = [ref for ref in reigns[:-1] if ref not in gone and ref != reigns[-1]]
        if not before:
            raise NotFound(
                f"{name} has had {len(reigns)} champion(s), so there is none to go back to; see `lookbook history`"
                if len(reigns) < 2
                else f"every champion of {name} before this one was withdrawn; see `lookbook history`, and promote one "
                "by hand: `lookbook promote REF --reason ...`"
            )
        return Choice("rollback", ref=before[-1], challenger=reigns[-1], reason=reason)

    return decide(disk, "weights", name, "champion", choose)


def withdrawn(events: Sequence[Event]) -> dict[str, Event]:
    """The refs that a rollback took away, with the rollback: until somebody promotes them, or goes back to them."""
    gone: dict[str, Event] = {}
    for event in events:
        if event.action == "rollback":
            gone[event.challenger] = event
        if event.action != "keep":
            gone.pop(event.ref, None)
    return gone


def read_event(disk: LocalDisk, key: str) -> Event:
    """The event stored under `key`. Raises Corrupt."""
    document = unseal(disk.read(key), key)
    try:
        event = Event(**document)
        Ref.parse(event.ref)
    except (TypeError, InvalidRef):
        raise Corrupt(f"{key} is damaged: it is no alias event") from None
    if not key.endswith(f"/{event.number:08d}.json"):
        raise Corrupt(f"{key} is damaged: it holds event {event.number}")
    return event


def _folder(kind: str, name: str, alias: str) -> str:
    return f"aliases/{kind}/{name}/{alias}"


def event_key(kind: str, name: str, alias: str, number: int) -> str:
    """Where an alias's event is in the store."""
    return f"{_folder(kind, name, alias)}/{number:08d}.json"
