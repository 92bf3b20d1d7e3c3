"""Rows of a file of labels, and where the newest table has their pictures."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from artifacts.labels import Statement
from artifacts.predictions import Predictions
from tasks.shared.class_names import known_class
from tasks.shared.paths import Near, SeveralPaths, addresses, exact, spellings


@dataclass(frozen=True)
class Row:
    """What a row of a file says; by path it has no content yet.

    path, label: as they are written there, with an apostrophe that may be an export's or the name's own.
    spellings: what the path may be in the newest table, the likeliest first.
    """

    said: Statement
    path: str
    label: str
    spellings: list[str] = field(default_factory=list)

    def checked(self, classes: Sequence[str], new: bool) -> "Row":
        """With the class that is called so. Raises ClassNameError."""
        if not self.said.label:
            return self
        is_as_written = self.said.label not in classes and self.label in classes
        label = self.label if is_as_written else known_class(self.said.label, classes, new=new)
        return replace(self, said=replace(self.said, label=label))

    def spelled(self, table: Predictions | None) -> "Row":
        """With its spellings."""
        written = [each for each in (self.said.path or "", self.path) if each]
        return replace(self, spellings=spellings(written, _tops(table) if table else (), as_column=True))


class Seen:
    """Where the newest table has the pictures of a file's rows."""

    def __init__(self, table: Predictions | None, wanted: Sequence[Row]) -> None:
        """Raises SeveralPaths."""
        self._by_path: dict[str, dict[str, Any]] = {}
        self._by_content: dict[str, dict[str, Any]] = {}
        self._near: dict[str, str | None] = {}  # the first spelling of a path that is in no row -> one that is
        if table is None:
            return
        self._look(table, {spelling for each in wanted for spelling in each.spellings}, wanted)
        there = [exact(each.spellings, self._by_path) for each in wanted]
        odd = [each.spellings for each, path in zip(wanted, there, strict=True) if each.spellings and path is None]
        if odd:
            parts = range(len(table.parts))
            paths = (path for part in parts for path in table.read(part, ["path"]).column("path").to_pylist())
            near = Near(_tops(table), paths, odd, {path for path in there if path})
            for texts in odd:
                try:
                    self._near[texts[0]] = near.find(texts)
                except SeveralPaths as error:
                    raise SeveralPaths(f"the path {texts[0]!r} is {error}") from None
            self._look(table, {path for path in self._near.values() if path}, ())

    def _look(self, table: Predictions, paths: Set[str], wanted: Sequence[Row]) -> None:
        contents = {each.said.sha256 for each in wanted}
        place = {"folder": _folder(table), "table": str(table.artifact.ref)}
        for part in range(len(table.parts)) if paths or contents else ():
            rows = table.read(part, ["path", "sha256", "label", "confidence"])
            for path, sha256, label, confidence in zip(*(column.to_pylist() for column in rows.columns), strict=True):
                if sha256 and (path in paths or sha256 in contents):
                    row = {"path": path, "sha256": sha256, "predicted": label, "confidence": confidence, **place}
                    self._by_path[path] = row
                    self._by_content.setdefault(sha256, row)

    def placed(self, each: Row) -> Statement:
        """What a row says, with what the table has of it; as it was where that is nothing."""
        given, texts = each.said, each.spellings
        path = exact(texts, self._by_path) or (self._near.get(texts[0]) if texts else None)
        row = self._by_path.get(path) if path else None
        if given.sha256 and (row is None or row["sha256"] != given.sha256):
            row = self._by_content.get(given.sha256)
        return replace(given, **row) if row else given


def _folder(table: Predictions) -> str:
    """The `real_path` of the folder that it is of."""
    return str(table.artifact.manifest["provenance"]["folder"])


def _tops(table: Predictions) -> list[str]:
    return addresses(_folder(table))
