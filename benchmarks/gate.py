"""How often the gate promotes a model that is no better: simulated retrainings of equal models, and real ones.

    python benchmarks/gate.py

Simulated: 200 pairs of models that are right on each test image with the same chance, which differs by image, so
that every promotion is a false one. In pairs, and as a chain of 200 retrainings on one test split, whose champion is
the last that was promoted. Real: 100 pairs of trainings that differ in their seed alone; 54,000 images that neither
saw tell which of the two is better. Takes about five minutes.
"""

import sys

import numpy as np
from scipy import stats

from artifacts.settings import Settings
from tasks.promote import Gate, judge
from tasks.vision.metrics import mcnemar
from tasks.vision.sources import FASHION_MNIST, fetch, split

RETRAININGS, REAL, LEVEL = 200, 100, 0.05
ACCURACY, SPREAD = 0.87, 3.0  # of the chances by image: a Beta distribution, with many images that nobody gets wrong


def promotes(challenger: np.ndarray, champion: np.ndarray, significance: float) -> bool:
    """What the gate says of two models; both: bool [items], where they are right."""
    gains, losses = int((challenger & ~champion).sum()), int((champion & ~challenger).sum())
    told = {"accuracy": challenger.mean(), "champion_accuracy": champion.mean(), "items": len(champion)}
    told |= {"gains": gains, "losses": losses, "p_value": mcnemar(gains, losses)}
    told["recalls"] = {}
    return judge(told, Gate(significance=significance)) is None


def told(what: str, promoted: int, of: int) -> float:
    """Print a share with its exact 95 % interval (Clopper and Pearson, 1934); gives the lower end."""
    interval = stats.binomtest(promoted, of).proportion_ci(0.95)
    print(f"{what}: {promoted} of {of} ({promoted / of:.1%}, {interval.low:.1%} to {interval.high:.1%})", flush=True)
    return float(interval.low)


def simulated(items: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    chances = random.beta(ACCURACY * SPREAD, (1 - ACCURACY) * SPREAD, items)

    def train() -> np.ndarray:
        return random.random(items) < chances

    pairs = [(train(), train()) for _ in range(RETRAININGS)]
    lowest = [
        told(f"{items:,} images, significance {level:g}, pairs", sum(promotes(*p, level) for p in pairs), RETRAININGS)
        for level in (LEVEL, 1)
    ]
    champion, promoted = train(), 0
    for _ in range(RETRAININGS):
        challenger = train()
        if promotes(challenger, champion, LEVEL):
            champion, promoted = challenger, promoted + 1
    told(f"{items:,} images, significance {LEVEL:g}, a chain on one split", promoted, RETRAININGS)
    return lowest[0]


def real() -> None:
    from tasks.vision.inference import Predictor
    from tasks.vision.network import make_network
    from tasks.vision.recipes import settings_for
    from tasks.vision.training import fit

    settings = Settings()
    contents = fetch(FASHION_MNIST, settings.cache, settings.dataset_mirror, lambda *_: None)
    train, test = (split(FASHION_MNIST, contents, side) for side in ("train", "test"))
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
            if promotes(challenger, champion, level):
                promoted[level] += 1
                worse[level] += now <= before
    for level in worse:
        told(f"another seed, significance {level:g}, promoted", promoted[level], REAL)
        told(f"another seed, significance {level:g}, promoted and no better on 54,000 others", worse[level], REAL)


def main() -> None:
    low = [simulated(items, seed) for seed, items in enumerate((10_000, 1_000, 100))]
    real()
    if max(low) > LEVEL:
        sys.exit(f"expected at most {LEVEL:.0%} false promotions")


if __name__ == "__main__":
    main()
