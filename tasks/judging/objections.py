"""Why a challenger is kept back before anybody compares it: a person has to decide."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from artifacts import aliases, tombstones
from artifacts.aliases import Event
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.judging.fairness import FairTest


def withdrawn(store: Store, events: Sequence[Event], weights: Ref) -> str | None:
    """What a person took back comes out again of the same data and settings, on another machine with other last
    bits: that it is better on the test split was known then."""
    for ref, event in aliases.withdrawn(events).items():
        if ref == str(weights):
            what = "it is the version that was withdrawn"
        elif _made_from(store, Ref.parse(ref)) == _made_from(store, weights):
            what = f"it was trained from the same data with the same settings as {ref}, which was withdrawn"
        else:
            continue
        return (
            f"{what} by the rollback that is decision {event.number} ({event.reason}), and stays so until a person "
            f"promotes it: {_by_hand(weights)}"
        )
    return None


def _made_from(store: Store, weights: Ref) -> tuple[Any, Any] | Ref:
    """What they were made from, and how; of weights of which nobody knows that themselves, which equal no others."""
    with suppress(Corrupt):
        try:
            identity = store.open(weights).identity
        except NotFound:
            buried = tombstones.find(store.disk, weights)
            return (buried.inputs, buried.settings) if buried else weights
        return identity["inputs"], identity["settings"]
    return weights


def differing(store: Store, champion: Ref, weights: Ref) -> str | None:
    """No comparison is fair then, and whoever uses the predictions should know before they change."""
    theirs, ours = (store.open(each).facts for each in (champion, weights))
    if theirs["classes"] != ours["classes"]:
        changed = ", ".join(sorted(set(ours["classes"]) ^ set(theirs["classes"]))) or "their order"
        return f"it tells other classes apart than the champion ({changed}): {_by_hand(weights)}"
    if theirs["image_spec"] != ours["image_spec"]:
        before, now = (_described(each["image_spec"]) for each in (theirs, ours))
        return (
            f"it looks at pictures of {now}, the champion at {before}, so no test split fits both: {_by_hand(weights)}"
        )
    return None


def _described(spec: Mapping[str, Any]) -> str:
    """The size, and what is set besides: `64x64x3, deep range`."""
    others = [f"{name} {value}" for name, value in spec.items() if name in ("background", "deep") and value]
    return ", ".join(["{height}x{width}x{channels}".format(**spec), *others])


def too_few(fair: FairTest, weights: Ref) -> str:
    """Half of the split must be left: the rest would be another split, and a smaller one than somebody chose."""
    nearly = f", and from nearly the same pictures as {fair.near:,}" if fair.near else ""
    return (
        f"the models have learned from {fair.seen:,} of the {fair.contents:,} test images{nearly}, which leaves fewer "
        f"than half to compare them on: {_by_hand(weights)}"
    )


def _by_hand(weights: Ref) -> str:
    return f"where that is meant, `lookbook promote {weights} --reason ...`"
