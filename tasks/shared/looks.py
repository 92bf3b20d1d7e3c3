"""What pictures of a scored folder look like to a backbone: features of those that are still what was scored. They are
kept in the store, so a training that learns from such a picture later has them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from artifacts import weights
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.shared.embedding import Embedding, embed
from tasks.shared.folders import opened
from tasks.shared.listing import to_bytes
from tasks.shared.views import views_of
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import Files, cut
from tasks.vision.images import ImageSpec, Limits

_AT_ONCE = 128  # pictures in memory


class Picture(NamedTuple):
    """A row's file as it was scored: path (as in the column), size (bytes), time (ns), SHA-256 (hex)."""

    path: str
    size: int
    mtime_ns: int
    sha256: str


def stands_on_backbone(store: Store, weights_ref: str) -> bool:
    """Whether these weights are there, and stand on a backbone."""
    ref = Ref.parse(weights_ref)
    return store.has(ref) and "backbone" in store.open(ref).identity["inputs"]


def first_look(store: Store, weights_ref: str, spec: ImageSpec, processors: int | None = None) -> Embedding:
    """How the training of these weights embedded its pictures, by its first backbone: for distances one is enough.
    Imports TensorFlow. Raises NotFound and Corrupt."""
    from tasks.vision import device

    published = weights.load(store, Ref.parse(weights_ref))
    return views_of(store, published, spec, device.choose("auto"), processors).embeddings[0]


def features_of(
    store: Store, settings: Settings, folder: str, embedding: Embedding, pictures: Sequence[Picture]
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Places in `pictures`, some at a time, and their features: float32 [places, width]. Pictures that are gone, were
    changed, or can't be decoded have none.

    folder: the text that `opened` takes. Raises FolderError.
    """
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    sizes = np.array([each.size for each in pictures], np.int64)

    def requests() -> Iterator[tuple[np.ndarray, Files]]:
        for start in range(0, len(pictures), _AT_ONCE):
            for items in cut(np.arange(start, min(start + _AT_ONCE, len(pictures))), sizes, embedding.spec):
                paths, lengths, times, _ = zip(*(pictures[item] for item in items), strict=True)
                yield items, Files(list(map(to_bytes, paths)), lengths, times)

    with (
        opened(settings, folder) as top,
        DecoderPool(top.descriptor, embedding.spec, limits, settings.max_image_seconds, 1) as pool,
    ):
        for items, found in top.decode(pool, requests() if pictures else ()):
            sound = [at for at, item in enumerate(items) if found.sha256[at] == pictures[item].sha256]
            sound = [at for at in sound if at not in found.errors]
            if sound:
                yield [int(items[at]) for at in sound], embed(store, embedding, found.pixels[sound])
