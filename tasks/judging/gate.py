"""The gate: what a challenger must pass to become champion. Numbers in, an objection or none out; knows neither Prefect
nor the store.

A stricter gate never lets through what a looser one keeps back: each of its three limits is asked for by itself, and
what protects a class does not depend on how sure a promotion must be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.requests import Gate
from tasks.vision.metrics import mcnemar

VETO_LEVEL = 0.05  # a class's loss is beyond chance when its p is at most this, however sure a promotion must be


@dataclass(frozen=True)
class Recall:
    """The recall of one class by both models.

    champion, challenger: 0 to 1; p_value: the chance of so many losses, were both equally good at this class; items: on
    how many images, 1 or more.
    """

    champion: float
    challenger: float
    p_value: float
    items: int

    @property
    def lost(self) -> int:
        """How many images fewer the challenger tells rightly; negative where it tells more."""
        return round((self.champion - self.challenger) * self.items)


@dataclass(frozen=True)
class Comparison:
    """What two models' answers to the same images say of each other.

    items: how many images; accuracy, champion_accuracy: 0 to 1, None for a model that answers NaN; gains, losses: the
    images that only the challenger, only the champion tells rightly; p_value: of McNemar's test; all three None where
    one answers NaN; recalls: of each class that has images, none where one answers NaN.
    """

    items: int
    accuracy: float | None
    champion_accuracy: float | None
    gains: int | None
    losses: int | None
    p_value: float | None
    recalls: dict[str, Recall]


def compare(
    challenger: np.ndarray | None, champion: np.ndarray | None, labels: np.ndarray, classes: Sequence[str]
) -> Comparison:
    """Compare two models image by image.

    challenger, champion: bool [items], where each is right; None for one that answers NaN. labels: int32 [items]. Each
    content may be among the items once alone: a copy has the same answers, and says nothing more.
    """
    ours, theirs = (None if hits is None else float(hits.mean()) for hits in (challenger, champion))
    if challenger is None or champion is None:
        return Comparison(len(labels), ours, theirs, None, None, None, {})
    gained, lost = challenger & ~champion, champion & ~challenger
    recalls = {}
    for label, name in enumerate(classes):
        items = labels == label
        if items.any():
            recalls[name] = Recall(
                champion=float(champion[items].mean()),
                challenger=float(challenger[items].mean()),
                p_value=mcnemar(int((lost & items).sum()), int((gained & items).sum())),
                items=int(items.sum()),
            )
    gains, losses = int(gained.sum()), int(lost.sum())
    return Comparison(len(labels), ours, theirs, gains, losses, mcnemar(gains, losses), recalls)


def judge(comparison: Comparison, gate: Gate) -> str | None:
    """Why the champion stays; None when the challenger is better."""
    if objection := unfit(comparison.accuracy, gate):
        return objection
    if comparison.gains is None or comparison.losses is None or comparison.p_value is None:
        return None  # the champion is the one that answers NaN
    if comparison.gains <= comparison.losses:
        return f"not better: {sentence(comparison)}"
    if comparison.p_value > gate.significance:
        return f"not better beyond chance: {sentence(comparison)}; a significance of {gate.significance:g} is asked"
    for name, recall in _fallen(comparison, gate):
        if _by_test(recall) or _by_half(recall):
            return f"better, but for {name}: {_fall(recall, gate)}; {sentence(comparison)}"
    return None


def unfit(accuracy: float | None, gate: Gate) -> str | None:
    """Why a model of this accuracy is never champion, whatever it is compared with; None when it may be."""
    if accuracy is None:
        return "its predictions are not numbers (NaN)"
    if accuracy < gate.minimum_accuracy:
        return f"{accuracy_of(accuracy)} is below the minimum of {gate.minimum_accuracy:.2%}"
    return None


def unprotected(comparison: Comparison, gate: Gate) -> dict[str, Recall]:
    """The classes whose recall fell by more than the gate allows, and that have too few images to object for."""
    return {
        name: recall
        for name, recall in _fallen(comparison, gate)
        if 0.5**recall.items > VETO_LEVEL and not _by_half(recall)
    }


def sentence(comparison: Comparison) -> str:
    """The comparison in words."""
    theirs = comparison.champion_accuracy
    champion = "no number (NaN)" if theirs is None else f"{theirs:.2%}"
    compared = (
        f"{accuracy_of(comparison.accuracy)}, the champion's {champion} on the same {comparison.items:,} test images"
    )
    if comparison.gains is None or comparison.losses is None:
        return compared
    apart = comparison.gains + comparison.losses
    if not apart:
        return f"{compared}; both are right on the same ones"
    return (
        f"{compared}; just one is right on {apart:,}: this one on {comparison.gains:,} (p = {comparison.p_value:.2g})"
    )


def accuracy_of(accuracy: float | None) -> str:
    return "accuracy none (NaN)" if accuracy is None else f"accuracy {accuracy:.2%}"


def _fallen(comparison: Comparison, gate: Gate) -> list[tuple[str, Recall]]:
    """The classes whose recall fell by more than is allowed, the deepest fall first."""
    fallen = [each for each in comparison.recalls.items() if each[1].lost / each[1].items > gate.max_recall_drop]
    return sorted(fallen, key=lambda each: -each[1].lost / each[1].items)


def _by_test(recall: Recall) -> bool:
    return recall.p_value <= VETO_LEVEL


def _by_half(recall: Recall) -> bool:
    """With four images no loss reaches VETO_LEVEL, and with six only one of five: so more than half is enough where it
    is two images at least. For each class of one image that image alone would keep back 5 in 100 models that are better
    (docs/evaluation.md)."""
    return recall.lost >= 2 and 2 * recall.lost > recall.items


def _fall(recall: Recall, gate: Gate) -> str:
    fell = f"its recall fell from {recall.champion:.2%} to {recall.challenger:.2%}"
    by_how_much = f"{fell}, by more than {gate.max_recall_drop:.2%}"
    if _by_test(recall):
        return by_how_much
    return (
        f"{by_how_much}; its {recall.items:,} test images are too few to tell that from chance "
        f"(p = {recall.p_value:.2g}), and more than half of them are lost"
    )
