"""What is in a store, as retention sees it: versions with their inputs, and what was never published."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from artifacts.dataset import Dataset
from artifacts.disk import spread
from artifacts.documents import canonical
from artifacts.errors import Corrupt, InvalidRef, NotFound
from artifacts.publishing import MANIFEST
from artifacts.refs import KINDS, Ref, refs_of
from artifacts.store import Store

_WRITTEN = (".json", ".arrow", ".safetensors", ".parquet", ".html", ".md", ".png")


@dataclass(frozen=True)
class Learned:
    """What a dataset has by people's labels.

    labels: the name of their log.
    spec: the ImageSpec of its pixels, as canonical JSON.
    pictures: SHA-256 (hex) of the labelled pictures; None where the list of them is damaged.
    problem: what is wrong with it then.
    """

    labels: str
    spec: bytes
    pictures: frozenset[str] | None
    problem: str | None = None


@dataclass(frozen=True)
class Version:
    """A version, or what is left in the folder of one.

    written: when its manifest was written, or else when a file in the folder got its name, in seconds since the epoch,
    by the disk's clock.
    size: bytes of all that is in the folder.
    files: how many there are.
    created: when it was made, in UTC; empty without a manifest.
    inputs: the versions that it was made from.
    problem: what is wrong with the manifest; nothing else is known of it then.
    odd: a file in the folder that is of no kind that Lookbook writes.
    learned: what a dataset has by people's labels; None for one that did not ask for them, and for all else.
    """

    ref: Ref
    published: bool
    written: float
    size: int
    files: int
    created: str = ""
    inputs: tuple[Ref, ...] = ()
    problem: str | None = None
    odd: str | None = None
    learned: Learned | None = None


class Inventory:
    """The versions of a store. A manifest never changes, so looking again reads only those that are new."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Ref, Version] = {}

    def look(self) -> dict[Ref, Version]:
        """All that is there now."""
        found = {each.ref: each for each in self._folders()}
        published = (each for each in found.values() if each.published)
        read = {each.ref: each for each in spread(self._store.disk.at_once, self._read, published) if each}
        self._known = read
        return {**{ref: each for ref, each in found.items() if not each.published}, **read}

    def _folders(self) -> Iterator[Version]:
        """Each folder of a version, with nothing read of it. What is no version's is passed over."""
        for kind in KINDS:
            folders: dict[str, Version] = {}
            for stored in self._store.disk.survey(kind):
                parts = stored.key.split("/", 3)
                if len(parts) < 4:
                    continue
                folder = "/".join(parts[:3])
                if (before := folders.get(folder)) is None:
                    with suppress(InvalidRef):
                        ref = Ref.parse(f"{kind}/{parts[1]}@{parts[2]}")
                        before = folders[folder] = Version(ref, False, 0.0, 0, 0)
                if before is not None:
                    is_manifest = parts[3] == MANIFEST
                    written = before.written
                    if is_manifest:
                        written = stored.written
                    elif not before.published:
                        written = max(written, stored.named)
                    folders[folder] = Version(
                        before.ref,
                        before.published or is_manifest,
                        written,
                        before.size + stored.size,
                        before.files + 1,
                        odd=before.odd if parts[3].endswith(_WRITTEN) else parts[3],
                    )
            yield from folders.values()

    def _read(self, found: Version) -> Version | None:
        """None for one that is removed just now."""
        known = self._known.get(found.ref)
        if known is None or known.problem:
            try:
                artifact = self._store.open(found.ref)
                learned = _learned(Dataset(artifact)) if found.ref.kind == "datasets" else None
            except Corrupt as error:
                return replace(found, problem=str(error))
            except NotFound:
                return None
            inputs = tuple(refs_of(artifact.identity["inputs"].values()))
            created = str(artifact.manifest["provenance"]["created"])
            known = replace(found, created=created, inputs=inputs, learned=learned)
        return replace(known, written=found.written, size=found.size, files=found.files, odd=found.odd)


def _learned(dataset: Dataset) -> Learned | None:
    """Raises NotFound for a dataset that is removed just now."""
    identity = dataset.artifact.identity
    labels = identity["settings"].get("labels")
    if labels is None:
        return None
    spec = canonical(dataset.image_spec)
    try:
        return Learned(str(labels), spec, frozenset(map(sys.intern, dataset.learned)))  # the next version has them, too
    except Corrupt as error:
        return Learned(str(labels), spec, None, str(error))
