"""Pictures -> features of a backbone: those on record are taken over, and the others embedded and put on record."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from artifacts.backbones import Backbone
from artifacts.disk import Disk
from artifacts.features import Features
from artifacts.store import Store
from tasks.shared.watching import OnRows
from tasks.vision.architecture import Architecture
from tasks.vision.duplicates import contents_of
from tasks.vision.families import architecture_of
from tasks.vision.images import ImageSpec
from tasks.vision.processor import Precision, arithmetic

if TYPE_CHECKING:
    from tasks.vision.backbone import Embedder

EMBEDDING = 1  # raise it when the same pixels and backbone give other features: all is then embedded anew


class View(NamedTuple):
    """Pictures of a dataset as they are embedded. side: `train` or `test`; mirrored: whether their mirror images are
    meant."""

    side: str
    mirrored: bool


@dataclass(frozen=True)
class Embedding:
    """How pictures become features.

    backbone: the pretrained network.
    spec: the size of the pictures.
    precision: what it computes in.
    place: the TensorFlow device.
    processors: how many batches are embedded at once; by default one a processor.
    side: to how many pixels a side the pictures are resized for the backbone, a multiple of what its architecture
        wants; by default they are looked at as they are, or as the next smaller size that it can look at.
    """

    backbone: Backbone
    spec: ImageSpec
    precision: Precision
    place: str
    processors: int | None = None
    side: int | None = None

    @cached_property
    def architecture(self) -> Architecture:
        """Raises WeightsError for one that this Lookbook doesn't have."""
        return architecture_of(self.backbone.architecture)

    @property
    def width(self) -> int:
        """How many features a picture has."""
        return self.architecture.features

    @property
    def looks_at(self) -> tuple[int, int]:
        """The height and the width at which the backbone looks at a picture."""
        return self.architecture.looks_at(self.spec.height, self.spec.width, self.side)

    @cached_property
    def embedder(self) -> "Embedder":
        from tasks.vision.backbone import Embedder

        folded = self.architecture.fold(self.backbone.tensors)
        return Embedder(self.architecture, folded, self.precision, self.place, self.processors, self.looks_at)

    def decided_by(self, mirrored: bool) -> dict[str, Any]:
        """What decides features, beside the pixels and but for their last bits."""
        resized = self.looks_at != (self.spec.height, self.spec.width)
        return {
            "backbone": str(self.backbone.ref),
            "image": [self.spec.height, self.spec.width, self.spec.channels],
            "precision": self.precision,
            "view": "mirrored" if mirrored else "plain",
            "embedding": EMBEDDING,
            **({"looks at": list(self.looks_at)} if resized else {}),
        }

    @property
    def computed_by(self) -> dict[str, Any]:
        """What decides the last bits of features that are made here."""
        from tasks.vision import device as devices

        place = self.place if self.place == "/CPU:0" else devices.describe(self.place)
        return {"device": place, **arithmetic()}

    def kept(self, disk: Disk, mirrored: bool, *, earlier: bool = True) -> Features:
        """The features on record that have the bits that this machine gives. earlier: as Features has it."""
        return Features(disk, self.decided_by(mirrored), self.width, computed_by=self.computed_by, earlier=earlier)


def embed(
    store: Store,
    embedding: Embedding,
    images: np.ndarray,
    mirrored: bool = False,
    on_pictures: OnRows = lambda *_: None,
    contents: list[bytes] | None = None,
) -> np.ndarray:
    """The features of pictures: float32 [items, width]. What is not on record is, at the latest ten seconds later.

    images: uint8 [items, height, width, channels]; also a memory map: a few batches are read at a time.
    mirrored: whether their mirror images are meant.
    contents: `contents_of` the images, where they are known.

    Raises StoreError when the disk refuses.
    """
    contents = contents or contents_of(images)
    with embedding.kept(store.disk, mirrored) as features:
        missing = _missing(features, contents)
        on_pictures(len(images) - len(missing), 0, len(images) - len(missing))
        if len(missing):
            for items, found in embedding.embedder.embed(images, missing, mirrored):
                features.add_pictures([contents[item] for item in items], found)
                on_pictures(len(items), 0, 0)
            features.commit()
        gathered = np.empty((len(images), embedding.width), np.float32)
        features.gather(contents, gathered)
    return gathered


def missing_features(store: Store, embedding: Embedding, contents: list[bytes], mirrored: bool) -> np.ndarray:
    """Which of the pictures have no features on record, each content once: int64."""
    with embedding.kept(store.disk, mirrored) as features:
        return _missing(features, contents)


def _missing(features: Features, contents: list[bytes]) -> np.ndarray:
    first = {content: item for item, content in reversed(list(enumerate(contents)))}
    return np.array(sorted(item for content, item in first.items() if content not in features), np.int64)
