"""Shards of a plan, finished by this process: taken over as recorded, or decoded, predicted and put on record."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self

from artifacts.disk import spread
from artifacts.predictions import PASSING_ERRORS
from artifacts.settings import Settings
from artifacts.shards import Part, Shards
from artifacts.store import Store
from tasks.scoring.earlier import Earlier
from tasks.scoring.job import Job
from tasks.scoring.losses import Losses, reopened
from tasks.scoring.prediction import ModelBeside, predict_shards
from tasks.scoring.rows import Shard, table_of
from tasks.shared.folders import Folder
from tasks.shared.plans import Plan
from tasks.shared.watching import OnRows
from tasks.vision.decoding import DecoderPool, default_processes


@dataclass(frozen=True)
class Finished:
    """A shard that is on record.

    number: its place in the plan.
    part: its rows.
    reused: how many of them were there before.
    """

    number: int
    part: Part
    reused: int


class Records:
    """What is on record of a plan's shards, for one job. A fresh scoring takes over nothing but its own."""

    def __init__(self, store: Store, job: Job, plan: Plan) -> None:
        self._shards, self._job, self._plan = Shards(store.disk), job, plan
        self._at_once = store.disk.at_once

    def digest(self, number: int) -> str:
        """Of the shard with this number."""
        return self._job.digest(self._plan.digests[number])

    def find(self, number: int) -> Finished | None:
        """A shard that needs no more work: none of its rows may go better now."""
        part = self._shards.finished(self._job.record(self.digest(number)), self._plan.fresh)
        return None if part is None or part.has_any(PASSING_ERRORS) else Finished(number, part, part.rows)

    def find_all(self, numbers: Iterable[int]) -> Iterator[Finished]:
        """Those of `numbers` that need no more work."""
        return filter(None, spread(self._at_once, self.find, numbers))

    def finish(self, shard: Shard) -> Finished:
        """Put a shard on record whose rows are all known."""
        record, table = self._job.record(shard.digest), table_of(self._job, shard)
        return Finished(shard.number, self._shards.finish(record, shard.digest, table, self._plan.fresh), shard.reused)


class Finisher:
    """Finishes shards. Use as a context: it starts decoders, loads the model, and ends both.

    processors: how many decoders there are, and how many pictures a pretrained network looks at at once.
    folder, pool: where it reads, and what decodes.
    """

    folder: Folder
    pool: DecoderPool

    def __init__(
        self, store: Store, settings: Settings, job: Job, plan: Plan, records: Records, processors: int | None = None
    ) -> None:
        self._store, self._settings, self._job, self._plan, self._records = store, settings, job, plan, records
        self._processors = processors
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Raises FolderError when the folder is another one than was listed."""
        with ExitStack() as stack:
            self.folder = stack.enter_context(reopened(self._settings, self._job))
            self.pool = stack.enter_context(
                DecoderPool(
                    self.folder.descriptor,
                    self._job.spec,
                    self._job.limits,
                    self._settings.max_image_seconds,
                    self._settings.decoders or self._processors or default_processes(),
                )
            )
            # After the decoders: they start before TensorFlow is imported.
            self._beside = stack.enter_context(ModelBeside(self._store, self._job, self._processors))
            self._thread = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="write"))
            self._earlier = Earlier(self._store, self._job)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stack.close()

    @property
    def waited(self) -> float:
        """Seconds in which all the rest waited for TensorFlow's import."""
        return self._beside.waited

    def finish(self, numbers: Sequence[int], on_rows: OnRows) -> Iterator[Finished]:
        """Finish shards of the plan, each unless somebody else did meanwhile. Yields them as they are on record.

        Raises FolderLost when the files can't be read any more, one after another; what decoding and loading raise.
        """
        found: deque[Finished] = deque()

        def wanted() -> Iterator[Shard]:
            for number in numbers:
                if finished := self._records.find(number):
                    on_rows(finished.part.rows, sum(finished.part.errors.values()), 0)
                    found.append(replace(finished, reused=0))
                else:
                    yield Shard(number, self._records.digest(number), self._plan.entries(number), self._earlier)

        losses, decode = Losses(self.folder, self._job.request.folder), partial(self.folder.decode, self.pool)
        for finished in self._written(
            predict_shards(decode, self._beside, wanted(), self._job.spec, losses, on_rows), on_rows
        ):
            while found:
                yield found.popleft()
            yield finished
        yield from found

    def _written(self, shards: Iterator[Shard], on_rows: OnRows) -> Iterator[Finished]:
        """Write each shard by a thread, while the next ones are predicted; at most one waits to be written."""
        writing: deque[tuple[Shard, Future[Finished]]] = deque()
        for shard in shards:
            writing.append((shard, self._thread.submit(self._records.finish, shard)))
            while writing and (writing[0][1].done() or len(writing) > 1):
                yield _counted(*writing.popleft(), on_rows)
        for shard, finished in writing:
            yield _counted(shard, finished, on_rows)


def _counted(shard: Shard, finished: "Future[Finished]", on_rows: OnRows) -> Finished:
    """A shard that is on record, with its rows that were not decoded told."""
    result = finished.result()
    on_rows(len(shard.paths) - len(shard.wanted), len(shard.odd), shard.reused)
    return result
