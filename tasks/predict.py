"""The stage that decodes and scores a plan's shards. A finished shard leaves a record, and is not done again."""

import hashlib
import os
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from prefect import get_run_logger, task

from artifacts import aliases, predictions, weights
from artifacts.documents import digest, seal, unseal
from artifacts.errors import AlreadyExists, Corrupt, LookbookError, NotFound
from artifacts.predictions import PASSING_ERRORS, Part
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks import model
from tasks.deadline import Deadline
from tasks.listing import open_folder, to_bytes, to_text
from tasks.plan import Plan, load_plan
from tasks.reports.progress import PicturesProgress, report_key
from tasks.retries import RETRIES
from tasks.vision.decoding import CHUNK, DecoderPool, Files, Pictures, cut
from tasks.vision.images import ImageSpec, Limits
from tasks.vision.metrics import MISTAKES_TO_FIT

SCORING = 1  # raise it when the same picture and weights give another row: earlier shards are then scored anew
_HELD_BYTES = 64 << 20  # pixels that may wait for TensorFlow's import


class NotCalibrated(LookbookError):
    """Weights without a temperature, where calibrated probabilities are wanted."""


@dataclass(frozen=True)
class Job:
    """What a run scores, and how. All of it but the folder and the name decides the rows.

    temperature: what logits are divided by, None for probabilities as the network gives them.
    """

    folder: str
    name: str
    weights: Ref
    dataset: str
    classes: list[str]
    spec: ImageSpec
    limits: Limits
    temperature: float | None

    @property
    def settings(self) -> dict[str, Any]:
        """What a table of predictions says of how it was made, beside weights and ImageSpec."""
        calibrated = {} if self.temperature is None else {"temperature": self.temperature}
        return {"limits": asdict(self.limits), "scoring": SCORING, **calibrated}

    def digest(self, entries: str) -> str:
        """The digest of a shard: of its entries, and of everything else that its rows depend on."""
        spec = self.spec.to_dict()
        return digest({"entries": entries, "weights": str(self.weights), "image_spec": spec, **self.settings})

    def schema(self) -> pa.Schema:
        return predictions.schema(self.weights, self.dataset, self.classes, self.spec.to_dict(), self.temperature)


@dataclass
class Outcome:
    """parts: one a shard, in order; predicted and reused: rows; seconds: of the stage, without `waited`, the seconds in
    which all the rest waited for TensorFlow's import."""

    parts: list[Part]
    predicted: int = 0
    reused: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@task(
    name="predict shards",
    description="Decode and score what was not scored before; a shard at a time is written down.",
    persist_result=False,
    **RETRIES,
)
def predict(
    plan: str,
    folder: str,
    name: str,
    weights: str,
    invert: bool,
    calibrated: bool,
    fresh: bool,
    deadline: Deadline,
) -> dict[str, Any]:
    """The parts of the table (Part as dicts), and how many rows were predicted and reused."""
    settings = Settings()
    store = Store(settings.store)
    job = make_job(store, settings, folder, name, Ref.parse(weights), invert, calibrated)
    found = load_plan(store.disk, plan)
    with PicturesProgress("scoring", found.rows, report_key("score", name, "progress")) as progress:

        def on_rows(rows: int, errors: int, reused: int) -> None:
            progress(rows, errors, reused)
            deadline.check(f"scoring {folder}")

        outcome = predict_plan(store, settings, job, found, fresh=fresh, on_rows=on_rows)
    get_run_logger().info("%s rows predicted, %s reused", f"{outcome.predicted:,}", f"{outcome.reused:,}")
    return asdict(outcome)


def make_job(
    store: Store, settings: Settings, folder: str, name: str, ref: Ref, invert: bool = False, calibrated: bool = False
) -> Job:
    """What to score with published weights; `calibrated` by their temperature.

    Raises NotFound, Corrupt, and NotCalibrated for weights that have none.
    """
    published = weights.load(store, ref)
    spec = ImageSpec.from_dict({**published.image_spec, "invert": invert})
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    dataset = published.artifact.identity["inputs"]["dataset"]
    if calibrated and published.temperature is None:
        raise NotCalibrated(
            f"expected weights with a temperature, fitted on held-out images; {ref} has none: retrain with a "
            f"validation share (--validation 0.1) in which it makes {MISTAKES_TO_FIT} mistakes at least, or score "
            "without calibration"
        )
    temperature = published.temperature if calibrated else None
    return Job(folder, name, ref, dataset, published.classes, spec, limits, temperature)


OnRows = Callable[[int, int, int], None]
"""Called with how many more rows are done, how many of them are errors, and how many were reused."""


def predict_plan(
    store: Store, settings: Settings, job: Job, plan: Plan, *, fresh: bool = False, on_rows: OnRows = lambda *_: None
) -> Outcome:
    """Finish every shard of `plan`: by its record, by copying rows scored before, or by scoring."""
    started = time.perf_counter()
    digests = [job.digest(entries) for entries in plan.digests]
    done: dict[int, Part] = {}
    if not fresh:
        for shard, each in enumerate(digests):
            if (part := _finished(store, each)) and not _may_pass(part):
                done[shard] = part
                on_rows(part.rows, sum(part.errors.values()), part.rows)
    outcome = Outcome([], reused=sum(part.rows for part in done.values()))
    missing = [shard for shard in range(len(digests)) if shard not in done]
    if missing:
        earlier = _Earlier(store, job, fresh)
        shards = (_Shard(shard, digests[shard], plan, earlier) for shard in missing)
        for shard, part, reused, outcome.waited in _score(store, settings, job, shards, on_rows):
            done[shard] = part
            outcome.predicted += part.rows - reused
            outcome.reused += reused
    outcome.parts = [done[shard] for shard in range(len(digests))]
    outcome.seconds = time.perf_counter() - started - outcome.waited
    return outcome


class _Shard:
    """One shard while it is worked on: its entries, the rows that stay, and the rows that come."""

    def __init__(self, number: int, shard_digest: str, plan: Plan, earlier: "_Earlier") -> None:
        self.number, self.digest, self._plan, self._earlier = number, shard_digest, plan, earlier

    def open(self) -> None:
        """Read the entries, and find out which have rows already."""
        entries = self._plan.entries(self.number)
        self.paths: list[bytes] = entries.column("path").to_pylist()
        self.sizes = entries.column("bytes").to_numpy()
        self.mtimes = entries.column("mtime_ns").to_numpy()
        found = self._earlier.rows(self.digest, self.paths, self.sizes, self.mtimes)
        self.table, self.kept, self.known, self.touched = found
        regular = entries.column("regular").to_numpy(zero_copy_only=False)
        self.kept[~regular] = -1
        rows = len(self.paths)
        self.odd = np.flatnonzero(~regular & (self.kept < 0))
        self.wanted = np.flatnonzero(regular & (self.kept < 0))
        self.sha256: list[str | None] = [None] * rows
        self.width, self.height = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        self.errors: dict[int, tuple[str, str]] = dict.fromkeys(
            self.odd.tolist(), ("unsupported", "the entry is no regular file but a link, a pipe or a device")
        )
        self.probabilities: np.ndarray | None = None

    def requests(self) -> Iterator[tuple["_Shard", np.ndarray, Files]]:
        """The files to decode, a chunk at a time."""
        self.open()
        for items in cut(self.wanted, self.sizes):
            known = {place: self.known[item] for place, item in enumerate(items.tolist()) if item in self.known}
            sizes, mtimes = self.sizes[items].tolist(), self.mtimes[items].tolist()
            yield self, items, Files([self.paths[item] for item in items], sizes, mtimes, known)

    def take(self, items: np.ndarray, pictures: Pictures, probabilities: np.ndarray) -> None:
        """Note what became of a chunk."""
        if self.probabilities is None:
            self.probabilities = np.zeros((len(self.paths), probabilities.shape[1]), np.float32)
        self.probabilities[items] = probabilities
        self.width[items], self.height[items] = pictures.width, pictures.height
        for item, sha256 in zip(items.tolist(), pictures.sha256, strict=True):
            self.sha256[item] = sha256
        for place, error in pictures.errors.items():
            self.errors[int(items[place])] = error
        for place in pictures.same:  # touched, not changed: the row stays, but for its time
            self.kept[items[place]] = self.touched[int(items[place])]


class _Earlier:
    """Rows scored before by the same weights in the same way: in this shard's record, or in the newest table."""

    def __init__(self, store: Store, job: Job, fresh: bool) -> None:
        self._store, self._fresh = store, fresh
        self._table: predictions.Predictions | None = None
        self._firsts: list[bytes] = []
        ref = None if fresh else aliases.current(store.disk, "predictions", job.name, "latest")
        if ref is None:
            return
        try:
            found = predictions.load(store, ref)
        except (NotFound, Corrupt):
            return
        identity = found.artifact.identity
        theirs = (identity["inputs"]["weights"], found.artifact.facts["image_spec"], identity["settings"])
        if theirs == (str(job.weights), job.spec.to_dict(), job.settings):
            self._table = found
            self._firsts = [to_bytes(part["first"]) for part in found.parts]

    def rows(
        self, shard: str, paths: list[bytes], sizes: np.ndarray, mtimes: np.ndarray
    ) -> tuple[pa.Table | None, np.ndarray, dict[int, str], dict[int, int]]:
        """A table, and for each path the row in it that stays (-1: none).

        Where only the time differs, the content decides: item -> its SHA-256 then, and item -> its row.
        """
        kept = np.full(len(paths), -1, np.int64)
        known: dict[int, str] = {}
        touched: dict[int, int] = {}
        parts = [
            index
            for index, first in enumerate(self._firsts)
            if first <= paths[-1] and (index + 1 == len(self._firsts) or self._firsts[index + 1] > paths[0])
        ]
        try:
            if recorded := None if self._fresh else _finished(self._store, shard):  # with rows that may go better now
                table = pq.read_table(self._store.disk.local_path(recorded.key))
            elif self._table and parts:
                table = pa.concat_tables([self._table.read(index) for index in parts])
            else:
                return None, kept, known, touched
        except (NotFound, Corrupt):
            return None, kept, known, touched
        rows = {path: row for row, path in enumerate(table.column("path").to_pylist())}
        before = {name: table.column(name).to_numpy() for name in ("bytes", "mtime_ns")}
        errors = table.column("error").cast(pa.string()).to_pylist()
        sha256 = table.column("sha256").to_pylist()
        for item, path in enumerate(paths):
            row = rows.get(to_text(path), -1)
            if row < 0 or errors[row] in PASSING_ERRORS or before["bytes"][row] != sizes[item]:
                continue
            if before["mtime_ns"][row] == mtimes[item]:
                kept[item] = row
            elif sha256[row]:
                known[item] = sha256[row]
                touched[item] = row
        return table, kept, known, touched


def _score(
    store: Store, settings: Settings, job: Job, shards: Iterator[_Shard], on_rows: OnRows
) -> Iterator[tuple[int, Part, int, float]]:
    """Score shards in order; yields (shard, part, rows reused, seconds spent waiting for TensorFlow alone)."""
    requests = (request for shard in shards for request in shard.requests())
    asked: deque[tuple[_Shard, np.ndarray]] = deque()

    def files() -> Iterator[Files]:
        for shard, items, wanted in requests:
            asked.append((shard, items))
            yield wanted

    folder = open_folder(settings, job.folder)
    writing: deque[tuple[_Shard, Future[Part]]] = deque()
    processes = settings.decoders or os.cpu_count() or 1
    try:
        with (
            DecoderPool(folder, job.spec, job.limits, settings.max_image_seconds, processes) as pool,
            ThreadPoolExecutor(1) as writer,
            ThreadPoolExecutor(1) as importer,
        ):
            ready = importer.submit(_load, store, job)
            waited = 0.0
            current: _Shard | None = None
            for pictures in _held(pool.decode(files()), ready, job.spec):
                if not waited:
                    began = time.perf_counter()
                    predictor = ready.result()
                    waited = max(time.perf_counter() - began, 1e-9)
                shard, items = asked.popleft()
                if current not in (None, shard):
                    writing.append((current, writer.submit(_finish, store, job, current)))
                current = shard
                shard.take(items, pictures, predictor.predict(pictures.pixels))
                on_rows(len(items), len(pictures.errors), 0)
                while writing and (writing[0][1].done() or len(writing) > 1):
                    yield _written(writing.popleft(), on_rows, waited)
            if current is not None:
                writing.append((current, writer.submit(_finish, store, job, current)))
            while writing:
                yield _written(writing.popleft(), on_rows, waited)
    finally:
        os.close(folder)


def _load(store: Store, job: Job) -> model.Model:
    """Import TensorFlow and load the model, while the main thread feeds the decoders.

    An import holds the interpreter for 5 ms whenever it may; taking it back in 0.5 ms keeps the decoders fed: 70,000
    files in 4.0 s instead of 5.1 s, import included (2-core AMD EPYC).
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        return model.load(store, job.weights, job.temperature)
    finally:
        sys.setswitchinterval(before)


def _held(decoded: Iterator[Pictures], ready: "Future[Any]", spec: ImageSpec) -> Iterator[Pictures]:
    """Decode ahead while TensorFlow is imported in another thread, as far as memory allows."""
    most = max(1, _HELD_BYTES // (CHUNK * spec.height * spec.width * spec.channels))
    held: deque[Pictures] = deque()
    for pictures in decoded:
        held.append(pictures)
        while held and (ready.done() or len(held) > most):
            yield held.popleft()
    yield from held


def _written(written: tuple[_Shard, "Future[Part]"], on_rows: OnRows, waited: float) -> tuple[int, Part, int, float]:
    shard, future = written
    part = future.result()
    reused = int((shard.kept >= 0).sum())
    on_rows(len(shard.paths) - len(shard.wanted), len(shard.odd), reused)
    return shard.number, part, reused, waited


def _finish(store: Store, job: Job, shard: _Shard) -> Part:
    """Write a shard's part, and its record. Whoever wrote a record first wins; the other one's part is dropped."""
    table = _table(job, shard)
    with store.disk.scratch() as scratch:
        path = scratch / "part.parquet"
        pq.write_table(table, path, compression="zstd")
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        key = f"staging/parts/{uuid.uuid4().hex}.parquet"
        store.disk.create(key, path)
    part = Part(
        key, sha256, shard.digest, to_text(shard.paths[0]), len(table), _counts(table, "label"), _counts(table, "error")
    )
    return _record(store, part)


def _table(job: Job, shard: _Shard) -> pa.Table:
    schema = job.schema()
    rows = len(shard.paths)
    fine = np.ones(rows, bool)
    if shard.errors:
        fine[list(shard.errors)] = False
    missing = pa.array(~fine)
    probabilities = shard.probabilities if shard.probabilities is not None else np.zeros((rows, len(job.classes)), "f4")
    errors = [shard.errors.get(row, (None, None)) for row in range(rows)]
    best = probabilities.argmax(axis=1).astype(np.int32)
    labels = pa.DictionaryArray.from_arrays(pa.array(best, mask=~fine), pa.array(job.classes))
    columns: list[Any] = [
        pa.array([to_text(path) for path in shard.paths]),
        pa.array(shard.sha256, pa.string()),
        pa.array(shard.sizes),
        pa.array(shard.mtimes),
        pa.array(shard.width, mask=~fine),
        pa.array(shard.height, mask=~fine),
        labels,
        pa.array(probabilities.max(axis=1), mask=~fine),
        pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), len(job.classes), mask=missing),
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([str(job.weights)])),
        pa.array([kind for kind, _ in errors], pa.string()).dictionary_encode(),
        pa.array([detail for _, detail in errors], pa.string()),
    ]
    table = pa.table(columns, schema=schema)
    kept = np.flatnonzero(shard.kept >= 0)
    if shard.table is None or not len(kept):
        return table
    # Copied rows, put between the others: their path, size and time are the plan's, the rest is as it was.
    both = pa.concat_tables([table, shard.table.cast(schema)]).unify_dictionaries()
    order = np.arange(rows)
    order[kept] = rows + shard.kept[kept]
    merged = both.take(pa.array(order)).combine_chunks()
    for name in ("path", "bytes", "mtime_ns"):
        merged = merged.set_column(schema.get_field_index(name), schema.field(name), table.column(name))
    # In the order in which they occur, as in a table scored at once: the same rows are the same bytes.
    error = merged.column("error").cast(pa.string()).combine_chunks().dictionary_encode()
    merged = merged.set_column(schema.get_field_index("error"), schema.field("error"), error)
    for name in ("label", "weights"):
        column = table.column(name).combine_chunks().dictionary
        codes = pa.compute.index_in(merged.column(name).cast(pa.string()).combine_chunks(), value_set=column)
        merged = merged.set_column(
            schema.get_field_index(name), schema.field(name), pa.DictionaryArray.from_arrays(codes, column)
        )
    return merged


def _counts(table: pa.Table, column: str) -> dict[str, int]:
    counted = table.column(column).cast(pa.string()).drop_null().value_counts().to_pylist()
    return {each["values"]: each["counts"] for each in sorted(counted, key=lambda each: each["values"])}


def _record(store: Store, part: Part) -> Part:
    """Put the part on record. An equal part that is there already is taken instead."""
    while True:
        number, last = _last(store, part.digest)
        if last and last.sha256 == part.sha256 and _whole(store, last):
            store.disk.remove(part.key)
            return last
        writer = {"writer": uuid.uuid4().hex}
        try:
            store.disk.create(_record_key(part.digest, number + 1), seal({**asdict(part), **writer}))
        except AlreadyExists:
            continue
        return part


def _finished(store: Store, shard: str) -> Part | None:
    """The shard's part, if it is on record and whole."""
    _, last = _last(store, shard)
    return last if last and _whole(store, last) else None


def _last(store: Store, shard: str) -> tuple[int, Part | None]:
    keys = list(store.disk.list(f"staging/shards/{shard}"))
    if not keys:
        return 0, None
    number = int(keys[-1].rpartition("/")[2].removesuffix(".json"))
    try:
        document = unseal(store.disk.read(keys[-1]), keys[-1])
    except Corrupt:
        return number, None
    del document["writer"]
    return number, Part(**document)


def _whole(store: Store, part: Part) -> bool:
    try:
        with open(store.disk.local_path(part.key), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == part.sha256
    except OSError:
        return False


def _record_key(shard: str, number: int) -> str:
    return f"staging/shards/{shard}/{number:08d}.json"


def _may_pass(part: Part) -> bool:
    return any(kind in PASSING_ERRORS for kind in part.errors)
