"""The stage that decides whether a challenger becomes champion. Every decision is written down, `keep` too.

Both are evaluated on the same test split in the same run, and compared item by item: a challenger is promoted when it
is right where the champion is wrong more often than chance would have it.
"""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from prefect import get_run_logger, task

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
from tasks.retries import RETRIES
from tasks.vision.metrics import mcnemar


@dataclass(frozen=True)
class Gate:
    """What a challenger must pass.

    minimum_accuracy: 0 to 1; significance: above 0, to 1, the chance of promoting one that is as good as the champion
    (1: any gain promotes); max_recall_drop: 0 to 1, by how much the recall of any class may be below the champion's,
    where that is beyond chance, too: of a few images one is much.
    """

    minimum_accuracy: float = 0.0
    significance: float = 0.05
    max_recall_drop: float = 0.1


@task(
    name="decide on promotion",
    persist_result=False,
    description="Compare with the champion on the same test split; promote what is better beyond chance.",
    **RETRIES,
)
def promote(challenger: str, gate: Gate) -> dict[str, Any]:
    """`challenger` is a metrics ref. Returns promoted (did the champion change?), reason, champion (a ref), numbers:
    what the decision was made by, and decision: its number in the champion's history."""
    event = decide_promotion(Store(Settings().store), Ref.parse(challenger), gate)
    get_run_logger().info("%s: %s", event.action, event.reason)
    return {
        "promoted": event.action == "promote",
        "reason": event.reason,
        "champion": event.ref,
        "numbers": event.numbers,
        "decision": event.number,
    }


def decide_promotion(store: Store, challenger: Ref, gate: Gate) -> Event:
    """Judge the weights behind the metrics `challenger`, and write the decision into the champion's history.

    Raises NotPromotable for weights that may not be champion when there is none to keep.
    """
    measured = metrics.load(store, challenger)
    inputs = measured.artifact.identity["inputs"]
    weights, dataset = Ref.parse(inputs["weights"]), Ref.parse(inputs["dataset"])
    sample = _sample(datasets.load(store, dataset).test)
    evaluated: dict[Ref, Metrics] = {}

    def choose(events: list[Event]) -> Choice:
        champion = Ref.parse(events[-1].ref) if events else None
        told = {key: measured.numbers[key] for key in ("accuracy", "loss", "items")}
        told |= {"metrics": str(challenger), **asdict(gate)}
        told |= {"test_split": sample, "decisions": _decisions(events, sample)}
        if champion is None:
            return _first(weights, told, gate)
        if champion == weights:
            reason = f"the same weights version came out, which is champion already, {_accuracy(told)}"
            return _keep(champion, weights, reason, told)
        if unfair := _differing(store, champion, weights) or _learned(store, champion, weights, dataset):
            return _keep(champion, weights, unfair, told)
        if champion not in evaluated:
            evaluated[champion] = metrics.load(store, evaluate_weights(store, champion, dataset))
        told |= compare(measured, evaluated[champion], store.open(weights).facts["classes"])
        if objection := judge(told, gate):
            return _keep(champion, weights, objection, told)
        return Choice("promote", str(weights), str(weights), f"better: {_comparison(told)}", told)

    return aliases.decide(store.disk, "weights", weights.name, "champion", choose)


def compare(challenger: Metrics, champion: Metrics, classes: Sequence[str]) -> dict[str, Any]:
    """What two evaluations on the same items say of each other.

    gains, losses: items that only the challenger, only the champion tells rightly; p_value: of McNemar's test (None
    where one of the two answers NaN); recalls: of each class, the champion's, the challenger's, and the chance of so
    many losses among its images, were both equally good.
    """
    theirs = champion.numbers
    told: dict[str, Any] = {"champion_accuracy": theirs["accuracy"], "champion_loss": theirs["loss"]}
    told |= {"champion_metrics": str(champion.ref), "gains": None, "losses": None, "p_value": None}
    if challenger.numbers["accuracy"] is None or theirs["accuracy"] is None:
        return told
    ours, before = challenger.hits(), champion.hits()
    gains, losses = int((ours & ~before).sum()), int((before & ~ours).sum())
    told["recalls"] = {}
    for label, name in enumerate(classes):
        items = challenger.labels() == label
        if items.any():
            chance = mcnemar(int((before & ~ours & items).sum()), int((ours & ~before & items).sum()))
            recalls = [float(hits[items].mean()) for hits in (before, ours)]
            told["recalls"][name] = {"champion": recalls[0], "challenger": recalls[1], "p_value": chance}
    return told | {"gains": gains, "losses": losses, "p_value": mcnemar(gains, losses)}


def judge(told: dict[str, Any], gate: Gate) -> str | None:
    """Why the champion stays; None when the challenger is better. `told`: accuracy, items, and what `compare` gives."""
    if objection := _unfit(told, gate):
        return objection
    if told["champion_accuracy"] is None:
        return None
    if told["gains"] <= told["losses"]:
        return f"not better: {_comparison(told)}"
    if told["p_value"] > gate.significance:
        return f"not better beyond chance: {_comparison(told)}; a significance of {gate.significance:g} is asked"
    for name, recall in sorted(told["recalls"].items(), key=lambda each: each[1]["challenger"] - each[1]["champion"]):
        drop = recall["champion"] - recall["challenger"]
        if drop > gate.max_recall_drop + _ROUNDING and recall["p_value"] <= gate.significance:
            return (
                f"better, but for {name}: its recall fell from {recall['champion']:.2%} to {recall['challenger']:.2%}, "
                f"by more than {gate.max_recall_drop:.2%}; {_comparison(told)}"
            )
    return None


_ROUNDING = 1e-9  # 8 of 10 less 6 of 10 is a little more than 0.2


def _first(weights: Ref, told: dict[str, Any], gate: Gate) -> Choice:
    if objection := _unfit(told, gate):
        raise NotPromotable(f"{weights} can't be the first champion: {objection}; train with other settings or data")
    return Choice("promote", str(weights), str(weights), f"the first model, {_accuracy(told)}", told)


def _unfit(told: dict[str, Any], gate: Gate) -> str | None:
    if told["accuracy"] is None:
        return "its predictions are not numbers (NaN)"
    if told["accuracy"] < gate.minimum_accuracy:
        return f"{_accuracy(told)} is below the minimum of {gate.minimum_accuracy:.2%}"
    return None


def _keep(champion: Ref, weights: Ref, reason: str, told: dict[str, Any]) -> Choice:
    return Choice("keep", ref=str(champion), challenger=str(weights), reason=reason, numbers=told)


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


def _learned(store: Store, champion: Ref, weights: Ref, dataset: Ref) -> str | None:
    """A champion that has seen the test images in its training would win by memory."""
    with suppress(NotFound, Corrupt):
        learned = datasets.load(store, Ref.parse(store.open(champion).identity["inputs"]["dataset"])).train.sha256
        tested = datasets.load(store, dataset).test.sha256
        if learned is not None and tested is not None:
            known = set(map(str, learned))
            if seen := sum(str(each) in known for each in tested):
                return (
                    f"the champion has learned from {seen:,} of the {len(tested):,} test images, so no comparison is "
                    f"fair: {_by_hand(weights)}"
                )
    return None


def _by_hand(weights: Ref) -> str:
    return f"where that is meant, `lookbook promote {weights} --reason ...`"


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


def _accuracy(told: dict[str, Any]) -> str:
    return "accuracy none (NaN)" if told["accuracy"] is None else f"accuracy {told['accuracy']:.2%}"


def _comparison(told: dict[str, Any]) -> str:
    theirs = "no number (NaN)" if told["champion_accuracy"] is None else f"{told['champion_accuracy']:.2%}"
    compared = f"{_accuracy(told)}, the champion's {theirs} on the same {told['items']:,} test images"
    if told["p_value"] is None:
        return compared
    apart = told["gains"] + told["losses"]
    return f"{compared}; just one is right on {apart:,}: this one on {told['gains']:,} (p = {told['p_value']:.2g})"
