"""The stage that decides whether a challenger becomes champion. Every decision is written down, `keep` too."""

from typing import Any

from prefect import get_run_logger, task

from artifacts import aliases, metrics
from artifacts.aliases import Choice, Event
from artifacts.errors import NotPromotable
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.evaluate import evaluate_weights
from tasks.retries import RETRIES


@task(
    name="decide on promotion",
    persist_result=False,
    description="Compare with the champion on the same test split; promote the better.",
    **RETRIES,
)
def promote(challenger: str) -> dict[str, Any]:
    """`challenger` is a metrics ref. Returns promoted (did the champion change?), reason, champion (a ref), and
    numbers: what the decision was made by."""
    event = decide_promotion(Store(Settings().store), Ref.parse(challenger))
    get_run_logger().info("%s: %s", event.action, event.reason)
    return {
        "promoted": event.action == "promote",
        "reason": event.reason,
        "champion": event.ref,
        "numbers": event.numbers,
    }


def decide_promotion(store: Store, challenger: Ref) -> Event:
    """Judge the weights behind the metrics `challenger`, and write the decision into the champion's history."""
    measured = metrics.load(store, challenger)
    inputs = measured.artifact.identity["inputs"]
    weights, dataset = Ref.parse(inputs["weights"]), Ref.parse(inputs["dataset"])

    def choose(events: list[Event]) -> Choice:
        champion = Ref.parse(events[-1].ref) if events else None
        if champion is None or champion == weights:
            return _judge(weights, measured.numbers, champion, None)
        if (theirs := _classes(store, champion)) != (ours := _classes(store, weights)):
            return _other_classes(weights, measured.numbers, champion, set(ours) ^ set(theirs))
        return _judge(weights, measured.numbers, champion, _numbers(store, champion, dataset))

    return aliases.decide(store.disk, "weights", weights.name, "champion", choose)


def _judge(
    weights: Ref, numbers: dict[str, Any], champion: Ref | None, champion_numbers: dict[str, Any] | None
) -> Choice:
    accuracy = numbers["accuracy"]
    told: dict[str, Any] = {key: numbers[key] for key in ("accuracy", "loss", "items")}
    if accuracy is None or numbers["loss"] is None:
        reason = "its predictions are not numbers (NaN)"
        if champion is None:
            raise NotPromotable(f"{weights} can't be the first champion: {reason}; train with other settings")
        return Choice("keep", ref=str(champion), challenger=str(weights), reason=reason, numbers=told)
    if champion is None:
        reason = f"the first model, accuracy {accuracy:.2%}"
        return Choice("promote", ref=str(weights), challenger=str(weights), reason=reason, numbers=told)
    if champion_numbers is None:
        reason = f"the same weights version came out, which is champion already, accuracy {accuracy:.2%}"
        return Choice("keep", ref=str(champion), challenger=str(weights), reason=reason, numbers=told)
    against = champion_numbers["accuracy"]
    told |= {"champion_accuracy": against, "champion_loss": champion_numbers["loss"]}
    better = against is None or accuracy > against
    theirs = "no number (NaN)" if against is None else f"{against:.2%}"
    comparison = f"accuracy {accuracy:.2%}, the champion's {theirs} on the same {numbers['items']:,} test images"
    return Choice(
        "promote" if better else "keep",
        ref=str(weights if better else champion),
        challenger=str(weights),
        reason=f"better: {comparison}" if better else f"not better: {comparison}",
        numbers=told,
    )


def _other_classes(weights: Ref, numbers: dict[str, Any], champion: Ref, differing: set[str]) -> Choice:
    """No comparison is fair then, and whoever uses the predictions should know before the classes change."""
    changed = ", ".join(sorted(differing)) or "their order"
    reason = (
        f"it tells other classes apart than the champion ({changed}): `lookbook promote` it by hand where that is meant"
    )
    told = {key: numbers[key] for key in ("accuracy", "loss", "items")}
    return Choice("keep", ref=str(champion), challenger=str(weights), reason=reason, numbers=told)


def _classes(store: Store, weights: Ref) -> list[str]:
    return list(store.open(weights).facts["classes"])


def _numbers(store: Store, weights: Ref, dataset: Ref) -> dict[str, Any]:
    """The measurements of `weights` on the test split of `dataset`; measured now where that was never done."""
    inputs = {"weights": str(weights), "dataset": str(dataset)}
    for ref in store.refs("metrics", dataset.name):
        if store.open(ref).identity["inputs"] == inputs:
            return metrics.load(store, ref).numbers
    return metrics.load(store, evaluate_weights(store, weights, dataset)).numbers
