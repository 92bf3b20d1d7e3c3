"""Whom a server of ours answers: Prefect's, and the page that labels pictures. Whoever reaches Prefect's API can run
code here, and browsers reach 127.0.0.1 for any page that asks them to.

Prefect's own setting (PREFECT_SERVER_CORS_ALLOWED_ORIGINS) only keeps other pages from reading answers and from asking
with JSON. It does nothing about what they send without asking first (a body without a type, which Prefect 3.8.8 takes
for JSON), about sockets, frames, and names that are bound anew to 127.0.0.1. So a request is refused here, before
Prefect sees it:

- with an `Origin` (browsers send it with everything that may change something) that is not the server's own page;
- for a part of another site's page (`Sec-Fetch-Site`): an image, a script, a frame;
- where there is no password: with a `Host` that is not the server's own, or from a process of another user.

And its answers tell browsers to ask nobody but the server: Prefect's page has a client of an analytics host in it,
which starts whatever the settings of Prefect 3.8.8 say, and reports may name pictures on strangers' servers.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from flows.ports import user_name, user_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Advice:
    """What is said to whoever is refused: what makes another page, another name and another user possible."""

    page: str
    name: str
    user: str


PREFECT = Advice(
    page="PREFECT_SERVER_CORS_ALLOWED_ORIGINS names others",
    name="PREFECT_SERVER_UI_API_URL or a password (PREFECT_SERVER_API_AUTH_STRING) makes others possible",
    user="with a password (PREFECT_SERVER_API_AUTH_STRING, PREFECT_API_AUTH_STRING) others may use this server",
)


def own_origins(host: str, port: int) -> set[str]:
    """Origins of pages of a server that listens on `host`: a browser may call this machine by several names."""
    return {origin_of(f"http://{in_url(each)}:{port}") for each in (host, "127.0.0.1", "localhost", "::1")}


def in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def origin_of(url: str) -> str:
    """`https://prefect.example` of `https://Prefect.example.:443/api`, as a browser tells it: without the port that is
    the scheme's own, and with names of other alphabets as DNS has them (RFC 6454, section 4). A name with the root's
    dot is the same one. What is no URL of a host stays as it is, and is no page's origin."""
    try:
        parts = urlsplit(url)
        name, port = (parts.hostname or "").removesuffix(".").encode("idna").decode(), parts.port
    except ValueError:  # Unicode's errors are such
        return url.lower()
    if not name:
        return url.lower()
    own = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{in_url(name)}{'' if port in (None, own) else f':{port}'}"


def policy_of(origins: Iterable[str]) -> str:
    """The Content-Security-Policy of Prefect's pages at `origins`, by which they ask nobody else for anything.

    A page that was opened by one of the server's names asks its API by another one. What else is allowed is how
    Prefect's page is made (3.8.8): styles and pictures within it, and the graph of a run, which is drawn by functions
    that are compiled in the page and by workers of `data:` and `blob:`. A policy can't name an IPv6 address: the page
    of a server that listens at no other one asks that by 'self'.
    """
    apis = sorted(each for each in origins if "[" not in each)
    sockets = [f"ws{each.removeprefix('http')}" for each in apis if each.startswith("http")]
    return "; ".join(
        (
            "default-src 'self'",
            " ".join(["connect-src 'self'", *apis, *sockets]),
            "script-src 'self' 'unsafe-eval'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "worker-src 'self' data: blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )


class Guard:
    """An ASGI application around Prefect's, or around the page that labels pictures.

    origins: of the pages that may use it.
    password: whether the application asks for one.
    policy: Content-Security-Policy of all that it answers; None where the application sets its own.
    """

    def __init__(
        self, app: App, origins: Iterable[str], password: bool, advice: Advice = PREFECT, policy: str | None = None
    ) -> None:
        self._app, self._password, self._advice = app, password, advice
        self._headers = [(b"content-security-policy", policy.encode())] if policy else []
        self._origins = frozenset(origins)
        self._names = {urlsplit(origin).hostname for origin in self._origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (why := self._refusal(scope)):
            await _refuse(scope, send, why)
            return

        async def with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, with_policy if self._headers else send)

    def _refusal(self, scope: Scope) -> str | None:
        """Why a request is refused; None where it is not."""
        found: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        return _first_of(
            self._other_page(found),
            None if self._password else self._other_name(found.get("host", [])),
            None if self._password else self._other_user(scope),
        )

    def _other_page(self, headers: dict[str, list[str]]) -> str | None:
        expected = f"expected this server's own page ({', '.join(sorted(self._origins))})"
        origins = headers.get("origin", [])
        for origin in origins:
            if origin_of(origin) not in self._origins and not _is_same(origin, headers.get("host", [])):
                return f"{expected}, found Origin {origin[:100]!r}; {self._advice.page}"
        [site] = headers.get("sec-fetch-site", ["none"])[:1]
        [part] = headers.get("sec-fetch-dest", ["document"])[:1]
        if not origins and site in ("cross-site", "same-site") and part != "document":
            return f"{expected}, found a part ({part[:20]!r}) of another site's"
        return None

    def _other_name(self, hosts: list[str]) -> str | None:
        if len(hosts) == 1 and ((name := _hostname(hosts[0])) in self._names or _is_loopback(name)):
            return None
        return (
            f"expected Host to be one of {', '.join(sorted(filter(None, self._names)))}, "
            f"found {', '.join(hosts)[:100]!r}; {self._advice.name}"
        )

    def _other_user(self, scope: Scope) -> str | None:
        """Loopback is open to every user of a machine; root may do anything in any case."""
        user = user_of(scope["client"], scope["server"])
        if user in (0, os.geteuid()):
            return None
        found = "one that can't be told" if user is None else f"one of user {user_name(user)}"
        return f"expected a process of user {user_name(os.geteuid())}, found {found}; {self._advice.user}"


def _first_of(*reasons: str | None) -> str | None:
    return next(filter(None, reasons), None)


def _is_same(origin: str, hosts: list[str]) -> bool:
    """Whether the page was loaded by the name and port that it now asks; `_other_name` judges the name."""
    return hosts == [origin.partition("://")[2]]


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_loopback(name: str | None) -> bool:
    """An address in digits can't be bound to another machine's name."""
    try:
        return ip_address(name or "").is_loopback
    except ValueError:
        return False


async def _refuse(scope: Scope, send: Send, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": ""})  # before it is accepted: 403
        return
    body = f"refused: {why}\n".encode("ascii", "backslashreplace")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
