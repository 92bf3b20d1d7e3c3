"""How good a table's predictions are, by what people said of a random sample of its rows."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from artifacts import metrics
from artifacts.audits import Audit, Drawn, audits_of, write_audit
from artifacts.errors import Corrupt, LookbookError, NotFound
from artifacts.labels import Labels, Word
from artifacts.predictions import Predictions
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.reviewing.rows import draw, read
from tasks.vision.auditing import Share, allocate, estimate


class NothingToAudit(LookbookError):
    """A table without a prediction."""


@dataclass(frozen=True)
class Production:
    """The accuracy of a table.

    audit: the sample's number; drawn: how many rows it has; labelled: of how many of them people said what they show;
    bad: how many of those were bad pictures, which do not count.
    accuracy: of all predictions, with its 95 % interval; None before anything is labelled.
    precision: class -> how often it is right when the model says so.
    test_accuracy: of the same weights on their own test split; None where that is not in the store.
    """

    table: str
    audit: int
    drawn: int
    labelled: int
    bad: int
    accuracy: Share | None
    precision: dict[str, Share]
    test_accuracy: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def draw_audit(store: Store, table: Predictions, size: int, seed: int) -> Audit:
    """Draw rows of a table in proportion to what the model said, and put them on record. Raises NothingToAudit."""
    ref, rows = table.artifact.ref, table.artifact.facts["labels"]
    if not rows:
        raise NothingToAudit(f"expected predictions in {ref}, found none: every row is an error; see its report")
    seen = read(table, draw(table, allocate(rows, size), seed))
    drawn = [Drawn(*each.place, str(each.sha256), each.path, str(each.label)) for each in seen]
    return write_audit(store.disk, ref.name, str(ref), rows, seed, drawn)


def newest_audit(store: Store, name: str, table: Ref | None = None) -> Audit | None:
    """The audit that was drawn last, of all tables of the name or of one; None without any."""
    return next((each for each in audits_of(store.disk, name) if table is None or each.table == str(table)), None)


def in_production(store: Store, table: Ref) -> Production | None:
    """What the newest audit of a table says by now; None without one. Raises Corrupt."""
    audit = newest_audit(store, table.name, table)
    return _by_now(store, audit) if audit else None


def last_audit(store: Store, name: str) -> Production | None:
    """What the newest audit of the tables called `name` says by now; None without a labelled one. Raises Corrupt."""
    audit = newest_audit(store, name)
    found = _by_now(store, audit) if audit else None
    return found if found and found.accuracy else None


def _by_now(store: Store, audit: Audit) -> Production:
    table = Ref.parse(audit.table)
    return judged(audit, Labels(store.disk, table.name).words(), test_accuracy(store, table))


def judged(audit: Audit, words: Mapping[str, Word], tested: float | None) -> Production:
    """What an audit says, with these words about contents. tested: the `test_accuracy` of its table."""
    drawn, labelled, right = Counter[str](), Counter[str](), Counter[str]()
    bad = 0
    for each in audit.pictures:
        # What was labelled elsewhere are the hard ones: they count once they were met in an audit.
        if (word := words.get(each.sha256)) and word.audited:
            drawn[each.label] += 1
            if word.statement.verdict == "bad":
                bad += 1
                continue
            labelled[each.label] += 1
            right[each.label] += word.statement.label == each.label
    # of a class's rows as many are bad as of its sample, so far as that is known
    rows = {
        name: round(count * labelled[name] / drawn[name]) if drawn[name] else count
        for name, count in audit.rows.items()
    }
    names = [name for name, count in rows.items() if count]
    return Production(
        audit.table,
        audit.number,
        len(audit.pictures),
        sum(drawn.values()),
        bad,
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
