"""Datasets: uncompressed Arrow files of labelled images, memory-mapped and zero-copy into NumPy."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from artifacts.documents import canonical
from artifacts.errors import Corrupt
from artifacts.refs import Ref
from artifacts.store import Artifact, Store

_CHECKS = "checks.json"


@dataclass(frozen=True)
class Split:
    """One side of a dataset.

    images: uint8 [items, height, width, channels], 0-255; labels: int32 [items], an index into the classes;
    sources: [items], where each image came from; sha256: [items], hex, of the files' bytes, None where images are not
    files of their own.
    """

    images: np.ndarray
    labels: np.ndarray
    sources: Sequence[str]
    sha256: Sequence[str] | None = None


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

    @cached_property
    def train(self) -> Split:
        return self._split("train.arrow")

    @cached_property
    def test(self) -> Split:
        return self._split("test.arrow")

    def _split(self, file: str) -> Split:
        path = self.artifact.path(file)
        try:
            batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
            return Split(
                images=batch.column("image").to_numpy_ndarray(),
                labels=batch.column("label").to_numpy(zero_copy_only=True),
                sources=batch.column("source"),
                sha256=batch.column("sha256") if "sha256" in batch.schema.names else None,
            )
        except (pa.ArrowInvalid, KeyError) as error:
            raise Corrupt(f"{path} is no dataset of this Lookbook: {error}") from None


def save(
    store: Store,
    name: str,
    *,
    train: Split,
    test: Split,
    classes: Sequence[str],
    image_spec: Mapping[str, Any],
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any],
    made: Mapping[str, Any],
    bad: Mapping[str, str] | None = None,
    findings: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
) -> Ref:
    """Publish a dataset; `inputs` names what it was made from, with its SHA-256, and `bad` the files that could not be
    used: path -> why. `findings` is asked when the files are written, before they are published;
    what it gives may compare with the version before, and is no part of the identity."""
    store.prepare()
    splits = {"train": train, "test": test}
    with store.disk.scratch() as folder:
        for side, split in splits.items():
            _write(split, str(folder / f"{side}.arrow"))
        counts = {side: _counts(split, classes) for side, split in splits.items()}
        return store.publish(
            "datasets",
            name,
            {f"{side}.arrow": folder / f"{side}.arrow" for side in splits},
            settings=settings,
            inputs=inputs,
            facts={"classes": list(classes), "image_spec": dict(image_spec), "counts": counts, **_told(bad)},
            rendered=lambda: {_CHECKS: canonical(list(findings()))},
            made=made,
        )


def load(store: Store, ref: Ref) -> Dataset:
    """Open a dataset. Raises NotFound and Corrupt; the images' bytes are checked when they are asked for."""
    return Dataset(store.open(ref))


def _told(bad: Mapping[str, str] | None) -> dict[str, Any]:
    return {} if bad is None else {"bad": dict(bad)}


def _write(split: Split, path: str) -> None:
    columns: dict[str, pa.Array] = {
        "image": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(split.images)),
        "label": pa.array(split.labels, pa.int32()),
        "source": pa.array(split.sources, pa.string()),
    }
    if split.sha256 is not None:
        columns["sha256"] = pa.array(split.sha256, pa.string())
    batch = pa.RecordBatch.from_pydict(columns)
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _counts(split: Split, classes: Sequence[str]) -> dict[str, Any]:
    per_class = np.bincount(split.labels, minlength=len(classes)).tolist()
    return {"items": len(split.labels), "per_class": dict(zip(classes, per_class, strict=True))}
