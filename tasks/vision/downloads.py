"""Bring files from elsewhere: HTTPS with timeouts and resume, and Debian's packages without root."""

import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.vision.errors import SourceError

if TYPE_CHECKING:
    import httpx

OnBytes = Callable[[str, int, int | None], None]
"""Called with a file's name, how many bytes of it are there, and how many it has in all (None when unknown)."""

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
ATTEMPTS = 4
APT_SECONDS = 300


def https(url: str, target: Path, limit: int, on_bytes: OnBytes) -> None:
    """Download `url` to `target`.

    limit: how many bytes the file may have.
    on_bytes: called as bytes arrive.

    An earlier `target`.part is continued, and so is a transfer that breaks, by Range, up to 4 attempts. Every hop must
    be HTTPS. What arrives is not checked here; the caller compares its digest. Raises SourceError.
    """
    import httpx

    partial = target.with_name(target.name + ".part")

    def only_https(request: httpx.Request) -> None:
        if request.url.scheme != "https":
            raise SourceError(f"{url} leads to {request.url.scheme}://{request.url.host}, expected https only")

    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    try:
        client = httpx.Client(timeout=timeout, follow_redirects=True, event_hooks={"request": [only_https]})
    except (ImportError, ValueError, httpx.InvalidURL):
        raise SourceError(
            f"{url} can't be asked for by what HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names; expected a proxy as "
            "http://host:port or socks5://host:port"
        ) from None
    with client:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _transfer(client, url, partial, limit, on_bytes)
            except httpx.ConnectError as error:
                raise SourceError(f"{url} can't be reached ({error})") from None
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                if attempt == ATTEMPTS or not _is_passing(error):
                    raise SourceError(f"{url} failed at attempt {attempt} of {ATTEMPTS} ({_reason(error)})") from None
                time.sleep(random.uniform(0.5, 1.0) * 2 ** (attempt - 1))
            else:
                partial.replace(target)
                return


def _transfer(client: "httpx.Client", url: str, partial: Path, limit: int, on_bytes: OnBytes) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == 416:  # nothing after what is there: whole already, or no part of this file
            return
        answer.raise_for_status()
        resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(partial, "ab" if resumed else "wb") as file:
            for block in answer.iter_raw():
                have += len(block)
                if have > limit:
                    partial.unlink()
                    raise SourceError(f"{url} sends more than the {limit:,} bytes that are expected at most")
                file.write(block)
                on_bytes(partial.stem, have, total)


def _is_passing(error: Exception) -> bool:
    """Whether another attempt may help, as after a broken transfer or with a busy server."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is None or status == 429 or status >= 500


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP status {status}" if status else f"{type(error).__name__} {error}".strip()


def debian_package(package: str, folder: Path, on_bytes: OnBytes) -> Path:
    """Fetch a Debian package with apt-get and unpack it below `folder`, without root; returns where it was unpacked.

    The package lists are fetched into `folder`, because a fresh machine has none. Raises SourceError.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SourceError(f"Debian's package {package}: this machine has no apt-get")
    shutil.rmtree(folder, ignore_errors=True)
    unpacked, lists, downloads = folder / "unpacked", folder / "lists", folder / "downloads"
    for each in (unpacked, lists / "partial", downloads / "archives" / "partial"):
        each.mkdir(parents=True)
    apt = ["apt-get", "-q", "-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={downloads}"]
    apt += ["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="]
    on_bytes(f"Debian's {package}", 0, None)
    try:
        _run([*apt, "update"], folder)
        _run([*apt, "download", package], folder)
        for archive in folder.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(archive), str(unpacked)], folder)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise SourceError(f"Debian's package {package}: {said[-1] if said else error}") from None
    return unpacked


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=APT_SECONDS)
