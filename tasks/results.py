"""What runs found: a frozen result each."""

import json
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from artifacts.errors import Corrupt
from artifacts.predictions import Predictions
from tasks.scoring.outcome import Outcome

if TYPE_CHECKING:
    from tasks.judging.decision import Decision


DIFFERENCES = "differences.json"  # beside a table: what `Scored.differs` has


@dataclass(frozen=True)
class Retrained:
    """What came of a retraining.

    dataset, weights, metrics: refs.
    accuracy, loss: on the test images; None where the predictions are not numbers.
    seconds: of the stages prepare, train and evaluate, and of an epoch: the median of those after the first, None where
        a head was solved, which has none.
    decision: what became of the weights.
    findings: what is odd about the dataset: {check, text, examples}.
    """

    dataset: str
    weights: str
    metrics: str
    accuracy: float | None
    loss: float | None
    seconds: dict[str, float | None]
    decision: "Decision"
    findings: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Flat, as `lookbook retrain --json` prints it."""
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "promoted": self.decision.promoted,
            "reason": self.decision.reason,
            "champion": self.decision.champion,
            "numbers": self.decision.grounds.to_numbers(),
            "decision": self.decision.number,
        }


@dataclass(frozen=True)
class Scored:
    """What came of a scoring.

    predictions: the ref of the table.
    path: its `data/` folder, for other tools.
    images: how many rows it has.
    predicted: rows that were scored now.
    reused: rows that were taken over.
    errors: kind -> rows.
    classes: label -> rows.
    images_per_second: that were scored now.
    seconds: of the whole run, without what it waited for TensorFlow's import.
    differs: what the pictures have that those which the weights learned from have not (colour, size, brightness,
        distance) -> a sentence.
    """

    predictions: str
    path: str
    images: int
    predicted: int
    reused: int
    errors: dict[str, int]
    classes: dict[str, int]
    images_per_second: float
    seconds: float
    differs: dict[str, str] = field(default_factory=dict)


def scored(published: Predictions, outcome: Outcome, seconds: float) -> Scored:
    """The result of a scoring that took `seconds` and published this table."""
    facts = published.artifact.facts
    return Scored(
        predictions=str(published.artifact.ref),
        path=str(published.folder),
        images=facts["rows"],
        predicted=outcome.predicted,
        reused=outcome.reused,
        errors=facts["errors"],
        classes=facts["labels"],
        images_per_second=round(outcome.predicted / outcome.seconds, 1) if outcome.predicted else 0.0,
        seconds=round(seconds, 3),
        differs=_differs(published),
    )


def _differs(published: Predictions) -> dict[str, str]:
    """The sentences that stand beside a table; none beside an earlier Lookbook's."""
    with suppress(Corrupt):  # it only stands beside; `lookbook verify` tells
        if DIFFERENCES in published.artifact.files:
            return dict(json.loads(published.artifact.read(DIFFERENCES)))
    return {}
