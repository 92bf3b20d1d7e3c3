"""What the page of one name shows, and what it writes down: the newest table's rows, by what teaches most."""

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifacts import aliases, predictions
from artifacts.audits import Audit
from artifacts.errors import LookbookError, NotFound
from artifacts.labels import LabelEvent, Labels, Statement, Verdict, Word
from artifacts.predictions import Predictions
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.reviewing.looks import LOOKED_AT, order_by_looks
from tasks.reviewing.pictures import Pictures, Size
from tasks.reviewing.production import Production, judged, newest_audit
from tasks.reviewing.rows import Place, Seen, Wanted, pick, read
from tasks.shared.class_names import known_class
from tasks.shared.looks import stands_on_backbone
from tasks.vision.teaching import spread_over_classes

AUDIT = "audit"
_NEWEST_SECONDS = 2.0  # a history of a thousand nights takes a while to read


class ReviewError(LookbookError):
    """Something that the page was asked for, and that can't be."""


@dataclass(frozen=True)
class Said:
    """What a person said of one row. label: the class, with the verdict class; new: whether it is a new class."""

    place: Place
    verdict: Verdict
    label: str | None = None
    new: bool = False


@dataclass(frozen=True)
class Progress:
    """What is on record, each content once.

    right, corrected: pictures of a class, which the model had named, or not; none, bad: those that are left out.
    classes: class -> pictures; new_classes: those of them that the weights don't know.
    """

    labelled: int
    right: int
    corrected: int
    none: int
    bad: int
    classes: dict[str, int]
    new_classes: list[str]


class Table:
    """One published table, with the folder that it is of. Close it at the end."""

    def __init__(self, store: Store, settings: Settings, ref: Ref) -> None:
        """Raises NotFound and Corrupt."""
        self.ref, self._store = ref, store
        self.predictions: Predictions = predictions.load(store, ref)
        self.where = str(self.predictions.artifact.manifest["provenance"]["folder"])
        self.pictures = Pictures(settings, self.where)
        self.has_looks = stands_on_backbone(store, self.predictions.artifact.identity["inputs"]["weights"])
        self._rows: dict[Place, Seen] = {}
        self._queues: dict[str, list[Place]] = {}
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
                if self.has_looks and wanted.kind != "error" and rows:
                    threading.Thread(target=self._reorder, args=[mode], daemon=True).start()
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
        least = sorted(self._queues[mode], key=lambda place: self._rows[place].margin)
        if order := order_by_looks(self.ref, least[:LOOKED_AT]):
            ahead = set(order)
            self._queues[mode] = order + [place for place in self._queues[mode] if place not in ahead]


class Review:
    """What the page of one name shows and writes down. Requests come from several threads."""

    def __init__(self, store: Store, settings: Settings, name: str) -> None:
        """Raises NotFound where there is no table of that name, and Corrupt for a damaged log."""
        self.name, self._store, self._settings = name, store, settings
        self._labels = Labels(store.disk, name)
        self._tables: dict[str, Table] = {}
        self._newest: tuple[float, Ref | None] = (-math.inf, None)
        self._turn = threading.RLock()
        self.newest()

    def close(self) -> None:
        for table in self._tables.values():
            table.pictures.close()

    def newest(self) -> Table:
        """The newest table; a scoring may have made one since a few seconds ago. Raises NotFound."""
        looked, ref = self._newest
        if time.monotonic() - looked > _NEWEST_SECONDS:
            ref = aliases.current(self._store.disk, "predictions", self.name, "latest")
            self._newest = (time.monotonic(), ref)
        if ref is None:
            raise NotFound(
                f"expected a table called {self.name}, found none; score a folder: lookbook score FOLDER --name "
                f"{self.name}"
            )
        return self.table(ref.version)

    def table(self, version: str) -> Table:
        """Any table of this name. Raises NotFound, InvalidRef and Corrupt."""
        with self._turn:
            if version not in self._tables:
                ref = Ref.parse(f"predictions/{self.name}@{version}")
                self._tables[version] = Table(self._store, self._settings, ref)
            return self._tables[version]

    def audit(self) -> Audit | None:
        """The newest sample."""
        return newest_audit(self._store, self.name)

    def to_label(self, mode: str, most: int) -> tuple[Table, list[Seen]]:
        """The table, and of its rows the first `most` whose contents nobody has labelled, each content once. Raises
        SettingsError and ReviewError."""
        table, rows = self._rows_of(mode)
        with self._turn:
            self._labels.refresh()
            known = set(self._labels.words())
        found: list[Seen] = []
        for row in rows:
            if len(found) == most:
                break
            if row.sha256 is not None and row.sha256 not in known:
                known.add(row.sha256)
                found.append(row)
        return table, found

    def _rows_of(self, mode: str) -> tuple[Table, list[Seen]]:
        if mode != AUDIT:
            table = self.newest()
            return table, table.queue(mode)
        audit = self.audit()
        if audit is None:
            raise ReviewError(
                f"expected an audit of {self.name}, found none; draw one: lookbook review {self.name} --audit 200"
            )
        table = self.table(Ref.parse(audit.table).version)
        return table, table.audit_rows(audit)

    def classes(self) -> list[str]:
        """The classes of the newest table's weights, then those that people have added."""
        known = list(self.newest().predictions.artifact.facts["classes"])
        return known + [name for name in self.progress().new_classes if name not in known]

    def say(self, event_id: str, by: str, version: str, given: Sequence[Said], chosen: str) -> LabelEvent:
        """Write down what a person said of rows of a table. Under an `event_id` that is on record nothing is written.

        Raises ClassNameError for a class that nobody knows, unless it is meant to be new, and ReviewError.
        """
        table, classes = self.table(version), self.classes()
        statements = tuple(self._statement(table, each, classes, chosen) for each in given)
        with self._turn:
            return self._labels.say(event_id, by, statements)

    def undo(self, event_id: str, by: str, undone: str) -> LabelEvent:
        """Take back what was written under the id `undone`. Raises ReviewError."""
        with self._turn:
            self._labels.refresh()
            number = next((each.number for each in self._labels.events if each.id == undone), None)
            if number is None:
                raise ReviewError("expected something that was said before, found nothing under that id")
            return self._labels.undo(event_id, by, number)

    def progress(self) -> Progress:
        """What the next retraining will have."""
        words = self.words()
        verdicts = Counter(each.statement.verdict for each in words.values())
        classes = Counter(str(each.statement.label) for each in words.values() if each.statement.verdict == "class")
        right = sum(
            each.statement.verdict == "class" and each.statement.label == each.statement.predicted
            for each in words.values()
        )
        known = set(self.newest().predictions.artifact.facts["classes"])
        return Progress(
            len(words),
            right,
            verdicts["class"] - right,
            verdicts["none"],
            verdicts["bad"],
            dict(sorted(classes.items())),
            sorted(set(classes) - known),
        )

    def production(self) -> Production | None:
        """What the newest audit says by now."""
        audit = self.audit()
        return judged(self._store, audit, self.words()) if audit else None

    def words(self) -> Mapping[str, Word]:
        """SHA-256 (hex) -> what counts of that content."""
        with self._turn:
            self._labels.refresh()
            return self._labels.words()

    def picture(self, version: str, place: Place, size: Size) -> bytes:
        """A JPEG. Raises NoPicture and ReviewError."""
        table = self.table(version)
        return table.pictures.jpeg(table.row(place), size)

    def _statement(self, table: Table, said: Said, classes: Sequence[str], chosen: str) -> Statement:
        row = table.row(said.place)
        if row.sha256 is None:
            raise ReviewError(f"{row.path} could not be read when it was scored: there is no content to label")
        label = None
        if said.verdict == "class":
            label = known_class(said.label or "", classes, new=said.new)
        return Statement(
            row.sha256,
            said.verdict,
            label,
            row.path,
            table.where,
            str(table.ref),
            row.label,
            row.confidence,
            chosen,
        )


def reviewable(store: Store) -> Iterator[dict[str, Any]]:
    """The names that have a table, with its ref."""
    for name in aliases.names(store.disk, "predictions", "latest"):
        if ref := aliases.current(store.disk, "predictions", name, "latest"):
            yield {"name": name, "table": str(ref)}
