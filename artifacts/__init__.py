"""What the stages of a pipeline hand each other: datasets, weights, evaluations and predictions, by version.

from artifacts import open_store

store = open_store()
store.resolve("champion")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from artifacts.store import Store


def open_store(folder: "Path | str | None" = None) -> "Store":
    """The store in `folder`, a path or a bucket's URL, or else where LOOKBOOK_STORE says; it is made when something is
    first published there."""
    from artifacts.settings import Settings
    from artifacts.store import Store

    return Store(Settings().store if folder is None else folder)
