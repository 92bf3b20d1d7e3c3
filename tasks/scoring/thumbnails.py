"""Thumbnails of some rows, decoded by a child process from the folder as it is now."""

import io
from collections.abc import Iterator

from PIL import Image

from artifacts.settings import Settings
from tasks.reports.scoring import THUMBNAIL
from tasks.reports.summary import Row
from tasks.scoring.job import Job
from tasks.shared.folders import Folder, opened
from tasks.shared.listing import to_bytes
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import CHUNK, Files


def thumbnails(settings: Settings, job: Job, rows: list[Row]) -> dict[str, bytes]:
    """path -> a JPEG of THUMBNAIL's size. Pictures that can't be decoded any more have none, and neither has any where
    a link leads to another folder meanwhile. Raises FolderError."""
    with opened(settings, job.request.folder) as folder:
        if not folder.is_at(job.where):
            return {}
        with DecoderPool(folder.descriptor, THUMBNAIL, job.limits, settings.max_image_seconds, 1) as pool:
            return dict(_decoded(folder, pool, list({row.path: row for row in rows}.values())))


def _decoded(folder: Folder, pool: DecoderPool, rows: list[Row]) -> Iterator[tuple[str, bytes]]:
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
    for chunk, decoded in folder.decode(pool, requests):
        for place, row in enumerate(chunk):
            if place not in decoded.errors:
                file = io.BytesIO()
                Image.fromarray(decoded.pixels[place]).save(file, "JPEG", quality=80)
                yield row.path, file.getvalue()
