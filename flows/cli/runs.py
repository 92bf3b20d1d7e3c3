"""Verbs that Prefect runs, or that run Prefect: retrain, score, up, deploy."""

import os
import signal
import time
from contextlib import AbstractContextManager, suppress
from typing import Any

import click

from flows.cli.verb import Result, say, verb


def _requests() -> Any:
    """Imported when options are asked for: a list of all verbs does not pay for it."""
    from tasks import requests

    return requests


@verb(show="retraining", asks_for=lambda: _requests().RetrainRequest)
def retrain(images: str | None, **parameters: Any) -> Result:
    """Prepare the data, train, evaluate on the test images, and promote the model when it is better beyond chance.

    Uses the Prefect server at PREFECT_API_URL, or brings its own for as long as it works.

    \b
    Example:
      lookbook retrain
      lookbook retrain --epochs 5 --schedule constant --seed 3
      lookbook retrain --architecture conv
      lookbook retrain --images shoes --backbone auto --minutes 30
      lookbook retrain --images shoes/labels.csv --image-size 32 --color grey
    """
    if images is None:
        _refuse_what_goes_with_images()
    else:
        from tasks.preparing.labelled import allow_images, split_table

        parameters["images"] = allow_images(images)
        _check_folder(*split_table(parameters["images"]))
        if parameters["labels"]:
            _allow_labelled(parameters["labels"])
    from flows.server import prefect_api
    from tasks.vision.imports import quick_imports

    with prefect_api() as api:
        with quick_imports():
            import tasks.vision.training  # noqa: F401  (now, while a temporary server starts on the other core)
            from flows.retrain import retrain as flow

        api.wait()
        with _tagged(), api.run(flow) as called:
            result = called(**parameters)
    from artifacts.settings import Settings

    result["seconds"]["total"] = round(time.time() - _process_started(), 3)
    return {**result, "store": str(Settings().store)}


@verb(show="scoring", asks_for=lambda: _requests().ScoreRequest)
@click.argument("folder", type=click.Path())
def score(folder: str, **parameters: Any) -> Result:
    """Tell what is on every picture of a folder: one row a file, in Parquet.

    Only what is new since the last time is scored; a run that was interrupted goes on where it was. The rows are in the
    folder that is printed, a report for people beside them. FOLDER may be in a bucket: s3://bucket/photos.

    \b
    Example:
      lookbook score pictures
      lookbook score pictures --invert --limit 1000
    """
    from tasks.shared.listing import allow_folder

    allowed = allow_folder(folder)
    _check_folder(allowed)
    from flows.server import prefect_api
    from tasks.vision.imports import quick_imports

    with prefect_api() as api:
        with quick_imports():
            from flows.score import score as flow

        api.wait()
        with _tagged(), api.run(flow) as called:
            return called(folder=allowed, **parameters)


@verb(show="operation")
def up() -> Result:
    """Run a Prefect server, a worker for each of the work pools cpu and gpu, and the deployments, until Ctrl-C.

    Runs then start by schedule, or from the page at the address that is printed. A server that PREFECT_API_URL names,
    or one of yours that runs where Prefect starts one, is used. Ctrl-C ends the workers, then the server; a run that
    was at work goes on the next time.

    This is one machine for one person: the server listens on 127.0.0.1, answers its own page and your programs alone,
    and keeps its history in SQLite. Whoever reaches it can run code here. For more: PostgreSQL
    (PREFECT_API_DATABASE_CONNECTION_URL), a password (PREFECT_SERVER_API_AUTH_STRING, and PREFECT_API_AUTH_STRING for
    workers) whenever it listens elsewhere, its own origin alone (PREFECT_SERVER_CORS_ALLOWED_ORIGINS), workers on
    several machines (prefect worker start --pool gpu --limit 1) and a store that all of them share (LOOKBOOK_STORE).
    docs/operations.md walks through it.

    \b
    Example:
      lookbook up
      LOOKBOOK_IMAGE_ROOTS='{"photos": "/srv/photos"}' lookbook up
    """
    from flows.up import running

    with running(say) as (made, crew):
        yield {"url": made.url, "review": made.review, "api": made.api, "logs": str(made.logs), "ours": made.ours}
        if made.ours:
            with suppress(KeyboardInterrupt):
                crew.hold()
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(each, signal.SIG_IGN)
            say("stopping: workers, then the server")


@verb(show="deployed")
def deploy() -> Result:
    """Make what a Prefect server needs: the work pools cpu and gpu, the deployments of prefect.yaml, the automations.

    For a server that you start yourself (prefect server start), at PREFECT_API_URL; `lookbook up` does it by itself.
    Without the automations a run whose machine died would stay Running for ever. Run it again after an update, or when
    prefect.yaml has changed: the limits of pools stay, and schedules and automations stay switched as they are.

    A scheduled run that fails is reported to LOOKBOOK_NOTIFY_URL, if that is set here. docs/operations.md describes
    the rest: the settings of the server, and its workers.

    \b
    Example:
      lookbook deploy
      PREFECT_API_URL=https://prefect.example/api lookbook deploy
    """
    from dataclasses import asdict

    from artifacts.settings import Settings
    from flows import deployments
    from flows.serving import reach_loopback_directly
    from flows.standing import check_home, known_api

    check_home()
    reach_loopback_directly()
    api = known_api()
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}):
        return {"api": api, **asdict(deployments.deploy(Settings(), api, say, with_workers=False))}


def _check_folder(folder: str, table: str | None = None) -> None:
    """Raises FolderError where a run would, before a server is started for it, and without a run that failed."""
    from artifacts.settings import Settings
    from tasks.shared.folders import check_folder

    check_folder(Settings(), folder, table)


def _refuse_what_goes_with_images() -> None:
    from dataclasses import fields

    from flows.cli.options import flag_of, was_given

    for field in fields(_requests().PictureSettings):
        if was_given(field.name):
            raise click.UsageError(f"{flag_of(field.name)} is about pictures of your own: it goes with --images")


def _allow_labelled(name: str) -> None:
    """The folders in which people saw what they labelled: this machine's own user starts this."""
    from artifacts.labels import Labels
    from flows.cli.verb import open_store
    from tasks.shared.listing import allow_place

    words = Labels(open_store()[1].disk, name).words().values()
    for where in {word.statement.folder for word in words} - {None}:
        allow_place(str(where))


def _tagged() -> AbstractContextManager[Any]:
    """Runs of the command line are told from scheduled ones, and those that the UI started, by a tag."""
    from prefect import tags

    return tags("lookbook", "command-line")


def _process_started() -> float:
    """When this process started, in seconds since the epoch."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
