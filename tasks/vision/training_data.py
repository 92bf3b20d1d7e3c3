"""Images and labels as a training takes them: checked, and divided into what it learns from and what it holds out.

Plain NumPy.
"""

from collections.abc import Sequence

import numpy as np

from tasks.vision.errors import SettingsError
from tasks.vision.recipes import TrainingSettings

_HELD_OUT = 1 << 32  # beside the epochs' numbers, so that the split has seeds of its own


def check_arrays(images: np.ndarray, labels: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The same images without gaps in memory, and the labels as an array.

    images: uint8 [items, *shape], of the network's size.
    labels: whole numbers of any width [items], also as a list.

    Raises SettingsError when dtypes or shapes are others.
    """
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise SettingsError(
            f"expected images of uint8 [items, {', '.join(map(str, shape))}], found {images.dtype} "
            f"{list(images.shape)}; 0 to 255, not 0 to 1"
        )
    labels = np.asarray(labels)
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise SettingsError(f"expected {len(images)} labels of int32, found {labels.dtype} {list(labels.shape)}")
    return np.ascontiguousarray(images), labels


def check_labels(labels: np.ndarray, names: Sequence[str]) -> None:
    """Check that there is something to tell apart.

    labels: whole numbers [items].
    names: the classes, in the order of the labels.

    Raises SettingsError unless there are two classes or more, each with an example, and no label beyond them.
    """
    if len(names) < 2:
        raise SettingsError(f"expected two classes or more to tell apart, found {len(names)}: {', '.join(names)}")
    if len(labels) and (labels.min() < 0 or labels.max() >= len(names)):
        raise SettingsError(f"expected labels from 0 to {len(names) - 1}, found {labels.min()} to {labels.max()}")
    counts = np.bincount(labels, minlength=len(names))
    if missing := [name for name, count in zip(names, counts, strict=True) if not count]:
        raise SettingsError(f"expected training images of every class, found none of {', '.join(missing)}; add some")


def hold_out(labels: np.ndarray, share: float, seed: int, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide the items into those to learn from and those held out; returns their indices, int64, ascending.

    labels: int32 [items].
    share: how much of each class is held out at most, 0 to 0.5; rounded to whole items.
    seed: decides which items of a class are held out.
    first: int64 [items], for each item the first one with the same content (`duplicates.firsts`).

    Copies stay together, so nothing that is held out is learned from. Only the first copy of a held-out content is in
    the second result. A content with more copies than still fit the share is learned from. The same arguments give the
    same split.
    """
    copies = np.bincount(first, minlength=len(labels))
    contents = np.flatnonzero(copies)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels) if share else ():
        left = round(share * np.count_nonzero(labels == label))
        candidates = contents[labels[contents] == label]
        for content in np.random.default_rng([seed, _HELD_OUT, int(label)]).permutation(candidates):
            if copies[content] <= left:
                held_out[content] = True
                left -= copies[content]
            if not left:
                break
    return np.flatnonzero(~held_out[first]), np.flatnonzero(held_out)


def check_sizes(settings: TrainingSettings, learned_from: int, held_out: int) -> None:
    """Raises SettingsError when a batch is larger than all items, or when nothing is held out to be patient by.

    learned_from, held_out: numbers of items.
    """
    if settings.batch_size > learned_from:
        raise SettingsError(
            f"expected a batch_size of at most the {learned_from} training items, found {settings.batch_size}; with "
            "few images 32 or less learns more"
        )
    if settings.patience and not held_out:
        raise SettingsError(
            f"expected a validation share that holds out an image of some class, found {settings.validation:g} of "
            f"{learned_from} images, which is none of any (copies of an image stay together); raise it, or add images"
        )


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """float32 [classes], so that all classes count the same and the mean over all items is 1. A class that is held out
    as a whole has none.

    labels: int32 [items], of what is learned from.
    """
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)
