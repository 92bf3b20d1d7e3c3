"""The stage that decides whether a challenger becomes champion. Every decision is written down, `keep` too.

Both are evaluated on the same test split in the same run, and compared item by item: a challenger is promoted when it
is right where the champion is wrong more often than chance would have it (`gate.py`). What a person took back stays so.
"""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
from prefect import get_run_logger, task
from prefect.runtime import flow_run

from artifacts import aliases, metrics
from artifacts import dataset as datasets
from artifacts.aliases import Choice, Event
from artifacts.dataset import Split
from artifacts.errors import Corrupt, NotFound, NotPromotable
from artifacts.metrics import Metrics
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.evaluate import evaluate_weights
from tasks.judging.fairness import FairTest, fair_test
from tasks.judging.gate import Comparison, accuracy_of, compare, judge, sentence, unfit, unprotected
from tasks.reports.numbers import many
from tasks.requests import Gate
from tasks.shared.retries import RETRIES


@task(
    name="decide on promotion",
    persist_result=False,
    description="Compare with the champion on the same test split; promote what is better beyond chance.",
    **RETRIES,
)
def promote(challenger: str, gate: Gate) -> dict[str, Any]:
    """`challenger` is a metrics ref. Returns promoted (did the champion change?), reason, champion (a ref), numbers:
    what the decision was made by, and decision: its number in the champion's history."""
    event = decide_promotion(Store(Settings().store), Ref.parse(challenger), gate, str(flow_run.id))
    get_run_logger().info("%s: %s", event.action, event.reason)
    return {
        "promoted": event.action == "promote",
        "reason": event.reason,
        "champion": event.ref,
        "numbers": event.numbers,
        "decision": event.number,
    }


def decide_promotion(store: Store, challenger: Ref, gate: Gate, run: str | None = None) -> Event:
    """Judge the weights behind the metrics `challenger`, and write the decision into the champion's history.

    run: the id of the flow run that asks. A run that is started again gets back what it decided about these weights.
    Raises NotPromotable for weights that may not be champion when there is none to keep.
    """
    measured = metrics.load(store, challenger)
    inputs = measured.artifact.identity["inputs"]
    weights, dataset = Ref.parse(inputs["weights"]), Ref.parse(inputs["dataset"])
    test = datasets.load(store, dataset).test
    sample = _sample(test)
    evaluated: dict[Ref, Metrics] = {}

    def choose(events: list[Event]) -> Choice:
        if run and (decided := _decided(events, run, weights)):
            return decided
        champion = Ref.parse(events[-1].ref) if events else None
        accuracy = measured.numbers["accuracy"]
        told = {key: measured.numbers[key] for key in ("accuracy", "loss", "items")}
        told |= {"metrics": str(challenger), **asdict(gate), **({"run": run} if run else {})}
        told |= {"test_split": sample, "decisions": _decisions(events, sample)}
        if champion is None:
            if objection := unfit(accuracy, gate):
                raise NotPromotable(
                    f"{weights} can't be the first champion: {objection}; train with other settings or data"
                )
            reason = f"the first model, {accuracy_of(accuracy)}"
            return Choice("promote", str(weights), str(weights), reason, told)
        if champion == weights:
            reason = f"the same weights version came out, which is champion already, {accuracy_of(accuracy)}"
            return _keep(champion, weights, reason, told)
        if unfair := _withdrawn(store, events, weights) or _differing(store, champion, weights):
            return _keep(champion, weights, unfair, told)
        fair = fair_test(store, test, (champion, weights))
        told |= {"copies": fair.copies, "seen": fair.seen, "unknown": fair.unknown}
        if 2 * len(fair.items) < fair.contents:
            return _keep(champion, weights, _too_few(fair, weights), told)
        if champion not in evaluated:
            evaluated[champion] = metrics.load(store, evaluate_weights(store, champion, dataset))
        before, classes = evaluated[champion], store.open(weights).facts["classes"]
        compared = compare(_hits(measured, fair), _hits(before, fair), test.labels[fair.items], classes)
        told |= asdict(compared)
        told |= {"champion_loss": before.numbers["loss"], "champion_metrics": str(before.ref)}
        told |= {"unprotected": sorted(unprotected(compared, gate)), "uncompared": _uncompared(test, fair, classes)}
        if objection := judge(compared, gate):
            return _keep(champion, weights, objection + _beside(fair, told), told)
        reason = f"better: {sentence(compared)}{_beside(fair, told)}{_to_look_at(compared, gate)}"
        return Choice("promote", str(weights), str(weights), reason, told)

    return aliases.decide(store.disk, "weights", weights.name, "champion", choose)


def _decided(events: Sequence[Event], run: str, weights: Ref) -> Event | None:
    """What an earlier attempt of this run wrote down, before it was interrupted."""
    mine = (event for event in reversed(events) if event.numbers.get("run") == run)
    return next((event for event in mine if event.challenger == str(weights)), None)


def _keep(champion: Ref, weights: Ref, reason: str, told: dict[str, Any]) -> Choice:
    return Choice("keep", ref=str(champion), challenger=str(weights), reason=reason, numbers=told)


def _withdrawn(store: Store, events: Sequence[Event], weights: Ref) -> str | None:
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
    """Dataset and settings; of weights that are gone themselves, which equal no others."""
    with suppress(NotFound, Corrupt):
        identity = store.open(weights).identity
        return identity["inputs"], identity["settings"]
    return weights


def _differing(store: Store, champion: Ref, weights: Ref) -> str | None:
    """No comparison is fair then, and whoever uses the predictions should know before they change."""
    theirs, ours = (store.open(each).facts for each in (champion, weights))
    if theirs["classes"] != ours["classes"]:
        changed = ", ".join(sorted(set(ours["classes"]) ^ set(theirs["classes"]))) or "their order"
        return f"it tells other classes apart than the champion ({changed}): {_by_hand(weights)}"
    if theirs["image_spec"] != ours["image_spec"]:
        before, now = ("{height}x{width}x{channels}".format(**each["image_spec"]) for each in (theirs, ours))
        return (
            f"it looks at pictures of {now}, the champion at {before}, so no test split fits both: {_by_hand(weights)}"
        )
    return None


def _too_few(fair: FairTest, weights: Ref) -> str:
    """Half of the split must be left: the rest would be another split, and a smaller one than somebody chose."""
    return (
        f"the models have learned from {fair.seen:,} of the {fair.contents:,} test images, which leaves fewer than "
        f"half to compare them on: {_by_hand(weights)}"
    )


def _by_hand(weights: Ref) -> str:
    return f"where that is meant, `lookbook promote {weights} --reason ...`"


def _hits(measured: Metrics, fair: FairTest) -> np.ndarray | None:
    return None if measured.numbers["accuracy"] is None else measured.hits()[fair.items]


def _uncompared(test: Split, fair: FairTest, classes: Sequence[str]) -> list[str]:
    """The classes of whose test images none is left."""
    gone = set(test.labels.tolist()) - set(test.labels[fair.items].tolist())
    return [classes[label] for label in sorted(gone)]


def _beside(fair: FairTest, told: dict[str, Any]) -> str:
    """What a person must know of the images that were compared on, and of those that were not."""
    parts = []
    if fair.copies:
        parts.append(f"copies among the test images, which do not count: {fair.copies:,}")
    if fair.seen:
        parts.append(f"left out, as a model has learned from them: {fair.seen:,}")
    if told["uncompared"]:
        parts.append(f"no image is left of {', '.join(told['uncompared'])}: look at that yourself")
    if fair.unknown:
        parts.append(
            f"whether a model has learned from these images is not known, as {', '.join(fair.unknown)} can't be read"
        )
    return "".join(f"; {part}" for part in parts)


def _to_look_at(compared: Comparison, gate: Gate) -> str:
    fell = [
        f"{name} ({many(round(recall.champion * recall.items), 'image')} right before, "
        f"{round(recall.challenger * recall.items)} now, of {recall.items})"
        for name, recall in unprotected(compared, gate).items()
    ]
    return f"; too few test images to judge by, so look at {', '.join(fell)}" if fell else ""


def _sample(test: Split) -> list[str]:
    """Some contents of a test split, always the same: by how many of them two splits share one sees how much of the
    splits is the same, whatever the files are called and however large they are looked at (Broder, "On the resemblance
    and containment of documents", 1997)."""
    contents: Iterable[bytes] = (image.tobytes() for image in test.images)
    if test.sha256 is not None:
        contents = (str(each).encode() for each in test.sha256)
    digests = (
        hashlib.sha256(content + int(label).to_bytes(4)).hexdigest()[:12]
        for content, label in zip(contents, test.labels, strict=True)
    )
    return heapq.nsmallest(_SAMPLED, set(digests))


_SAMPLED = 32


def _decisions(events: Sequence[Event], sample: list[str]) -> int:
    """How many decisions were made so far by a test split of which half the images at least are in this one; to keep
    what came out again, or what can't be compared, is none."""
    used = (event for event in events if event.action == "promote" or "p_value" in event.numbers)
    return sum(2 * len({*event.numbers.get("test_split", ())} & {*sample}) >= len(sample) for event in used)
