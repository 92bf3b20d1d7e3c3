"""When a file was written, as an int64 column holds it. The one place that says so, for listings and decoders alike."""

import hashlib

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1  # ns since the epoch: the years 1677 to 2262
_SECOND = 1_000_000_000


def held(at: int) -> int:
    """A time in ns since the epoch as it is where an int64 holds it. A disk may have any other, too (the year 2300):
    such a one is the nearest whole second that fits, with nine digits of its hash, so that another time is another
    number."""
    if _LEAST <= at <= _MOST:
        return at
    digits = int.from_bytes(hashlib.sha256(str(at).encode()).digest()[:8]) % _SECOND
    nearest = _MOST // _SECOND - 1 if at > 0 else -(_MOST // _SECOND)
    return nearest * _SECOND + digits
