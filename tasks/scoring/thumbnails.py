"""Thumbnails of some rows, decoded by a child process from the folder as it is now."""

import io
import os
from collections.abc import Iterator

from PIL import Image

from artifacts.settings import Settings
from tasks.reports.scoring import THUMBNAIL, Row
from tasks.scoring.job import Job
from tasks.shared.listing import is_at, open_folder, to_bytes
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import CHUNK, Files


def thumbnails(settings: Settings, job: Job, rows: list[Row]) -> dict[str, bytes]:
    """path -> a JPEG of THUMBNAIL's size. Pictures that can't be decoded any more have none, and neither has any where
    a link leads to another folder meanwhile. Raises FolderError."""
    folder = open_folder(settings, job.request.folder)
    try:
        if not is_at(folder, job.where):
            return {}
        with DecoderPool(folder, THUMBNAIL, job.limits, settings.max_image_seconds, 1) as pool:
            return dict(_decoded(pool, list({row.path: row for row in rows}.values())))
    finally:
        os.close(folder)


def _decoded(pool: DecoderPool, rows: list[Row]) -> Iterator[tuple[str, bytes]]:
    chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
    requests = (
        (
            chunk,
            Files(
                [to_bytes(row.path) for row in chunk],
                [row.size for row in chunk],
                [row.mtime_ns for row in chunk],
            ),
        )
        for chunk in chunks
    )
    for chunk, decoded in pool.decode(requests):
        for place, row in enumerate(chunk):
            if place not in decoded.errors:
                file = io.BytesIO()
                Image.fromarray(decoded.pixels[place]).save(file, "JPEG", quality=80)
                yield row.path, file.getvalue()
