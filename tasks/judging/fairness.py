"""The test images by which models can be measured and compared: none that one of them has learned from, as it is or
nearly so, and each content once."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from artifacts import dataset as datasets
from artifacts import metrics
from artifacts.dataset import Split
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.vision.duplicates import also_among, firsts, near_duplicates


@dataclass(frozen=True)
class FairTest:
    """What of a test split is fair to some models.

    items: int64, ascending, the places in the test split of the images to measure and compare on.
    copies: how many images have the content of another one.
    seen: how many contents are left out because a model has learned from them.
    near: how many more are left out because a model has learned from nearly the same pixels.
    unknown: the datasets of the models that can't be read, so that nobody knows what was learned from them.
    every: int64, ascending, the place of the first image of each content.
    """

    items: np.ndarray
    copies: int
    seen: int
    near: int
    unknown: list[str]
    every: np.ndarray

    @property
    def contents(self) -> int:
        """How many different ones the test split has, but for those that are near to what was learned."""
        return len(self.items) + self.seen

    @property
    def enough(self) -> bool:
        """Whether half of these contents are left, and one at all."""
        return len(self.items) > 0 and 2 * len(self.items) >= self.contents

    @property
    def counted(self) -> np.ndarray:
        """The items that an evaluation counts: where none is fair, each content, as some number is better than none."""
        return self.items if len(self.items) else self.every


def fair_test(store: Store, dataset: Ref, models: Iterable[Ref]) -> FairTest:
    """What of a dataset's test split the weights `models` have not learned from. Raises NotFound and Corrupt for the
    dataset and the weights."""
    test = datasets.load(store, dataset).test
    known, alike = (np.zeros(len(test.labels), bool) for _ in range(2))
    unknown: list[str] = []
    for learned in sorted({str(store.open(model).identity["inputs"]["dataset"]) for model in models}):
        try:
            same, near = _in_common(_Pair(dataset, Ref.parse(learned), store))
        except (NotFound, Corrupt):
            unknown.append(learned)
            continue
        known |= same
        alike |= near
    first = firsts(test.images, test.labels)
    every = np.unique(first)
    seen = np.isin(every, first[known])
    close = np.isin(every, first[alike]) & ~seen
    return FairTest(every[~seen & ~close], len(first) - len(every), int(seen.sum()), int(close.sum()), unknown, every)


def fair_to(store: Store, weights: Ref, dataset: Ref) -> np.ndarray:
    """int64, ascending: one image of each content of a test split that the weights have not learned from. Their
    evaluation tells, but for one of an earlier Lookbook. Raises NotFound and Corrupt."""
    measured = metrics.find(store, weights, str(dataset))
    if measured is not None and (fair := measured.fair()) is not None:
        return np.flatnonzero(fair)
    return fair_test(store, dataset, [weights]).items


@dataclass(frozen=True)
class _Pair:
    """Two datasets: whose test split is measured on, and what was learned from. They are equal by what they hold."""

    measured_on: Ref
    learned_from: Ref
    store: Store = field(compare=False)


@lru_cache(maxsize=8)
def _in_common(pair: _Pair) -> tuple[np.ndarray, np.ndarray]:
    """bool [items], twice: which test images were learned from, and which ones nearly. An evaluation and the gate ask
    for the same in one run, and of thousands of photographs it takes seconds. Raises NotFound and Corrupt."""
    test = datasets.load(pair.store, pair.measured_on).test
    learned = datasets.load(pair.store, pair.learned_from).train
    return _among(test, learned), _nearly_among(test, learned)


def _among(test: Split, learned: Split) -> np.ndarray:
    """bool [items]: which test images are among those learned from, by their pixels or by the bytes of their files:
    another version of Pillow may give the same file other pixels."""
    same = also_among(test.images, learned.images)
    if test.sha256 is not None and learned.sha256 is not None:
        known = set(map(str, learned.sha256))
        same |= np.array([str(each) in known for each in test.sha256], bool)
    return same


def _nearly_among(test: Split, learned: Split) -> np.ndarray:
    """bool [items]: which test images look the same as one that was learned from.

    None of a data set that has no files of its own: its test split is what others measure on, too, and stays whole.
    """
    found = np.zeros(len(test.labels), bool)
    if test.sha256 is not None and learned.sha256 is not None and test.images.shape[1:] == learned.images.shape[1:]:
        pairs, _ = near_duplicates(test.images, learned.images)
        found[pairs[:, 0]] = True
    return found
