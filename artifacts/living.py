"""What goes on just now needs: nothing that is named here is removed.

    runs/living/<owner>-00000007.json       what a run, or a publication, needs: refs and keys
    runs/living/claims/<digest of these>/00000007.json      what was found there, and is to stay for a while
    staging/collecting/<random>.json        a removal is under way

A record counts for the grace period of whoever removes, by the disk's clock; a run writes its own again and again, and
drops it when it has ended well. That of a run that failed or was killed stays, so that the run can go on later.

Whoever needs something names it first, and then waits until no removal is under way. Whoever removes says so first, and
then looks at what is named. So what was named in time is seen, and what was not has its removal behind it.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from artifacts import owners
from artifacts.disk import Disk
from artifacts.documents import digest, seal, unseal
from artifacts.errors import AlreadyExists, LookbookError, NotFound, StoreError

FOLDER = "runs/living"
REMOVING = "staging/collecting"
_CLAIMS = f"{FOLDER}/claims"
TURN = "staging/turns/collect"  # the lock of whoever removes
EVERYTHING = "*"
RENEW_SECONDS = 600.0
WAIT_SECONDS = 300.0  # for removals, which take some seconds
_QUIET_SECONDS = 15.0
_POLL_SECONDS = 0.2
_log = logging.getLogger(__name__)


class Needs:
    """What one run needs. Use as a context: it ends when that is left without an error.

    run: the id of a flow run, for people.
    """

    def __init__(self, disk: Disk, run: str | None = None) -> None:
        self._disk = disk
        self._run = run
        self._needs: set[str] = set()
        self._name = f"{FOLDER}/{owners.new_name()}"
        self._number = 0
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="needs")

    def __enter__(self) -> Self:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if kind is None:
            self.drop()

    def add(self, *needs: object) -> None:
        """Need refs or keys, too. What is there when this returns stays there."""
        with self._writing:
            self._needs |= set(map(str, needs))
        self._write()
        let_removals_pass(self._disk)

    def drop(self) -> None:
        """Need nothing any more. Where the store does not answer, that is so after the grace period."""
        if self._number:
            with suppress(StoreError):
                self._disk.remove(self._key())

    def _write(self) -> None:
        with self._writing:
            before, self._number = self._number, self._number + 1
            self._disk.create(self._key(), seal({"run": self._run, "needs": sorted(self._needs)}))
            if before:
                with suppress(StoreError):
                    self._disk.remove(self._key(before))

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(LookbookError):  # no network: the next one is in time
                self._write()

    def _key(self, number: int | None = None) -> str:
        return f"{self._name}-{number or self._number:08d}.json"


@contextmanager
def needing(disk: Disk, *needs: object) -> Iterator[Needs]:
    """Need refs or keys for a moment: a context in which they stay. Whoever is killed in it has needed them, too."""
    claim = Needs(disk)
    claim.add(*needs)
    try:
        yield claim
    finally:
        claim.drop()


def claim(disk: Disk, *needs: object) -> None:
    """Need refs or keys, old ones perhaps, for as long as what was just made counts as new. However often it is said of
    the same ones, there is one record."""
    named = sorted(map(str, needs))
    folder = f"{_CLAIMS}/{digest(named)}"
    while True:
        before = sorted(disk.list(folder))
        number = int(before[-1].rpartition("/")[2].removesuffix(".json")) + 1 if before else 1
        with suppress(AlreadyExists):  # otherwise another one has said it just now
            disk.create(f"{folder}/{number:08d}.json", seal({"run": None, "needs": named}))
            break
    for key in before:
        with suppress(StoreError):
            disk.remove(key)
    let_removals_pass(disk)


def needed(disk: Disk, since: float) -> tuple[set[str], list[str]]:
    """What is named by records that were written after `since` (seconds since the epoch, by the disk's clock), or by
    processes that are known to live; and the keys of all other records. Raises Corrupt."""
    while True:
        found: set[str] = set()
        over: list[str] = []
        try:
            for key in disk.list(FOLDER):
                if disk.modified(key) < since and owners.has_ended(_owner(key)) is not False:
                    over.append(key)
                else:
                    found.update(unseal(disk.read(key), key)["needs"])
        except NotFound:  # written anew under its next number, or done with
            continue
        return found, over


@contextmanager
def removing(disk: Disk) -> Iterator[str]:
    """Say that a removal is under way, as long as the context lasts. Only for whoever holds TURN.

    Gives the key of what says so: where that is gone, somebody else has taken the turn over.
    """
    for key in list(disk.list(REMOVING)):  # of one that was killed
        disk.remove(key)
    key = f"{REMOVING}/{owners.new_name()}.json"
    disk.create(key, seal({}))
    try:
        yield key
    finally:
        disk.remove(key)


def let_removals_pass(disk: Disk) -> None:
    """Wait until those removals have ended that are under way now; one whose process was killed has. They take seconds.

    Raises StoreError when they don't end: whoever removes is stopped (Ctrl-Z, a machine that stands still), and may go
    on at any moment. In a bucket its lease runs out before.
    """
    seen = set(disk.list(REMOVING))
    began, told = time.monotonic(), False
    while seen:
        with disk.hold(TURN) as mine:
            if mine:
                for key in seen:
                    disk.remove(key)
                return
        waited = time.monotonic() - began
        by = owners.describe(min(seen).rpartition("/")[2])
        if waited > WAIT_SECONDS:
            raise StoreError(
                f"expected a collection of the store {disk.root} to end within {WAIT_SECONDS / 60:g} minutes, found it "
                f"still removing: {by}; then run this again: it goes on where it was"
            )
        if waited > _QUIET_SECONDS and not told:
            _log.warning("waiting for a collection of the store %s to end: %s, if it does not go on", disk.root, by)
            told = True
        time.sleep(_POLL_SECONDS)
        seen &= set(disk.list(REMOVING))


def _owner(key: str) -> str:
    return key.rpartition("/")[2].rpartition("-")[0]
