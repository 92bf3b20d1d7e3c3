"""How good a table's predictions are, by what people said of a random sample of its rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from artifacts import dataset, metrics
from artifacts.audits import Audit, Drawn, audits_of, write_audit
from artifacts.dataset import Split
from artifacts.errors import Corrupt, LookbookError, NotFound
from artifacts.labels import Labels, Statement
from artifacts.predictions import Predictions
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.reviewing.known import known_by_heart
from tasks.reviewing.rows import NOTHING, Place, Seen, draw, read, rows_by_class
from tasks.shared.listing import FolderError
from tasks.vision.auditing import Share, allocate, estimate
from tasks.vision.images import ImageSpec

AUDIT = "audit"  # why a picture is shown
_RESERVE = 4  # rows that are drawn for each that is wanted: some show what was learned from


class NothingToAudit(LookbookError):
    """A table without a prediction of a picture that its weights have not learned from."""


@dataclass(frozen=True)
class Production:
    """The accuracy of a table, on pictures that its weights have not learned from.

    audit: the sample's number; drawn: how many rows it has; labelled: of how many of them people said in this audit
    what they show; bad: how many of those were bad pictures, which do not count.
    learned: how many more rows of the table show pictures that the weights have learned from; None where nobody knows,
    and such rows may be among those drawn. compared: whether that is known by pixels, and about, or by files alone.
    accuracy: of all predictions but those, with its 95 % interval; None until all that was drawn is labelled.
    precision: class -> how often it is right when the model says so; empty until then.
    test_accuracy: of the same weights on their own test split; None where that is not in the store.
    """

    table: str
    audit: int
    drawn: int
    labelled: int
    bad: int
    learned: int | None
    compared: bool
    accuracy: Share | None
    precision: dict[str, Share]
    test_accuracy: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def draw_audit(store: Store, settings: Settings, table: Predictions, size: int, seed: int) -> Audit:
    """Draw rows of a table in proportion to what the model said, and put them on record: none whose picture the
    table's weights have learned from, as they know it by heart. Raises NothingToAudit.

    Files that were learned from are known beforehand. A row that turns out to have the pixels of another one is passed
    over, and the next of its class is drawn; of a class's rows as many are such as of those that were looked at.
    """
    ref, predicted = table.artifact.ref, sum(table.artifact.facts["labels"].values())
    if not predicted:
        raise NothingToAudit(f"expected predictions in {ref}, found none: every row is an error; see its report")
    learned = _learned_from(store, table)
    files = NOTHING if learned is None or learned.sha256 is None else pa.array(map(str, learned.sha256), pa.string())
    rows = rows_by_class(table, files)
    wanted = Counter(allocate(rows, size))
    in_order = {name: min(rows[name], _RESERVE * count) for name, count in wanted.items()}
    reserve = read(table, draw(table, in_order, seed, files))
    compared = learned is not None
    try:
        seen, looked_at = _not_by_heart(settings, table, reserve, wanted, learned)
    except FolderError:
        (seen, looked_at), compared = _not_by_heart(settings, table, reserve, wanted, None), False
    if not seen:
        raise NothingToAudit(
            f"expected predictions in {ref} of pictures that its weights have not learned from, found none among "
            f"{predicted:,}; score other pictures"
        )
    kept = Counter(str(each.label) for each in seen)
    rows |= {name: round(rows[name] * kept[name] / many) for name, many in looked_at.items()}
    drawn = [Drawn(*each.place, str(each.sha256), each.path, str(each.label)) for each in seen]
    known = compared or (learned is not None and learned.sha256 is not None)
    left_out = predicted - sum(rows.values()) if known else None
    return write_audit(store.disk, ref.name, str(ref), rows, seed, drawn, left_out, compared)


def _not_by_heart(
    settings: Settings, table: Predictions, reserve: Sequence[Seen], wanted: Counter[str], learned: Split | None
) -> tuple[list[Seen], Counter[str]]:
    """The first `wanted` rows of each class whose pictures were not learned from, in the order of the reserve, and how
    many of each class were looked at. Raises FolderError."""
    facts, where = table.artifact.facts, str(table.artifact.manifest["provenance"]["folder"])
    spec, seen, left, looked_at = ImageSpec.from_dict(facts["image_spec"]), set[Place](), list(reserve), Counter[str]()
    missing = Counter(wanted)
    while due := _first_of_each(left, missing):
        looked_at.update(str(each.label) for each in due)
        known = [False] * len(due) if learned is None else known_by_heart(settings, where, spec, due, learned.images)
        fresh = [each for each, by_heart in zip(due, known, strict=True) if not by_heart]
        seen.update(each.place for each in fresh)
        missing -= Counter(str(each.label) for each in fresh)
        taken = {each.place for each in due}
        left = [each for each in left if each.place not in taken]
    return [each for each in reserve if each.place in seen], looked_at


def _first_of_each(rows: Sequence[Seen], counts: Mapping[str, int]) -> list[Seen]:
    """So many rows of each class, those that come first."""
    found, met = [], Counter[str]()
    for each in rows:
        met[str(each.label)] += 1
        if met[str(each.label)] <= counts[str(each.label)]:
            found.append(each)
    return found


def _learned_from(store: Store, table: Predictions) -> Split | None:
    """What a table's weights were trained on; None where the dataset can't be read."""
    with suppress(NotFound, Corrupt):
        return dataset.load(store, Ref.parse(table.artifact.identity["inputs"]["dataset"])).train
    return None


def newest_audit(store: Store, name: str, table: Ref | None = None) -> Audit | None:
    """The audit that was drawn last, of all tables of the name or of one; None without any."""
    return next((each for each in audits_of(store.disk, name) if table is None or each.table == str(table)), None)


def in_production(store: Store, table: Ref) -> Production | None:
    """What the newest audit of a table says by now; None without one. Raises Corrupt."""
    audit = newest_audit(store, table.name, table)
    return _by_now(store, audit) if audit else None


def last_audit(store: Store, name: str) -> Production | None:
    """What the newest audit of the tables called `name` says by now; None without one. Raises Corrupt."""
    audit = newest_audit(store, name)
    return _by_now(store, audit) if audit else None


def _by_now(store: Store, audit: Audit) -> Production:
    table = Ref.parse(audit.table)
    return judged(audit, said_in(audit, Labels(store.disk, table.name)), test_accuracy(store, table))


def said_in(audit: Audit, log: Labels) -> dict[str, Statement]:
    """SHA-256 (hex) -> the newest word that was said of it in this audit, of what it drew.

    What was said elsewhere, or in another audit, does not count: those are the hard ones, or what a later model has
    learned from. A statement of an earlier Lookbook names no audit: it was said in that of its table which was drawn
    before it.
    """
    drawn = {each.sha256 for each in audit.pictures}
    return {
        statement.sha256: statement
        for event in log.standing()
        for statement in event.statements
        if statement.chosen == AUDIT and statement.sha256 in drawn
        if statement.audit == audit.number
        or (statement.audit is None and statement.table == audit.table and event.at >= audit.at)
    }


def judged(audit: Audit, said: Mapping[str, Statement], tested: float | None) -> Production:
    """What an audit says. said: what `said_in` found; tested: the `test_accuracy` of its table."""
    drawn, labelled, right = Counter[str](), Counter[str](), Counter[str]()
    bad = 0
    for each in audit.pictures:
        if statement := said.get(each.sha256):
            drawn[each.label] += 1
            if statement.verdict == "bad":
                bad += 1
                continue
            labelled[each.label] += 1
            right[each.label] += statement.label == each.label
    complete = sum(drawn.values()) == len(audit.pictures)
    # of a class's rows as many are bad as of its sample, so far as that is known
    rows = {
        name: round(count * labelled[name] / drawn[name]) if drawn[name] else count
        for name, count in audit.rows.items()
    }
    names = [name for name, count in rows.items() if count] if complete else []
    return Production(
        audit.table,
        audit.number,
        len(audit.pictures),
        sum(drawn.values()),
        bad,
        audit.learned,
        audit.compared,
        _estimated(names, rows, labelled, right),
        {name: share for name in names if (share := _estimated([name], rows, labelled, right))},
        tested,
    )


def _estimated(
    names: list[str], rows: Mapping[str, int], labelled: Mapping[str, int], right: Mapping[str, int]
) -> Share | None:
    counts = (np.array([each[name] for name in names], np.int64) for each in (rows, labelled, right))
    return estimate(*counts) if names else None


def test_accuracy(store: Store, table: Ref) -> float | None:
    """Of the weights that made a table, on their own test split; None where that is not in the store."""
    with suppress(NotFound, Corrupt):  # it only stands beside; `lookbook verify` tells
        inputs = store.open(table).identity["inputs"]
        if found := metrics.find(store, Ref.parse(inputs["weights"]), inputs["dataset"]):
            return found.numbers.accuracy
    return None
