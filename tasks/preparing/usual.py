"""How large the pictures of a folder usually are: what an architecture is recommended by, before any is prepared."""

import hashlib
import heapq

import numpy as np

from artifacts.settings import Settings
from tasks.preparing.labelled import list_labelled, split_table
from tasks.shared.folders import opened
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import Files
from tasks.vision.images import ImageSpec, Limits

_LOOKED_AT = 32  # files, chosen by the hash of their path: other files that come or go hardly change the answer
_SMALL = ImageSpec(height=8, width=8, channels=1)


def usual_side(settings: Settings, images: str) -> int:
    """The median over some pictures of their shorter side, in pixels; 0 when none of them can be read.

    images: root:sub/path of a folder or a table.

    Raises FolderError, LabelError and DecoderError.
    """
    regular = [each for each in list_labelled(settings, images).entries if each.regular]
    chosen = heapq.nsmallest(_LOOKED_AT, regular, key=lambda each: hashlib.sha256(each.path).digest())
    files = Files([each.path for each in chosen], [each.size for each in chosen], [each.mtime_ns for each in chosen])
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    with (
        opened(settings, split_table(images)[0]) as top,
        DecoderPool(top.descriptor, _SMALL, limits, settings.max_image_seconds, 1) as pool,
    ):
        (_, found), *_ = top.decode(pool, [(None, files)])
    sides = [min(size) for size in zip(found.width, found.height, strict=True) if min(size)]
    return int(np.median(sides)) if sides else 0
