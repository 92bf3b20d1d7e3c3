"""How long a run may take. A loop asks between two steps: nothing stops work that blocks, least of all a thread."""

import time
from dataclasses import dataclass

from artifacts.errors import LookbookError
from artifacts.printable import many


class DeadlineExceeded(LookbookError):
    """A run took longer than it was given."""


@dataclass(frozen=True)
class Deadline:
    """hours: what the run was given; until: when they are over, by this machine's monotonic clock (s).

    It means nothing on another machine: what is handed on are the hours that are left.
    """

    hours: float
    until: float

    @classmethod
    def after(cls, hours: float) -> "Deadline":
        """`hours` from now on."""
        return cls(hours, time.monotonic() + 3600 * hours)

    def hours_left(self) -> float:
        """0.001 at least: less would be no deadline that a form accepts."""
        return max((self.until - time.monotonic()) / 3600, 0.001)

    def check(self, doing: str) -> None:
        """Raises DeadlineExceeded, naming what was being done, when the time is over."""
        if time.monotonic() > self.until:
            raise DeadlineExceeded(
                f"expected to be done within {many(self.hours, 'hour')}, found it still {doing}; what is finished "
                "stays, run it again to go on, with a higher deadline_hours where it needs longer"
            )
