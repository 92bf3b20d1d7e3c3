"""JSON documents of the store: canonical bytes, and a checksum that notices a flipped bit."""

import hashlib
import json
from typing import Any

from artifacts.errors import Corrupt


def canonical(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no white space; equal values give equal bytes. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def seal(document: dict[str, Any]) -> bytes:
    """The bytes to store: the document with `checksum`, the digest of all the rest, indented for people."""
    return _render({**document, "checksum": digest(document)})


def unseal(content: bytes, key: str) -> dict[str, Any]:
    """The document behind `content`, without its checksum. Raises Corrupt, naming `key`, when any byte differs."""
    try:
        document = json.loads(content)
        checksum = document.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise Corrupt(
            f"{key} is damaged: expected a sealed JSON document; `lookbook verify` tells what else is"
        ) from None
    if checksum != digest(document) or _render({**document, "checksum": checksum}) != content:
        raise Corrupt(f"{key} is damaged: its checksum does not fit; `lookbook verify` tells what else is")
    return dict(document)


def _render(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
