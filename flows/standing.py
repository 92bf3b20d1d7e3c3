"""The Prefect server of a `lookbook up`: the configured one, one that this user has running already, or a new one."""

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

from flows.crew import Crew
from flows.diagnosis import how_to_unset
from flows.guard import in_url
from flows.ports import holder, listen
from flows.serving import LOOPBACK, ServerError, command, healthy, only_server, with_our_code

READY_SECONDS = 120
_POLL_SECONDS = 0.2
_TRIES = 6  # of 5 s: a server of Prefect's that has much to do answers nobody for seconds


def address_file() -> Path:
    """Where a `lookbook up` of this user writes down the address of its API."""
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser() / "lookbook-up.txt"


def beside_its_database() -> dict[str, str]:
    """Where a server's SQLite keeps temporary files: on the disk that its database needs room on, whatever TMPDIR is.
    When that was full, logs of runs were refused ("Error logging to API"), or the server did not start."""
    return {"SQLITE_TMPDIR": str(address_file().parent.absolute())}


def check_home() -> None:
    """Raises ServerError when Prefect's home can't be made or written to: asked before Prefect is imported, which makes
    it."""
    try:
        home = address_file().parent
        home.mkdir(parents=True, exist_ok=True)
        if not os.access(home, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(home))
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        found = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else "a user without a home"
        raise ServerError(
            f"expected a folder that Prefect can write to, found {found}; PREFECT_HOME names one, or HOME"
        ) from None


def standing_api() -> str | None:
    """The API of a `lookbook up` of this user, when one is at work: it holds the lock of the file."""
    try:
        with open(address_file()) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        api = address_file().read_text()
        return api if api and any(healthy(api) for _ in range(_TRIES)) else None
    except OSError:
        pass
    return None


def known_api() -> str:
    """The API of the server that is configured, or else of a `lookbook up` of this user. Raises ServerError."""
    from prefect.settings import PREFECT_API_URL

    api = PREFECT_API_URL.value() or standing_api()
    if api is None:
        raise ServerError(
            "expected a Prefect server, found neither PREFECT_API_URL nor a `lookbook up`; start one (prefect server "
            "start) and set PREFECT_API_URL to its API, like http://127.0.0.1:4200/api"
        )
    if not healthy(api):
        raise ServerError(f"expected a Prefect server at PREFECT_API_URL {api}, found none; start it")
    return api


@contextmanager
def standing_server(crew: Crew, say: Callable[[str], None]) -> Iterator[tuple[str, bool]]:
    """The API of the server, and whether it is a new one, which ends with this context. Raises ServerError."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_HOST, PREFECT_SERVER_API_PORT

    if configured := PREFECT_API_URL.value():
        if not healthy(configured):
            raise ServerError(
                f"expected a Prefect server at PREFECT_API_URL {configured}, found none; start it, or "
                f"{how_to_unset()}: `lookbook up` then brings one"
            )
        say(f"using the Prefect server at {configured}")
        yield configured, False
        return
    host, port = PREFECT_SERVER_API_HOST.value(), PREFECT_SERVER_API_PORT.value()
    api = f"http://{in_url(host)}:{port}/api"
    with ExitStack() as stack:
        try:
            sockets = [stack.enter_context(each) for each in listen(host, port)]
        except OSError as error:
            _expect_own_server(port, api, error)
            say(f"using the Prefect server at {api}")
            yield api, False
            return
        stack.enter_context(_new_server(crew, sockets, host, api, say))
        yield api, True


def _expect_own_server(port: int, api: str, error: OSError) -> None:
    """Return when it is a Prefect server of this user's that has the port. Raises ServerError for all else.

    Another user's server is never joined by accident: runs that are meant for one store would land in the other's.
    """
    found = holder(port) if error.errno == errno.EADDRINUSE else None
    if found and found.user == os.geteuid() and healthy(api):
        return
    problem = (
        f"expected to listen at {api.removesuffix('/api')}, found: {error.strerror}"
        + (f" ({found} has the port)" if found else "")
        + "; PREFECT_SERVER_API_PORT names another port"
    )
    if found and found.user != os.geteuid():
        problem += f", and PREFECT_API_URL={api} uses what is there, if that is a Prefect server"
    raise ServerError(problem) from None


@contextmanager
def _new_server(
    crew: Crew, sockets: Sequence[socket.socket], host: str, api: str, say: Callable[[str], None]
) -> Iterator[None]:
    """A server that is started again when it ends; its sockets stay open meanwhile, so that its callers just wait."""
    from prefect.settings import PREFECT_HOME, PREFECT_SERVER_API_AUTH_STRING

    if host not in LOOPBACK and not PREFECT_SERVER_API_AUTH_STRING.value():
        raise ServerError(
            f"expected a password (PREFECT_SERVER_API_AUTH_STRING, PREFECT_API_AUTH_STRING) for a server that listens "
            f"on {host}, found none: whoever reaches it can run code here; set one, or unset PREFECT_SERVER_API_HOST"
        )
    say("starting the Prefect server")
    environment = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_UI_URL": api.removesuffix("/api"),  # which notices name
        **beside_its_database(),
        **{name: value for name, value in os.environ.items() if name != "LOOKBOOK_NOTIFY_URL"},
    }
    with (
        only_server(PREFECT_HOME.value()),
        crew.member("server", command(sockets), with_our_code(environment), sockets) as server,
    ):
        import prefect.workers.process  # noqa: F401  (needed soon, and there is time now)

        until = monotonic() + READY_SECONDS
        while not healthy(api):
            if server.ended() or monotonic() > until:
                raise ServerError(f"the Prefect server does not start: {server.last_words()}")
            sleep(_POLL_SECONDS)
        yield
