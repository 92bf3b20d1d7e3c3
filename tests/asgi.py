"""An application of ours behind a real server, in a thread of the test's process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from flows.ports import listen


@contextmanager
def serve(make: Callable[[int], Any]) -> Iterator[str]:
    """Serve the application that `make` gives for a port: its URL. Who asks before it answers waits at its socket."""
    [listening] = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make(port), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
