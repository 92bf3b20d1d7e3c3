"""The stage that publishes a table of predictions out of finished parts, and draws its report."""

import logging
import time
from collections.abc import Callable
from typing import Any

from prefect import get_run_logger, task

from artifacts import aliases, predictions
from artifacts.aliases import Choice, Event
from artifacts.documents import canonical
from artifacts.errors import Corrupt, LookbookError, NotFound
from artifacts.predictions import PASSING_ERRORS
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.shards import Part, Shards
from artifacts.store import Store
from tasks.reports import scoring
from tasks.reports.progress import warn
from tasks.reports.summary import summarize
from tasks.results import DIFFERENCES
from tasks.scoring.differences import differences
from tasks.scoring.drift import NUMBERS, drift, no_pictures
from tasks.scoring.job import Job
from tasks.scoring.outcome import Outcome
from tasks.scoring.thumbnails import thumbnails
from tasks.shared.listing import FolderError
from tasks.shared.plans import Plan, load_plan, remove_plan
from tasks.shared.retries import RETRIES
from tasks.vision.errors import DecoderError

_LOGGER = logging.getLogger(__name__)
_CLOCKS_SECONDS = 300.0  # by which two clocks may differ


class TooManyErrors(LookbookError):
    """A table whose rows mostly are errors that may pass: the folder was not there, rather than its files bad."""


@task(
    name="publish predictions",
    description="Publish the table with its report; `latest` names it from now on.",
    persist_result=False,
    **RETRIES,
)
def commit(plan: str, job: Job, outcome: Outcome) -> str:
    """The ref of the published predictions. `plan`: the key of the plan. Raises TooManyErrors."""
    settings = Settings()
    logger = get_run_logger()
    ref = commit_predictions(Store(settings.store), settings, job, plan, outcome, logger.warning)
    logger.info("published %s", ref)
    return str(ref)


def commit_predictions(
    store: Store,
    settings: Settings,
    job: Job,
    plan: str,
    outcome: Outcome,
    log: Callable[[str], None] = _LOGGER.warning,
) -> Ref:
    """Publish, and point `latest` at it unless the job's limit made it a trial. Done again, it gives the same.

    log: takes what the report has to do without.

    Raises TooManyErrors above the job's largest share of rows whose errors may pass: the table is published then, and
    `latest` stays. Raises Corrupt when the parts don't cover the plan.
    """
    planned = load_plan(store.disk, plan)
    rows = planned.shard_rows
    if [part.rows for part in outcome.parts] != rows:
        raise Corrupt(f"the finished shards have other numbers of rows than {plan} has entries; score with --fresh")
    latest = aliases.current(store.disk, "predictions", job.name, "latest")
    report = {}
    if not _unchanged(store, latest, outcome.parts, job.settings):
        report = _draw(store, settings, job, outcome.parts, log)
    ref = predictions.save(
        store,
        job.name,
        parts=outcome.parts,
        weights=job.weights,
        dataset=job.dataset,
        settings=job.settings,
        classes=job.classes,
        image_spec=job.spec.to_dict(),
        report=report,
        calibration=job.calibration,
        made={"folder": job.where, "seconds": round(outcome.seconds, 3), "confidence": job.calibrated},
    )
    complaint = _too_many(store, job, ref, outcome.parts)
    if job.request.limit is None and not complaint:
        _point_at(store, job, ref, planned)
    if planned.fresh:
        Shards(store.disk).end_fresh(job.fresh_digest, planned.fresh)
    if complaint:
        remove_plan(store.disk, plan)
        raise TooManyErrors(complaint)
    return ref


def _too_many(store: Store, job: Job, ref: Ref, parts: list[Part]) -> str | None:
    """What to say of a table with more errors that may pass than were asked for; None when there are fewer, or when
    they are of what is no picture."""
    most = job.request.max_errors
    passing = {kind: sum(part.errors.get(kind, 0) for part in parts) for kind in PASSING_ERRORS}
    rows = sum(part.rows for part in parts)
    if sum(passing.values()) <= most * rows:
        return None
    others = no_pictures(store, parts, PASSING_ERRORS)
    if sum(passing.values()) - others <= most * (rows - others):
        return None
    found = ", ".join(f"{kind} {count:,}" for kind, count in passing.items() if count)
    return (
        f"expected at most {100 * most:.3g}% of the {rows:,} entries of {job.where} without a prediction for a reason "
        f"that may pass (max_errors), found {found}; {ref} has the rows, and `latest` stays where it was. Look at the "
        "disk and run it again, or let more pass (--max-errors)"
    )


def _point_at(store: Store, job: Job, ref: Ref, plan: Plan) -> None:
    """Make the table `latest`, unless the newest one is of a folder that was listed later: a run may be overtaken.

    A table that is `latest` already gets an event with the time of the later listing: without it, a run that listed
    before that could take its place.
    """
    numbers: dict[str, Any] = {"rows": plan.rows, "listed": plan.listed}

    def choose(events: list[Event]) -> Choice:
        told = (each.numbers for each in reversed(events) if each.challenger == each.ref)
        newest = next((each["listed"] for each in told if "listed" in each), 0.0)
        if events and events[-1].ref == str(ref):
            if plan.listed <= newest:
                return events[-1]
            return Choice("keep", str(ref), str(ref), "a later listing of the folder gives the same table", numbers)
        # A listing that is still to come was one by a clock that was ahead.
        if plan.listed < newest < max(time.time(), store.disk.now()) + _CLOCKS_SECONDS:
            reason = f"{events[-1].ref} is of a later listing of the folder"
            return Choice("keep", events[-1].ref, str(ref), reason, numbers)
        return Choice("promote", str(ref), str(ref), f"the newest of {job.where}", numbers)

    aliases.decide(store.disk, "predictions", job.name, "latest", choose)


def _unchanged(store: Store, latest: Ref | None, parts: list[Part], made_by: dict[str, Any]) -> bool:
    """Whether the newest table has just these parts, made in this way: then it has its report, too, if that is not
    damaged."""
    if latest is None:
        return False
    try:
        published = store.open(latest)
        identity = published.identity
        for page in published.manifest["rendered"]:
            published.check(page)
    except (NotFound, Corrupt):
        return False
    files = {predictions.file_name(index): part.sha256 for index, part in enumerate(parts)}
    same = files == {file: described["sha256"] for file, described in identity["files"].items()}
    digests = [part["digest"] for part in identity["facts"]["parts"]]
    return same and identity["settings"] == made_by and digests == [part.digest for part in parts]


def _draw(
    store: Store, settings: Settings, job: Job, parts: list[Part], log: Callable[[str], None]
) -> dict[str, bytes]:
    """The report, as a page and as Prefect's UI shows it: without pictures where the folder is gone by now."""
    summary = summarize(store, job.weights, job.dataset, job.classes, parts, job.temperature)
    summary.calibrated = job.calibrated
    numbers = drift(store, settings, job, parts, summary)
    drawn: dict[str, bytes] = {}
    try:
        drawn = thumbnails(settings, job, summary.shown())
        if any(summary.confidence):
            summary.differences = differences(store, settings, job, parts, numbers)
    except (FolderError, DecoderError) as error:
        warn(f"the report of {job.name} has no pictures, as they can't be read any more: {error}", log)
    return {
        "report.html": scoring.page(job.name, str(job.weights), job.dataset, summary, drawn),
        "report.md": scoring.markdown(summary, drawn).encode(),
        NUMBERS: canonical(numbers),
        DIFFERENCES: canonical(summary.differences),
    }
