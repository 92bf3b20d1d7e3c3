"""The stage that decodes and scores a plan's shards. A finished shard leaves a record, and is not done again."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from prefect import get_run_logger, task

from artifacts.predictions import PASSING_ERRORS
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.shards import Part, Shards
from artifacts.store import Store
from tasks.plan import Plan, load_plan
from tasks.reports.progress import PicturesProgress, report_key
from tasks.scoring.earlier import Earlier
from tasks.scoring.job import Job, Outcome, make_job
from tasks.scoring.rows import Shard, counts, table_of
from tasks.shared import model
from tasks.shared.deadline import Deadline
from tasks.shared.listing import FolderError, FolderLost, is_at, open_folder, to_text, why_unreadable
from tasks.shared.retries import RETRIES
from tasks.vision.decoding import DecoderPool, Files, Pictures, default_processes, files_a_request
from tasks.vision.images import ImageSpec

_HELD_BYTES = 64 << 20  # pixels that may wait for TensorFlow's import
_LOST_IN_A_ROW = 100  # files: one after another, they are no longer failures of their own


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


OnRows = Callable[[int, int, int], None]
"""Called with how many more rows are done, how many of them are errors, and how many were reused."""


def predict_plan(
    store: Store, settings: Settings, job: Job, plan: Plan, *, fresh: bool = False, on_rows: OnRows = lambda *_: None
) -> Outcome:
    """Finish every shard of `plan`: by its record, by copying rows scored before, or by scoring.

    A `fresh` scoring takes over only what it had finished itself before it was interrupted.

    Raises FolderError when the folder is another one than was listed, and FolderLost when its files can't be read any
    more, one after another.
    """
    started = time.perf_counter()
    if job.where != plan.where:
        raise _moved(job.folder, plan.where)
    shards = Shards(store.disk)
    mark = shards.begin_fresh(job.fresh) if fresh else None
    digests = [job.digest(entries) for entries in plan.digests]
    done: dict[int, Part] = {}
    for shard, each in enumerate(digests):
        part = shards.finished(job.record(each), mark)
        if part and not any(kind in PASSING_ERRORS for kind in part.errors):
            done[shard] = part
            on_rows(part.rows, sum(part.errors.values()), part.rows)
    outcome = Outcome([], reused=sum(part.rows for part in done.values()))
    missing = [shard for shard in range(len(digests)) if shard not in done]
    if missing:
        earlier = Earlier(store, job, fresh)
        wanted = (Shard(shard, digests[shard], plan, earlier, job.spec) for shard in missing)
        for shard, part, reused, outcome.waited in _score(store, settings, job, wanted, mark, on_rows):
            done[shard] = part
            outcome.predicted += part.rows - reused
            outcome.reused += reused
    outcome.parts = [done[shard] for shard in range(len(digests))]
    outcome.seconds = time.perf_counter() - started - outcome.waited
    return outcome


def _score(
    store: Store, settings: Settings, job: Job, shards: Iterator[Shard], mark: str | None, on_rows: OnRows
) -> Iterator[tuple[int, Part, int, float]]:
    """Score shards in order; yields (shard, part, rows reused, seconds spent waiting for TensorFlow alone)."""
    requests = (request for shard in shards for request in shard.requests())
    asked: deque[tuple[Shard, np.ndarray]] = deque()

    def files() -> Iterator[Files]:
        for shard, items, wanted in requests:
            asked.append((shard, items))
            yield wanted

    folder = _open_again(settings, job)
    losses = _Losses(settings, job.folder)
    writing: deque[tuple[Shard, Future[Part]]] = deque()
    processes = settings.decoders or default_processes()
    try:
        with (
            DecoderPool(folder, job.spec, job.limits, settings.max_image_seconds, processes) as pool,
            ThreadPoolExecutor(1) as writer,
            ThreadPoolExecutor(1) as importer,
        ):
            ready = importer.submit(_load, store, job)
            waited = 0.0
            current: Shard | None = None
            for pictures in _held(pool.decode(files()), ready, job.spec):
                if not waited:
                    began = time.perf_counter()
                    predictor = ready.result()
                    waited = max(time.perf_counter() - began, 1e-9)
                shard, items = asked.popleft()
                losses.look([shard.paths[item] for item in items], pictures)
                if current not in (None, shard):
                    writing.append((current, writer.submit(_finish, store, job, current, mark)))
                current = shard
                shard.take(items, pictures, predictor.predict(pictures.pixels))
                on_rows(len(items), len(pictures.errors), 0)
                while writing and (writing[0][1].done() or len(writing) > 1):
                    yield _written(writing.popleft(), on_rows, waited)
            if current is not None:
                writing.append((current, writer.submit(_finish, store, job, current, mark)))
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
    most = max(1, _HELD_BYTES // (files_a_request(spec) * spec.height * spec.width * spec.channels))
    held: deque[Pictures] = deque()
    for pictures in decoded:
        held.append(pictures)
        while held and (ready.done() or len(held) > most):
            yield held.popleft()
    yield from held


def _written(written: tuple[Shard, "Future[Part]"], on_rows: OnRows, waited: float) -> tuple[int, Part, int, float]:
    shard, future = written
    part = future.result()
    reused = int((shard.kept >= 0).sum())
    on_rows(len(shard.paths) - len(shard.wanted), len(shard.odd), reused)
    return shard.number, part, reused, waited


def _finish(store: Store, job: Job, shard: Shard, mark: str | None) -> Part:
    """Write a shard's part, and its record. Whoever wrote a record first wins; the other one's part is dropped."""
    table = table_of(job, shard)
    shards = Shards(store.disk)
    with store.disk.scratch() as scratch:
        path = scratch / "part.parquet"
        pq.write_table(table, path, compression="zstd")
        key, sha256 = shards.create(path)
    first = to_text(shard.paths[0])
    part = Part(key, sha256, shard.digest, first, len(table), counts(table, "label"), counts(table, "error"))
    return shards.record(job.record(shard.digest), part, mark)


def _open_again(settings: Settings, job: Job) -> int:
    """A descriptor of the folder, which was listed before. Raises FolderLost when it is not there any more, and
    FolderError when another one is."""
    try:
        folder = open_folder(settings, job.folder)
    except FolderError as error:
        raise FolderLost(f"{error}; it was there when it was listed") from None
    if not is_at(folder, job.where):
        os.close(folder)
        raise _moved(job.folder, job.where)
    return folder


def _moved(folder: str, where: str) -> FolderError:
    return FolderError(
        f"expected {folder} to be {where}, as when it was listed, found another folder: a link on the way was moved; "
        "run it again"
    )


class _Losses:
    """Tells a folder that went away (a mount that vanished, a server that is gone) from files that did: by a number of
    files in a row that can't be read, for a reason that may pass."""

    def __init__(self, settings: Settings, folder: str) -> None:
        self._settings, self._folder = settings, folder
        self._in_a_row = 0

    def look(self, paths: Sequence[bytes], pictures: Pictures) -> None:
        """Look at what became of some files, in order. Raises FolderLost."""
        for place, path in enumerate(paths):
            lost = pictures.errors.get(place, ("", ""))[0] in ("missing", "unreadable")
            self._in_a_row = self._in_a_row + 1 if lost else 0
            if self._in_a_row < _LOST_IN_A_ROW:
                continue
            self._in_a_row = 0
            reason = why_unreadable(self._settings, self._folder, path)
            if not isinstance(reason, PermissionError):  # permissions are a matter of each file, and don't pass
                raise FolderLost(
                    f"expected the files of {self._folder} as they were listed, found {_LOST_IN_A_ROW} in a row that "
                    f"can't be read, the last one {to_text(path)} ({reason.strerror if reason else 'it can now'}): the "
                    "disk or its mount went away; run it again when it is back, what is finished stays"
                ) from reason
