"""What the stage `score` found."""

from dataclasses import dataclass

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
