"""A table of predictions as the page shows it: rows by what teaches most, and their pictures."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from artifacts import predictions
from artifacts.audits import Audit
from artifacts.errors import LookbookError
from artifacts.predictions import Predictions
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.reviewing.looks import LOOKED_AT, order_by_looks
from tasks.reviewing.pictures import Pictures
from tasks.reviewing.rows import Place, Seen, Wanted, pick, read
from tasks.shared.looks import stands_on_backbone
from tasks.vision.teaching import spread_over_classes

_MODES = 16  # queues that are kept


class ReviewError(LookbookError):
    """Something that the page was asked for, and that can't be."""


class Table:
    """One published table, with the folder that it is of. Close it at the end."""

    def __init__(self, store: Store, settings: Settings, ref: Ref) -> None:
        """Raises NotFound and Corrupt."""
        self.ref, self._store = ref, store
        self.predictions: Predictions = predictions.load(store, ref)
        self.where = str(self.predictions.artifact.manifest["provenance"]["folder"])
        self.classes: list[str] = self.predictions.artifact.facts["classes"]
        self.pictures = Pictures(settings, self.where)
        self.has_looks = stands_on_backbone(store, self.predictions.artifact.identity["inputs"]["weights"])
        self._rows: dict[Place, Seen] = {}
        self._queues: OrderedDict[str, list[Place]] = OrderedDict()
        self.reordering: threading.Thread | None = None  # the newest one
        self._turn = threading.Lock()

    def row(self, place: Place) -> Seen:
        """Raises ReviewError for a row that is not there."""
        if place not in self._rows:
            try:
                [self._rows[place]] = read(self.predictions, [place])
            except IndexError:
                raise ReviewError(f"{self.ref} has no row {place.row} in part {place.part}") from None
        return self._rows[place]

    def queue(self, mode: str) -> list[Seen]:
        """The rows of a mode (`Wanted.parse`), what teaches most first. Raises SettingsError."""
        with self._turn:
            if mode not in self._queues:
                wanted = Wanted.parse(mode)
                rows = read(self.predictions, pick(self.predictions, wanted))
                self._rows.update({each.place: each for each in rows})
                if wanted.kind != "error":
                    rows = [rows[place] for place in self._spread(rows)]
                self._queues[mode] = [each.place for each in rows]
                if len(self._queues) > _MODES:
                    self._queues.popitem(last=False)
                if self.has_looks and wanted.kind != "error" and rows:
                    self.reordering = threading.Thread(target=self._reorder, args=[mode], daemon=True)
                    self.reordering.start()
            return [self._rows[place] for place in self._queues[mode]]

    def audit_rows(self, audit: Audit) -> list[Seen]:
        """The rows of a sample, in its order."""
        missing = [Place(each.part, each.row) for each in audit.pictures]
        missing = [each for each in missing if each not in self._rows]
        self._rows.update(zip(missing, read(self.predictions, missing), strict=True))
        return [self._rows[Place(each.part, each.row)] for each in audit.pictures]

    def _spread(self, rows: Sequence[Seen]) -> list[int]:
        margins = np.array([each.margin for each in rows], np.float32)
        _, labels = np.unique([str(each.label) for each in rows], return_inverse=True)
        return [int(place) for place in spread_over_classes(margins, labels.astype(np.int64))]

    def _reorder(self, mode: str) -> None:
        """By what the pictures look like, once that is known; what is left over stays behind it."""
        places = self._queues.get(mode, [])
        least = sorted(places, key=lambda place: self._rows[place].margin)
        if order := order_by_looks(self.ref, least[:LOOKED_AT]):
            ahead = set(order)
            with self._turn:
                if mode in self._queues:
                    self._queues[mode] = order + [place for place in places if place not in ahead]
