"""Who has a port, and whose process is at the other end of a connection: what the kernel's tables say (Linux)."""

import pwd
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path

_LISTENS = "0A"
_TRIES = 3  # the kernel writes its table while others connect, so a reading may miss a row


@dataclass(frozen=True)
class Holder:
    """Who listens on a port. The process is None where it can't be seen: those of other users can't."""

    user: int
    process: int | None
    command: str | None

    def __str__(self) -> str:
        by = f"process {self.process} ({self.command})" if self.process else "a process"
        return f"{by} of user {user_name(self.user)}"


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of `host`. Raises OSError where that can't be done."""
    found = {each[4]: each[0] for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    bound: list[socket.socket] = []
    try:
        for address, family in found.items():
            bound.append(socket.socket(family))
            bound[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound[-1].bind(address)
            bound[-1].listen()
    except OSError:
        for each in bound:
            each.close()
        raise
    return bound


def holder(port: int) -> Holder | None:
    """Who listens on `port`, on any address; None where the tables show nobody."""
    for line in _tables():
        fields = line.split()
        if fields[3] == _LISTENS and fields[1].endswith(f":{port:04X}"):
            process = _process_of(f"socket:[{fields[9]}]")
            return Holder(int(fields[7]), process, _command(process) if process else None)
    return None


def user_of(client: Sequence[object], server: Sequence[object]) -> int | None:
    """Id of the user whose process made a connection on this machine, from both its ends (host, port).

    None where the tables don't tell: the connection comes from another machine, or was closed already. A socket that
    its process has closed belongs to nobody, which the table writes as root and no file: that is None, too.
    """
    wanted = [f" {here} {there} " for here, there in zip(_written(client), _written(server), strict=True)]
    for _ in range(_TRIES):
        for line in _tables():
            if any(each in line for each in wanted):
                fields = line.split()
                return int(fields[7]) if fields[9] != "0" else None
    return None


def user_name(user: int) -> str:
    """Its name, or its number where it has none."""
    with suppress(KeyError):
        return pwd.getpwuid(user).pw_name
    return str(user)


def _tables() -> Iterator[str]:
    """Rows of the kernel's connections: number, local and remote address, state, ..., user (7), ..., file (9)."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            yield from Path(f"/proc/net/{table}").read_text().splitlines()[1:]


def _written(end: Sequence[object]) -> tuple[str, str]:
    """One end of a connection as the tables write it, in that of IPv4 and in that of IPv6."""
    address, port = ip_address(str(end[0])), int(str(end[1]))
    mapped = address.packed if isinstance(address, IPv6Address) else b"\0" * 10 + b"\xff\xff" + address.packed
    return f"{_words(address.packed)}:{port:04X}", f"{_words(mapped)}:{port:04X}"


def _words(packed: bytes) -> str:
    """An address in words of 32 bits, each in this machine's byte order."""
    return "".join(f"{int.from_bytes(packed[at : at + 4], sys.byteorder):08X}" for at in range(0, len(packed), 4))


def _process_of(file: str) -> int | None:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # processes end as one looks, and others' can't be looked into
            for descriptor in (entry / "fd").iterdir():
                with suppress(OSError):
                    if str(descriptor.readlink()) == file:
                        return int(entry.name)
    return None


def _command(process: int) -> str | None:
    with suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().strip()
    return None
