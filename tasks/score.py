"""The stage that scores a plan's shards. A finished shard leaves a record, and is not scored again."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from prefect import get_run_logger, task

from artifacts.predictions import PASSING_ERRORS
from artifacts.settings import Settings
from artifacts.shards import Part, Shards
from artifacts.store import Store
from tasks.reports.progress import FolderProgress, report_key
from tasks.scoring.earlier import Earlier
from tasks.scoring.job import Job
from tasks.scoring.losses import Losses, moved, reopened
from tasks.scoring.outcome import Outcome
from tasks.scoring.plans import Plan, load_plan
from tasks.scoring.prediction import ModelBeside, OnRows, predict_shards
from tasks.scoring.rows import Shard, table_of
from tasks.shared.deadline import Deadline
from tasks.shared.retries import RETRIES
from tasks.vision.decoding import DecoderPool, default_processes


@task(
    name="predict shards",
    description="Decode and score what was not scored before; a shard at a time is written down.",
    persist_result=False,
    **RETRIES,
)
def score(plan: str, job: Job, deadline: Deadline) -> Outcome:
    """The parts of the table, and how many rows were predicted and reused. `plan`: the key of the plan."""
    settings = Settings()
    store = Store(settings.store)
    planned = load_plan(store.disk, plan)
    with FolderProgress("scoring", planned.rows, report_key("score", job.name, "progress")) as progress:

        def on_rows(rows: int, errors: int, reused: int) -> None:
            progress(rows, errors, reused)
            deadline.check(f"scoring {job.request.folder}")

        outcome = score_plan(store, settings, job, planned, on_rows=on_rows)
    get_run_logger().info("%s rows predicted, %s reused", f"{outcome.predicted:,}", f"{outcome.reused:,}")
    return outcome


def score_plan(store: Store, settings: Settings, job: Job, plan: Plan, *, on_rows: OnRows = lambda *_: None) -> Outcome:
    """Finish every shard of `plan`: by its record, by copying rows scored before, or by scoring.

    A fresh scoring takes over only what it had finished itself before it was interrupted.

    Raises FolderError when the folder is another one than was listed, and FolderLost when its files can't be read any
    more, one after another.
    """
    started = time.perf_counter()
    if job.where != plan.where:
        raise moved(job, plan.where)
    shards = Shards(store.disk)
    mark = shards.begin_fresh(job.fresh_digest) if job.request.fresh else None
    digests = [job.digest(entries) for entries in plan.digests]
    done: dict[int, Part] = {}
    for number, digest in enumerate(digests):
        part = shards.finished(job.record(digest), mark)
        if part and not part.has_any(PASSING_ERRORS):
            done[number] = part
            on_rows(part.rows, sum(part.errors.values()), part.rows)
    reused = sum(part.rows for part in done.values())
    predicted, waited = 0, 0.0
    if missing := [number for number in range(len(digests)) if number not in done]:
        earlier = Earlier(store, job)
        wanted = (Shard(number, digests[number], plan.entries(number), earlier) for number in missing)
        with (
            reopened(settings, job) as folder,
            DecoderPool(
                folder.descriptor,
                job.spec,
                job.limits,
                settings.max_image_seconds,
                settings.decoders or default_processes(),
            ) as pool,
            ModelBeside(store, job) as beside,  # after the decoders: they start before TensorFlow is imported
            _Writer(shards, job, mark) as writer,
        ):
            losses, decode = Losses(folder, job.request.folder), partial(folder.decode, pool)
            for finished in writer.write(predict_shards(decode, beside, wanted, job.spec, losses, on_rows)):
                shard = finished.shard
                on_rows(len(shard.paths) - len(shard.wanted), len(shard.odd), shard.reused)
                done[shard.number] = finished.part
                predicted += finished.part.rows - shard.reused
                reused += shard.reused
            waited = beside.waited
    parts = [done[number] for number in range(len(digests))]
    return Outcome(parts, predicted, reused, time.perf_counter() - started - waited, waited)


@dataclass(frozen=True)
class _Finished:
    """A shard, and the part that is on record for it."""

    shard: Shard
    part: Part


class _Writer:
    """Writes finished shards by a thread, while the next ones are predicted. Use as a context."""

    def __init__(self, shards: Shards, job: Job, mark: str | None) -> None:
        self._shards, self._job, self._mark = shards, job, mark
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def write(self, shards: Iterator[Shard]) -> Iterator[_Finished]:
        """Write each shard. Yields them in order, each when it is on record; at most one waits to be written."""
        writing: deque[tuple[Shard, Future[Part]]] = deque()
        for shard in shards:
            writing.append((shard, self._thread.submit(self._finish, shard)))
            while writing and (writing[0][1].done() or len(writing) > 1):
                yield _on_record(*writing.popleft())
        for shard, part in writing:
            yield _on_record(shard, part)

    def _finish(self, shard: Shard) -> Part:
        return self._shards.finish(self._job.record(shard.digest), shard.digest, table_of(self._job, shard), self._mark)


def _on_record(shard: Shard, part: "Future[Part]") -> _Finished:
    return _Finished(shard, part.result())
