"""What the page of one name shows, and what it writes down: the newest table's rows, by what teaches most."""

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from tasks.reviewing.production import Production, judged, newest_audit, test_accuracy
from tasks.reviewing.rows import Place, Seen, Wanted, pick, read
from tasks.shared.class_names import known_class
from tasks.shared.looks import stands_on_backbone
from tasks.vision.teaching import spread_over_classes

AUDIT = "audit"
_LOOK_SECONDS = 2.0  # so often it is looked whether there is a newer table, or audit
_MODES, _TABLES = 16, 3  # that are kept: queues of a table, and tables with their open folders


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


class Review:
    """What the page of one name shows and writes down. Requests come from several threads."""

    def __init__(
        self, store: Store, settings: Settings, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """clock: seconds. Raises NotFound where there is no table of that name, and Corrupt for a damaged log."""
        self.name, self._store, self._settings, self._clock = name, store, settings, clock
        self._labels = Labels(store.disk, name)
        self._tables: OrderedDict[str, Table] = OrderedDict()
        self._looked, self._newest = -math.inf, ""
        self._audit: Audit | None = None
        self._tested: dict[str, float | None] = {}
        self._turn = threading.RLock()
        self.newest()

    def close(self) -> None:
        for table in self._tables.values():
            table.pictures.close()

    def newest(self) -> Table:
        """The newest table; a scoring may have made one since a few seconds ago. Raises NotFound."""
        self._look()
        if not self._newest:
            raise NotFound(
                f"expected a table called {self.name}, found none; score a folder: lookbook score FOLDER --name "
                f"{self.name}"
            )
        return self.table(Ref.parse(self._newest).version)

    def _look(self) -> None:
        with self._turn:
            if self._clock() - self._looked > _LOOK_SECONDS:
                event = aliases.newest(self._store.disk, "predictions", self.name, "latest")
                self._newest = event.ref if event else ""
                self._audit = newest_audit(self._store, self.name)
                self._looked = self._clock()

    def table(self, version: str) -> Table:
        """Any table of this name. Raises NotFound, InvalidRef and Corrupt."""
        with self._turn:
            if version not in self._tables:
                ref = Ref.parse(f"predictions/{self.name}@{version}")
                self._tables[version] = Table(self._store, self._settings, ref)
                if len(self._tables) > _TABLES:
                    self._tables.popitem(last=False)[1].pictures.close()
            self._tables.move_to_end(version)
            return self._tables[version]

    def audit(self) -> Audit | None:
        """The newest sample."""
        self._look()
        return self._audit

    def to_label(self, mode: str, most: int) -> tuple[Table, list[Seen]]:
        """The table, and of its rows the first `most` whose contents nobody has labelled, each content once. Of an
        audit those that nobody has labelled as a part of one: otherwise the hard ones would be known first. Raises
        SettingsError and ReviewError."""
        table, rows = self._rows_of(mode)
        with self._turn:
            self._labels.refresh()
            words = self._labels.words()
            known = {sha256 for sha256, word in words.items() if word.audited or mode != AUDIT}
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
        return list(dict.fromkeys([*self.newest().classes, *sorted(_named(self.words()))]))

    def say(self, event_id: str, by: str, version: str, given: Sequence[Said], chosen: str) -> LabelEvent:
        """Write down what a person said of rows of a table. Under an `event_id` that is on record nothing is written.

        Raises ClassNameError for a class that nobody knows, unless it is meant to be new, and ReviewError.
        """
        table = self.table(version)
        classes = list(dict.fromkeys([*table.classes, *self.classes()]))
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
        classes = _named(words)
        right = sum(
            each.statement.verdict == "class" and each.statement.label == each.statement.predicted
            for each in words.values()
        )
        known = set(self.newest().classes)
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
        if audit is None:
            return None
        if audit.table not in self._tested:
            self._tested[audit.table] = test_accuracy(self._store, Ref.parse(audit.table))
        return judged(audit, self.words(), self._tested[audit.table])

    def words(self) -> Mapping[str, Word]:
        """SHA-256 (hex) -> what counts of that content."""
        with self._turn:
            self._labels.refresh()
            return dict(self._labels.words())  # other threads go on adding to the log's own

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


def _named(words: Mapping[str, Word]) -> Counter[str]:
    """class -> how many contents people gave it."""
    return Counter(str(each.statement.label) for each in words.values() if each.statement.verdict == "class")


def reviewable(store: Store) -> Iterator[dict[str, Any]]:
    """The names that have a table, with its ref."""
    for name in aliases.names(store.disk, "predictions", "latest"):
        if ref := aliases.current(store.disk, "predictions", name, "latest"):
            yield {"name": name, "table": str(ref)}
