"""The process of a Prefect server of ours: beside a run, or of `lookbook up`. `python -m flows.serving` is its program.

Its sockets come from its parent, so that a port that is taken is known before anything is imported, and stays the
server's own while that is started again.
"""

import gc
import os
import socket
import sys
import threading
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts import proxies
from artifacts.disk import lock_now
from artifacts.errors import LookbookError
from artifacts.printable import many
from artifacts.proxies import LOOPBACK as LOOPBACK
from tasks.vision.imports import quick_imports
from tasks.vision.locks import locked_within

if TYPE_CHECKING:
    from flows.guard import App, Guard, Receive, Scope, Send

SERVE = b"serve\n"
_OTHER = "another lookbook command uses Prefect's database"
_SHARE = "`lookbook up` has one server for all commands"
_WAIT_SECONDS = 24 * 3600.0  # what a run may take, unless it is told otherwise
_BESIDE = "--beside-a-run"
KILLED_SECONDS = 5.0  # until a killed process has ended
_COLLECT_SECONDS = 1.0
_GENERATIONS = [*[1] * 59, 2]  # that a look for garbage takes in: what is young, and once a minute all
_ROOT = Path(__file__).absolute().parents[1]
_PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY")


class ServerError(LookbookError):
    """A Prefect server is not there, does not start, or is another's."""


def command(sockets: Sequence[socket.socket], *, beside_a_run: bool = False) -> list[str]:
    """What starts the server. Pass it the descriptors of the sockets, and `with_our_code` of an environment."""
    flags = [_BESIDE] if beside_a_run else []
    # -P: nothing from the current folder
    return [sys.executable, "-P", "-m", "flows.serving", *flags, *(str(each.fileno()) for each in sockets)]


def with_our_code(environment: dict[str, str], root: Path = _ROOT) -> dict[str, str]:
    """The environment of a child that runs the code below `root`, whatever is installed, and wherever from."""
    return {**environment, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [environment.get("PYTHONPATH")])])}


def reach_loopback_directly() -> None:
    """Keep this machine's own addresses out of proxies, here and in children; what is elsewhere still goes through.

    Raises ServerError for a proxy that Prefect's client can't use: it would fail, wherever the server is.
    """
    proxies.reach_loopback_directly()
    for name in (*_PROXIES, *map(str.lower, _PROXIES)):
        if proxy := os.environ.get(name):
            _check_proxy(name, proxy if "://" in proxy else f"http://{proxy}")


def _check_proxy(name: str, proxy: str) -> None:
    """Raises ServerError."""
    import httpx

    try:
        httpx.Client(proxy=proxy, trust_env=False).close()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        found = "no address" if isinstance(error, httpx.InvalidURL) else f"{proxy.partition('://')[0]}://"
        raise ServerError(
            f"expected a proxy as http://host:port or socks5://host:port in {name}, found {found}; mend or unset it"
        ) from None


def healthy(api: str) -> bool:
    """Whether a Prefect server answers at `api` (http://host:port/api)."""
    import httpx

    with suppress(httpx.HTTPError, ValueError):
        return httpx.get(f"{api}/health", timeout=5).json() is True
    return False


@contextmanager
def only_server(home: Path) -> Iterator[None]:
    """Hold the lock of the database in Prefect's home; wait, and say so, while another server of ours uses it. Raises
    ServerError when that does not end."""
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "lookbook-server.lock", "wb") as lock:
        if not lock_now(lock.fileno()):
            print(f"{_OTHER}; waiting until it is done ({_SHARE})", file=sys.stderr)
            if not locked_within(lock.fileno(), _WAIT_SECONDS):
                raise ServerError(
                    f"expected another lookbook command to be done within {many(_WAIT_SECONDS / 3600, 'hour')}, "
                    f"found it still using Prefect's database, maybe stopped; find it (fuser {lock.name}) "
                    f"and end it; {_SHARE}"
                )
        yield


def _serve_beside_a_run(listening: socket.socket) -> None:
    """Import, wait for the word on standard input, serve until that ends."""
    with quick_imports():
        import uvicorn

    with _guarded([listening], beside_a_run=True) as app:
        if sys.stdin.buffer.readline() != SERVE:
            return
        server = uvicorn.Server(uvicorn.Config(asked_again_soon(app), log_level="error"))

        def end_with_parent() -> None:
            sys.stdin.buffer.read()
            server.should_exit = True

        threading.Thread(target=end_with_parent, daemon=True).start()
        with suppress(SystemExit):  # uvicorn can't start, and has said why
            server.run(sockets=[listening])
    sys.stderr.flush()
    # All is answered and written: the command waits no 0.7 s for Python to take itself apart, which fails beside the
    # thread that reads.
    os._exit(0 if server.started else 1)


def asked_again_soon(app: "App") -> "App":
    """`app`, whose clients repeat in a moment what its database refused: left to themselves they wait for 2 s.

    Two transactions that write at once are enough for that with SQLite.
    """

    async def answer(scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def passed_on(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] == 503:
                message["headers"] = [*message["headers"], (b"retry-after", b"0.1")]
            await send(message)

        await app(scope, receive, passed_on)

    return answer


def _serve(sockets: list[socket.socket]) -> None:
    """Serve as `prefect server start` does it, until a signal ends it."""
    import uvicorn
    from prefect.settings import get_current_settings

    settings = get_current_settings().server
    with _guarded(sockets, beside_a_run=False) as app, suppress(KeyboardInterrupt):  # uvicorn passes Ctrl-C on
        config = uvicorn.Config(
            app,
            log_level=settings.logging_level.lower(),
            timeout_keep_alive=settings.api.keepalive_timeout,
            ws_ping_interval=settings.api.websocket_ping_interval,
            ws_ping_timeout=settings.api.websocket_ping_timeout,
        )
        uvicorn.Server(config).run(sockets=sockets)


@contextmanager
def garbage_collected_apart() -> Iterator[None]:
    """Look for garbage in a thread of its own, never in one that answers or writes.

    Whoever finds a lost cursor of sqlite3 resets it, and waits for that as long as another thread uses its connection.
    That thread may be waiting for the database's lock, and who has the lock for the event loop: if this is what waits
    for the reset, nobody is answered until SQLite gives up (60 s in Prefect 3.8.8).
    """
    ended = threading.Event()

    def collect() -> None:
        for generation in cycle(_GENERATIONS):
            if ended.wait(_COLLECT_SECONDS):
                return
            gc.collect(generation)

    gc.disable()
    threading.Thread(target=collect, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        gc.enable()


@contextmanager
def _guarded(sockets: list[socket.socket], beside_a_run: bool) -> Iterator["Guard"]:
    """Prefect's application behind our guard. The settings and the thread hold for as long as it serves."""
    with quick_imports():
        from prefect.server.api.server import create_app
        from prefect.settings import (
            PREFECT_SERVER_API_AUTH_STRING,
            PREFECT_SERVER_API_HOST,
            PREFECT_SERVER_CORS_ALLOWED_ORIGINS,
            PREFECT_UI_API_URL,
            PREFECT_UI_URL,
            temporary_settings,
        )

        from flows.guard import Guard, origin_of, own_origins, policy_of

    port = sockets[0].getsockname()[1]
    if beside_a_run:
        origins = own_origins("127.0.0.1", port)
    else:
        given = PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value().split(",")  # `*` is Prefect's default
        named = [PREFECT_UI_API_URL.value(), PREFECT_UI_URL.value(), *(each.strip() for each in given)]
        origins = own_origins(PREFECT_SERVER_API_HOST.value(), port)
        origins |= {origin_of(each) for each in named if each and each != "*"}
    with temporary_settings({PREFECT_SERVER_CORS_ALLOWED_ORIGINS: ",".join(sorted(origins))}):
        app = create_app(ephemeral=beside_a_run, final=True)
        with garbage_collected_apart():
            password = bool(PREFECT_SERVER_API_AUTH_STRING.value())
            yield Guard(app, origins, password, policy=policy_of(origins))


if __name__ == "__main__":
    given = [socket.socket(fileno=int(each)) for each in sys.argv[1:] if each != _BESIDE]
    if _BESIDE in sys.argv:
        _serve_beside_a_run(given[0])
    else:
        _serve(given)
