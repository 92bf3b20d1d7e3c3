"""Whom the page on which people label pictures, and the reports beside it, answer: its own pages and names and this
user's processes, or whoever knows the password."""

import base64
import hmac
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from math import ceil
from typing import Any

from fastapi import Response

from artifacts.settings import Settings
from flows.guard import Advice, App, Guard, Receive, Scope, Send, origin_of, own_origins

_MOST_BYTES = 1 << 20  # of what a page sends
_GUESSES, _GUESS_SECONDS = 10, 6.0  # wrong passwords that are looked at one after the other, and then one in so long
_COOKIE = "lookbook-review"
_HEADERS = {  # of an answer that has no other ones of its own
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_ADVICE = Advice(
    page="set LOOKBOOK_REVIEW_URL to the address by which people open this page, where its server is started",
    name="a password (LOOKBOOK_REVIEW_PASSWORD) makes others possible",
    user="with a password (LOOKBOOK_REVIEW_PASSWORD) others may use this page",
)


def guarded(app: App, settings: Settings, port: int, clock: Callable[[], float] = time.monotonic) -> App:
    """`app` behind what guards it: its own pages, its own names and this user's processes, or a password.

    port: at which it listens; clock: seconds, by which passwords are looked at.
    """
    password = settings.review_password.get_secret_value() if settings.review_password else None
    origins = own_origins(settings.review_host, port)
    origins |= {origin_of(settings.review_url)} if settings.review_url else set()
    return Guard(_Doorkeeper(app, password, clock), origins, password is not None, _ADVICE)


class _Guesses:
    """How many wrong passwords are looked at: so many, and then one in so many seconds.

    All together, not by address: behind a proxy all have one, and a stranger may have many.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._left, self._at = clock, float(_GUESSES), clock()

    def wait(self) -> float:
        """Seconds until the next one is looked at; 0 where it is at once."""
        now = self._clock()
        self._left = min(_GUESSES, self._left + (now - self._at) / _GUESS_SECONDS)
        self._at = now
        return max(0.0, 1 - self._left) * _GUESS_SECONDS

    def wrong(self) -> None:
        self._left = max(0.0, self._left - 1)


class _Doorkeeper:
    """Asks for the password, keeps out what is too long, and says in every answer what browsers may do with it.

    A browser that was let in gets a cookie, by which it stays in while a stranger guesses.
    """

    def __init__(self, app: App, password: str | None, clock: Callable[[], float]) -> None:
        self._app, self._password = app, password
        self._guesses, self._known = _Guesses(clock), secrets.token_urlsafe(24)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._stranger(scope, headers) or _too_long(scope, headers)
        lets_in = self._password is not None and refusal is None and not self._is_known(headers)

        async def passed_on(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                ours = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                ours = [each for each in ours if each[0] not in given]
                if lets_in:
                    cookie = f"{_COOKIE}={self._known}; Path=/; HttpOnly; SameSite=Strict"
                    ours.append((b"set-cookie", cookie.encode()))
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        await (refusal or self._app)(scope, receive, passed_on)

    def _stranger(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        """What is said to whoever does not know the password; None to others."""
        if self._password is None:
            return None
        if given := headers.get("authorization"):
            if (wait := self._guesses.wait()) and not self._is_known(headers):
                told = f"too many wrong passwords; the next one is looked at in {ceil(wait)} s"
                return Response(told, 429, {"Retry-After": str(ceil(wait))}, "text/plain")
            name, password = _credentials(given)
            if hmac.compare_digest(password.encode(), self._password.encode()):
                scope["lookbook.user"] = name
                return None
            self._guesses.wrong()
        return Response("a password is asked for", 401, {"WWW-Authenticate": 'Basic realm="Lookbook"'}, "text/plain")

    def _is_known(self, headers: dict[str, str]) -> bool:
        with suppress(CookieError):
            if found := SimpleCookie(headers.get("cookie", "")).get(_COOKIE):
                return hmac.compare_digest(found.value.encode(), self._known.encode())
        return False


def _too_long(scope: Scope, headers: dict[str, str]) -> Response | None:
    length = headers.get("content-length", "")
    if scope["method"] not in ("GET", "HEAD") and not (length.isdecimal() and int(length) <= _MOST_BYTES):
        return Response(f"expected a Content-Length up to {_MOST_BYTES:,}", 413, media_type="text/plain")
    return None


def _credentials(header: str) -> tuple[str, str]:
    """Name and password of HTTP's basic authentication; empty where there are none."""
    kind, _, encoded = header.partition(" ")
    if kind.lower() == "basic":
        with suppress(ValueError):  # binascii's and Unicode's errors are such
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
            return name, password
    return "", ""
