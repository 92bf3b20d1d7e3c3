"""What runs found: a frozen result each."""

from dataclasses import asdict, dataclass
from typing import Any

from tasks.judging.decision import Decision


@dataclass(frozen=True)
class Retrained:
    """What came of a retraining.

    dataset, weights, metrics: refs.
    accuracy, loss: on the test images; None where the predictions are not numbers.
    seconds: of the stages prepare, train and evaluate, and of an epoch: the median of those after the first.
    decision: what became of the weights.
    """

    dataset: str
    weights: str
    metrics: str
    accuracy: float | None
    loss: float | None
    seconds: dict[str, float]
    decision: Decision

    def to_dict(self) -> dict[str, Any]:
        """Flat, as `lookbook retrain --json` prints it."""
        found = asdict(self)
        del found["decision"]
        return {
            **found,
            "promoted": self.decision.promoted,
            "reason": self.decision.reason,
            "champion": self.decision.champion,
            "numbers": self.decision.grounds.to_numbers(),
            "decision": self.decision.number,
        }
