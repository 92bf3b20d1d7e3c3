"""Audits: random samples of a table's rows, drawn and written down before anybody labels them.

audits/<name>/00000001.json     which rows of which table, in the order in which they are shown
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from artifacts import numbered
from artifacts.disk import Disk
from artifacts.documents import unseal
from artifacts.errors import Corrupt

FOLDER = "audits"


@dataclass(frozen=True)
class Drawn:
    """A row of a sample: its place in the table, what is there, and what the model said, which is its stratum."""

    part: int
    row: int
    sha256: str
    path: str
    label: str


@dataclass(frozen=True)
class Audit:
    """A sample.

    table: the ref; rows: class -> how many rows the model gave it, of all that could be drawn; where pictures were left
    out by their pixels, an estimate of that.
    seed: of the draw; pictures: in the order in which they are shown, which is random, too.
    at, by: when and by whom it was drawn.
    learned: how many rows show pictures that the table's weights have learned from; none of them was drawn. None where
    that was not known: such rows may be among those drawn, as in all samples of an earlier Lookbook.
    compared: whether these are known by their pixels. If not, only by their files: other files of the same pictures may
    be among those drawn.
    """

    number: int
    table: str
    rows: dict[str, int]
    seed: int
    pictures: list[Drawn]
    at: str
    by: str
    learned: int | None = None
    compared: bool = False


def write_audit(
    disk: Disk,
    name: str,
    table: str,
    rows: Mapping[str, int],
    seed: int,
    drawn: Sequence[Drawn],
    learned: int | None = None,
    compared: bool = False,
) -> Audit:
    """Put a sample on record."""
    pictures = [asdict(each) for each in drawn]
    document = {"table": table, "rows": dict(rows), "seed": seed, "pictures": pictures}
    document |= {"learned": learned, "compared": compared}
    return _audit_of(numbered.append(disk, f"{FOLDER}/{name}", document))


def audits_of(disk: Disk, name: str) -> Iterator[Audit]:
    """The samples of all tables of this name, newest first. Raises Corrupt."""
    return (read_audit(disk, key) for key in reversed(list(disk.list(f"{FOLDER}/{name}"))))


def read_audit(disk: Disk, key: str) -> Audit:
    """The sample under `key`. Raises Corrupt."""
    try:
        return _audit_of(unseal(disk.read(key), key))
    except (TypeError, KeyError):
        raise Corrupt(f"{key} is damaged: it is no audit") from None


def _audit_of(document: Mapping[str, Any]) -> Audit:
    """An earlier Lookbook wrote down nothing of what was learned from."""
    document = {"learned": None, "compared": False, **document}
    given = {field.name: document[field.name] for field in fields(Audit)}
    return Audit(**{**given, "pictures": [Drawn(**each) for each in document["pictures"]]})
