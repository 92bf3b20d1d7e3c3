"""Which pretrained networks a head stands on, and at what size: what does best on a sample of the training pictures.

A sample is embedded by each network at two sizes, and a head on it is cross-validated. Then two networks side by side,
two sizes of one, and the mean over mirror images are tried, as the single ones did. What was embedded is kept, so the
training embeds the rest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from artifacts import aliases, weights
from artifacts.dataset import Dataset
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.shared.backbones import available
from tasks.shared.deadline import Deadline
from tasks.shared.embedding import Embedding
from tasks.shared.views import Views, embedding_of, views_for
from tasks.vision.duplicates import contents_of
from tasks.vision.images import ImageSpec
from tasks.vision.recipes import AUTO, Device, TrainingSettings

SAMPLE, OF_A_CLASS = 1_000, 5  # pictures that are looked at: so many, or so many of each class where that is more
_SMALLER, _STEP = 7 / 9, 32  # of the pictures' side, rounded to so many pixels: 224 of 288


@dataclass(frozen=True)
class Tried:
    """What a candidate came to on the sample.

    backbone, mirrored: as settings and weights have them.
    loss, accuracy: means over what its folds held out. loss_error: the loss's standard error.
    seconds: that it takes to embed all pictures of the dataset that were not on record.
    behind: by how much its loss is above the one of the best that may be taken; behind_error: the standard error of
        that, picture by picture.
    """

    backbone: str
    mirrored: bool
    loss: float
    loss_error: float
    accuracy: float
    seconds: float
    behind: float = 0.0
    behind_error: float = 0.0

    def __str__(self) -> str:
        return f"{self.backbone}, mirrored" if self.mirrored else self.backbone


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    settings: of the training, with the backbone and the augmentation that were chosen.
    why: in words.
    tried: all candidates, in order; none where the choice was named, or kept.
    """

    settings: TrainingSettings
    why: str
    tried: tuple[Tried, ...] = ()


def choose_views(
    store: Store,
    data: Dataset,
    settings: TrainingSettings,
    device: Device,
    tell: Callable[[str], None],
    deadline: Deadline,
) -> Choice:
    """What settings name; where they name nothing, what the champion stands on (`kept_choice`), or else what does best
    on a sample.

    Raises CheckpointError, SettingsError, NotFound, Corrupt, DeviceError, StoreError and DeadlineExceeded.
    """
    if settings.backbone not in (None, AUTO):
        augmentation = "none" if settings.augmentation == AUTO else settings.augmentation
        named = replace(settings, augmentation=augmentation)
        views = views_for(store, ImageSpec.from_dict(data.image_spec), named, device, tell)
        return Choice(replace(named, backbone=_named(views)), "named")
    return kept_choice(store, data, settings) or _Search(store, data, settings, device, tell, deadline).choose()


def kept_choice(store: Store, data: Dataset, settings: TrainingSettings) -> Choice | None:
    """What the champion of this name stands on; None where settings name something, and where the champion learned from
    pictures of another size, one of its backbones is gone, or there are twice as many training pictures as when it was
    chosen."""
    if settings.backbone is not None:
        return None
    try:
        champion = aliases.current(store.disk, "weights", data.artifact.ref.name, "champion")
        if champion is None:
            return None
        held = weights.load(store, champion)
        learned_from = store.open(Ref.parse(held.artifact.identity["inputs"]["dataset"]))
    except (NotFound, Corrupt):
        return None
    named, items = held.settings.get("backbone"), held.settings.get("chosen_with")
    augmentation = "flips" if held.mirrored else "none"
    fits = (
        named is not None
        and settings.augmentation in (AUTO, augmentation)
        and held.image_spec == data.image_spec
        and all(store.has(view.backbone) for view in held.views)
        and len(data.train.labels) < 2 * (items or learned_from.facts["counts"]["train"]["items"])
    )
    if not fits:
        return None
    kept = replace(settings, backbone=named, augmentation=augmentation, chosen_with=items or 0)
    return Choice(kept, f"as the champion does, {champion}")


def _named(views: Views) -> str:
    return "+".join(f"{each.backbone.ref.name}@{each.looks_at[0]}" for each in views.embeddings)


@dataclass
class _Search:
    """A choice as it is made."""

    store: Store
    data: Dataset
    settings: TrainingSettings
    device: Device
    tell: Callable[[str], None]
    deadline: Deadline
    _embeddings: dict[tuple[str, int], Embedding] = field(default_factory=dict)
    _seconds: dict[tuple[str, bool], float] = field(default_factory=dict)
    _losses: list[np.ndarray] = field(default_factory=list)

    def choose(self) -> Choice:
        images, labels = self.data.train.images, self.data.train.labels
        contents = contents_of(images)
        self._contents = {*contents, *contents_of(self.data.test.images)}
        self._sample = sample_of(labels, contents, self.settings.seed)
        self._images, self._labels = images[self._sample], labels[self._sample]
        self.tell(f"choosing a pretrained network by {len(self._sample):,} of {len(labels):,} training images")
        tried: list[Tried] = []
        for views in self._candidates(tried):
            self.deadline.check("choosing a pretrained network")
            tried.append(self._try(views))
            one = tried[-1]
            self.tell(f"{one}  held out: loss {one.loss:.4f}  accuracy {one.accuracy:.2%}  {one.seconds:,.0f} s")
        tried, taken, why = self._judge(tried)
        self.tell(f"standing on {taken}: {why}")
        augmentation = "flips" if taken.mirrored else "none"
        settings = replace(
            self.settings, backbone=taken.backbone, augmentation=augmentation, chosen_with=len(labels)
        )
        return Choice(settings, why, tuple(tried))

    def _candidates(self, tried: list[Tried]) -> Iterator[Views]:
        """Each network at two sizes, then combinations of what did best; `tried` grows meanwhile."""
        mirrored = self.settings.augmentation == "flips"
        side = int(self.data.image_spec["height"])
        smaller = min(max(round(side * _SMALLER / _STEP) * _STEP, _STEP), side)
        singles = [[self._embedding(name, each) for each in sorted({side, smaller})] for name in available(self.store)]
        for network in singles:
            for embedding in network:
                yield Views((embedding,), mirrored)
        losses = iter([each.loss for each in tried])
        best = [min((next(losses), number) for number in range(len(network))) for network in singles]
        sized = [network[number] for network, (_, number) in zip(singles, best, strict=True)]
        combined = list(combinations(sized, 2))
        if len(both := singles[best.index(min(best))]) > 1:
            combined.append((both[0], both[1]))
        for pair in combined:
            yield Views(pair, mirrored)
        if self.settings.augmentation == AUTO:
            everything = [(each,) for network in singles for each in network] + combined
            yield Views(everything[int(np.argmin([each.loss for each in tried]))], mirrored=True)

    def _embedding(self, name: str, side: int) -> Embedding:
        if (name, side) not in self._embeddings:
            spec = ImageSpec.from_dict(self.data.image_spec)
            self._embeddings[name, side] = embedding_of(
                self.store, spec, name, side, self.settings, self.device, self.tell
            )
        return self._embeddings[name, side]

    def _try(self, views: Views) -> Tried:
        from tasks.vision.transfer import cross_validate_head

        seconds = sum(self._cost(embedding, mirrored) for embedding, mirrored in views.looks)
        found = cross_validate_head(
            views.embed(self.store, self._images),
            self._labels,
            len(self.data.classes),
            widths=views.widths,
            first=np.arange(len(self._labels)),
            balanced=self.settings.class_weights == "balanced",
            seed=self.settings.seed,
        )
        self._losses.append(found.losses[found.folds >= 0])
        chosen = found.chosen
        return Tried(_named(views), views.mirrored, chosen.loss, chosen.loss_error, chosen.accuracy, seconds)

    def _cost(self, embedding: Embedding, mirrored: bool) -> float:
        """Seconds for all pictures that are not on record, as they were when this was asked first."""
        key = f"{embedding.backbone.ref} {embedding.looks_at}", mirrored
        if key not in self._seconds:
            with embedding.kept(self.store.disk, mirrored) as features:
                missing = sum(content not in features for content in self._contents)
            self._seconds[key] = missing * embedding.embedder.seconds_a_picture if missing else 0.0
        return self._seconds[key]

    def _judge(self, tried: list[Tried]) -> tuple[list[Tried], Tried, str]:
        """The least loss of what takes no longer than is allowed. Where the dataset is larger than the sample, so that
        time matters, the quickest of those whose loss is within a standard error of that."""
        minutes = self.settings.minutes
        allowed = [number for number, each in enumerate(tried) if each.seconds <= 60 * minutes]
        if not allowed:
            return tried, min(tried, key=lambda each: each.seconds), f"the quickest, as all take over {minutes} minutes"
        if not len(self._losses[0]):
            return tried, tried[allowed[-1]], "no class has two pictures to tell by"
        best = min(allowed, key=lambda number: tried[number].loss)
        more = [losses - self._losses[best] for losses in self._losses]
        tried = [
            replace(each, behind=float(by.mean()), behind_error=float(by.std() / np.sqrt(len(by))))
            for each, by in zip(tried, more, strict=True)
        ]
        if len(self._sample) == len(self.data.train.labels):
            return tried, tried[best], "the least loss"
        near = [tried[number] for number in allowed if tried[number].behind <= tried[number].behind_error]
        quickest = min(near, key=lambda each: each.seconds)
        if quickest.seconds >= tried[best].seconds:
            return tried, tried[best], "the least loss"
        return tried, quickest, f"the quickest within a standard error of {tried[best]}"


def sample_of(labels: np.ndarray, contents: list[bytes], seed: int) -> np.ndarray:
    """Items to choose by, of different contents and as many of each class as its share: int64, ascending.

    labels: int32 [items]. contents: the SHA-256 of each item's pixels. seed: decides which items.
    """
    once = np.array(sorted({content: item for item, content in reversed(list(enumerate(contents)))}.values()))
    most = max(SAMPLE, OF_A_CLASS * len(np.unique(labels)))
    if len(once) <= most:
        return once
    shuffled = np.random.default_rng(seed).permutation(once)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]  # evenly spread: each class by its share
    return np.sort(by_class[np.linspace(0, len(by_class) - 1, most).astype(np.int64)])


def told(choice: Choice) -> dict[str, Any]:
    """What a provenance says of a choice."""
    return {"why": choice.why, "tried": [vars(each) for each in choice.tried]}
