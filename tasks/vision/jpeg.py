"""Whether the compressed data of a JPEG is all there, as far as that can be told.

libjpeg makes grey of what is missing and only warns, and Pillow does not pass its warnings on. So the markers are read
here (ITU-T T.81, annex B), and the decoder is given no end marker behind the data: then it asks for more where it would
make up some, and that fails.
"""

import math
import re
from collections.abc import Iterator

from tasks.vision.errors import ImageError

START = b"\xff\xd8\xff"
READ_AHEAD = b"\xfe" * 8  # libjpeg wants 57 bits in hand, however few it needs; a code of ones is a long one
# The bytes of a scan that its picture has no use for. Good files of many encoders have none, and some webcams' a few;
# data with a hole of 512 bytes or more that was filled with zeros mostly has more (docs/scoring.md).
SPARE = 256

# Markers of segments, and of both ends. In compressed data 0xFF is followed by 0, by a restart's number or by 0xFF.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_EOI, _SOS, _DRI = 0xD9, 0xDA, 0xDD
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN, _ARITHMETIC = frozenset({0xC0, 0xC1, 0xC2}), frozenset({0xC9, 0xCA})
_PROGRESSIVE = frozenset({0xC2, 0xCA})


def end_of_data(content: bytes) -> int | None:
    """Where the data of a JPEG's only scan ends, in bytes: the decoder needs all of it, and nothing behind it but
    READ_AHEAD. None where there are several scans, or arithmetic codes: no decoder begins without an end marker then.

    Raises ImageError: with kind corrupt where there is no end marker, a scan has fewer restarts than it must have or
    in another order, or a bit of a coefficient is in no scan; with kind unsupported where a sample has other than 8
    bits, or the process is one that libjpeg does not know.
    """
    frame: _Frame | None = None
    position, interval, ends, units = 2, 0, list[int](), 0
    while found := _MARKER.search(content, position):
        if units:  # behind a scan's header
            ends.append(found.start())
            if interval:
                _check_restarts(_RESTART.finditer(content, position, ends[-1]), (units - 1) // interval)
        marker, position = found[1][0], found.end()
        if marker == _EOI:
            break
        length = int.from_bytes(content[position : position + 2])
        segment = content[position + 2 : position + length]
        position += length
        if marker in _FRAMES:
            frame = _Frame(marker, segment)
        elif marker == _DRI:
            interval = int.from_bytes(segment)
        units = frame.add(segment) if frame and marker == _SOS else 0
    if not (found and frame and ends):
        raise ImageError("corrupt", "the JPEG data breaks off before its end")
    if any(map(any, frame.lacking.values())):
        raise ImageError("corrupt", "the JPEG data is incomplete: parts of the picture are in none of its scans")
    if len(ends) > 1 or frame.process not in _HUFFMAN:
        return None
    return len(content[: ends[0]].rstrip(b"\xff"))  # 0xFF may be repeated before a marker


class _Frame:
    """The picture of a JPEG, by its frame header, and what its scans have brought of it.

    lacking: for each component, how many of its low bits each of its 64 coefficients still lacks.
    """

    def __init__(self, process: int, header: bytes) -> None:
        if process not in _HUFFMAN | _ARITHMETIC:
            raise ImageError("unsupported", "expected a baseline or progressive JPEG, found a lossless one")
        if len(header) < 9 or len(header) != 6 + 3 * header[5]:
            raise _damaged()
        if header[0] != 8:
            raise ImageError("unsupported", f"expected 8 bits a sample of a JPEG, found {header[0]}")
        self.process = process
        self._height, self._width = int.from_bytes(header[1:3]), int.from_bytes(header[3:5])
        parts = [header[at : at + 3] for at in range(6, len(header), 3)]
        sampled = [(number, (max(1, sampling >> 4), max(1, sampling & 15))) for number, sampling, _ in parts]
        self._most = [max(each[axis] for _, each in sampled) for axis in (0, 1)]
        self._sampled = dict(sampled)  # some encoders give all components one number
        self.lacking = {number: [16] * 64 for number in self._sampled}

    def add(self, header: bytes) -> int:
        """Note what a scan with this header brings. Returns how many units (MCU) it has.

        Only a progressive one has parts of the coefficients: some cameras write odd bounds into others, which libjpeg
        passes over.
        """
        if len(header) < 6 or len(header) != 4 + 2 * header[0]:
            raise _damaged()
        numbers = header[1:-3:2]
        first, last, bits = header[-3:] if self.process in _PROGRESSIVE else (0, 63, 0)
        if not self._sampled.keys() >= set(numbers) or not first <= last < 64:
            raise _damaged()
        for number in numbers:
            self.lacking[number][first : last + 1] = [bits & 15] * (last + 1 - first)
        across, down = self._most
        ours = self._sampled[numbers[0]] if len(numbers) == 1 else (1, 1)
        return math.ceil(self._width * ours[0] / (8 * across)) * math.ceil(self._height * ours[1] / (8 * down))


def _check_restarts(found: Iterator[re.Match[bytes]], most: int) -> None:
    """Whether `most` restarts are there, in order. Some encoders write one more."""
    count = 0
    for count, restart in enumerate(found, 1):
        if restart[1][0] & 7 != (count - 1) % 8 or count > most + 1:
            break
    else:
        if count >= most:
            return
    raise ImageError("corrupt", "the JPEG data is damaged: a part between two of its restarts is missing")


def _damaged() -> ImageError:
    return ImageError("corrupt", "the header of the JPEG is damaged")
