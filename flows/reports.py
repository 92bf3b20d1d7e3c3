"""Reports in Prefect's UI. They stand beside what a run has done: one that can't be drawn or kept fails no run."""

from collections.abc import Callable

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact

from tasks.reports.progress import report_key, warn


def report(draw: Callable[[], str], *of: str, description: str) -> None:
    """Draw a report, and put it on the run's *Artifacts* page.

    draw: gives it as markdown.
    of: words that say what it is of, as `report_key` takes them.

    Where that fails, the run's log says so, and why.
    """
    try:
        create_markdown_artifact(draw(), key=report_key(*of), description=description)
    except Exception as error:
        warn(
            f"the report {description!r} is missing on this run's page ({type(error).__name__}: {error}); what the run "
            "has done is not affected",
            get_run_logger().warning,
        )
