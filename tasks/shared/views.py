"""What of a picture a head learns from: the features that backbones make of it, side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from artifacts import backbones, weights
from artifacts.errors import Ambiguous, NotFound
from artifacts.refs import Ref
from artifacts.store import Artifact, Store
from artifacts.weights import Weights
from tasks.shared.backbones import backbone_named
from tasks.shared.embedding import Embedding, embed
from tasks.vision.architecture import Architecture
from tasks.vision.duplicates import contents_of
from tasks.vision.errors import CheckpointError, SettingsError
from tasks.vision.families import architecture_of
from tasks.vision.images import ImageSpec
from tasks.vision.processor import Precision, precision
from tasks.vision.recipes import Device, TrainingSettings

_Of = TypeVar("_Of")


@dataclass(frozen=True)
class Views:
    """The views of a picture.

    embeddings: how each becomes features; these stand side by side in this order.
    names: of their backbones, as `backbone_named` takes them.
    mirrored: whether the features are the mean of those of a picture and of its mirror image.
    """

    embeddings: tuple[Embedding, ...]
    names: tuple[str, ...]
    mirrored: bool = False

    @property
    def backbone(self) -> str:
        """As settings name them: `efficientnet-lite0:288+efficientnet-lite2:224`."""
        sides = [embedding.looks_at[0] for embedding in self.embeddings]
        return "+".join(f"{name}:{side}" for name, side in zip(self.names, sides, strict=True))

    @property
    def widths(self) -> tuple[int, ...]:
        """How many features each view has."""
        return tuple(embedding.width for embedding in self.embeddings)

    @property
    def looks(self) -> list[tuple[Embedding, bool]]:
        """Each embedding, with whether it is of mirror images: all that must be computed of a picture."""
        mirrored = (False, True) if self.mirrored else (False,)
        return [(embedding, each) for embedding in self.embeddings for each in mirrored]

    def embed(self, store: Store, images: np.ndarray, contents: list[bytes] | None = None) -> np.ndarray:
        """The features of pictures: float32 [items, the sum of widths]. Those of each view are kept.

        images: uint8 [items, height, width, channels]; also a memory map: a few batches are read at a time.
        contents: `contents_of` the images, where they are known.

        Raises StoreError when the disk refuses.
        """
        known = contents or contents_of(images)
        return self._joined(lambda embedding, mirrored: embed(store, embedding, images, mirrored, contents=known))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The same, and nothing is kept."""
        return self._joined(lambda embedding, mirrored: embedding.embedder(images, mirrored=mirrored))

    def _joined(self, look: Callable[[Embedding, bool], np.ndarray]) -> np.ndarray:
        return _side_by_side(self.embeddings, look, self.mirrored)


class MovedViews:
    """The views of backbones that fine-tuning has moved. Called with pictures, as Views is: their features are not
    kept. `widths`: how many features each view has.

    backbones: of each view the architecture, and tensors as its `folded` has them.
    spec: the size of the pictures.
    sides: at how many pixels a side each looks at them.
    mirrored: as Views has it.
    precision, place, processors: as Embedder has them.
    """

    def __init__(
        self,
        backbones: Sequence[tuple[Architecture, Mapping[str, np.ndarray]]],
        spec: ImageSpec,
        sides: Sequence[int],
        mirrored: bool,
        precision: Precision,
        place: str,
        processors: int | None = None,
    ) -> None:
        from tasks.vision.backbone import Embedder

        self.widths = tuple(architecture.features for architecture, _ in backbones)
        self._mirrored = mirrored
        self._embedders = [
            Embedder(
                architecture, tensors, precision, place, processors,
                architecture.looks_at(spec.height, spec.width, side),
            )
            for (architecture, tensors), side in zip(backbones, sides, strict=True)
        ]  # fmt: skip

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The features of pictures: float32 [items, the sum of widths].

        images: uint8 [items, height, width, channels].
        """
        return _side_by_side(self._embedders, lambda embedder, mirrored: embedder(images, mirrored), self._mirrored)


def _side_by_side(views: Iterable[_Of], look: Callable[[_Of, bool], np.ndarray], mirrored: bool) -> np.ndarray:
    """What each view makes of the same pictures. look: of a view, and whether mirror images are meant."""
    found = [(look(view, False) + look(view, True)) / 2 if mirrored else look(view, False) for view in views]
    return np.concatenate(found, axis=1)


def parse_backbone(text: str) -> list[tuple[str, int | None]]:
    """The names of backbones, and the sides in pixels at which they look at pictures, None for the pictures' own:
    `efficientnet-lite0+efficientnet-lite2:224`. Raises SettingsError."""
    found: list[tuple[str, int | None]] = []
    for each in text.split("+"):
        name, colon, side = each.strip().partition(":")
        if not name or (colon and not side.isdecimal()):
            raise SettingsError(
                "expected auto, or the name of a backbone like efficientnet-lite0, efficientnet-lite2:224 (pixels), or "
                f"two of them with a +, found {text!r}; `lookbook backbone list` has the names"
            )
        found.append((name, int(side) if colon else None))
    return found


def embedding_of(
    store: Store,
    spec: ImageSpec,
    name: str,
    side: int | None,
    settings: TrainingSettings,
    device: Device,
    tell: Callable[[str], None],
) -> Embedding:
    """How pictures are embedded by the backbone of a name for a new training.

    side: in pixels, at which it looks at them; None for their own.
    tell: hears of a backbone that is taken over.

    Raises CheckpointError, NotFound, Corrupt and DeviceError.
    """
    from tasks.vision import device as devices

    place = devices.choose(device)
    backbone = backbones.load(store, backbone_named(store, name, tell))
    return Embedding(backbone, spec, precision(settings.precision, place), place, side=side)


def named_views(
    store: Store, spec: ImageSpec, text: str, tell: Callable[[str], None] = lambda line: None
) -> tuple[str, list[Ref]]:
    """What a text names, with every side written down, and the ref of each backbone in it. Raises SettingsError,
    CheckpointError, NotFound, Ambiguous, and WeightsError for a side that a backbone can't look at."""
    parts, refs = [], []
    for name, side in parse_backbone(text):
        refs.append(backbone_named(store, name, tell))
        if side is not None and side > spec.height:
            raise SettingsError(
                f"expected a side of at most {spec.height} pixels for {name}, found {side}: the pictures have no more"
            )
        architecture = architecture_of(backbones.architecture_of(store, refs[-1]))
        parts.append(f"{name}:{architecture.looks_at(spec.height, spec.width, side)[0]}")
    return "+".join(parts), refs


def name_of(store: Store, held: Artifact) -> str:
    """What weights stand on, as settings name it: as they were trained, or by refs where such a name means another
    backbone by now. Raises what `named_views` does, but for names that mean none."""
    spec, views = ImageSpec.from_dict(held.facts["image_spec"]), weights.views_of(held)
    named = str(held.identity["settings"]["backbone"])
    with suppress(NotFound, Ambiguous, CheckpointError):
        if named_views(store, spec, named)[1] == [view.backbone for view in views]:
            return named
    return "+".join(f"{view.backbone}:{view.side}" for view in views)


def views_for(
    store: Store, spec: ImageSpec, settings: TrainingSettings, device: Device, tell: Callable[[str], None]
) -> Views:
    """The views that settings name. Raises SettingsError, and what `embedding_of` does."""
    named = parse_backbone(settings.backbone or "")
    embeddings = [embedding_of(store, spec, name, side, settings, device, tell) for name, side in named]
    return Views(tuple(embeddings), tuple(name for name, _ in named), settings.augmentation == "flips")


def views_of(store: Store, published: Weights, spec: ImageSpec, place: str, processors: int | None = None) -> Views:
    """The views that published weights have learned from, of pictures of a size. Raises NotFound and Corrupt.

    processors: how many batches are embedded at once; by default one a processor.
    """
    computed_in = precision(published.precision, place)
    embeddings = [
        Embedding(backbones.load(store, view.backbone), spec, computed_in, place, processors, view.side)
        for view in published.views
    ]
    return Views(tuple(embeddings), tuple(str(view.backbone) for view in published.views), published.mirrored)
