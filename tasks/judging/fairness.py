"""The test images by which two models can be compared: none that one of them has learned from, each content once."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from artifacts import dataset as datasets
from artifacts.dataset import Split
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.vision.duplicates import firsts


@dataclass(frozen=True)
class FairTest:
    """items: int64, ascending, the places in the test split of the images to compare on; copies: how many images have
    the content of another one; seen: how many contents are left out because a model has learned from them; unknown: the
    datasets of the models that can't be read, so that nobody knows what was learned from them."""

    items: np.ndarray
    copies: int
    seen: int
    unknown: list[str]

    @property
    def contents(self) -> int:
        """How many different ones the test split has."""
        return len(self.items) + self.seen


def fair_test(store: Store, test: Split, models: Iterable[Ref]) -> FairTest:
    """What of a test split the weights `models` have not learned from. Raises NotFound and Corrupt for the weights."""
    known = np.zeros(len(test.labels), bool)
    unknown: list[str] = []
    for dataset in sorted({str(store.open(model).identity["inputs"]["dataset"]) for model in models}):
        try:
            known |= _among(test, datasets.load(store, Ref.parse(dataset)).train)
        except (NotFound, Corrupt):
            unknown.append(dataset)
    first = firsts(test.images, test.labels)
    places = np.unique(first)
    seen = np.isin(places, first[known])
    return FairTest(places[~seen], len(first) - len(places), int(seen.sum()), unknown)


def _among(test: Split, learned: Split) -> np.ndarray:
    """bool [items]: which test images are among those learned from; files by their bytes, others by their pixels."""
    if test.sha256 is not None and learned.sha256 is not None:
        known = set(map(str, learned.sha256))
        return np.array([str(each) in known for each in test.sha256], bool)
    known = {_pixels(image) for image in learned.images}
    return np.array([_pixels(image) in known for image in test.images], bool)


def _pixels(image: np.ndarray) -> str:
    return hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()
