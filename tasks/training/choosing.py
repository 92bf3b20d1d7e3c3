"""Which pretrained networks a head stands on, and at what size: what does best on a sample of the training pictures.

A sample is embedded by each network at two sizes, and a head on it is cross-validated. Then two networks side by side,
two sizes of one, and the mean over mirror images are tried, as the single ones did. What was embedded is kept, so the
training embeds the rest.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from artifacts import aliases, weights
from artifacts.dataset import Dataset
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref
from artifacts.store import Artifact, Store
from tasks.shared.backbones import available
from tasks.shared.deadline import Deadline
from tasks.shared.embedding import Embedding
from tasks.shared.views import Views, embedding_of, name_of, named_views
from tasks.vision.duplicates import contents_of
from tasks.vision.images import ImageSpec
from tasks.vision.recipes import AUTO, Augmentation, Device, TrainingSettings

SAMPLE, OF_A_CLASS = 1_000, 5  # pictures that are looked at: so many, or so many of each class where that is more
_SMALLER, _STEP = 7 / 9, 32  # of the pictures' side, rounded to so many pixels: 224 of 288


@dataclass(frozen=True)
class Tried:
    """What a candidate came to on the sample.

    backbone, mirrored: as settings and weights have them.
    seconds: that it takes to embed all pictures of the dataset that were not on record; milliseconds: for each picture.
    loss, accuracy: means over what its folds held out; None where it was left out, as it takes too long. loss_error:
        the loss's standard error.
    behind: by how much its loss is above the least; behind_error: the standard error of that, picture by picture.
    """

    backbone: str
    mirrored: bool
    seconds: float
    milliseconds: float
    loss: float | None = None
    loss_error: float | None = None
    accuracy: float | None = None
    behind: float | None = None
    behind_error: float | None = None

    def __str__(self) -> str:
        return f"{self.backbone}, mirrored" if self.mirrored else self.backbone

    @property
    def order(self) -> float:
        """The loss, by which the best one is the first."""
        return math.inf if self.loss is None else self.loss


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

    def to_dict(self) -> dict[str, Any]:
        """What the weights' provenance says of it."""
        return {"why": self.why, "tried": [vars(each) for each in self.tried]}


def choose_views(
    store: Store,
    data: Dataset,
    settings: TrainingSettings,
    device: Device,
    tell: Callable[[str], None],
    deadline: Deadline,
) -> Choice:
    """What settings name; where they name nothing, what the champion stands on (`_kept`), or else what does best on a
    sample.

    Raises CheckpointError, SettingsError, NotFound, Corrupt, DeviceError, StoreError and DeadlineExceeded.
    """
    return (
        settled(store, data.artifact, settings, tell) or _Search(store, data, settings, device, tell, deadline).choose()
    )


def settled(
    store: Store, dataset: Artifact, settings: TrainingSettings, tell: Callable[[str], None] = lambda line: None
) -> Choice | None:
    """What is chosen without a look at the pictures; None where that takes one. Imports no TensorFlow.

    Raises SettingsError, CheckpointError, NotFound, Ambiguous and WeightsError for what settings name.
    """
    if settings.backbone == AUTO:
        return None
    if settings.backbone is None:
        return _kept(store, dataset, settings)
    spec = ImageSpec.from_dict(dataset.facts["image_spec"])
    named, _ = named_views(store, spec, settings.backbone, tell)
    augmentation: Augmentation = "none" if settings.augmentation == "auto" else settings.augmentation
    return Choice(replace(settings, backbone=named, augmentation=augmentation), "named")


def _kept(store: Store, dataset: Artifact, settings: TrainingSettings) -> Choice | None:
    """What the champion of this name stands on, or where it stands on none the newest challenger. None where these
    learned from pictures of another size, one of the backbones is gone, or there are twice as many training pictures as
    when they were chosen."""
    events = aliases.history(store.disk, "weights", dataset.ref.name, "champion")
    for ref in (events[-1].ref, events[-1].challenger) if events else ():
        with suppress(NotFound, Corrupt):
            held = store.open(Ref.parse(ref))
            before = held.identity["settings"]
            if before.get("backbone") is None:
                continue
            chosen_with, augmentation = before.get("chosen_with", 0), before["augmentation"]
            fits = (
                settings.augmentation in (AUTO, augmentation)
                and held.facts["image_spec"] == dataset.facts["image_spec"]
                and all(store.has(view.backbone) for view in weights.views_of(held))
                and _training_items(dataset) < 2 * (chosen_with or _learned_from(store, held))
            )
            if fits:
                backbone = name_of(store, held)
                kept = replace(settings, backbone=backbone, augmentation=augmentation, chosen_with=chosen_with)
                return Choice(kept, f"as {ref} does")
    return None


def _learned_from(store: Store, held: Artifact) -> int:
    return _training_items(store.open(Ref.parse(held.identity["inputs"]["dataset"])))


def _training_items(dataset: Artifact) -> int:
    return int(dataset.facts["counts"]["train"]["items"])


@dataclass
class _Search:
    """A choice as it is made."""

    store: Store
    data: Dataset
    settings: TrainingSettings
    device: Device
    tell: Callable[[str], None]
    deadline: Deadline
    _costs: dict[tuple[str, bool], tuple[int, float]] = field(default_factory=dict)
    _losses: dict[str, np.ndarray] = field(default_factory=dict)

    def choose(self) -> Choice:
        images, labels = self.data.train.images, self.data.train.labels
        contents = contents_of(images)
        self._contents = {*contents, *contents_of(self.data.test.images)}
        self._sample = sample_of(labels, contents, self.settings.seed)
        self._images, self._labels = images[self._sample], labels[self._sample]
        self.tell(f"choosing a pretrained network by {len(self._sample):,} of {len(labels):,} training images")
        tried: list[Tried] = []
        started, allowed = time.monotonic(), 60 * (self.settings.minutes or math.inf)
        for views in self._candidates(tried):
            self.deadline.check("choosing a pretrained network")
            one = self._cost(views)
            if one.seconds > allowed or time.monotonic() - started > allowed:
                self.tell(f"{one}  left out, as it would take {one.seconds:,.0f} s")
            else:
                one = self._try(views, one)
                self.tell(
                    f"{one}  held out: loss {one.loss:.4f}  accuracy {one.accuracy:.2%}  {one.seconds:,.0f} s, "
                    f"{one.milliseconds:.1f} ms a picture"
                )
            tried.append(one)
        tried, taken, why = self._judge(tried)
        self.tell(f"standing on {taken}: {why}")
        augmentation: Augmentation = "flips" if taken.mirrored else "none"
        settings = replace(self.settings, backbone=taken.backbone, augmentation=augmentation, chosen_with=len(labels))
        return Choice(settings, why, tuple(tried))

    def _candidates(self, tried: list[Tried]) -> Iterator[Views]:
        """Each network at two sizes, then combinations of what did best; `tried` grows meanwhile."""
        mirrored = self.settings.augmentation == "flips"
        side = int(self.data.image_spec["height"])
        smaller = min(max(round(side * _SMALLER / _STEP) * _STEP, _STEP), side)
        offered: list[Views] = []

        def offer(views: Views) -> Views:
            offered.append(views)
            return views

        for name in available(self.store):
            for embedding in self._at(name, side, smaller):
                yield offer(Views((embedding,), (name,), mirrored))
        by_loss = [offered[place] for place in np.argsort([each.order for each in tried], kind="stable")]
        best_of = {views.names: views for views in reversed(by_loss)}  # the best size of each
        for one, other in combinations(best_of.values(), 2):
            yield offer(_beside(one, other))
        both = [views for views in by_loss if views.names == by_loss[0].names]
        if len(both) > 1:
            yield offer(_beside(*both))
        if self.settings.augmentation == AUTO:
            yield replace(offered[int(np.argmin([each.order for each in tried]))], mirrored=True)

    def _at(self, name: str, *sides: int) -> list[Embedding]:
        """How a backbone, which is read once, looks at pictures of about these sides."""
        spec = ImageSpec.from_dict(self.data.image_spec)
        embedding = embedding_of(self.store, spec, name, None, self.settings, self.device, self.tell)
        looks = dict.fromkeys(embedding.architecture.looks_at(side, side)[0] for side in sides)
        return [replace(embedding, side=side) for side in looks]

    def _try(self, views: Views, cost: Tried) -> Tried:
        from tasks.vision.heads import cross_validate_head

        found = cross_validate_head(
            views.embed(self.store, self._images),
            self._labels,
            len(self.data.classes),
            widths=views.widths,
            first=np.arange(len(self._labels)),
            balanced=self.settings.class_weights == "balanced",
            seed=self.settings.seed,
        )
        chosen = found.chosen
        self._losses[str(cost)] = found.losses[found.folds >= 0]
        return replace(cost, loss=chosen.loss, loss_error=chosen.loss_error, accuracy=chosen.accuracy)

    def _cost(self, views: Views) -> Tried:
        """What it costs to embed by these views, as it was when each of them was asked for first."""
        costs = [self._cost_of(embedding, mirrored) for embedding, mirrored in views.looks]
        seconds = sum(missing * pace for missing, pace in costs)
        return Tried(views.backbone, views.mirrored, seconds, 1e3 * sum(pace for _, pace in costs))

    def _cost_of(self, embedding: Embedding, mirrored: bool) -> tuple[int, float]:
        """How many pictures are not on record, and how many seconds one takes."""
        key = f"{embedding.backbone.ref} {embedding.looks_at}", mirrored
        if key not in self._costs:
            with embedding.kept(self.store.disk, mirrored) as features:
                missing = sum(content not in features for content in self._contents)
            self._costs[key] = missing, embedding.embedder.seconds_a_picture(self._images.shape[1:])
        return self._costs[key]

    def _judge(self, tried: list[Tried]) -> tuple[list[Tried], Tried, str]:
        """The quickest for a picture, of those whose loss is within a standard error of the least."""
        sound = [each for each in tried if each.loss is not None]
        if not sound:
            quickest = min(tried, key=lambda each: each.seconds)
            return tried, quickest, f"the quickest, as all take over {self.settings.minutes} minutes"
        if not len(self._losses[str(sound[0])]):
            beside = [each for each in sound if "+" in each.backbone] or sound
            return tried, beside[0], "no class has two pictures to tell by"
        best = min(sound, key=lambda each: each.order)
        tried = [self._behind(each, best) for each in tried]
        near = [each for each in tried if each.behind is not None and each.behind <= (each.behind_error or 0)]
        quickest = min(near, key=lambda each: each.milliseconds)
        if quickest.milliseconds < best.milliseconds:
            return tried, quickest, f"the quickest within a standard error of {best}"
        return tried, best, "the least loss"

    def _behind(self, tried: Tried, best: Tried) -> Tried:
        if tried.loss is None:
            return tried
        more = self._losses[str(tried)] - self._losses[str(best)]
        return replace(tried, behind=float(more.mean()), behind_error=float(more.std() / np.sqrt(len(more))))


def _beside(one: Views, other: Views) -> Views:
    return Views(one.embeddings + other.embeddings, one.names + other.names, one.mirrored)


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
