"""Ray clusters on loopback: each node is a `ray start` of its own, with the processes that it starts."""

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sweeper import wait_for_end
from upheld import free_port

RAY = Path(sys.executable).with_name("ray")
_MARK = "LOOKBOOK_TEST_NODE"  # in the environment of all processes of a node
_SECONDS = 60.0


class Cluster:
    """Nodes of one cluster. Use as a context.

    address: for LOOKBOOK_CLUSTER.
    """

    def __init__(self) -> None:
        self._gcs, self._client = free_port(), free_port()
        self.address = f"ray://127.0.0.1:{self._client}"
        self._marks: dict[str, str] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="lb-ray-", ignore_cleanup_errors=True)
        self._token = uuid.uuid4().hex + uuid.uuid4().hex
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token}
        self._soon = {  # that a node is lost is known in two seconds instead of half a minute
            "GRPC_ENABLE_FORK_SUPPORT": "0",  # or one in ten clients waits 30 s for a process that died (Ray 2.60)
            "RAY_health_check_initial_delay_ms": "0",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_timeout_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._marks):
            self.kill(name)
        self._folder.cleanup()

    def start(
        self,
        name: str,
        processors: int = 1,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[Path, Path] | None = None,
        full: Path | None = None,
    ) -> None:
        """Start a node; the first one is the head. Returns when it answers.

        mounts: what its processes see -> in whose place.
        full: a folder that is a disk without room for them.
        """
        where = ["--address", f"127.0.0.1:{self._gcs}"]
        if not self._marks:
            where = ["--head", "--port", str(self._gcs), "--ray-client-server-port", str(self._client)]
            where += ["--include-dashboard", "false"]
        self._marks[name] = uuid.uuid4().hex
        command = [RAY, "start", *where, "--node-name", name, "--num-cpus", str(processors), "--disable-usage-stats"]
        for found, seen in (mounts or {}).items():
            command = ["sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh", found, seen, *command]
        if full:
            mount = 'mount -t tmpfs -o size=16k none "$1" && shift && exec "$@"'
            command = ["sh", "-c", mount, "sh", full, *command]
        if mounts or full:
            command = ["unshare", "--mount", *command]
        command += ["--object-store-memory", str(75 << 20), "--temp-dir", str(Path(self._folder.name) / "r")]
        found = {**os.environ, **self._soon, **self.environment, **(environment or {})}
        done = subprocess.run(
            command, env={**found, _MARK: self._marks[name]}, capture_output=True, text=True, timeout=_SECONDS
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self, name: str, of: str = "") -> list[int]:
        """The processes of a node whose command line has `of`."""
        found = []
        for each in Path("/proc").iterdir():
            with suppress(OSError):
                if each.name.isdigit() and f"{_MARK}={self._marks[name]}".encode() in (each / "environ").read_bytes():
                    line = (each / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if of in line:
                        found.append(int(each.name))
        return found

    def actors(self, name: str) -> list[int]:
        """The processes of a node that are actors of Lookbook."""
        return self.processes(name, "ray::Worker")

    def kill(self, name: str) -> None:
        """End a node as a machine ends that loses its power."""
        while found := self.processes(name):  # a process may have started another one meanwhile
            for each in found:
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            for each in found:
                assert wait_for_end(each, _SECONDS), f"{each} of {name} was killed and goes on"
        del self._marks[name]

    def stop(self, name: str) -> None:
        """End a node that takes its leave: the cluster knows at once that it is gone."""
        for each in self.processes(name, "raylet/raylet"):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGTERM)
            assert wait_for_end(each, _SECONDS), f"{name} does not end"
        self.kill(name)
