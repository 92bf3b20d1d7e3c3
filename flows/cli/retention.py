"""Verbs that decide what stays: collect, pin, unpin."""

from typing import Any

import click

from flows.cli.verb import Result, open_store, say, verb


def _request() -> type:
    from tasks.requests import CollectRequest

    return CollectRequest


@verb(show="collection", asks_for=_request)
@click.option("--yes", "remove", is_flag=True, help="Remove what goes. Without this nothing is removed.")
def collect(**parameters: Any) -> Result:
    """Show what of the store no rule keeps; with --yes, remove it.

    The newest champions and tables stay, what is pinned, what a run needs, and all that these were made from. What goes
    leaves a record: what it was, and when, by whom and why it was removed.

    \b
    Example:
      lookbook collect
      lookbook collect --keep 3 --keep-predictions 14
      lookbook collect --older-than 90d --yes
    """
    from dataclasses import asdict

    from tasks.shared.collecting import collect_store, rules_of
    from tasks.shared.deadline import Deadline
    from tasks.vision.errors import SettingsError
    from tasks.vision.setting import make

    request: Any = make(_request(), parameters)
    try:
        rules_of(request)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    _, store = open_store()
    deadline = Deadline.after(request.deadline_hours)
    found = collect_store(store, request, deadline, say, lambda removal: say(f"removed {removal.what}"))
    return {**asdict(found), "done": request.remove}


@verb(show="pin")
@click.argument("ref")
@click.option("--reason", required=True, help="Why, for whoever wonders.")
def pin(ref: str, reason: str) -> Result:
    """Keep an artifact, and all that it was made from, whatever is collected.

    \b
    Example:
      lookbook pin champion --reason "shown at the fair"
    """
    from artifacts import pins

    _, store = open_store()
    return pins.pin(store, store.resolve(ref), reason)


@verb(show="pin")
@click.argument("ref")
@click.option("--reason", default="no reason given", show_default=True, help="Why, for whoever wonders.")
def unpin(ref: str, reason: str) -> Result:
    """Let an artifact go when nothing else keeps it.

    \b
    Example:
      lookbook unpin weights/fashion-mnist@3f9a1c20d4b7e815
    """
    from artifacts import pins

    _, store = open_store()
    return pins.unpin(store, store.resolve(ref), reason)
