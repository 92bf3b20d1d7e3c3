"""`lookbook up`: a Prefect server, the page that labels pictures, two work pools with a worker each, the deployments
and automations, until Ctrl-C.

Pools, deployments and automations stay in Prefect's database; making them again brings them up to date.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from artifacts.disk import lock_now
from artifacts.settings import Settings
from flows.crew import Crew, Say
from flows.deployments import deploy
from flows.review import address, command, listening
from flows.serving import ServerError, reach_loopback_directly
from flows.standing import READY_SECONDS, address_file, check_home, standing_api, standing_server
from flows.workers import (
    FOR_THE_PAGE,
    environment,
    heartbeats,
    make_pools,
    pending,
    schedule_again,
    wait_for_workers,
    workers,
)

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Running:
    """api: of Prefect; url: of its UI; review: of the page where pictures are labelled, where this command serves it;
    logs: the folder of what the processes say; ours: they end with this command."""

    api: str
    review: str | None
    logs: Path
    ours: bool

    @property
    def url(self) -> str:
        return self.api.removesuffix("/api")


@contextmanager
def running(say: Say) -> Iterator[tuple[Running, Crew]]:
    """Bring everything up, and end it in order: workers first, then the server. Raises ServerError.

    Where another `lookbook up` of this user is at work there is nothing to do but to name its address.
    """
    check_home()
    reach_loopback_directly()
    settings = Settings()
    logs = settings.cache.absolute() / "up"
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        crew = Crew(logs, say)
        if not stack.enter_context(_first(address_file())):
            yield Running(_other(say), None, logs, ours=False), crew
            return
        address_file().write_text("")
        stack.callback(address_file().write_text, "")
        api, started = stack.enter_context(standing_server(crew, say))
        from prefect.settings import PREFECT_API_URL, temporary_settings

        stack.enter_context(temporary_settings({PREFECT_API_URL: api}))
        make_pools()
        before = heartbeats()
        say("deploying, starting the workers")
        if started:
            schedule_again(pending(), say)  # a machine that died left them
        seen_by_runs = environment(settings, api)
        sockets = stack.enter_context(listening(settings))
        seen_by_runs["LOOKBOOK_REVIEW_URL"] = review = address(settings, sockets)
        stack.enter_context(crew.member("review", command(sockets), {**seen_by_runs, **_password()}, sockets))
        # Before the workers: a run that goes on writes logs, and while SQLite takes these it refuses others who write.
        deploy(settings, api, say, with_workers=True)
        crew_of_pools = stack.enter_context(workers(crew, seen_by_runs, started, say))
        wait_for_workers(crew_of_pools, before)
        address_file().write_text(api)
        yield Running(api, review, logs, ours=True), crew


def _password() -> dict[str, str]:
    """Of the page, which runs don't need."""
    return {name: value for name, value in os.environ.items() if name == FOR_THE_PAGE}


@contextmanager
def _first(address: Path) -> Iterator[bool]:
    """Whether this is the only `lookbook up`; nobody else is until the end of the context."""
    address.parent.mkdir(parents=True, exist_ok=True)
    with open(address, "ab") as lock:
        yield lock_now(lock.fileno())


def _other(say: Say) -> str:
    """The API of the `lookbook up` that was first, once it is up."""
    say("another `lookbook up` is at work; waiting for its address")
    until = time.monotonic() + READY_SECONDS
    while not (api := standing_api()):
        if time.monotonic() > until:
            raise ServerError("another `lookbook up` is at work, and does not come up; end it, and try again")
        time.sleep(_POLL_SECONDS)
    return api
