"""Datasets: uncompressed Arrow files of labelled images, memory-mapped and zero-copy into NumPy."""

import json
import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import pyarrow as pa

from artifacts.documents import canonical
from artifacts.errors import Corrupt
from artifacts.opening import use
from artifacts.refs import Ref
from artifacts.store import Artifact, Store

_CHECKS = "checks.json"
_LABELS = "labels.json"
_LEARNED = ("confirmed", "corrected", "added", "superseded")  # what became of a label whose file is on a side
LABELLED = "labels:"  # what the source of a picture begins with that people labelled elsewhere
_WRITTEN = 1 << 20  # bytes at a time


class Images(Protocol):
    """Images that are written one after the other: an array of them, or what is still in other places."""

    @property
    def shape(self) -> tuple[int, ...]:
        """items, height, width, channels."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """uint8 [height, width, channels] of each, 0-255."""


@dataclass(frozen=True)
class Side:
    """One side of a dataset that is to be published.

    images: see Images; labels: int32 [items], an index into the classes; sources: [items], where each image came from;
    sha256: [items], hex, of the files' bytes, None where images are not files of their own.
    """

    images: Images
    labels: np.ndarray
    sources: Sequence[str]
    sha256: Sequence[str] | None = None


@dataclass(frozen=True)
class Split(Side):
    """One side of a dataset whose images are an array: uint8 [items, height, width, channels], 0-255."""

    images: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """A published dataset. `train` and `test` are opened, and their bytes checked, when first asked for."""

    artifact: Artifact

    @property
    def classes(self) -> list[str]:
        return list(self.artifact.facts["classes"])

    @property
    def image_spec(self) -> dict[str, Any]:
        return dict(self.artifact.facts["image_spec"])

    @property
    def bad(self) -> dict[str, str]:
        """The files that could not be learned from: path -> why."""
        return dict(self.artifact.facts.get("bad", {}))

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What the checks warned of when it was made: {check, text, examples}. Raises Corrupt."""
        return list(json.loads(self.artifact.read(_CHECKS))) if _CHECKS in self.artifact.files else []

    @property
    def labels(self) -> list[dict[str, Any]]:
        """What became of each label that people gave: {sha256, source, verdict, label, folder_label, predicted,
        confidence, chosen, use}. Raises Corrupt."""
        return list(json.loads(self.artifact.read(_LABELS))) if _LABELS in self.artifact.files else []

    @property
    def learned(self) -> frozenset[str]:
        """SHA-256 (hex) of the files that it has and that people labelled. Raises Corrupt."""
        return frozenset(str(row["sha256"]) for row in self.labels if row["use"] in _LEARNED)

    def check_lists(self) -> None:
        """Raises Corrupt where it can't be read what the checks warned of, or what became of labels."""
        for file in (_CHECKS, _LABELS):
            if file in self.artifact.files:
                self.artifact.check(file)

    def whole_sides(self) -> "Iterator[tuple[Literal['train', 'test'], Split]]":
        """The sides whose bytes are those that were published, with their names."""
        sides: tuple[Literal["train", "test"], ...] = ("train", "test")
        for side in sides:
            with suppress(Corrupt):
                yield side, getattr(self, side)

    @cached_property
    def train(self) -> Split:
        return self._split("train.arrow")

    @cached_property
    def test(self) -> Split:
        return self._split("test.arrow")

    def _split(self, file: str) -> Split:
        try:
            return use(lambda: self.artifact.path(file), _read)
        except (pa.ArrowInvalid, KeyError) as error:
            raise Corrupt(f"{self.artifact.key(file)} is no dataset of this Lookbook: {error}") from None


def save(
    store: Store,
    name: str,
    *,
    train: Side,
    test: Side,
    classes: Sequence[str],
    image_spec: Mapping[str, Any],
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any],
    made: Mapping[str, Any],
    bad: Mapping[str, str] | None = None,
    labels: Sequence[Mapping[str, Any]] | None = None,
    findings: Callable[[Split, Split], Sequence[Mapping[str, Any]]] = lambda train, test: (),
) -> Ref:
    """Publish a dataset. Its images are never in memory together.

    inputs: what it was made from, with its SHA-256; bad: the files that could not be used, path -> why; labels: what
    became of what people said, where that was asked for; findings: is
    asked when both sides are written, which it gets as memory maps, before they are published. What it gives may
    compare with the version before, and is no part of the identity.
    """
    store.prepare()
    sides = {"train": train, "test": test}
    with store.disk.scratch() as folder:
        files = {name: folder / f"{name}.arrow" for name in sides}
        for side, path in files.items():
            _write(sides[side], path)
        said = {} if labels is None else {_LABELS: canonical(list(labels))}
        counts = {side: _counts(given.labels, classes) for side, given in sides.items()}
        ref = store.publish(
            "datasets",
            name,
            {**{path.name: path for path in files.values()}, **said},
            settings=settings,
            inputs=inputs,
            facts={"classes": list(classes), "image_spec": dict(image_spec), "counts": counts, **_left_out(bad)},
            rendered=lambda: {_CHECKS: canonical(list(findings(*map(_read, files.values()))))},
            made=made,
        )
    store.remember(ref)  # not before the scratch is gone: a name less changes a file's times
    return ref


def load(store: Store, ref: Ref) -> Dataset:
    """Open a dataset. Raises NotFound and Corrupt; the images' bytes are checked when they are asked for."""
    return Dataset(store.open(ref))


def _left_out(bad: Mapping[str, str] | None) -> dict[str, Any]:
    return {} if bad is None else {"bad": dict(bad)}


def _read(path: Path) -> Split:
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    return Split(
        images=batch.column("image").to_numpy_ndarray(),
        labels=batch.column("label").to_numpy(zero_copy_only=True),
        sources=batch.column("source"),
        sha256=batch.column("sha256") if "sha256" in batch.schema.names else None,
    )


def _write(side: Side, path: Path) -> None:
    """One record batch of any size: with lengths of 64 bits, which make no difference to one that does not need them.

    Arrow lays out the file for images that are all zero, a mapping that takes no memory as nobody reads it; in their
    place the file gets the images.
    """
    shape = side.images.shape
    size = math.prod(shape)
    zeros = np.frombuffer(mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE, mmap.PROT_READ), np.uint8, size).reshape(shape)
    columns: dict[str, pa.Array] = {
        "image": pa.FixedShapeTensorArray.from_numpy_ndarray(zeros),
        "label": pa.array(side.labels, pa.int32()),
        "source": pa.array(side.sources, pa.string()),
    }
    if side.sha256 is not None:
        columns["sha256"] = pa.array(side.sha256, pa.string())
    batch = pa.RecordBatch.from_pydict(columns)
    with open(path, "wb", _WRITTEN) as file:
        images = _InPlaceOf(zeros, side.images, file)
        options = pa.ipc.IpcWriteOptions(allow_64bit=True)
        with pa.ipc.new_file(pa.PythonFile(images, "w"), batch.schema, options=options) as writer:
            writer.write_batch(batch)
    if images.written != size:
        raise ValueError(f"expected images of {size:,} bytes, found {images.written:,}")


class _InPlaceOf:
    """What Arrow writes to as a file: where it writes the array `zeros`, the `images` are written."""

    closed = False

    def __init__(self, zeros: np.ndarray, images: Images, file: BinaryIO) -> None:
        self._zeros, self._images, self._file = zeros, images, file
        self.written = 0  # bytes of images

    def write(self, content: Any) -> int:
        """content: a buffer of Arrow's, or bytes."""
        if getattr(content, "address", None) != self._zeros.ctypes.data or not self._zeros.size:
            return self._file.write(content)
        for image in self._images:
            self.written += self._file.write(np.ascontiguousarray(image).data)
        return self._zeros.nbytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Arrow closes what it wrote to; whoever opened the file closes that."""


def _counts(labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    per_class = np.bincount(labels, minlength=len(classes)).tolist()
    return {"items": len(labels), "per_class": dict(zip(classes, per_class, strict=True))}
