"""Standard output and standard error that never fail whoever writes to them: showing is no reason for work to fail."""

import errno
import io
import os
import select
import sys
from typing import Any

_SHOWN = "backslashreplace"  # what an encoding lacks


class _Stream(io.FileIO):
    """A standard stream. What it can't take (a disk is full, whoever read it is gone) is dropped.

    lost: why it could not take something, the first time.
    """

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        """All of it, or what can be."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                written = super().write(left)
                if written is None:  # whoever started this made it non-blocking, and it is full
                    select.select([], [self], [])
                else:
                    left = left[written:]
        except OSError as error:
            self.lost = self.lost or error
        return size


def make_streams_forgiving() -> None:
    """From now on nothing that this process shows fails it, whoever shows it: a character that a stream's encoding
    lacks is written as `\\xe4`, and what can't be written at all is dropped.

    A stream that was closed when the process began takes everything, and one that somebody has put in its place stays.
    Nothing comes from a standard input that was closed: no file that is opened later is taken for it.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    for name in ("stdout", "stderr"):
        found = getattr(sys, name)
        if found is None:
            setattr(sys, name, open(os.devnull, "w", errors=_SHOWN))  # noqa: SIM115
        elif found is getattr(sys, f"__{name}__") and isinstance(found, io.TextIOWrapper):
            found.flush()
            stream: Any = _Stream(found.fileno(), "w", closefd=False)
            made = io.TextIOWrapper(
                io.BufferedWriter(stream) if isinstance(found.buffer, io.BufferedWriter) else stream,
                encoding=found.encoding,
                errors=_SHOWN,
                line_buffering=found.line_buffering,
                write_through=found.write_through,
            )
            setattr(sys, name, made)


def lost_output() -> OSError | None:
    """Why not all that was written to standard output is there. None when it is, and where its reader left: whoever
    does (`| head`) has read enough."""
    sys.stdout.flush()
    stream = getattr(sys.stdout, "buffer", None)
    lost = getattr(getattr(stream, "raw", stream), "lost", None)
    return lost if isinstance(lost, OSError) and lost.errno != errno.EPIPE else None
