"""What runs are called: the verb, what it is about, the minute (UTC) for which it was scheduled, and four digits of its
id: several may begin in one minute."""

from datetime import UTC, datetime

from prefect.runtime import flow_run

from artifacts.errors import LookbookError
from artifacts.settings import Settings
from tasks.shared.listing import default_name


def run_name(verb: str, subject: str) -> str:
    """`retrain-fashion-mnist-2026-11-22-04:00-9c41`. An id begins with the time: the digits are its last ones."""
    begin = flow_run.scheduled_start_time or datetime.now(UTC)
    return f"{verb}-{subject}-{begin:%Y-%m-%d-%H:%M}-{str(flow_run.id)[-4:]}"


def subject_of(folder: str) -> str:
    """The name for `root:sub/path`; something readable where there is none, as the run itself will complain."""
    try:
        return default_name(Settings(), folder)
    except LookbookError:
        return "folder"
