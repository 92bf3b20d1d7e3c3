"""Predictions: one honest Parquet row an entry of a folder, in parts that later versions may share."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.errors import Corrupt, NotFound
from artifacts.opening import use
from artifacts.publishing import Content, Shared
from artifacts.refs import Ref
from artifacts.shards import Part
from artifacts.store import Artifact, Store

PASSING_ERRORS = ("timeout", "crashed", "unreadable", "missing", "changed")
"""Errors that may be gone next time: their rows are never reused."""

_TEXT = pa.dictionary(pa.int32(), pa.string())
_PROBABILITIES = pa.list_(pa.field("element", pa.float32()))
_ARROW_SCHEMA, _NO_SCHEMA = b"ARROW:schema", b"----- schema"  # in a file's footer, and what is none to a reader
_FOOTER_END = 8  # bytes: the footer's length, and the magic


def schema(
    weights: Ref, dataset: str, classes: Sequence[str], image_spec: Mapping[str, Any], temperature: float | None
) -> pa.Schema:
    """The columns of every part; class order, weights, dataset and ImageSpec are in the metadata, and the temperature
    where probabilities are scaled by one.

    A row's probabilities are as many as there are classes, or null. Their list has no fixed size, as pyarrow 21 to 25
    reads no null of one that has.
    """
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("sha256", pa.string()),
            pa.field("bytes", pa.int64(), nullable=False),
            pa.field("mtime_ns", pa.int64(), nullable=False),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("label", _TEXT),
            pa.field("confidence", pa.float32()),
            pa.field("probabilities", _PROBABILITIES),
            pa.field("weights", _TEXT, nullable=False),
            pa.field("error", _TEXT),
            pa.field("detail", pa.string()),
        ],
        metadata={
            "lookbook.weights": str(weights),
            "lookbook.dataset": dataset,
            "lookbook.classes": json.dumps(list(classes)),
            "lookbook.image_spec": json.dumps(dict(image_spec), sort_keys=True),
            **({} if temperature is None else {"lookbook.temperature": str(temperature)}),
        },
    )


@dataclass(frozen=True)
class Predictions:
    """A published table of predictions."""

    artifact: Artifact

    @property
    def parts(self) -> list[dict[str, Any]]:
        """For each file of `data/`, in order: digest, first, rows, errors."""
        return list(self.artifact.facts["parts"])

    @property
    def folder(self) -> Path | str:
        """The `data/` folder, for other tools. In a bucket it is the version's URL, whose manifest names the parts."""
        folder = self.artifact.folder
        return folder / "data" if isinstance(folder, Path) else folder

    def read(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one part, as `read_part` gives them; its bytes are checked."""
        file = file_name(index)
        return use(lambda: self.artifact.path(file), lambda path: read_part(path, columns))


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a part's file, of this Lookbook or an earlier one, whose probabilities have a list of fixed size: in
    the types of `schema`."""
    try:
        rows = pq.read_table(path, columns=columns)
    except pa.ArrowInvalid:  # pyarrow 21 to 25, and an earlier Lookbook's part
        rows = pq.read_table(_without_arrow_schema(path), columns=columns)
    types = {"label": _TEXT, "weights": _TEXT, "error": _TEXT, "probabilities": _PROBABILITIES}
    fields = [field.with_type(types.get(field.name, field.type)) for field in rows.schema]
    metadata = {name: value for name, value in (rows.schema.metadata or {}).items() if name != _NO_SCHEMA}
    return rows.cast(pa.schema(fields, metadata))


def _without_arrow_schema(path: Path) -> pa.BufferReader:
    """A Parquet file as whoever knows no Arrow reads it: a list has no fixed size then."""
    content = path.read_bytes()
    start = len(content) - _FOOTER_END - int.from_bytes(content[-_FOOTER_END:-4], "little")
    return pa.BufferReader(content[:start] + content[start:].replace(_ARROW_SCHEMA, _NO_SCHEMA))


def file_name(index: int) -> str:
    return f"data/part-{index:05d}.parquet"


def save(
    store: Store,
    name: str,
    *,
    parts: Sequence[Part],
    weights: Ref,
    dataset: str,
    settings: Mapping[str, Any],
    classes: Sequence[str],
    image_spec: Mapping[str, Any],
    report: Mapping[str, Content],
    made: Mapping[str, Any],
    calibration: Mapping[str, Any] | None = None,
) -> Ref:
    """Publish a table out of finished parts, in the order of their paths. Raises Corrupt for a part that changed.

    calibration: by what the temperature was fitted that its probabilities are calibrated by (`weights.save`), None
    where nobody knows.
    """
    return store.publish(
        "predictions",
        name,
        {file_name(index): _checked(store, part) for index, part in enumerate(parts)},
        settings=settings,
        inputs={"weights": str(weights), "dataset": dataset},
        facts={
            "rows": sum(part.rows for part in parts),
            "labels": _sum(part.labels for part in parts),
            "errors": _sum(part.errors for part in parts),
            "classes": list(classes),
            "image_spec": dict(image_spec),
            **({} if calibration is None else {"calibration": dict(calibration)}),
            "parts": [
                {"digest": part.digest, "first": part.first, "rows": part.rows, "errors": part.errors} for part in parts
            ],
        },
        rendered=lambda: report,
        made=made,
    )


def _checked(store: Store, part: Part) -> Shared:
    """The part's file, which publishing does not hash again."""
    with suppress(NotFound):
        found = store.disk.materialize(part.key, part.sha256)
        if found.sha256 == part.sha256:
            return Shared(part.key, part.sha256, found.size)
    raise Corrupt(f"{part.key} is damaged: it is not what was written; run it again, that shard is redone")


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def load(store: Store, ref: Ref) -> Predictions:
    """Open a table of predictions. Raises NotFound and Corrupt."""
    return Predictions(store.open(ref))
