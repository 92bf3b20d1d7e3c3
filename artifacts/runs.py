"""What a flow run produced: `runs/<flow-run-id>.json`, by which a parent learns its child's refs on another machine."""

from collections.abc import Mapping
from contextlib import suppress

from artifacts.disk import Disk
from artifacts.documents import seal, unseal
from artifacts.errors import AlreadyExists, NotFound


def record(disk: Disk, run: str, produced: Mapping[str, str]) -> dict[str, str]:
    """Write down the refs that the run `run` (a flow run's id) produced, by kind, e.g. {"weights": "weights/..."}.

    Create-only: a run that is repeated under its id gets back what is on record.
    """
    with suppress(AlreadyExists):
        disk.create(key(run), seal(dict(produced)))
    return unseal(disk.read(key(run)), key(run))


def find(disk: Disk, run: str) -> dict[str, str] | None:
    """What `run` produced; None when it has finished nothing. Raises Corrupt."""
    try:
        return unseal(disk.read(key(run)), key(run))
    except NotFound:
        return None


def key(run: str) -> str:
    return f"runs/{run}.json"
