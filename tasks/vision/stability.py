"""Whether two samples differ: the population stability index, shares and medians; plain NumPy.

Each has its chance by a permutation test: of a hundred pairs of samples from one place, one is called different.
"""

from dataclasses import dataclass

import numpy as np

LITTLE, MUCH = 0.1, 0.25  # credit scoring's rule: below the first little changed, above the second much did
_DRAWS, _ABOVE = 999, 10  # 10 of the 999 random splits and the one that was found: one percent
_AT_ONCE = 1 << 20  # numbers that are drawn at once
_MOST = 10**8  # items of a sample that count: NumPy draws from fewer than 10^9, and more don't change the chance


@dataclass(frozen=True)
class Shift:
    """How far one sample is from another.

    index: the population stability index; chance: what it exceeds in one of a hundred cases when both samples come
    from the same place; sizes: how many items both have.
    """

    index: float
    chance: float
    sizes: tuple[int, int]

    def above(self, level: float) -> bool:
        """Whether the samples differ by more than `level`, and by more than chance."""
        return self.index > level and self.index > self.chance


def shift(expected: np.ndarray, found: np.ndarray) -> Shift:
    """How far the histogram `found` is from the histogram `expected`, over the same bins (int64 [bins]).

    The chance is a permutation test's (Fisher, "The Design of Experiments", 1935): if both samples come from the same
    place, then every way to deal their items out to two samples of these sizes is as likely as the one that was found.
    So the test holds its level with few items, many bins and empty bins, where the chi-square approximation (Yurdakul,
    "Statistical Properties of Population Stability Index", 2018) is far off. The draws have a fixed seed, so that equal
    samples give equal answers.
    """
    index = stability_index(expected, found)
    counts = [each // (1 + each.sum() // _MOST) for each in (expected, found)]
    pooled, size = counts[0] + counts[1], int(counts[1].sum())
    random, indices, drawn = np.random.default_rng(0), np.empty(_DRAWS), 0
    while drawn < _DRAWS:
        many = min(_DRAWS - drawn, max(1, _AT_ONCE // len(pooled)))
        dealt = random.multivariate_hypergeometric(pooled, size, many, method="marginals")
        indices[drawn : drawn + many] = stability_index(pooled - dealt, dealt)
        drawn += many
    return Shift(float(index), float(np.sort(indices)[-_ABOVE]), (int(expected.sum()), int(found.sum())))


def rise(expected: tuple[int, int], found: tuple[int, int]) -> float:
    """By how much a share is higher in the sample `found` than in `expected`, 0 to 1; 0 where it is not beyond chance.

    expected, found: how many items count, and how many there are, 1 or more.

    The chance is that of `shift`: dealt out anew, the items that count are hypergeometrically distributed (Fisher's
    exact test, one-sided).
    """
    (some, tested), (many, items) = ([count // (1 + each[1] // _MOST) for count in each] for each in (expected, found))
    dealt = np.random.default_rng(0).hypergeometric(some + many, tested + items - some - many, items, _DRAWS)
    if many <= np.sort(dealt)[-_ABOVE]:
        return 0.0
    return found[0] / found[1] - expected[0] / expected[1]


def median_ratio(expected: np.ndarray, found: np.ndarray) -> float:
    """The median of the sample `found` over that of `expected`; 1 at most where it is not above that by more than
    chance.

    expected, found: float64 [items], 0 or more, of some items each. The chance is that of `shift`.
    """
    lowest = 1e-6  # what copies of training images are apart is nothing
    ratio = float(np.median(found) / max(np.median(expected), lowest))
    pooled, random = np.concatenate([expected, found]), np.random.default_rng(0)
    differences, at_once = [], max(1, _AT_ONCE // len(pooled))
    for start in range(0, _DRAWS, at_once):
        dealt = random.permuted(np.tile(pooled, (min(at_once, _DRAWS - start), 1)), axis=1)
        parts = dealt[:, : len(expected)], dealt[:, len(expected) :]
        differences.append(np.median(parts[1], axis=1) - np.median(parts[0], axis=1))
    chance = np.sort(np.concatenate(differences))[-_ABOVE]
    return ratio if np.median(found) - np.median(expected) > chance else min(ratio, 1.0)


def stability_index(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Population stability index of histograms over the same bins [..., bins]: the sum of (q - p) ln(q / p) over their
    shares, float64 [...].

    0 for equal shares. An empty bin counts as half an item, so that the logarithm exists. It is the symmetric
    Kullback-Leibler divergence (Jeffreys, 1946), with the name and the thresholds that credit scoring gave it.
    """
    filled = [np.maximum(counts, 0.5) for counts in (expected, found)]
    p, q = (counts / counts.sum(axis=-1, keepdims=True) for counts in filled)
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1))
