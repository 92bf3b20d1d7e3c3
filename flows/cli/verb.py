"""A verb: a function that returns data, as a command that prints it, for a person or as JSON."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from flows.cli.failures import FAILED

if TYPE_CHECKING:
    from artifacts.settings import Settings
    from artifacts.store import Store

Result = Any
"""What a verb returns: a value that json can write, or an iterator of such values, which are printed as they come."""


def verb(show: str, name: str | None = None) -> Callable[[Callable[..., Result]], click.Command]:
    """A command whose function returns data: JSON with --json, otherwise what `tasks.reports.terminal.<show>` shows."""

    def decorate(function: Callable[..., Result]) -> click.Command:
        @wraps(function)
        def run(as_json: bool, verbose: bool, **arguments: Any) -> None:
            _keep_prefect_quiet(verbose)
            result = function(**arguments)
            for each in result if isinstance(result, Iterator) else [result]:
                _print(show, each, as_json)
                if isinstance(each, dict) and (each.get("corrupt") or each.get("failed")):
                    raise SystemExit(FAILED)

        run = click.option("--verbose", is_flag=True, help="Show logs, and the traceback of a failure.")(run)
        run = click.option("--json", "as_json", is_flag=True, help="Print one JSON value, as the last line.")(run)
        return click.command(name=name or function.__name__)(run)

    return decorate


def say(text: str) -> None:
    """A line about what is going on, on stderr."""
    click.echo(text, err=True)


def open_store() -> "tuple[Settings, Store]":
    """The settings, and the store that they name."""
    from artifacts.settings import Settings
    from artifacts.store import Store

    settings = Settings()
    return settings, Store(settings.store)


def _print(show: str, result: Result, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result))
        sys.stdout.flush()
    else:
        from tasks.reports import terminal

        getattr(terminal, show)(result)


def _keep_prefect_quiet(verbose: bool) -> None:
    """Prefect's own lines stay off the console unless they are asked for; its UI has them in any case."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "CRITICAL")
