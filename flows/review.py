"""The page on which people label pictures: `lookbook review`, and beside Prefect's in `lookbook up`.

`python -m flows.review` is the program of the latter; its sockets come from its parent.
"""

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from artifacts.settings import Settings
from flows.guard import in_url
from flows.ports import listen
from flows.serving import LOOPBACK, ServerError


def command(sockets: Sequence[socket.socket]) -> list[str]:
    """What starts it beside Prefect's server. Pass it the descriptors of the sockets."""
    return [sys.executable, "-P", "-m", "flows.review", *(str(each.fileno()) for each in sockets)]


@contextmanager
def listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """Sockets for the page: at the port that is configured, or else at a free one. Raises ServerError."""
    host, password = settings.review_host, settings.review_password
    known_as = urlsplit(settings.review_url or "").hostname
    if host not in LOOPBACK and not password:
        raise _open_to_all(f"listens on {host}", "LOOKBOOK_REVIEW_HOST")
    if known_as and known_as not in LOOPBACK and not password:
        raise _open_to_all(f"people open as {known_as}", "LOOKBOOK_REVIEW_URL")
    try:
        sockets = listen(host, settings.review_port)
    except OSError:
        try:
            sockets = listen(host, 0)
        except OSError as error:
            raise ServerError(f"expected to listen on {host} (LOOKBOOK_REVIEW_HOST), found: {error}") from None
    try:
        yield sockets[:1]  # `localhost` has two addresses, and at a free port these differ
    finally:
        for each in sockets:
            each.close()


def _open_to_all(how: str, setting: str) -> ServerError:
    return ServerError(
        f"expected a password (LOOKBOOK_REVIEW_PASSWORD) for a page that {how}, found none: whoever reaches it sees "
        f"the pictures, and labels them; set one, or unset {setting}"
    )


def address(settings: Settings, sockets: Sequence[socket.socket]) -> str:
    """By which people open it: the configured one, or where it listens: `http://127.0.0.1:4201`. At another port than
    the configured one, the configured address leads to whoever has that."""
    port = sockets[0].getsockname()[1]
    if settings.review_url and port == settings.review_port:
        return settings.review_url.rstrip("/")
    return f"http://{in_url(settings.review_host)}:{port}"


def serve(
    settings: Settings, sockets: list[socket.socket], on_labels: Callable[[str, int], None] = lambda *_: None
) -> None:
    """Answer until a signal ends it."""
    import uvicorn

    from flows.review_app import make_app
    from flows.review_door import guarded

    app = guarded(make_app(settings, on_labels), settings, sockets[0].getsockname()[1])
    with suppress(KeyboardInterrupt):  # uvicorn passes Ctrl-C on
        uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=3)).run(sockets=sockets)


def _main() -> None:
    from flows.wishes import wish_for_labels

    sockets = [socket.socket(fileno=int(each)) for each in sys.argv[1:]]
    settings = Settings()
    serve(settings, sockets, wish_for_labels(settings))


if __name__ == "__main__":
    _main()
