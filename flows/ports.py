"""Who has a port, and whose process is at the other end of a connection: what the kernel says (Linux)."""

import pwd
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

_LISTENS = "0A"
_TRIES = 3  # the kernel writes its table while others connect, so a reading may miss a row
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST, _ANY = 4, 20, 1, 0xFFFFFFFF  # of Linux's headers
_HEAD, _USER = 16, 64  # bytes of a message's head, and where the user is behind it (struct inet_diag_msg)
_ANSWER_SECONDS = 1.0

Address = IPv4Address | IPv6Address
End = tuple[Address, int]


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
            # by its protocol asyncio knows whose answers not to hold back: without it each takes 40 ms more
            bound.append(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
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


def user_of(client: Sequence[Any] | None, server: Sequence[Any] | None) -> int | None:
    """Id of the user whose process made a connection on this machine, from both its ends (host, port).

    None where the kernel doesn't tell: the connection comes from another machine, or was closed already (one that was
    reset has no ends any more). A socket that its process has closed belongs to nobody, which the kernel writes as root
    and no file: that is None, too.
    """
    if client is None or server is None:
        return None
    ends = [(_address(end[0]), int(end[1])) for end in (client, server)]
    found = _asked(*ends) or _looked_up(*ends)
    return found[0] if found and found[1] else None


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


def _address(written: str) -> Address:
    address = ip_address(written)
    return getattr(address, "ipv4_mapped", None) or address


def _asked(client: End, server: End) -> tuple[int, int] | None:
    """User and file of a connection's first end, by one question (netlink's sock_diag(7): 0.02 ms, a table takes 1)."""
    family = socket.AF_INET if client[0].version == 4 else socket.AF_INET6
    ports = struct.pack("!HH", client[1], server[1])
    addresses = b"".join(address.packed.ljust(16, b"\0") for address, _ in (client, server))
    question = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ANY) + ports + addresses
    question += struct.pack("=III", 0, _ANY, _ANY)  # of any interface, with any cookie
    head = struct.pack("=IHHII", _HEAD + len(question), _SOCK_DIAG_BY_FAMILY, _REQUEST, 0, 0)
    with suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_ANSWER_SECONDS)
        kernel.sendall(head + question)
        answer = kernel.recv(4096)
        if struct.unpack_from("=H", answer, 4) == (_SOCK_DIAG_BY_FAMILY,):
            user, file = struct.unpack_from("=II", answer, _HEAD + _USER)
            return user, file
    return None


def _looked_up(client: End, server: End) -> tuple[int, int] | None:
    """The same from the tables, for kernels that answer no such questions."""
    wanted = [f" {here} {there} " for here, there in zip(_written(client), _written(server), strict=True)]
    for _ in range(_TRIES):
        for line in _tables():
            if any(each in line for each in wanted):
                fields = line.split()
                return int(fields[7]), int(fields[9])
    return None


def _written(end: End) -> tuple[str, str]:
    """One end of a connection as the tables write it, in that of IPv4 and in that of IPv6."""
    address, port = end
    mapped = address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
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
