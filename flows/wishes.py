"""A retraining that is wished for: because what is scored has drifted in two tables in a row, or because people have
labelled much. Prefect hears it as an event; the automation that then starts `retrain/weekly` is off until somebody
switches it on.
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from artifacts import aliases
from artifacts.dataset import Dataset
from artifacts.documents import seal
from artifacts.errors import AlreadyExists, Corrupt, NotFound
from artifacts.predictions import Predictions
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.scoring.drift import exceeded, numbers_of

SCORED = "lookbook.scored"
WISHED = "lookbook.retraining.wished"
_IN_WORDS = {
    "low_confidence": "share of predictions below 50 % confidence",
    "low_confidence_rise": "rise of the share of predictions below 50 % confidence",
    "class_shift": "shift of the classes",
    "confidence_shift": "shift of the confidences",
    "distance": "distance from the training pictures",
    "errors": "share of errors",
}


def tell_of_scoring(store: Store, settings: Settings, published: Predictions) -> None:
    """Emit a table's numbers, and a wish where they are beyond their limits for the second time in a row."""
    from prefect.events import emit_event

    ref = published.artifact.ref
    numbers = numbers_of(published.artifact)
    emit_event(event=SCORED, resource=_resource(ref.name), payload={"table": str(ref), **numbers})
    limits = {str(name): limit for name, limit in settings.retrain_when.items()}
    now = exceeded(numbers, limits)
    before = exceeded(_table_before(store, ref), limits) if now else {}
    if both := [name for name in now if name in before]:
        figures = ", ".join(f"{_IN_WORDS[name]} {before[name]:g} and {now[name]:g}" for name in both)
        _wish(store, ref.name, f"{ref.name} drifted in two tables in a row: {figures}")


def wish_for_labels(settings: Settings) -> Callable[[str, int], None]:
    """What hears how many contents of a name are labelled, after each label: it wishes for a retraining when so many
    are new to the newest dataset that learned from them."""
    store, limit = Store(settings.store), settings.retrain_when.get("labels", math.inf)
    learned: dict[str, int] = {}
    later = ThreadPoolExecutor(1)

    def heard(name: str, labelled: int) -> None:
        if labelled - learned.get(name, 0) < limit:
            return
        learned[name] = _learned_from(store, name)
        if (new := labelled - learned[name]) >= limit:
            learned[name] = labelled  # said once; as many more are said again
            because = f"{name} has {new} new labels"
            later.submit(_wish, store, name, because)  # Prefect's import takes a second

    return heard


def _table_before(store: Store, ref: Ref) -> Mapping[str, float | None]:
    """The numbers of the newest other table of an earlier day, however long ago: what is scored again on one day, or
    found unchanged, is no second sign. None where there is no such table, or it can't be read."""
    today = datetime.now(UTC).date()
    for event in reversed(aliases.history(store.disk, "predictions", ref.name, "latest")):
        day = datetime.fromisoformat(event.at).date()
        if event.action != "keep" and day < today and event.ref != str(ref):
            with suppress(NotFound, Corrupt):
                return numbers_of(store.open(Ref.parse(event.ref)))
            return {}
    return {}


def _learned_from(store: Store, name: str) -> int:
    """How many labels of this name the newest dataset that knows any has."""
    newest: tuple[str, int] = ("", 0)
    for ref in store.refs("datasets"):
        with suppress(NotFound, Corrupt):
            artifact = store.open(ref)
            created = str(artifact.manifest["provenance"]["created"])
            if artifact.identity["settings"].get("labels") == name and created > newest[0]:
                newest = (created, len(Dataset(artifact).labels))
    return newest[1]


def _wish(store: Store, name: str, because: str) -> None:
    """Emit it, unless there was a wish of this name today: whoever writes the day down first does."""
    from prefect.events import emit_event

    with suppress(AlreadyExists):
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        store.disk.create(f"runs/wished-{name}-{day}.json", seal({"name": name, "because": because}))
        emit_event(event=WISHED, resource=_resource(name), payload={"because": because})


def _resource(name: str) -> dict[str, Any]:
    return {"prefect.resource.id": f"lookbook.predictions.{name}", "prefect.resource.name": name}
