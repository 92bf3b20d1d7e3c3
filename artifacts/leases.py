"""A lock where machines share nothing but a disk: a lease, in numbered create-only records.

    <key>/00000001.json     who holds it, or that nobody does

Whoever creates the next number has it. The holder does so again and again; a lease whose number stays the same for
LEASE_SECONDS, by the clock of whoever watches, is another's to take: so no two clocks are ever compared.
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from artifacts.documents import seal, unseal
from artifacts.errors import AlreadyExists, LookbookError, NotFound

if TYPE_CHECKING:
    from artifacts.disk import Disk

LEASE_SECONDS = 90.0
RENEW_SECONDS = 20.0
_KEPT = 100  # records, older ones are removed: a holder that sleeps for so long must still meet a number that is there


class Lease:
    """The lease `key`, as this process sees it."""

    def __init__(self, disk: "Disk", key: str) -> None:
        self._disk = disk
        self._key = key
        self._me = uuid.uuid4().hex
        self._seen = (0, 0.0)

    @contextlib.contextmanager
    def hold(self) -> Iterator[bool]:
        """Hold it while the context lasts, unless another one has it; whether it worked."""
        number = self._take()
        if number is None:
            yield False
            return
        ended = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(number, ended), daemon=True, name="lease")
        renewing.start()
        try:
            yield True
        finally:
            ended.set()
            renewing.join()

    def _take(self) -> int | None:
        """The number of our record; None when another one has the lease."""
        number, holder = self._newest()
        if holder is not None:
            if self._seen[0] != number:
                self._seen = (number, time.monotonic())
            if time.monotonic() - self._seen[1] < LEASE_SECONDS:
                return None
        return self._write(number + 1, self._me)

    def _write(self, number: int, holder: str | None) -> int | None:
        try:
            self._disk.create(f"{self._key}/{number:08d}.json", seal({"holder": holder}))
        except AlreadyExists:
            return None
        return number

    def _renew(self, number: int, ended: threading.Event) -> None:
        """Write the next number until the end, then that nobody holds it. Who lost it meanwhile leaves it alone: what
        it guards is right without it, if slower."""
        held: int | None = number
        while held is not None:
            over = ended.wait(RENEW_SECONDS)
            with contextlib.suppress(LookbookError):  # no network: it runs out, or the next try is in time
                held = self._write(held + 1, None if over else self._me)
                if held is not None and held > _KEPT:
                    self._disk.remove(f"{self._key}/{held - _KEPT:08d}.json")
            if over:
                return

    def _newest(self) -> tuple[int, str | None]:
        """The newest number, 0 without any, and who holds the lease."""
        keys = list(self._disk.list(self._key))
        if not keys:
            return 0, None
        try:
            holder = unseal(self._disk.read(keys[-1]), keys[-1])["holder"]
        except NotFound:
            holder = ""
        return int(keys[-1].rpartition("/")[2].removesuffix(".json")), holder
