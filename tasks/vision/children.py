"""A decoder process as its parent sees it: how it is started, and two pipes on which the parent never waits.

A child may wait for its parent, never the other way round: what doesn't fit into a pipe stays here until the selector
says that there is room, whatever size the kernel gives the pipe, and an answer is put together as it arrives.
"""

import fcntl
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from tasks.vision.decoder import FRAME, IDENTITY
from tasks.vision.errors import DecoderError

_READ_BYTES = 1 << 16
_ANSWER_BYTES = 16 << 20  # far more than an answer about one request has
_END_SECONDS = 5.0
_ROOT = Path(__file__).absolute().parents[2]
_PACKAGES = dict.fromkeys(str(Path(module.__file__).absolute().parents[1]) for module in (np, PIL) if module.__file__)
# The child imports this very code, and NumPy and Pillow from where this process has them: -I and -S leave out the
# current folder, PYTHONPATH and whatever is installed under the name `tasks`.
_COMMAND = (
    "-I", "-S", "-B", "-c", "import sys; sys.path += sys.argv[1:]; from tasks.vision.decoder import main; main()",
    str(_ROOT), *_PACKAGES,
)  # fmt: skip
_INHERITED = ("LD_LIBRARY_PATH",)  # where the interpreter's own libraries may be; no password, no address


def _environment() -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Child:
    """A decoder process. `owner` is what the selector hands out when the child has something to say or room to read."""

    def __init__(
        self, selector: selectors.BaseSelector, owner: object, settings: Mapping[str, Any], descriptors: Sequence[int]
    ) -> None:
        self._selector, self._owner = selector, owner
        self._outgoing: deque[memoryview] = deque()
        self._incoming = bytearray()
        self._known = False
        self._process = subprocess.Popen(
            [sys.executable, *_COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a buffer would hide a second answer from the selector
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C is the parent's to handle
            env=_environment(),
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout
        for pipe in (self._requests, self._answers):
            os.set_blocking(pipe.fileno(), False)
        self._writing = False
        selector.register(self._answers, selectors.EVENT_READ, owner)
        self.heard = time.monotonic()  # when it last read or wrote anything; its start counts
        self.send(json.dumps(settings).encode() + b"\n")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.returncode

    def send(self, content: bytes) -> None:
        self._outgoing.append(memoryview(content))
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes; the selector tells when it takes more."""
        try:
            while self._outgoing:
                written = os.write(self._requests.fileno(), self._outgoing[0])
                self.heard = time.monotonic()
                if written == len(self._outgoing[0]):
                    self._outgoing.popleft()
                else:
                    self._outgoing[0] = self._outgoing[0][written:]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # the child is gone: its end of the answers tells so, too
            self._outgoing.clear()
        if self._writing != bool(self._outgoing):
            self._writing = not self._writing
            if self._writing:
                self._selector.register(self._requests, selectors.EVENT_WRITE, self._owner)
            else:
                self._selector.unregister(self._requests)

    def receive(self) -> list[bytes] | None:
        """The answers that are whole by now; None when the child is gone, or writes what is none."""
        try:
            content = os.read(self._answers.fileno(), _READ_BYTES)
        except BlockingIOError:
            return []
        if not content:
            return None
        self.heard = time.monotonic()
        self._incoming += content
        answers = []
        while len(self._incoming) >= FRAME.size:
            length, _ = FRAME.unpack_from(self._incoming)
            if length > _ANSWER_BYTES:
                return None
            if len(self._incoming) < FRAME.size + length:
                break
            answers.append(bytes(self._incoming[FRAME.size : FRAME.size + length]))
            del self._incoming[: FRAME.size + length]
        if answers and not self._known:
            self._recognize(answers.pop(0))
        return answers

    def _recognize(self, hello: bytes) -> None:
        """Raises DecoderError when the child runs other code than this process."""
        theirs = json.loads(hello)
        if {**theirs, "folder": ""} != {**IDENTITY, "folder": ""}:
            raise DecoderError(
                f"expected decoder processes to run the code of this one ({_described(IDENTITY)}), found "
                f"{_described(theirs)}: the files changed after this process had started; start it again"
            )
        self._known = True

    def kill(self) -> None:
        """Begin to end it, so that many end side by side."""
        self._process.kill()

    def end(self) -> None:
        """Kill it and close the pipes; again is harmless. A process that the kernel can't end yet, because it waits for
        a disk, is left to it: nothing of the child's code runs any more."""
        if self._answers.closed:
            return
        self._process.kill()
        if self._writing:
            self._selector.unregister(self._requests)
        self._selector.unregister(self._answers)
        self._requests.close()
        self._answers.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)


def _described(identity: Mapping[str, str]) -> str:
    code = f"{identity['folder']}, code {identity['code'][:12]}"
    return f"{code}, Python {identity['python']}, NumPy {identity['numpy']}, Pillow {identity['pillow']}"


def shared_memory(size: int) -> int:
    """The descriptor of anonymous memory of so many bytes; whoever gets it can't make it smaller or larger."""
    descriptor = os.memfd_create("lookbook-pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor
