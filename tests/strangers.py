"""A proxy that leads nowhere, and that writes down whom it was asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from answering import answering


@contextmanager
def way_to_strangers() -> Iterator[tuple[str, list[str]]]:
    """The proxy's URL, and what it was asked for so far: host:port of what is encrypted, URLs of the rest."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        def __getattr__(self, name: str) -> object:
            if name.startswith("do_"):  # whatever the method is
                return self._refuse
            raise AttributeError(name)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as port:
        yield f"http://127.0.0.1:{port}", asked
