"""Bulk prediction of a folder: list it, score what was not scored before, publish the table."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.utilities.annotations import quote

from artifacts import aliases, predictions, runs
from artifacts.errors import Corrupt, NotFound
from artifacts.predictions import Predictions
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.shards import fresh_key
from artifacts.store import Store
from flows.group import groups_of
from flows.names import run_name, subject_of
from flows.needs import needs_of_run
from flows.notices import tell_of_failure
from flows.parameters import asks_for
from flows.reports import report
from flows.wishes import tell_of_scoring
from tasks.cluster.conducting import check_cluster
from tasks.commit import commit
from tasks.plan import plan
from tasks.reports import audit as audits
from tasks.reports import scoring
from tasks.requests import ScoreRequest
from tasks.results import Scored, scored
from tasks.reviewing.production import last_audit
from tasks.score import score as score_shards
from tasks.scoring.job import make_job
from tasks.scoring.outcome import Outcome
from tasks.shared.deadline import Deadline
from tasks.shared.plans import remove_plan


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

    Returns the fields of a Scored.
    """
    started = time.perf_counter()
    deadline = Deadline.after(request.deadline_hours)
    settings = Settings()
    store = Store(settings.store)
    if request.run_on == "cluster":
        check_cluster(settings)  # before the folder is listed
    if before := runs.find(store.disk, str(flow_run.id)):
        published, outcome = _published_before(store, before)
    else:
        published, outcome = _score(store, settings, request, deadline)
    result = scored(published, outcome, time.perf_counter() - started - outcome.waited)
    name = published.artifact.ref.name
    report(lambda: _drawn(store, published, result, settings), "score", name, description=f"Predictions of {name}")
    if request.limit is None:
        tell_of_scoring(store, settings, published)
    return asdict(result)


def _score(store: Store, settings: Settings, request: ScoreRequest, deadline: Deadline) -> tuple[Predictions, Outcome]:
    """The published table, and what was found. What the run produced is on record then, and its plan gone."""
    with needs_of_run(store) as needs:
        job = make_job(store, settings, request)
        needs.add(job.weights, job.dataset)
        planned = plan(job, deadline)
        needs.add(planned, fresh_key(job.fresh_digest))
        with groups_of(store, settings, job, planned, deadline):
            outcome = score_shards(planned, job, deadline)
        quoted: Any = quote(outcome)  # Prefect would look for 22 s into 100,000 parts; the task gets them as they are
        ref = commit(planned, job, quoted)
        produced = {"weights": str(job.weights), "predictions": ref}
        if decision := aliases.decision_on(store.disk, Ref.parse(ref), "latest"):  # `verify` looks whether it is there
            produced["decision"] = decision
        runs.record(store.disk, str(flow_run.id), produced)
        remove_plan(store.disk, planned)
    return predictions.load(store, Ref.parse(ref)), outcome


def _published_before(store: Store, produced: Mapping[str, str]) -> tuple[Predictions, Outcome]:
    """What an earlier attempt of this run put on record: a run has one table, whatever the folder holds by now."""
    get_run_logger().info("this run published %s before it was run again", produced["predictions"])
    published = predictions.load(store, Ref.parse(produced["predictions"]))
    return published, Outcome([], 0, published.artifact.facts["rows"], 0.0, 0.0)


def _drawn(store: Store, published: Predictions, result: Scored, settings: Settings) -> str:
    """The run's report in Prefect's UI."""
    name = published.artifact.ref.name
    parts = [scoring.opening(name, result, settings.review_url)]
    with suppress(Corrupt):  # it only stands beside; `lookbook verify` tells
        if (audit := last_audit(store, name)) is not None:
            parts.append(audits.markdown(audit))
    with suppress(NotFound):  # a table of an earlier Lookbook
        parts.append(published.artifact.read("report.md").decode())
    return "\n\n".join(parts)
