"""A proxy in front of a server, as nginx is one with its defaults: it calls the server by its own address (`Host`), and
passes on all else that a browser says, `Origin` too."""

import http.client
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from answering import answering

_REVIEW = Path(__file__).parents[1] / "docs/review.md"
_HOP = {"host", "connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


def documented() -> dict[str, str]:
    """The headers that nginx sets by the configuration in docs/review.md: its defaults where that sets none."""
    text = _REVIEW.read_text()
    [configured] = re.findall(r"^    server \{\n(.*?)^    \}", text, re.MULTILINE | re.DOTALL)
    assert "proxy_pass http://127.0.0.1:4201;" in configured
    return {"Host": "$proxy_host", **dict(re.findall(r"proxy_set_header (\S+) (\S+);", configured))}


@contextmanager
def proxied(url: str, headers: dict[str, str], port: int = 0) -> Iterator[str]:
    """A proxy in front of `url`, at `port` or a free one, which sets these headers (nginx's variables $proxy_host and
    $host): its URL."""
    server = urlsplit(url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            known = {"$proxy_host": server.netloc, "$host": self.headers["Host"]}
            passed = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            passed |= {name: known.get(value, value) for name, value in headers.items()}
            to = http.client.HTTPConnection(server.hostname or "", server.port, timeout=60)
            to.request(self.command, self.path, body if body or self.command == "POST" else None, passed)
            answer = to.getresponse()
            content = answer.read()
            to.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 (as Python's server calls it)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler, port) as taken:
        yield f"http://127.0.0.1:{taken}"
