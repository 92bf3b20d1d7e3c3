"""A decision on the champion, and what it was made by; in the champion's history that is a document of flat numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from artifacts.aliases import Event
from tasks.judging.gate import Comparison, Recall
from tasks.requests import Gate


@dataclass(frozen=True)
class Compared:
    """How the challenger compares with the champion.

    comparison: on the images that neither has learned from.
    champion_loss, champion_metrics: of the champion's evaluation on the same test split.
    unprotected: classes whose recall fell on too few images to judge by; uncompared: those with no image left.
    """

    comparison: Comparison
    champion_loss: float | None
    champion_metrics: str
    unprotected: list[str]
    uncompared: list[str]


@dataclass(frozen=True)
class LeftOut:
    """The test images that do not count.

    copies: images that have the content of another one; seen: contents that one of the models has learned from; near:
    those that are nearly the same as one of these; unknown: datasets of the models that can't be read, so that nobody
    knows what was learned from them.
    """

    copies: int
    seen: int
    unknown: list[str]
    near: int = 0


@dataclass(frozen=True)
class Grounds:
    """What a decision was made by.

    metrics: the ref of the challenger's evaluation; accuracy, loss, items: its numbers on what counts of the split.
    gate: what was asked of the challenger.
    test_split: some contents of the split, by which it is known again; decisions: how many it has made before.
    run: the id of the flow run that asked.
    left_out: None where nothing was compared; compared: None where the champion did not have to be.
    """

    metrics: str
    accuracy: float | None
    loss: float | None
    items: int
    gate: Gate
    test_split: list[str]
    decisions: int
    run: str | None = None
    left_out: LeftOut | None = None
    compared: Compared | None = None

    def to_numbers(self) -> dict[str, Any]:
        """As an event of the champion's history holds it: flat. Of a comparison, accuracy and items are those of the
        images that were compared."""
        parts: list[Mapping[str, Any]] = [
            {name: getattr(self, name) for name in _FLAT},
            {"run": self.run} if self.run else {},
            asdict(self.gate),
            asdict(self.left_out) if self.left_out else {},
        ]
        if self.compared:
            compared = asdict(self.compared)
            parts += [compared.pop("comparison"), compared]
        return {name: value for part in parts for name, value in part.items()}

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any]) -> "Grounds":
        """Of an event that `to_numbers` was written to. What an older Lookbook did not write down yet is left out."""
        grounds = cls(**{name: numbers[name] for name in _FLAT}, gate=_part(Gate, numbers), run=numbers.get("run"))
        if "unknown" in numbers:
            grounds = replace(grounds, left_out=_part(LeftOut, numbers))
        if "uncompared" in numbers:
            recalls = {name: Recall(**each) for name, each in numbers["recalls"].items()}
            comparison = _part(Comparison, {**numbers, "recalls": recalls})
            grounds = replace(grounds, compared=_part(Compared, {**numbers, "comparison": comparison}))
        return grounds


_FLAT = ("metrics", "accuracy", "loss", "items", "test_split", "decisions")


def _part(kind: Any, numbers: Mapping[str, Any]) -> Any:
    return kind(**{field.name: numbers[field.name] for field in fields(kind) if field.name in numbers})


@dataclass(frozen=True)
class Decision:
    """What became of a challenger.

    promoted: whether it is champion now because of this decision; reason: why, or why not.
    champion: the ref of the champion from now on; number: the decision's place in the champion's history.
    """

    promoted: bool
    reason: str
    champion: str
    number: int
    grounds: Grounds

    @classmethod
    def from_event(cls, event: Event) -> "Decision":
        grounds = Grounds.from_numbers(event.numbers)
        return cls(event.action == "promote", event.reason, event.ref, event.number, grounds)
