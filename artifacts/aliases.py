"""Aliases (`champion`, `latest`): an append-only, numbered history of decisions. There is no mutable "current"."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from artifacts.disk import Disk, spread
from artifacts.documents import seal, unseal
from artifacts.errors import AlreadyExists, Corrupt, InvalidRef, NotFound
from artifacts.provenance import now, user_at_host
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


def history(disk: Disk, kind: str, name: str, alias: str) -> list[Event]:
    """All events, oldest first. Raises Corrupt when one is damaged or missing."""
    keys = disk.list(_folder(kind, name, alias))
    events = list(spread(disk.at_once, lambda key: read_event(disk, key), keys))
    for expected, event in enumerate(events, start=1):
        if event.number != expected:
            raise Corrupt(f"{event_key(kind, name, alias, expected)} is missing from the store {disk.root}")
    return events


def current(disk: Disk, kind: str, name: str, alias: str) -> Ref | None:
    """What the alias means now; None when nothing was ever decided."""
    events = history(disk, kind, name, alias)
    return Ref.parse(events[-1].ref) if events else None


def newest(disk: Disk, kind: str, name: str, alias: str) -> Event | None:
    """The last event, without a look at those before it; None when nothing was ever decided. Raises Corrupt."""
    keys = list(disk.list(_folder(kind, name, alias)))
    return read_event(disk, keys[-1]) if keys else None


def decision_on(disk: Disk, ref: Ref, alias: str) -> str | None:
    """The key of the newest event that is about `ref`, or made the alias mean it; None without any. Raises Corrupt."""
    for event in reversed(history(disk, ref.kind, ref.name, alias)):
        if str(ref) in (event.ref, event.challenger):
            return event_key(ref.kind, ref.name, alias, event.number)
    return None


def names(disk: Disk, kind: str, alias: str) -> list[str]:
    """The artifact names that have this alias, sorted."""
    keys = (key.split("/") for key in disk.list(f"aliases/{kind}"))
    return sorted({parts[2] for parts in keys if len(parts) == 5 and parts[3] == alias})


def decide(disk: Disk, kind: str, name: str, alias: str, choose: Callable[[list[Event]], Choice]) -> Event:
    """Append what `choose` says of the history so far. Whoever loses the race for a number looks and chooses anew.

    An event of the history as the choice means that there is nothing to add: it is returned.
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
            by=user_at_host(),
        )
        try:
            disk.create(event_key(kind, name, alias, event.number), seal(asdict(event)))
        except AlreadyExists:
            continue
        return event


def promote(disk: Disk, weights: Ref, reason: str) -> Event:
    """Make published `weights` champion because a person says so."""
    choice = Choice("promote", ref=str(weights), challenger=str(weights), reason=reason)
    return decide(disk, "weights", weights.name, "champion", lambda events: choice)


def rollback(disk: Disk, name: str, reason: str, check: Callable[[Ref], object]) -> Event:
    """Make the champion before the current one champion again, and withdraw the current one. One that was withdrawn
    before is passed over.

    `check` raises NotFound or Corrupt for weights that are not there, or not whole; they are refused, and so is a
    history without a champion to go back to: NotFound, Corrupt.
    """

    def choose(events: list[Event]) -> Choice:
        reigns = _reigns(events)
        gone = withdrawn(events)
        before = [ref for ref in reigns[:-1] if ref not in gone and ref != reigns[-1]]
        if not before:
            others = [ref for ref in dict.fromkeys(event.ref for event in events) if ref != reigns[-1]]
            other = next((ref for ref in reversed(others) if _passes(check, ref)), None)
            raise NotFound(
                (f"every other champion of {name} was withdrawn" if others else f"{name} has had only one champion")
                + f", so there is none to go back to; `lookbook history {name}` shows every decision"
                + (f", and `lookbook promote {other} --reason ...` makes one champion again" if other else "")
            )
        try:
            check(Ref.parse(before[-1]))
        except (NotFound, Corrupt) as error:
            other = next((ref for ref in reversed(before[:-1]) if ref != before[-1] and _passes(check, ref)), None)
            raise type(error)(
                f"can't go back to {before[-1]}, the champion before: {error}"
                + (f"; or make another one champion: `lookbook promote {other} --reason ...`" if other else "")
            ) from None
        return Choice("rollback", ref=before[-1], challenger=reigns[-1], reason=reason)

    return decide(disk, "weights", name, "champion", choose)


def _reigns(events: list[Event]) -> list[str]:
    """The champions in order, without those that a rollback took back."""
    reigns: list[str] = []
    for event in events:
        if event.action == "rollback":
            while reigns and reigns[-1] != event.ref:
                reigns.pop()
        elif not reigns or event.ref != reigns[-1]:
            reigns.append(event.ref)
    return reigns


def _passes(check: Callable[[Ref], object], ref: str) -> bool:
    try:
        check(Ref.parse(ref))
    except (NotFound, Corrupt):
        return False
    return True


def withdrawn(events: Sequence[Event]) -> dict[str, Event]:
    """The refs that a rollback took away, with the rollback: until somebody promotes them, or goes back to them."""
    gone: dict[str, Event] = {}
    for event in events:
        if event.action == "rollback":
            gone[event.challenger] = event
        if event.action != "keep":
            gone.pop(event.ref, None)
    return gone


def read_event(disk: Disk, key: str) -> Event:
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
