"""Labelled pictures that earlier versions of a dataset have: pixels and sides, whatever became of their files."""

from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from typing import Any

from artifacts.dataset import Dataset, Split
from artifacts.decoded import Place
from artifacts.errors import Corrupt
from artifacts.store import Store
from tasks.preparing.layout import SideName
from tasks.vision.duplicates import contents_of


def learned_before(
    store: Store, name: str, spec: Mapping[str, Any], seed: int, wanted: Set[str]
) -> tuple[dict[str, Place], dict[str | bytes, SideName]]:
    """Where the pixels of pictures are, in versions of the dataset `name` that have the ImageSpec `spec`, the newest
    that has each; and on which side it has them, where the split seed is `seed`. What is used stays for as long as new
    versions do.

    wanted: SHA-256 (hex) of the pictures.
    """
    found: dict[str, Place] = {}
    sides: dict[str | bytes, SideName] = {}
    asked: set[str | None] = set()
    for dataset in _newest_first(store, name, spec) if wanted else ():
        labels = dataset.artifact.identity["settings"].get("labels")
        # The newest, and the newest of a log, may have pictures that were labelled after it was made.
        if (asked and labels in asked) and not _may_have(dataset, wanted - found.keys()):
            continue
        asked |= {None, labels}
        if not store.claim(dataset.artifact.ref):  # it is removed just now, as a newer one has its pictures
            return learned_before(store, name, spec, seed, wanted)
        drawn_alike = dataset.artifact.identity["settings"].get("split_seed") == seed
        for side, split in dataset.whole_sides():
            for place, sha256 in enumerate(map(str, split.sha256 or ())):
                if sha256 in wanted and sha256 not in found:
                    found[sha256] = (split.images, place)
                    if drawn_alike:
                        sides[sha256] = side
        if len(found) == len(wanted):
            break
    return found, sides


def sides_in(dataset: Dataset | None, spec: Mapping[str, Any], seed: int) -> dict[str | bytes, SideName]:
    """The SHA-256 of a file (hex), or of its pixels where these are of the ImageSpec `spec` -> the side on which a
    version has it; nothing where another seed has drawn it. What is on both was tested with."""
    found: dict[str | bytes, SideName] = {}
    if dataset is None or dataset.artifact.identity["settings"].get("split_seed") != seed:
        return found
    sides: tuple[tuple[SideName, Split], ...] = (("train", dataset.train), ("test", dataset.test))
    for name, side in sides:
        found |= dict.fromkeys(map(str, side.sha256 or ()), name)
        if dataset.image_spec == spec:
            found |= dict.fromkeys(contents_of(side.images), name)
    return found


def _newest_first(store: Store, name: str, spec: Mapping[str, Any]) -> Iterator[Dataset]:
    read = [Dataset(artifact) for _, artifact in store.opened("datasets", name) if not isinstance(artifact, Corrupt)]
    read.sort(key=lambda each: str(each.artifact.manifest["provenance"]["created"]), reverse=True)
    return (each for each in read if each.image_spec == spec)


def _may_have(dataset: Dataset, wanted: Set[str]) -> bool:
    """Whether one of the pictures may be in the dataset, by what it says of labels."""
    with suppress(Corrupt):
        return bool(dataset.learned & wanted)
    return True
