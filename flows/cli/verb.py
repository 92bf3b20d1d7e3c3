"""A verb: a function that returns data, as a command that prints it, for a person or as JSON."""

import json
import os
from collections.abc import Callable, Iterator
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from artifacts.errors import LookbookError
from artifacts.printable import printable
from flows.cli.failures import AS_JSON, FAILED, complain, failure_in, one_line

if TYPE_CHECKING:
    from artifacts.settings import Settings
    from artifacts.store import Store

Result = Any
"""What a verb returns: a value that json can write, or an iterator of such values, which are printed as they come."""


class Unshown(LookbookError):
    """A result that can't be written to standard output, of a verb that only shows."""


class Verb(click.Command):
    """A command whose options are made of a request's settings when somebody asks for them: a list of all verbs does
    not pay for it."""

    def __init__(self, *args: Any, asks_for: Callable[[], type] | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._asks_for = asks_for
        self._of_request: list[click.Parameter] = []

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if self._asks_for and not self._of_request:
            from flows.cli.options import options_of

            known = {each.name for each in self.params}
            self._of_request = [each for each in options_of(self._asks_for()) if each.name not in known]
        *ours, helps = super().get_params(ctx)
        return [*ours, *self._of_request, helps]


def verb(
    show: str, name: str | None = None, asks_for: Callable[[], type] | None = None, *, only_shows: bool = False
) -> Callable[[Callable[..., Result]], click.Command]:
    """A command whose function returns data: JSON with --json, otherwise what `tasks.reports.terminal.<show>` shows, or
    `tasks.reports.<show>` where that names a module.

    asks_for: gives the request whose settings are its options, beside those that it has itself.
    only_shows: whether it has done nothing when its result can't be shown. Any other verb has done its work then: it
        says what couldn't be shown, and does not fail.
    """

    def decorate(function: Callable[..., Result]) -> click.Command:
        @wraps(function)
        def run(as_json: bool, verbose: bool, **arguments: Any) -> None:
            _expect_current_folder()
            _keep_prefect_quiet(verbose)
            result = function(**arguments)
            for each in result if isinstance(result, Iterator) else [result]:
                failure = failure_in(each)
                _print(show, {**each, **failure} if failure else each, as_json, only_shows)
                if failure:
                    raise SystemExit(FAILED)

        run = click.option("--verbose", is_flag=True, help="Show logs, and the traceback of a failure.")(run)
        run = click.option(AS_JSON, "as_json", is_flag=True, help="Print one JSON value, as the last line.")(run)
        return click.command(name=name or function.__name__, cls=Verb, asks_for=asks_for)(run)

    return decorate


def say(text: str) -> None:
    """A line about what is going on, on stderr, with nothing in it that a terminal would obey."""
    click.echo(printable(text), err=True)


def open_store() -> "tuple[Settings, Store]":
    """The settings, and the store that they name."""
    from artifacts.settings import Settings
    from artifacts.store import Store

    settings = Settings()
    return settings, Store(settings.store)


def _print(show: str, result: Result, as_json: bool, only_shows: bool) -> None:
    """Raises Unshown, and whatever showing raises, for a verb that `only_shows`."""
    from tasks.reports.streams import lost_output

    try:
        if as_json:
            click.echo(json.dumps(result))
        else:
            module, _, function = show.rpartition(".")
            getattr(import_module(f"tasks.reports.{module or 'terminal'}"), function)(result)
    except Exception as error:
        if only_shows:
            raise
        complain(f"the work is done, but its result can't be shown, which is a bug of Lookbook's: {one_line(error)}")
        click.echo(json.dumps(result))
    if lost := lost_output():
        why = f"its result can't be written to standard output: {lost.strerror}"
        if only_shows:
            raise Unshown(why)
        complain(f"the work is done, but {why}")


def _expect_current_folder() -> None:
    """Raises FolderError where it was removed: nothing that looks for files, Prefect first, works there."""
    try:
        Path.cwd()
    except OSError:
        from tasks.shared.listing import FolderError

        raise FolderError("expected a current folder, found that it was removed; cd to one that is there") from None


def _keep_prefect_quiet(verbose: bool) -> None:
    """Prefect's own lines stay off the console unless they are asked for; its UI has them in any case. And nothing is
    told to its makers, by this process and all that it starts, unless somebody wants that (DO_NOT_TRACK=0)."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "CRITICAL")
