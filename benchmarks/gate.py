"""How often the gate promotes a model that is no better, and keeps back one that is: simulated and real retrainings.

    python benchmarks/gate.py

Simulated: 3,000 pairs of models that are right on each test image with the same chance, which differs by image, so that
every promotion is a false one: of plain test splits, with copies in them, and with rare classes. A chain of 200
retrainings on one test split, whose champion is the last that was promoted. Pairs in which the challenger is better on
every image: of those that are better beyond chance, how many are kept back for the sake of a class. Real: 100 pairs of
trainings that differ in their seed alone; 54,000 images that neither saw tell which of the two is better, and no
class is asked for. The simulations take about a minute, the trainings four.
"""

import sys

import numpy as np
from scipy import stats

from artifacts.settings import Settings
from tasks.judging.gate import compare, judge
from tasks.requests import Gate
from tasks.vision.duplicates import firsts
from tasks.vision.sources import FASHION_MNIST, fetch, read_side

PAIRS, CHAIN, REAL, LEVEL = 3000, 200, 100, 0.05
ACCURACY, SPREAD = 0.87, 3.0  # of the chances by image: a Beta distribution, with many images that nobody gets wrong
BETTER = 0.7  # of a champion's mistakes a better challenger makes so many
SPLITS = {  # test images of each class
    "10 classes of 1,000": [1000] * 10,
    "10 classes of 100": [100] * 10,
    "10 classes of 10": [10] * 10,
    "10 of 100, and rare ones of 1, 2, 3, 4, 6": [*[100] * 10, 1, 2, 3, 4, 6],
    "10 of 100, and 10 rare ones of 1 to 6": [*[100] * 10, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6],
    "20 classes of 7": [7] * 20,
    "50 classes of 3": [3] * 50,
    "100 classes of 300, 150, 100, 75 ... 3": [round(300 / rank) for rank in range(1, 101)],
}


def promotes(challenger: np.ndarray, champion: np.ndarray, labels: np.ndarray, gate: Gate) -> bool:
    """What the gate says of two models; both: bool [items], where they are right."""
    return judge(compare(challenger, champion, labels, range(labels.max() + 1)), gate) is None


def share(what: str, promoted: int, of: int) -> float:
    """Print a share with its exact 95 % interval (Clopper and Pearson, 1934); gives the lower end."""
    interval = stats.binomtest(promoted, of).proportion_ci(0.95)
    print(f"{what}: {promoted} of {of} ({promoted / of:.1%}, {interval.low:.1%} to {interval.high:.1%})", flush=True)
    return float(interval.low)


def simulated(name: str, seed: int) -> float:
    """The lower end of the interval of false promotions at LEVEL."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(SPLITS[name])), SPLITS[name])
    chances = random.beta(ACCURACY * SPREAD, (1 - ACCURACY) * SPREAD, len(labels))

    def train(mistakes: float = 1.0) -> np.ndarray:
        return random.random(len(labels)) < 1 - (1 - chances) * mistakes

    pairs = [(train(), train()) for _ in range(PAIRS)]
    low, _ = (
        share(f"{name}, equal, {level:g}", sum(promotes(*p, labels, Gate(significance=level)) for p in pairs), PAIRS)
        for level in (LEVEL, 1)
    )
    champion, promoted = train(), 0
    for _ in range(CHAIN):
        challenger = train()
        if promotes(challenger, champion, labels, Gate()):
            champion, promoted = challenger, promoted + 1
    share(f"{name}, equal, {LEVEL:g}, a chain on one split", promoted, CHAIN)
    pairs = [(train(BETTER), train()) for _ in range(PAIRS)]
    passed = [pair for pair in pairs if promotes(*pair, labels, Gate(max_recall_drop=1))]
    kept = sum(not promotes(*pair, labels, Gate()) for pair in passed)
    share(f"{name}, better beyond chance, kept back for a class", kept, len(passed))
    return low


def with_copies(times: int, seed: int) -> float:
    """The same, of a test split of 1,000 contents, each there so many times; as the gate counts, and as items would."""
    random = np.random.default_rng(seed)
    images = np.repeat(random.integers(0, 256, (1000, 4, 4, 1), dtype=np.uint8), times, axis=0)
    labels = np.repeat(np.arange(1000) % 10, times)
    counted = np.unique(firsts(images, labels))
    chances = random.beta(ACCURACY * SPREAD, (1 - ACCURACY) * SPREAD, 1000)

    def train() -> np.ndarray:
        return np.repeat(random.random(1000) < chances, times)

    pairs = [(train(), train()) for _ in range(PAIRS)]
    low, _ = (
        share(
            f"1,000 contents, each {times} times, {what}",
            sum(promotes(one[items], other[items], labels[items], Gate()) for one, other in pairs),
            PAIRS,
        )
        for what, items in (("each content once", counted), ("each image", slice(None)))
    )
    return low


def real() -> None:
    from tasks.vision.inference import Predictor
    from tasks.vision.network import make_network
    from tasks.vision.recipes import settings_for
    from tasks.vision.training import fit

    settings = Settings()
    contents = fetch(FASHION_MNIST, settings.cache, settings.dataset_mirror, lambda *_: None)
    train, test = (read_side(FASHION_MNIST, contents, side) for side in ("train", "test"))
    spec, learned = FASHION_MNIST.image_spec, slice(0, 6_000)

    def hits(seed: int) -> tuple[np.ndarray, float]:
        how = settings_for("dense", epochs=5, seed=seed)
        trained = fit(train.images[learned], train.labels[learned], classes=10, spec=spec, settings=how)
        network = make_network("dense", spec, 10)
        network.assign(trained.tensors)
        predict = Predictor(network)
        truth = predict(train.images[6_000:]).argmax(axis=1) == train.labels[6_000:]
        return predict(test.images).argmax(axis=1) == test.labels, float(truth.mean())

    worse = dict.fromkeys((LEVEL, 1), 0)
    promoted = dict(worse)
    for pair in range(REAL):
        (champion, before), (challenger, now) = hits(2 * pair), hits(2 * pair + 1)
        for level in worse:
            if promotes(challenger, champion, test.labels, Gate(significance=level, max_recall_drop=1)):
                promoted[level] += 1
                worse[level] += now <= before
    for level in worse:
        share(f"another seed, significance {level:g}, promoted", promoted[level], REAL)
        share(f"another seed, significance {level:g}, promoted and no better on 54,000 others", worse[level], REAL)


def main() -> None:
    low = [simulated(name, seed) for seed, name in enumerate(SPLITS)]
    low += [with_copies(times, 100 + times) for times in (1, 2, 5)]
    real()
    if max(low) > LEVEL:
        sys.exit(f"expected at most {LEVEL:.0%} false promotions")


if __name__ == "__main__":
    main()
