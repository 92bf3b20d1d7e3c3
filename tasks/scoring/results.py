"""What came of a scoring."""

from dataclasses import dataclass

from artifacts.predictions import Predictions
from artifacts.shards import Part


@dataclass(frozen=True)
class Outcome:
    """What the stage `score` found.

    parts: one for each shard, in order.
    predicted: rows that were scored now.
    reused: rows that were taken over.
    seconds: of the stage, without `waited`.
    waited: seconds in which all the rest waited for TensorFlow's import.
    """

    parts: list[Part]
    predicted: int
    reused: int
    seconds: float
    waited: float


@dataclass(frozen=True)
class ScoreResult:
    """A run's result.

    predictions: the ref of the table.
    path: its `data/` folder, for other tools.
    images: how many rows it has.
    predicted: rows that were scored now.
    reused: rows that were taken over.
    errors: kind -> rows.
    classes: label -> rows.
    images_per_second: that were scored now.
    seconds: of the whole run, without what it waited for TensorFlow's import.
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


def result_of(published: Predictions, outcome: Outcome, seconds: float) -> ScoreResult:
    """The result of a run that took `seconds` and published this table."""
    facts = published.artifact.facts
    return ScoreResult(
        predictions=str(published.artifact.ref),
        path=str(published.folder),
        images=facts["rows"],
        predicted=outcome.predicted,
        reused=outcome.reused,
        errors=facts["errors"],
        classes=facts["labels"],
        images_per_second=round(outcome.predicted / outcome.seconds, 1),
        seconds=round(seconds, 3),
    )
