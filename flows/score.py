"""Bulk prediction of a folder: list it, score what was not scored before, publish the table."""

import time
from contextlib import suppress
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from artifacts import predictions, runs
from artifacts.errors import NotFound
from artifacts.refs import Ref, check_name
from artifacts.settings import Settings
from artifacts.store import Store
from flows.names import run_name, subject_of
from flows.notices import tell_of_failure
from flows.parameters import asks_for
from tasks.commit import commit
from tasks.plan import plan
from tasks.reports import scoring
from tasks.reports.progress import report_key
from tasks.requests import ScoreRequest
from tasks.score import predict
from tasks.shared.deadline import Deadline
from tasks.shared.listing import check_folder, default_name


def _run_name() -> str:
    given = flow_run.parameters
    return run_name("score", given["name"] or subject_of(given["folder"]))


@flow(
    name="score",
    description="""
Tell what is on every picture of a folder: one row a file, in **Parquet**, with the label or the kind of error.

Only what is new since the last time is scored, and a run that was interrupted goes on where it was. The result is a
report on this run's *Artifacts* page.
""",
    flow_run_name=_run_name,
    on_failure=[tell_of_failure],
    persist_result=False,  # refs go into the store; nothing is pickled
)
@asks_for(ScoreRequest)
def score(request: ScoreRequest) -> dict[str, Any]:
    """List, predict, publish.

    Returns predictions (ref), path, images, predicted, reused, errors, classes, images_per_second and seconds.
    """
    folder, name, limit = request.folder, request.name, request.limit
    weights, invert, calibrated = request.weights, request.invert, request.calibrated
    fresh, max_errors, deadline_hours = request.fresh, request.max_errors, request.deadline_hours
    started = time.perf_counter()
    deadline = Deadline.after(deadline_hours)
    settings = Settings()
    store = Store(settings.store)
    check_folder(settings, folder)
    name = check_name(name or default_name(settings, folder))
    weights = str(store.resolve(weights, "weights"))
    listed = plan(folder, limit, deadline)
    outcome = predict(listed, folder, name, weights, invert, calibrated, fresh, deadline)
    waited = outcome["waited"]
    ref = commit(listed, folder, name, weights, invert, calibrated, outcome, max_errors, trial=limit is not None)
    runs.record(store.disk, str(flow_run.id), {"weights": weights, "predictions": ref})
    return _told(store, Ref.parse(ref), name, outcome, time.perf_counter() - started - waited)


def _told(store: Store, ref: Ref, name: str, outcome: dict[str, Any], seconds: float) -> dict[str, Any]:
    published = predictions.load(store, ref)
    facts = published.artifact.facts
    result = {
        "predictions": str(ref),
        "path": str(published.folder),
        "images": facts["rows"],
        "predicted": outcome["predicted"],
        "reused": outcome["reused"],
        "errors": facts["errors"],
        "classes": facts["labels"],
        "images_per_second": round(outcome["predicted"] / outcome["seconds"], 1),
        "seconds": round(seconds, 3),
    }
    report = scoring.opening(name, result)
    with suppress(NotFound):  # a table of an earlier Lookbook
        report = f"{report}\n\n{published.artifact.read('report.md').decode()}"
    create_markdown_artifact(report, key=report_key("score", name), description=f"Predictions of {name}")
    return result
