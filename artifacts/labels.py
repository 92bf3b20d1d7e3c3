"""What people said of pictures: an append-only log of numbered, create-only events, by content.

    labels/<name>/00000001.json     statements that were made at once, or word that an earlier event is taken back

`name` is that of the tables in which the pictures were seen. Of several statements about a content the newest one
counts, whoever made it; all are on record.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from artifacts.disk import Disk, spread
from artifacts.documents import seal, unseal
from artifacts.errors import AlreadyExists, Corrupt, NotFound
from artifacts.provenance import now
from artifacts.refs import check_name

FOLDER = "labels"
Verdict = Literal["class", "none", "bad"]


@dataclass(frozen=True)
class Statement:
    """What somebody said of one picture.

    sha256: of the file's bytes (hex).
    verdict: class (it shows the class `label`), none (it shows none of the classes) or bad (nothing to learn from).
    label: the class; None with the other verdicts.
    path, folder: where the picture was seen: as in a table's column, and the folder that was scored.
    table: the ref of that table; None for what was imported.
    predicted, confidence: what the model had said; None where it said nothing.
    chosen: why this picture was shown: unsure, class, error, confidence, audit; or import.
    audit: the number of the audit that it was said in (`artifacts.audits`); None with all else that is chosen, and in
    statements of an earlier Lookbook.
    """

    sha256: str
    verdict: Verdict
    label: str | None = None
    path: str | None = None
    folder: str | None = None
    table: str | None = None
    predicted: str | None = None
    confidence: float | None = None
    chosen: str = "import"
    audit: int | None = None


@dataclass(frozen=True)
class LabelEvent:
    """What was written at once.

    number: its place in the log.
    id: by which whoever is not sure that it was written asks again; nothing is written twice under one.
    statements: what was said; none where an earlier event is taken back.
    undoes: the number of that event.
    at: when, in UTC; by: who.
    """

    number: int
    id: str
    at: str
    by: str
    statements: tuple[Statement, ...] = ()
    undoes: int | None = None


@dataclass(frozen=True)
class Word:
    """What counts of a content now.

    statement: the newest one; event: in which it was made.
    first: the oldest statement that was not taken back: why the picture was shown at first decides how it is used.
    """

    statement: Statement
    event: LabelEvent
    first: Statement


class Labels:
    """The log of one name. What others write meanwhile is there after `refresh`."""

    def __init__(self, disk: Disk, name: str) -> None:
        """Raises Corrupt for a log that is damaged, or has a gap."""
        self.name = check_name(name)
        self._disk = disk
        self._ids: dict[str, LabelEvent] = {}
        self._words: dict[str, Word] | None = None
        self.events: list[LabelEvent] = []
        keys = list(disk.list(f"{FOLDER}/{name}"))
        for number, (key, event) in enumerate(zip(keys, spread(disk.at_once, self._read, keys), strict=True), start=1):
            if key != self._key(number) or event.number != number:
                raise Corrupt(
                    f"{self._key(number)} is missing from the store {disk.root}, though there are later labels; "
                    "restore it from a copy"
                )
            self._add(event)

    def say(self, event_id: str, by: str, statements: Sequence[Statement]) -> LabelEvent:
        """Put statements on record, or give back the event that has this id."""
        return self._append(event_id, by, {"statements": [asdict(each) for each in statements], "undoes": None})

    def undo(self, event_id: str, by: str, number: int) -> LabelEvent:
        """Take an event back: what was said before it counts again. Raises NotFound."""
        self.refresh()
        if not 1 <= number <= len(self.events) or self.events[number - 1].undoes:
            raise NotFound(f"expected the number of something that was said of {self.name}, found {number}")
        return self._append(event_id, by, {"statements": [], "undoes": number})

    def refresh(self) -> None:
        """Read what was written since."""
        while True:
            key = self._key(len(self.events) + 1)
            try:
                self._add(self._read(key))
            except NotFound:
                return

    def words(self) -> dict[str, Word]:
        """SHA-256 (hex) -> what counts of that content. Not to be changed."""
        if self._words is None:
            self._words = {}
            for event in self.standing():
                _count(self._words, event)
        return self._words

    def standing(self) -> Iterator[LabelEvent]:
        """The events that were not taken back, oldest first."""
        gone = {event.undoes for event in self.events}
        return (event for event in self.events if event.number not in gone)

    def _append(self, event_id: str, by: str, said: Mapping[str, Any]) -> LabelEvent:
        self.refresh()
        while event_id not in self._ids:
            number = len(self.events) + 1
            document = {**said, "number": number, "id": event_id, "at": now(), "by": by}
            try:
                self._disk.create(self._key(number), seal(document))
            except AlreadyExists:
                self.refresh()
                continue
            self._add(_event_of(document))
        return self._ids[event_id]

    def _add(self, event: LabelEvent) -> None:
        if event.undoes:
            self._words = None
        elif self._words is not None:
            _count(self._words, event)
        self.events.append(event)
        self._ids[event.id] = event

    def _read(self, key: str) -> LabelEvent:
        return read_label_event(self._disk, key)

    def _key(self, number: int) -> str:
        return f"{FOLDER}/{self.name}/{number:08d}.json"


def _count(words: dict[str, Word], event: LabelEvent) -> None:
    """Let the statements of an event count, after all before it."""
    for statement in event.statements:
        before = words.get(statement.sha256)
        words[statement.sha256] = Word(statement, event, before.first if before else statement)


def read_label_event(disk: Disk, key: str) -> LabelEvent:
    """The event under `key`. Raises NotFound and Corrupt."""
    try:
        return _event_of(unseal(disk.read(key), key))
    except (TypeError, KeyError):
        raise Corrupt(f"{key} is damaged: it is no event of labels") from None


def label_names(disk: Disk) -> list[str]:
    """The names that have labels, sorted."""
    keys = (key.split("/") for key in disk.list(FOLDER))
    return sorted({parts[1] for parts in keys if len(parts) == 3})


def _event_of(document: Mapping[str, Any]) -> LabelEvent:
    """What a later Lookbook adds is passed over."""
    known = {each.name for each in fields(Statement)}
    statements = tuple(
        Statement(**{name: value for name, value in each.items() if name in known}) for each in document["statements"]
    )
    return LabelEvent(
        document["number"], document["id"], document["at"], document["by"], statements, document["undoes"]
    )
