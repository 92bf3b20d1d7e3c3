"""The proxy that leads to an address, by the rules of the client that reads objects (reqwest's, in obstore 0.12).

What is listed must be reached as what is read is: httpx has other rules, and raises errors of its own for some of these
variables.
"""

import ipaddress
import os
import re
from urllib.parse import urlsplit

from artifacts.errors import StoreError

_PROXY = re.compile(r"(\w[\w+.-]*)://([^/?#\s]+)(?:[/?#]\S*)?|([^/?#\s]+)", re.ASCII)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_KNOWN = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


def reach_loopback_directly() -> None:
    """Name this machine's own addresses in NO_PROXY, for this process and its children. An address in brackets loses
    them: httpx can't read it."""
    for name in ("NO_PROXY", "no_proxy"):
        given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        known = [host for each in given.split(",") if (host := each.strip().strip("[]"))]
        os.environ[name] = ",".join([*known, *(each for each in LOOPBACK if each not in known)])


def proxy_for(url: str) -> str | None:
    """The URL of the proxy for an http or https address; None where it is asked directly. Raises StoreError for one
    that the client can't use."""
    address = urlsplit(url)
    if "REQUEST_METHOD" in os.environ:  # a CGI program, whose HTTP_PROXY is a header of whoever asks
        return None
    proxy = _parsed(_variable(f"{address.scheme}_proxy")) or _parsed(_variable("all_proxy"))
    if proxy is None or _is_passed_by(address.hostname or "", _variable("no_proxy")):
        return None
    scheme, authority = proxy
    if scheme not in ("http", "https") or not _is_whole(authority):
        raise StoreError(
            "expected a proxy as http://host:port in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, found "
            f"{f'{scheme}://' if scheme.startswith('socks') else 'no such address'}; name another one, or "
            f"{address.hostname} in NO_PROXY"
        )
    return f"{scheme}://{authority}"


def _is_whole(authority: str) -> bool:
    try:
        return bool((found := urlsplit(f"//{authority}")).hostname) and found.port != 0
    except ValueError:  # the port is no number, or none that there is
        return False


def _variable(name: str) -> str:
    """In capitals, where it is set so, though to nothing."""
    return os.environ.get(name.upper(), os.environ.get(name, ""))


def _parsed(text: str) -> tuple[str, str] | None:
    """The scheme and the authority; None for what the client takes for no proxy."""
    found = _PROXY.fullmatch(text) if text.isascii() else None
    scheme = (found[1] or "http").lower() if found else ""
    return (scheme, found[2] or found[3]) if found and scheme in _KNOWN else None


def _is_passed_by(host: str, no_proxy: str) -> bool:
    """Numbers are passed by for numbers and networks, names for domains and `*`."""
    given = [each for part in no_proxy.split(",") if (each := part.strip())]
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return any(_is_below(host, each.lower()) for each in given)
    return any(number in network for part in given if (network := _network(part)))


def _is_below(host: str, domain: str) -> bool:
    return domain == "*" or f".{host}".endswith(f".{domain.removeprefix('.')}")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
