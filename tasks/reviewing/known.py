"""Which rows of a table show pictures that its weights have learned from, in whatever files."""

from collections.abc import Sequence

import numpy as np

from artifacts.settings import Settings
from tasks.reviewing.rows import Seen
from tasks.shared.folders import opened
from tasks.shared.listing import allow_place, to_bytes
from tasks.vision.decoding import DecoderPool
from tasks.vision.duplicates import also_among
from tasks.vision.files import Files
from tasks.vision.images import ImageSpec, Limits


def known_by_heart(
    settings: Settings, where: str, spec: ImageSpec, rows: Sequence[Seen], learned: np.ndarray
) -> list[bool]:
    """Of each row whether its picture has the pixels of one of `learned`, uint8 [images, height, width, channels] by
    the same spec. No row whose file is gone, was changed or can't be decoded: nobody can label it, either.

    where: the folder that was scored, as its table has it. Raises FolderError.
    """
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    known = np.zeros(len(rows), bool)
    with (
        opened(settings, allow_place(where)) as folder,
        DecoderPool(folder.descriptor, spec, limits, settings.max_image_seconds, 1) as pool,
    ):
        entries = [(at, folder.entry(to_bytes(row.path))) for at, row in enumerate(rows)]
        there = [(at, Files([each.path], [each.size], [each.mtime_ns])) for at, each in entries if each]
        decoded = [
            (at, found.pixels[0])
            for at, found in folder.decode(pool, there)
            if found.sha256[0] == rows[at].sha256 and not found.errors
        ]
    if decoded:
        known[[at for at, _ in decoded]] = also_among(np.stack([pixels for _, pixels in decoded]), learned)
    return [bool(each) for each in known]
