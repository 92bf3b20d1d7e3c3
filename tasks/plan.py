"""The stage that lists a folder and cuts it into shards, at boundaries that the content decides.

A shard ends at a path whose hash says so, the sooner the larger the files are. So one new file changes one shard, and
the others are known again.
"""

import hashlib
from collections.abc import Iterator
from itertools import islice

from prefect import get_run_logger, task

from artifacts.settings import Settings
from artifacts.shards import Shards
from artifacts.store import Store
from tasks.scoring.job import Job
from tasks.shared.deadline import Deadline
from tasks.shared.folders import opened
from tasks.shared.listing import Entry, FolderError, folder_place
from tasks.shared.plans import load_plan, save_plan
from tasks.shared.retries import RETRIES

SHARD_FILES, SHARD_BYTES = 10_000, 2 << 30  # on average, whichever comes first
SHARD_FILES_AT_MOST, SHARD_BYTES_AT_MOST = 40_000, 8 << 30


@task(
    name="list folder",
    description="List every entry of the folder, sorted, and cut the list into shards.",
    persist_result=False,
    **RETRIES,
)
def plan(job: Job, deadline: Deadline) -> str:
    """The key of the plan in the store's staging area."""
    settings = Settings()
    store = Store(settings.store)
    key = plan_folder(store, settings, job)
    deadline.check("listing the folder")
    planned = load_plan(store.disk, key)
    get_run_logger().info("%s entries in %s shards", f"{planned.rows:,}", len(planned.digests))
    return key


def plan_folder(store: Store, settings: Settings, job: Job) -> str:
    """List the job's folder, at most as many entries of it as its limit. Returns the key of the plan.

    Raises FolderError, also for an empty folder, and for one that a link no longer leads to.
    """
    store.prepare()
    folder = job.request.folder
    with opened(settings, folder) as top:
        if not top.is_at(job.where):
            raise FolderError(
                f"expected {folder} to be {job.where}, found that a link was moved just now; run it again"
            )
        shards = _shards(islice(top.walk(), job.request.limit))
        fresh = Shards(store.disk).begin_fresh(job.fresh_digest) if job.request.fresh else None
        key = save_plan(store.disk, shards, job.where, lambda entries: job.record(job.digest(entries)), fresh)
    if key is None:
        raise FolderError(f"expected pictures in {folder_place(settings, folder)}, found an empty folder")
    return key


def _shards(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """Cut the entries at paths that end a shard. A stretch without any that grows too long is cut at the path with the
    smallest hash of its second half: that place is the same when a file is added elsewhere in the stretch."""
    shard: list[Entry] = []
    size = 0
    for entry in entries:
        shard.append(entry)
        size += entry.size
        if _ends(entry):
            yield shard
            shard, size = [], 0
        while len(shard) >= SHARD_FILES_AT_MOST or size >= SHARD_BYTES_AT_MOST:
            end = 1 + min(range(len(shard) // 2, len(shard)), key=lambda place: _hash(shard[place].path))
            yield shard[:end]
            shard = shard[end:]
            size = sum(each.size for each in shard)
    if shard:
        yield shard


def _ends(entry: Entry) -> bool:
    """Whether a shard ends here: by chance, which the path decides, of one in SHARD_FILES, and of the file's share of
    SHARD_BYTES."""
    drawn = int.from_bytes(hashlib.blake2b(entry.path, digest_size=4).digest())
    return drawn % SHARD_FILES == 0 or drawn * SHARD_BYTES < entry.size << 32


def _hash(path: bytes) -> float:
    """0 to 1, equally likely."""
    return int.from_bytes(hashlib.blake2b(path, digest_size=8).digest()) / (1 << 64)
