"""The stage that publishes a table of predictions out of finished parts, and draws its report."""

import os
from typing import Any

from prefect import get_run_logger, task

from artifacts import aliases, predictions
from artifacts.aliases import Choice
from artifacts.errors import Corrupt, NotFound
from artifacts.predictions import Part
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.listing import folder_path, open_folder
from tasks.plan import load_plan
from tasks.predict import Job, Outcome, make_job
from tasks.reports import scoring
from tasks.retries import RETRIES
from tasks.vision.decoding import DecoderPool


@task(
    name="publish predictions",
    description="Publish the table with its report; `latest` names it from now on.",
    persist_result=False,
    **RETRIES,
)
def commit(
    plan: str,
    folder: str,
    name: str,
    weights: str,
    invert: bool,
    calibrated: bool,
    outcome: dict[str, Any],
    trial: bool,
) -> str:
    """The ref of the published predictions."""
    settings = Settings()
    store = Store(settings.store)
    job = make_job(store, settings, folder, name, Ref.parse(weights), invert, calibrated)
    parts = [Part(**part) for part in outcome["parts"]]
    ref = commit_predictions(store, settings, job, plan, Outcome(**{**outcome, "parts": parts}), trial)
    get_run_logger().info("published %s", ref)
    return str(ref)


def commit_predictions(
    store: Store, settings: Settings, job: Job, plan: str, outcome: Outcome, trial: bool = False
) -> Ref:
    """Publish, point `latest` at it unless it is a trial of a part of the folder, and drop the plan.

    Raises Corrupt when the parts don't cover the plan.
    """
    planned = load_plan(store.disk, plan)
    rows = planned.shard_rows
    if [part.rows for part in outcome.parts] != rows:
        raise Corrupt(f"the finished shards have other numbers of rows than {plan} has entries; score with --fresh")
    where = str(folder_path(settings, job.folder))
    latest = aliases.current(store.disk, "predictions", job.name, "latest")
    report = {}
    if not _unchanged(store, latest, outcome.parts, job.settings):
        report = _draw(store, settings, job, outcome.parts)
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
        made={"folder": where, "seconds": round(outcome.seconds, 3)},
    )
    if ref != latest and not trial:
        choice = Choice("promote", str(ref), str(ref), f"the newest of {where}", {"rows": sum(rows)})
        aliases.decide(store.disk, "predictions", job.name, "latest", lambda events: choice)
    store.disk.remove(plan)
    return ref


def _unchanged(store: Store, latest: Ref | None, parts: list[Part], made_by: dict[str, Any]) -> bool:
    """Whether the newest table has just these parts, made in this way: then it has its report, too."""
    if latest is None:
        return False
    try:
        identity = store.open(latest).identity
    except (NotFound, Corrupt):
        return False
    files = {predictions.file_name(index): part.sha256 for index, part in enumerate(parts)}
    same = files == {file: described["sha256"] for file, described in identity["files"].items()}
    digests = [part["digest"] for part in identity["facts"]["parts"]]
    return same and identity["settings"] == made_by and digests == [part.digest for part in parts]


def _draw(store: Store, settings: Settings, job: Job, parts: list[Part]) -> dict[str, bytes]:
    """The report, as a page and as Prefect's UI shows it, with thumbnails decoded by a child process from the folder
    as it is now."""
    summary = scoring.summarize(store, job.weights, job.dataset, job.classes, parts, job.temperature)
    folder = open_folder(settings, job.folder)
    try:
        with DecoderPool(folder, scoring.THUMBNAIL, job.limits, settings.max_image_seconds, 1) as pool:
            thumbnails = scoring.thumbnails(pool, summary)
    finally:
        os.close(folder)
    return {
        "report.html": scoring.page(job.name, str(job.weights), job.dataset, summary, thumbnails),
        "report.md": scoring.markdown(summary, thumbnails).encode(),
    }
