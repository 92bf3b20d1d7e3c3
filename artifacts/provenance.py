"""When, where and with what an artifact was made. It may differ between equal runs, so it stays out of the identity."""

import getpass
import os
import platform
import socket
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("lookbook", "tensorflow", "numpy", "pillow", "pyarrow", "prefect", "safetensors")


def now() -> str:
    """The time in UTC as `2026-11-22T08:00:00Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def user_at_host() -> str:
    """Who is at work, as `anna@box`; as `12345@box` when the user id has no name, which happens in containers."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def provenance(**more: Any) -> dict[str, Any]:
    """What a manifest's provenance holds.

    created: the time in UTC.
    host: the machine's name.
    versions: name -> version, of Python and of the packages that decide numbers or formats.
    commit: 40 hex digits, or None outside a checkout.
    more: what the stage adds.
    """
    return {"created": now(), "host": socket.gethostname(), "versions": _versions(), "commit": _commit(), **more}


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
