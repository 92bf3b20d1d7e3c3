"""What runs are called: the verb, what it is about, and the day (UTC) for which it was scheduled."""

from datetime import UTC, datetime

from prefect.runtime import flow_run

from artifacts.errors import LookbookError
from artifacts.settings import Settings
from tasks.shared.listing import default_name


def run_name(verb: str, subject: str) -> str:
    """`retrain-fashion-mnist-2026-11-22`."""
    return f"{verb}-{subject}-{(flow_run.scheduled_start_time or datetime.now(UTC)):%Y-%m-%d}"


def subject_of(folder: str) -> str:
    """The name for `root:sub/path`; something readable where there is none, as the run itself will complain."""
    try:
        return default_name(Settings(), folder)
    except LookbookError:
        return "folder"
