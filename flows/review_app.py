"""The page on which people label pictures, and the reports of what is published, as an application: what it answers.
Whom, stands in `flows/review_door.py`; what it may do, in `tasks/reviewing`."""

import hmac
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import Any, Literal

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from artifacts.documents import digest
from artifacts.errors import Corrupt, LookbookError, NotFound, StoreError
from artifacts.provenance import user_at_host
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.reviewing.pictures import NoPicture
from tasks.reviewing.production import AUDIT
from tasks.reviewing.review import Review, Said, Shown, reviewable
from tasks.reviewing.rows import Place, Seen
from tasks.vision.errors import DecoderError

_PAGES = Path(__file__).with_name("pages")
_TYPES = {"review.html": "text/html", "review.js": "text/javascript", "review.css": "text/css"}
# A report is one file with its style and its pictures inside. It shows names of strangers: no script runs in it, it
# asks nobody for anything, and it is of no origin, so that it can't ask this server either.
_REPORT = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox",
    "Cache-Control": "private, max-age=600",
}
_MOST_ITEMS, _MOST_SAID = 1000, 500
_SHOWN_CLASSES = 3  # of a picture, the most probable ones
_STATUS: tuple[tuple[type[LookbookError], int], ...] = (
    (NotFound, 404), (NoPicture, 404), (Corrupt, 500), (StoreError, 503), (DecoderError, 503)
)  # fmt: skip
"""Of all else that was asked for and can't be: 422. Only what is refused so does the page not send again."""


OnLabels = Callable[[str, int], None]


class SaidRow(BaseModel):
    """What was said of one row."""

    part: int = Field(ge=0)
    row: int = Field(ge=0)
    verdict: Literal["class", "none", "bad"]
    label: str | None = Field(None, max_length=200)
    new: bool = False


class Saying(BaseModel):
    """What was said at once. id: chosen by the page, which sends it again until it hears that it is on record; audit:
    as it came with the rows."""

    id: str = Field(min_length=8, max_length=64)
    version: str = Field(max_length=64)
    chosen: Literal["unsure", "class", "error", "confidence", "audit"]
    audit: int | None = None
    said: list[SaidRow] = Field(min_length=1, max_length=_MOST_SAID)


class Undoing(BaseModel):
    """id: of the undoing; undone: of what is taken back."""

    id: str = Field(min_length=8, max_length=64)
    undone: str = Field(min_length=8, max_length=64)


class Reviews:
    """The reviews of a store, opened as pages ask for them."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings, self.store, self._clock = settings, Store(settings.store), clock
        self._open: dict[str, Review] = {}
        self._turn = RLock()

    def of(self, name: str) -> Review:
        """Raises NotFound and Corrupt."""
        with self._turn:
            if name not in self._open:
                self._open[name] = Review(self.store, self._settings, name, self._clock)
            return self._open[name]

    def close(self) -> None:
        for each in self._open.values():
            each.close()


def make_app(
    settings: Settings, on_labels: OnLabels = lambda *_: None, clock: Callable[[], float] = time.monotonic
) -> FastAPI:
    """The application, without what guards it.

    on_labels: hears the name, and how many contents are labelled, after each label.
    clock: seconds; by it newer tables are looked for.
    """
    reviews, token = Reviews(settings, clock), secrets.token_urlsafe(24)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        yield
        reviews.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)

    def may_change(x_lookbook_token: str = Header("")) -> None:
        if not hmac.compare_digest(x_lookbook_token.encode(), token.encode()):
            raise HTTPException(403, "stale token")  # the page asks for the new one, and sends it again

    @app.exception_handler(LookbookError)
    def told(request: Request, error: LookbookError) -> Response:  # noqa: ARG001
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 422)
        return JSONResponse({"detail": str(error)}, status)

    @app.get("/")
    @app.get("/review/{name}")
    def page() -> Response:
        return _file("review.html")

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in _TYPES:
            raise HTTPException(404, "no such file")
        return _file(name)

    @app.post("/api/session")  # by this way a page that may not write is refused before anybody labels
    @app.get("/api/session")  # of pages of an earlier Lookbook that are still open
    def session(request: Request) -> dict[str, Any]:
        return {"token": token, "by": _who(request), "store": digest(str(reviews.store.disk.root))[:12]}

    @app.get("/api/names")
    def names() -> list[dict[str, Any]]:
        return list(reviewable(reviews.store))

    @app.get("/api/tables/{name}")
    def table(name: str, mode: str = "unsure", count: int = 100) -> dict[str, Any]:
        review = reviews.of(name)
        shown = review.to_label(mode, max(1, min(count, _MOST_ITEMS)))
        facts = shown.table.predictions.artifact.facts
        return {
            "table": str(shown.table.ref),
            "version": shown.table.ref.version,
            "audit": shown.audit,
            "folder": shown.table.where,
            "rows": facts["rows"],
            "known": facts["classes"],
            "classes": review.classes(),
            "errors": facts["errors"],
            "has_audit": review.audit() is not None,
            "items": [_item(shown, row, facts["classes"]) for row in shown.rows],
            **_progress(review, mode == AUDIT),
        }

    @app.get("/api/tables/{name}/{version}/pictures/{part}/{row}")
    def picture(name: str, version: str, part: int, row: int, size: Literal["whole", "small"] = "whole") -> Response:
        content = reviews.of(name).picture(version, Place(part, row), size)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})

    @app.get("/reports/{kind}/{name}/{version}")
    def report(kind: Literal["metrics", "predictions"], name: str, version: str) -> Response:
        artifact = reviews.store.open(Ref.parse(f"{kind}/{name}@{version}"))
        return Response(artifact.read("report.html"), media_type="text/html", headers=_REPORT)

    @app.post("/api/tables/{name}/labels", dependencies=[Depends(may_change)])
    def say(name: str, saying: Saying, request: Request) -> dict[str, Any]:
        review = reviews.of(name)
        said = [Said(Place(each.part, each.row), each.verdict, each.label, each.new) for each in saying.said]
        event = review.say(saying.id, _who(request), saying.version, said, saying.chosen, saying.audit)
        with suppress(LookbookError):  # it is on record, whatever follows
            answer = _progress(review, saying.chosen == AUDIT)
            on_labels(name, answer["progress"]["labelled"])
            return {"number": event.number, **answer}
        return {"number": event.number, "progress": None, "production": None}

    @app.post("/api/tables/{name}/undo", dependencies=[Depends(may_change)])
    def undo(name: str, undoing: Undoing, request: Request) -> dict[str, Any]:
        review = reviews.of(name)
        event = review.undo(undoing.id, _who(request), undoing.undone)
        return {"number": event.number, **_progress(review, True)}

    return app


def _who(request: Request) -> str:
    """Who is at work: the name that was given with the password, or this process's user."""
    name = str(request.scope.get("lookbook.user") or "")[:100]
    return "".join(each for each in name if each.isprintable()) or user_at_host()


def _item(shown: Shown, row: Seen, classes: Sequence[str]) -> dict[str, Any]:
    likely: list[tuple[str, float]] = []
    if row.probabilities is not None:
        top = sorted(enumerate(row.probabilities.tolist()), key=lambda each: -each[1])[:_SHOWN_CLASSES]
        likely = [(classes[place], round(share, 4)) for place, share in top]
    return {
        "part": row.place.part,
        "row": row.place.row,
        "version": shown.table.ref.version,
        "audit": shown.audit,
        "path": row.path,
        "label": row.label,
        "confidence": row.confidence,
        "likely": likely,
        "error": row.error and f"{row.error}: {row.detail}",
    }


def _progress(review: Review, with_audit: bool) -> dict[str, Any]:
    found = review.production() if with_audit else None
    return {"progress": asdict(review.progress()), "production": found and found.to_dict()}


@lru_cache
def _content(name: str) -> bytes:
    return (_PAGES / name).read_bytes()


def _file(name: str) -> Response:
    return Response(_content(name), media_type=_TYPES[name])
