"""Who watches long work: how far it is, and what happens on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

OnRows = Callable[[int, int, int], None]
"""Called with how many more rows (files, pictures) are done, how many of them are errors, and how many were there
before. It may raise, to end the work."""


def _quiet(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Watch:
    """Who watches a work.

    on_rows: hears of rows; by a cluster's work every second.
    on_rates: called with rows a second by node of a cluster.
    tell, warn: take lines about the cluster, and about failures that did not end the work.
    """

    on_rows: OnRows = _quiet
    on_rates: Callable[[Mapping[str, float]], None] = _quiet
    tell: Callable[[str], None] = _quiet
    warn: Callable[[str], None] = _quiet

    def on_life(self, *_: object) -> None:
        """Let the watcher end the work, of which no more rows are to be told."""
        self.on_rows(0, 0, 0)
