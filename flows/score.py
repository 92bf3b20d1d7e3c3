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
from flows import parameters as fields
from flows.names import run_name, subject_of
from flows.notices import tell_of_failure
from tasks.commit import commit
from tasks.plan import plan
from tasks.reports import scoring
from tasks.reports.progress import report_key
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
def score(
    folder: str,
    weights: str = "champion",
    name: str | None = None,
    invert: bool = False,
    calibrated: bool = False,
    limit: fields.Limit | None = None,
    fresh: bool = False,
    max_errors: fields.Share = 0.5,
    deadline_hours: fields.DeadlineHours = 12,
) -> dict[str, Any]:
    """List, predict, publish.

    Args:
        folder: The pictures, as root:sub/path; root is one of LOOKBOOK_IMAGE_ROOTS. `root:` is all of it.
        weights: Which weights predict: champion, NAME@champion, or a ref like weights/fashion-mnist@3f9a1c20d4b7e815.
        name: What the predictions are called; by default as the folder.
        invert: For dark objects on a light background. Fashion-MNIST's are light ones on black.
        calibrated: Scale the probabilities by the weights' temperature, so that a confidence of 80% is right four times
            in five. Weights have one when they were trained with a validation share.
        limit: Score only the first so many entries, for a trial. 1 or more.
        fresh: Score everything anew, whatever was scored before. Takes as long as the first time. Interrupted, it goes
            on with what it had finished, when it is started again within a day.
        max_errors: Largest share of the entries without a prediction for a reason that may pass: missing, changed,
            unreadable, timeout, crashed. Above it the run fails and the newest table stays the one that was. 0 to 1.
        deadline_hours: Hours after which the run gives up. What is finished stays, and the next run goes on there.

    Returns predictions (ref), path, images, predicted, reused, errors, classes, images_per_second and seconds.
    """
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
