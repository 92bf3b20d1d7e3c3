"""Pictures of a table's rows for a person to look at: decoded by killable children and drawn anew, never the file's own
bytes, and only while the file is what was scored."""

import io
import threading
from collections import OrderedDict
from contextlib import ExitStack
from typing import Literal

import numpy as np
from PIL import Image

from artifacts.errors import LookbookError
from artifacts.settings import Settings
from tasks.reviewing.rows import Seen
from tasks.shared.folders import Folder, opened
from tasks.shared.listing import FolderError, allow_place, to_bytes
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import Files
from tasks.vision.images import ImageSpec, Limits

Size = Literal["whole", "small"]
_SIZES: dict[Size, int] = {"whole": 640, "small": 160}  # pixels
_GROUND = 24  # of 255: the page's own background
_KEPT = 400  # pictures, of 50 kB at most


class NoPicture(LookbookError):
    """A row whose picture can't be shown, and why."""


class Pictures:
    """The pictures of one scored folder; `where` is on record in its table. Close it at the end.

    Requests come from several threads; each size is decoded by one child.
    """

    def __init__(self, settings: Settings, where: str) -> None:
        self._settings, self._text, self.where = settings, allow_place(where), where
        self._kept: OrderedDict[tuple[str, Size], bytes] = OrderedDict()
        self._turns = {size: threading.Lock() for size in _SIZES}
        self._open: dict[Size, tuple[ExitStack, Folder, DecoderPool]] = {}

    def jpeg(self, row: Seen, size: Size) -> bytes:
        """A JPEG of 640 or 160 pixels a side. Raises NoPicture."""
        if row.sha256 is None:
            raise NoPicture(f"{row.path} could not be read when it was scored ({row.error}: {row.detail})")
        key = (row.sha256, size)
        with self._turns[size]:
            if (found := self._kept.get(key)) is None:
                found = self._kept[key] = self._drawn(row, size)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            return found

    def close(self) -> None:
        for size in list(self._open):
            with self._turns[size]:
                self._end(size)

    def _drawn(self, row: Seen, size: Size) -> bytes:
        folder, pool = self._opened(size)
        path = to_bytes(row.path)
        entry = folder.entry(path)
        if entry is None or entry.size != row.size:
            self._end(size)  # the folder may be mounted again
            raise NoPicture(
                f"{row.path} is not in {self.where} any more"
                if entry is None
                else f"{row.path} was changed since it was scored: expected {row.size:,} bytes, found {entry.size:,}; "
                "score the folder again"
            )
        # by size and content: whoever restores a folder gives its files other times
        [(_, found)] = folder.decode(pool, [(0, Files([path], [entry.size], [entry.mtime_ns]))])
        if found.sha256[0] and found.sha256[0] != row.sha256:
            raise NoPicture(f"{row.path} was changed since it was scored; score the folder again")
        if found.errors:
            kind, detail = found.errors[0]
            raise NoPicture(f"{row.path} can't be shown ({kind}: {detail})")
        return _encoded(found.pixels[0])

    def _opened(self, size: Size) -> tuple[Folder, DecoderPool]:
        if size not in self._open:
            side = _SIZES[size]
            spec = ImageSpec(side, side, 3, background=_GROUND, fit=True)
            limits = Limits(self._settings.max_image_bytes, self._settings.max_image_pixels)
            stack = ExitStack()
            try:
                folder = stack.enter_context(opened(self._settings, self._text))
                seconds = self._settings.max_image_seconds
                pool = stack.enter_context(DecoderPool(folder.descriptor, spec, limits, seconds, 1))
            except FolderError as error:
                raise NoPicture(f"the folder that was scored can't be read: {error}") from None
            except BaseException:
                stack.close()
                raise
            self._open[size] = (stack, folder, pool)
        _, folder, pool = self._open[size]
        return folder, pool

    def _end(self, size: Size) -> None:
        self._open.pop(size)[0].close()


def _encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()
