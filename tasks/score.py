"""The stage that scores a plan's shards. A finished shard leaves a record, and is not scored again."""

import random
import time
from functools import partial

from prefect import get_run_logger, task

from artifacts.settings import Settings
from artifacts.shards import Part
from artifacts.store import Store
from tasks.cluster.sample import Sample, check_sample
from tasks.reports.progress import FolderProgress, report_key, tell, warn
from tasks.scoring.finishing import Finisher, Records
from tasks.scoring.job import Job
from tasks.scoring.losses import moved
from tasks.scoring.outcome import Outcome
from tasks.scoring.remote import ELSEWHERE, finish_on_cluster
from tasks.shared.deadline import Deadline
from tasks.shared.plans import Plan, load_plan
from tasks.shared.retries import RETRIES
from tasks.shared.watching import Watch


@task(
    name="predict shards",
    description="Decode and score what was not scored before; a shard at a time is written down.",
    persist_result=False,
    **RETRIES,
)
def score(plan: str, job: Job, deadline: Deadline, begin: float | None = None, sample: Sample | None = None) -> Outcome:
    """The parts of the table, and how many rows were predicted and reused. `plan`: the key of the plan; the rest is as
    `score_plan` has it."""
    settings = Settings()
    store = Store(settings.store)
    planned = load_plan(store.disk, plan)
    with FolderProgress("scoring", planned.rows, report_key("score", job.name, "progress")) as progress:

        def on_rows(rows: int, errors: int, reused: int) -> None:
            progress(rows, errors, reused)
            deadline.check(f"scoring {job.request.folder}")

        logger = get_run_logger()
        watch = Watch(on_rows, progress.on_rates, partial(tell, log=logger.info), partial(warn, log=logger.warning))
        outcome = score_plan(store, settings, job, planned, watch, begin, sample)
    logger.info("%s rows predicted, %s reused", f"{outcome.predicted:,}", f"{outcome.reused:,}")
    return outcome


def score_plan(
    store: Store,
    settings: Settings,
    job: Job,
    plan: Plan,
    watch: Watch | None = None,
    begin: float | None = None,
    sample: Sample | None = None,
) -> Outcome:
    """Finish every shard of `plan`: by its record, by copying rows scored before, or by scoring, here or on a cluster.

    A fresh scoring takes over only what it had finished itself before it was interrupted. Rows that others predict
    meanwhile count as predicted.

    begin: the share of the shards (0-1) that are done last; by default any, so that of two runs that score one folder
    each does what the other has not.
    sample: what another machine has in the folder, which this one must have, too.

    Raises FolderError when the folder is another one than was listed, and FolderLost when its files can't be read any
    more, one after another; of a cluster ClusterError, ClusterLost and StoreAway.
    """
    watch = watch or Watch()
    started = time.perf_counter()
    if job.where != plan.where:
        raise moved(job, plan.where)
    records = Records(store, job, plan)
    done: dict[int, Part] = {}
    reused, waited = 0, 0.0
    for found in records.find_all(range(len(plan.digests))):
        done[found.number] = found.part
        reused += found.reused
        watch.on_rows(found.part.rows, sum(found.part.errors.values()), found.reused)
    missing, on_rows = [number for number in range(len(plan.digests)) if number not in done], watch.on_rows
    if missing and job.request.run_on == "cluster":
        for finished in finish_on_cluster(settings, job, plan, missing, watch):
            done[finished.number] = finished.part
            reused += finished.reused
        # This machine has the last word on files that another one did not see.
        missing, on_rows = [number for number in missing if done[number].has_any(ELSEWHERE)], watch.on_life
    if missing:
        with Finisher(store, settings, job, plan, records) as finisher:
            if sample is not None:
                finisher.folder.by_size = not check_sample(finisher.folder, finisher.pool, sample)
            for finished in finisher.finish(_turned(missing, random.random() if begin is None else begin), on_rows):
                reused += 0 if finished.number in done else finished.reused
                done[finished.number] = finished.part
            waited = finisher.waited
    parts = [done[number] for number in range(len(plan.digests))]
    return Outcome(parts, plan.rows - reused, reused, time.perf_counter() - started - waited, waited)


def _turned(numbers: list[int], begin: float) -> list[int]:
    start = int(begin * len(numbers))
    return numbers[start:] + numbers[:start]
