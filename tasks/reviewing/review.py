"""What the page of one name shows, and what it writes down."""

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from artifacts import aliases
from artifacts.audits import Audit, audits_of
from artifacts.errors import NotFound
from artifacts.labels import LabelEvent, Labels, Statement, Verdict, Word
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.reviewing.pictures import Size
from tasks.reviewing.production import AUDIT, Production, judged, newest_audit, said_in, test_accuracy
from tasks.reviewing.rows import Place, Seen
from tasks.reviewing.table import ReviewError, Table
from tasks.shared.class_names import known_class

_LOOK_SECONDS = 2.0  # so often it is looked whether there is a newer table, or audit
_TABLES = 3  # that are kept, with their open folders


@dataclass(frozen=True)
class Said:
    """What a person said of one row. label: the class, with the verdict class; new: whether it is a new class."""

    place: Place
    verdict: Verdict
    label: str | None = None
    new: bool = False


@dataclass(frozen=True)
class Shown:
    """What the page shows. audit: the number of the sample that the rows are of; None where they are of none."""

    table: Table
    rows: list[Seen]
    audit: int | None


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

    def to_label(self, mode: str, most: int) -> Shown:
        """The table, and of its rows the first `most` whose contents nobody has labelled, each content once. Of an
        audit those that nobody has labelled as a part of it: otherwise the hard ones would be known first. Raises
        SettingsError and ReviewError."""
        audit = self._shown_audit() if mode == AUDIT else None
        table = self.table(Ref.parse(audit.table).version) if audit else self.newest()
        known = set(self._said_in(audit) if audit else self.words())
        found: list[Seen] = []
        for row in table.audit_rows(audit) if audit else table.queue(mode):
            if len(found) == most:
                break
            if row.sha256 is not None and row.sha256 not in known:
                known.add(row.sha256)
                found.append(row)
        return Shown(table, found, audit.number if audit else None)

    def _shown_audit(self) -> Audit:
        if audit := self.audit():
            return audit
        raise ReviewError(
            f"expected an audit of {self.name}, found none; draw one: lookbook review {self.name} --audit 200"
        )

    def classes(self) -> list[str]:
        """The classes of the newest table's weights, then those that people have added."""
        return list(dict.fromkeys([*self.newest().classes, *sorted(_named(self.words()))]))

    def say(
        self, event_id: str, by: str, version: str, given: Sequence[Said], chosen: str, audit: int | None = None
    ) -> LabelEvent:
        """Write down what a person said of rows of a table. Under an `event_id` that is on record nothing is written.

        chosen: why the rows were shown; audit: of which sample, by its number, where they are part of one. A page of an
        earlier Lookbook does not say that: then it is the newest one of the table.

        Raises ClassNameError for a class that nobody knows, unless it is meant to be new, and ReviewError.
        """
        try:
            table = self.table(version)
        except NotFound:
            raise ReviewError(
                f"predictions/{self.name}@{version} is not in the store any more, so nothing can be said of its rows"
            ) from None
        if chosen == AUDIT:
            audit = self._drawn_by(table, audit, given)
        elif audit is not None:
            raise ReviewError(f"expected no audit with what is shown as {chosen}, found audit {audit}")
        classes = list(dict.fromkeys([*table.classes, *self.classes()]))
        statements = tuple(self._statement(table, each, classes, chosen, audit) for each in given)
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
        return judged(audit, self._said_in(audit), self._tested[audit.table])

    def _said_in(self, audit: Audit) -> dict[str, Statement]:
        with self._turn:
            self._labels.refresh()
            return said_in(audit, self._labels)

    def _drawn_by(self, table: Table, number: int | None, given: Sequence[Said]) -> int:
        """The number of the table's sample that has drawn these rows: `number`, or else the newest. Raises
        ReviewError."""
        newest = self.audit()
        for audit in chain([newest] if newest else [], audits_of(self._store.disk, self.name)):
            if audit.table == str(table.ref) and number in (None, audit.number):
                break
        else:
            which = "" if number is None else f" with the number {number}"
            raise ReviewError(f"expected an audit of {table.ref}{which}, found none")
        drawn = {(each.part, each.row) for each in audit.pictures}
        for each in given:
            if each.place not in drawn:
                path = table.row(each.place).path
                raise ReviewError(f"expected a row that was drawn, but {path} was not drawn by audit {audit.number}")
        return audit.number

    def words(self) -> Mapping[str, Word]:
        """SHA-256 (hex) -> what counts of that content."""
        with self._turn:
            self._labels.refresh()
            return dict(self._labels.words())  # other threads go on adding to the log's own

    def picture(self, version: str, place: Place, size: Size) -> bytes:
        """A JPEG. Raises NoPicture and ReviewError."""
        table = self.table(version)
        return table.pictures.jpeg(table.row(place), size)

    def _statement(self, table: Table, said: Said, classes: Sequence[str], chosen: str, audit: int | None) -> Statement:
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
            audit,
        )


def _named(words: Mapping[str, Word]) -> Counter[str]:
    """class -> how many contents people gave it."""
    return Counter(str(each.statement.label) for each in words.values() if each.statement.verdict == "class")


def reviewable(store: Store) -> Iterator[dict[str, Any]]:
    """The names that have a table, with its ref."""
    for name in aliases.names(store.disk, "predictions", "latest"):
        if ref := aliases.current(store.disk, "predictions", name, "latest"):
            yield {"name": name, "table": str(ref)}
