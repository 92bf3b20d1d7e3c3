"""What people's labels changed: of the pictures that a model had named wrongly when somebody looked, which ones the new
weights name rightly, and how good these are on which part of the test split."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifacts.dataset import LABELLED, Dataset, Split
from artifacts.documents import canonical
from artifacts.metrics import LESSONS, LESSONS_CHART
from tasks.reports.pictures import mistakes

_EXAMPLES = 12
_AT_ONCE = 256  # pictures in memory
_USED = ("added", "corrected", "confirmed")


@dataclass(frozen=True)
class _Picture:
    """A labelled picture of a dataset. label, predicted: names; learned: whether it was trained on."""

    source: str
    image: np.ndarray
    label: str
    predicted: str
    learned: bool


def lessons(
    data: Dataset, probabilities: np.ndarray, counted: np.ndarray, predict: Callable[[np.ndarray], np.ndarray]
) -> dict[str, bytes]:
    """Files of an evaluation, where the dataset has labels of people's: numbers, and a picture of some that are right
    now.

    probabilities: float32 [items, classes] of the test split; counted: int64, the places of its items that count;
    predict: images -> the same as `probabilities`, of other ones.
    """
    rows = data.labels
    if not rows:
        return {}
    wrong = [each for each in _pictures(data, rows) if each.predicted != each.label]
    now = [
        data.classes[place]
        for start in range(0, len(wrong), _AT_ONCE)
        for place in predict(np.stack([each.image for each in wrong[start : start + _AT_ONCE]])).argmax(axis=1)
    ]
    right = [each for each, label in zip(wrong, now, strict=True) if label == each.label]
    hits = (probabilities.argmax(axis=1) == data.test.labels)[counted]
    parts = np.array(_parts(data.test, rows))[counted]
    found: dict[str, Any] = {
        "name": data.artifact.identity["settings"]["labels"],
        "uses": dict(sorted(Counter(str(row["use"]) for row in rows).items())),
        "wrong_before": len(wrong),
        "right_now": len(right),
        "learned": sum(each.learned for each in wrong),
        "tested": {
            part: {"items": int((parts == part).sum()), "right": int(hits[parts == part].sum())}
            for part in ("folder", "audits", "others")
        },
        "examples": [
            {"source": each.source, "predicted": each.predicted, "label": each.label} for each in right[:_EXAMPLES]
        ],
    }
    drawn = {LESSONS: canonical(found)}
    if right:
        captions = [(f"was {each.predicted}", f"now {each.label}") for each in right[:_EXAMPLES]]
        drawn[LESSONS_CHART] = mistakes([each.image for each in right[:_EXAMPLES]], captions)
    return drawn


def _parts(test: Split, rows: list[dict[str, Any]]) -> list[str]:
    """What each test picture is: of the folder, drawn at random (audits), or another one that people labelled, of a
    class that the folder has not or whose file is gone."""
    contents = test.sha256 if test.sha256 is not None else [None] * len(test.labels)
    drawn = {row["sha256"] for row in rows if row["chosen"] == "audit"}
    return [
        "folder" if not str(source).startswith(LABELLED) else "audits" if str(sha256) in drawn else "others"
        for source, sha256 in zip(test.sources, contents, strict=True)
    ]


def _pictures(data: Dataset, rows: list[dict[str, Any]]) -> list[_Picture]:
    """Those of the labelled pictures that the dataset has, and of which a model had said something."""
    of_content = {row["sha256"]: row for row in rows if row["use"] in _USED and row["predicted"] is not None}
    return [
        _Picture(str(side.sources[item]), side.images[item], row["label"], row["predicted"], side is data.train)
        for side in (data.train, data.test)
        if side.sha256 is not None
        for item, sha256 in enumerate(map(str, side.sha256))
        if (row := of_content.get(sha256))
    ]
