"""The stage that decides whether a challenger becomes champion. Every decision is written down, `keep` too.

Both are evaluated on the same test split in the same run, and compared item by item: a challenger is promoted when it
is right where the champion is wrong more often than chance would have it (`gate.py`). What a person took back stays so.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from prefect import get_run_logger, task
from prefect.runtime import flow_run

from artifacts import aliases, metrics
from artifacts import dataset as datasets
from artifacts.aliases import Choice, Event
from artifacts.dataset import Split
from artifacts.errors import NotFound, NotPromotable
from artifacts.metrics import Metrics
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.judging.decision import Compared, Decision, Grounds, LeftOut
from tasks.judging.fairness import FairTest, fair_test
from tasks.judging.gate import Comparison, accuracy_of, compare, judge, sentence, unfit, unprotected
from tasks.judging.measuring import evaluate_weights
from tasks.judging.objections import differing, too_few, withdrawn
from tasks.judging.split_use import decisions_by, sample_of
from tasks.reports.numbers import many
from tasks.requests import Gate
from tasks.shared.retries import RETRIES


@task(
    name="decide on promotion",
    persist_result=False,
    description="Compare with the champion on the same test split; promote what is better beyond chance.",
    **RETRIES,
)
def promote(challenger: str, gate: Gate) -> Decision:
    """Decide about the weights behind the metrics ref `challenger`."""
    event = decide_promotion(Store(Settings().store), Ref.parse(challenger), gate, str(flow_run.id))
    get_run_logger().info("%s: %s", event.action, event.reason)
    return Decision.from_event(event)


def decide_promotion(store: Store, challenger: Ref, gate: Gate, run: str | None = None) -> Event:
    """Judge the weights behind the metrics `challenger`, and write the decision into the champion's history.

    run: the id of the flow run that asks. A run that is started again gets back what it decided about these weights.
    Raises NotPromotable for weights that may not be champion when there is none to keep.
    """
    measured = metrics.load(store, challenger)
    inputs = measured.artifact.identity["inputs"]
    weights, dataset = Ref.parse(inputs["weights"]), Ref.parse(inputs["dataset"])
    test = datasets.load(store, dataset).test
    sample = sample_of(test)
    numbers = measured.numbers
    evaluated: dict[Ref, Metrics] = {}

    def choose(events: list[Event]) -> Choice:
        if run and (decided := _decided(events, run, weights)):
            return decided
        champion = Ref.parse(events[-1].ref) if events else None
        accuracy, before = accuracy_of(numbers.accuracy), decisions_by(sample, events)
        grounds = Grounds(str(challenger), numbers.accuracy, numbers.loss, numbers.items, gate, sample, before, run)
        if champion is None:
            if objection := unfit(numbers.accuracy, gate):
                raise NotPromotable(
                    f"{weights} can't be the first champion: {objection}; train with other settings or data"
                )
            return _promote(weights, f"the first model, {accuracy}", grounds)
        if champion == weights:
            reason = f"the same weights version came out, which is champion already, {accuracy}"
            return _keep(champion, weights, reason, grounds)
        if not store.has(champion):
            raise NotFound(
                f"the champion {champion} is not in the store any more, so nothing can be compared with it; `lookbook "
                f"rollback {weights.name}` makes the one before champion, `lookbook promote {weights} --reason ...` "
                "this one"
            )
        if unfair := withdrawn(store, events, weights) or differing(store, champion, weights):
            return _keep(champion, weights, unfair, grounds)
        fair = fair_test(store, dataset, (champion, weights))
        grounds = replace(grounds, left_out=LeftOut(fair.copies, fair.seen, fair.unknown, fair.near))
        if not fair.enough:
            return _keep(champion, weights, too_few(fair, weights), grounds)
        if champion not in evaluated:
            evaluated[champion] = metrics.load(store, evaluate_weights(store, champion, dataset))
        theirs, classes = evaluated[champion], store.open(weights).facts["classes"]
        comparison = compare(_hits(measured, fair), _hits(theirs, fair), test.labels[fair.items], classes)
        compared = Compared(
            comparison,
            champion_loss=theirs.numbers.loss,
            champion_metrics=str(theirs.ref),
            unprotected=sorted(unprotected(comparison, gate)),
            uncompared=_uncompared(test, fair, classes),
        )
        grounds = replace(grounds, compared=compared)
        if objection := judge(comparison, gate):
            return _keep(champion, weights, objection + _beside(fair, compared), grounds)
        reason = f"better: {sentence(comparison)}{_beside(fair, compared)}{_to_look_at(comparison, gate)}"
        return _promote(weights, reason, grounds)

    return aliases.decide(store.disk, "weights", weights.name, "champion", choose)


def _decided(events: Sequence[Event], run: str, weights: Ref) -> Event | None:
    """What an earlier attempt of this run wrote down, before it was interrupted."""
    mine = (event for event in reversed(events) if event.numbers.get("run") == run)
    return next((event for event in mine if event.challenger == str(weights)), None)


def _promote(weights: Ref, reason: str, grounds: Grounds) -> Choice:
    return Choice("promote", str(weights), challenger=str(weights), reason=reason, numbers=grounds.to_numbers())


def _keep(champion: Ref, weights: Ref, reason: str, grounds: Grounds) -> Choice:
    return Choice("keep", str(champion), challenger=str(weights), reason=reason, numbers=grounds.to_numbers())


def _hits(measured: Metrics, fair: FairTest) -> np.ndarray | None:
    return None if measured.numbers.accuracy is None else measured.hits()[fair.items]


def _uncompared(test: Split, fair: FairTest, classes: Sequence[str]) -> list[str]:
    """The classes of whose test images none is left."""
    gone = set(test.labels.tolist()) - set(test.labels[fair.items].tolist())
    return [classes[label] for label in sorted(gone)]


def _beside(fair: FairTest, compared: Compared) -> str:
    """What a person must know of the images that were compared on, and of those that were not."""
    parts = []
    if fair.copies:
        parts.append(f"copies among the test images, which do not count: {fair.copies:,}")
    if fair.seen:
        parts.append(f"left out, as a model has learned from them: {fair.seen:,}")
    if fair.near:
        parts.append(f"left out, as a model has learned from nearly the same pictures: {fair.near:,}")
    if compared.uncompared:
        parts.append(f"no image is left of {', '.join(compared.uncompared)}: look at that yourself")
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
