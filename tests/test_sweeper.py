"""pytest tests/test_sweeper.py: a session of tests that is killed leaves no process behind."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sweeper import MARK, wait_for_end

# A server in a session of its own, one whose parent has ended, one without any environment.
LEAVES = """
import os, signal, socket, subprocess
def test_that_is_killed():
    alone = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    orphan = subprocess.run(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True)
    bare = subprocess.Popen(["sh", "-c", "env -i sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    with socket.create_connection(("127.0.0.1", %d)) as there:
        there.sendall(f"{os.getpid()} {alone.pid} {orphan.stdout.strip()} {bare.stdout.readline().strip()}".encode())
    signal.pause()
"""


@pytest.mark.kill
@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_session_leaves_no_process(tmp_path, workers):
    command = [
        sys.executable, "-m", "pytest", "-p", "sweeper", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ".",
        f"--numprocesses={workers}", "--basetemp=base", "test_leaves.py",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", MARK))}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    with socket.create_server(("127.0.0.1", 0)) as here:
        here.settimeout(60)
        (tmp_path / "test_leaves.py").write_text(LEAVES % here.getsockname()[1])
        session = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
        with here.accept()[0] as there:
            left = [int(pid) for pid in there.makefile().read().split()]
    session.send_signal(signal.SIGKILL)
    session.wait()
    assert len(left) == 4
    assert all(wait_for_end(pid, seconds=60) for pid in left)
