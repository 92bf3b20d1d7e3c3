"""The store that all machines of a cluster share."""

from typing import Any

from artifacts.disk import Disk
from artifacts.documents import unseal
from artifacts.errors import NotFound
from tasks.cluster.errors import ClusterError
from tasks.shared.plans import Plan, load_plan


def shared_plan(disk: Disk, key: str) -> Plan:
    """The plan of the run that asks. Raises ClusterError where this machine has another store."""
    try:
        return load_plan(disk, key)
    except NotFound:
        raise _another(disk) from None


def shared_document(disk: Disk, key: str) -> dict[str, Any]:
    """A document of the run that asks. Raises ClusterError where this machine has another store, and Corrupt."""
    try:
        return unseal(disk.read(key), key)
    except NotFound:
        raise _another(disk) from None


def _another(disk: Disk) -> ClusterError:
    return ClusterError(
        f"expected the store {disk.root} of the run that asks, found another one, or none: it must be a bucket, or a "
        "folder that every machine mounts there"
    )
