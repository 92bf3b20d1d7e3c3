"""A store collected as a request asks for it: its rules, and its turn."""

import re
from collections.abc import Callable, Mapping

from artifacts import living
from artifacts.collecting.collector import Collection, Collector, Removal
from artifacts.collecting.repair import Repair, carry_out, offers
from artifacts.collecting.retention import Rules
from artifacts.store import Store
from tasks.requests import CollectRequest
from tasks.shared.deadline import Deadline
from tasks.shared.turns import turn
from tasks.vision.errors import SettingsError

_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_DURATION = re.compile(r"(\d{1,5}(?:\.\d{1,3})?)([mhdw])")
REPAIR_HOURS = 1.0  # that a repair waits for a collection
_LEAST_GRACE = 3600.0  # runs give a sign of life every ten minutes


def collect_store(
    store: Store,
    request: CollectRequest,
    deadline: Deadline,
    tell: Callable[[str], None],
    on_removed: Callable[[Removal], None] = lambda _: None,
) -> Collection:
    """What goes by the request, and when it says so, its removal: one at a time on a store.

    Raises SettingsError, Corrupt, StoreError and DeadlineExceeded.
    """
    collector = Collector(store, rules_of(request))
    store.prepare()
    if not request.remove:
        return collector.plan()

    def watched(removal: Removal) -> None:
        on_removed(removal)
        deadline.check("removing what nobody needs any more")

    with turn(store.disk, living.TURN, "another collection of this store to end", deadline, tell):
        return collector.carry_out(watched)


def repair_store(store: Store, damaged: Mapping[str, str], tell: Callable[[str], None], *, yes: bool) -> list[Repair]:
    """What can be done about damaged versions, and with `yes` it is done. `damaged`: ref -> what is wrong."""
    if not damaged or not yes:
        return offers(store, damaged)
    with turn(store.disk, living.TURN, "a collection of this store to end", Deadline.after(REPAIR_HOURS), tell):
        return carry_out(store, damaged)


def rules_of(request: CollectRequest) -> Rules:
    """The rules that a request asks for. Raises SettingsError for no duration, and for a grace that is too short."""
    grace = seconds("grace", request.grace)
    if grace < _LEAST_GRACE:
        raise SettingsError(f"expected grace to be an hour (1h) or more, found {request.grace}")
    older_than = None if request.older_than is None else seconds("older_than", request.older_than)
    only = None if request.only == "all" else request.only
    return Rules(request.keep, request.keep_predictions, older_than, grace, only)


def seconds(name: str, text: str) -> float:
    """The seconds of a duration like 90d. Raises SettingsError."""
    if not (found := _DURATION.fullmatch(text)):
        raise SettingsError(f"expected {name} to be a duration like 90d, 24h, 2w or 90m, found {text!r}")
    return float(found[1]) * _SECONDS[found[2]]
