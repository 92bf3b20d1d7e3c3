"""How good a model is where nobody knows the answers, by a stratified random sample of its predictions; plain NumPy.

A stratum is what the model gave one class. Sampling each in proportion to its size is never less exact than sampling
them together, and far more exact where some classes are worse than others.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_Z = 1.959963984540054  # of a normal distribution, 95 % lie within so many deviations


@dataclass(frozen=True)
class Share:
    """An estimated share, 0 to 1: low and high bound its 95 % interval; items: on how many labels it stands."""

    value: float
    low: float
    high: float
    items: int


def allocate(rows: Mapping[str, int], size: int) -> dict[str, int]:
    """How many of `size` to draw from each stratum: in proportion to its rows, the largest remainders first."""
    names, counts = list(rows), np.array(list(rows.values()), np.int64)
    size = min(size, int(counts.sum()))
    exact = counts * (size / max(int(counts.sum()), 1))
    drawn = np.minimum(np.floor(exact).astype(np.int64), counts)
    for place in np.argsort(drawn - exact, kind="stable"):
        if drawn.sum() == size:
            break
        drawn[place] += drawn[place] < counts[place]
    return dict(zip(names, drawn.tolist(), strict=True))


def estimate(rows: np.ndarray, labelled: np.ndarray, right: np.ndarray) -> Share | None:
    """The share of all rows that are right; None without a label.

    rows: how many each stratum has; labelled: how many of them were drawn and labelled; right: how many of those are
    right. Each int64 [strata].

    The estimate is the stratified mean (Cochran, Sampling Techniques, 1977, equation 5.1). Its variance (5.7) is taken
    at shares that lean towards the whole sample's by one label, as a stratum with few labels shows none otherwise. The
    interval is Wilson's (1927) for the number of labels that a simple sample of this variance would have, as Korn and
    Graubard (1998) do it for Clopper's. Strata with fewer than two labels count as one.
    tests/test_audits.py holds how often it covers the truth.
    """
    if not labelled.sum():
        return None
    rows, labelled, right = _together(rows, labelled, right)
    weights = rows / rows.sum()
    value = float((weights * right / labelled).sum())
    leaning = (right + value) / (labelled + 1)
    left = np.clip(1 - labelled / rows, 0, 1)
    variance = float((weights**2 * left * leaning * (1 - leaning) / np.maximum(labelled - 1, 1)).sum())
    items = int(labelled.sum())
    simple = items / max(1 - items / float(rows.sum()), 1e-9)  # a sample of all is no estimate any more
    enough = value * (1 - value) / variance if 0 < value < 1 and variance else simple
    return Share(value, *_wilson(value, min(enough, 4 * simple)), items)


def _together(rows: np.ndarray, labelled: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The strata that have two labels, and one of all others; where that has fewer than two, the smallest joins it."""
    order = np.argsort(rows, kind="stable")
    few = labelled[order] < 2
    joined = [order[few]]
    for place in order[~few]:
        if not joined[0].size or labelled[joined[0]].sum() >= 2:
            joined.append(np.array([place]))
        else:
            joined[0] = np.append(joined[0], place)
    groups = [group for group in joined if group.size]
    summed = [np.array([each[group].sum() for group in groups], np.float64) for each in (rows, labelled, right)]
    return summed[0], summed[1], summed[2]


def _wilson(share: float, items: float) -> tuple[float, float]:
    square = _Z * _Z
    middle = (share + square / (2 * items)) / (1 + square / items)
    half = _Z / (1 + square / items) * float(np.sqrt(share * (1 - share) / items + square / (4 * items**2)))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))
