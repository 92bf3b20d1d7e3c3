"""`lookbook predict`: what is on a few pictures, at once. No Prefect here."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.settings import Settings
from tasks.shared.model import Model
from tasks.vision.errors import ImageError
from tasks.vision.images import ImageSpec, Limits, decode


def predict_files(model: Model, paths: Iterable[Path], settings: Settings) -> list[dict[str, Any]]:
    """One entry a picture, in order: path, sha256, label, confidence and probabilities, or an error in their place."""
    results = [_decode(path, model.spec, settings) for path in paths]
    pictures = [pixels for _, pixels in results if pixels is not None]
    if not pictures:
        return [entry for entry, _ in results]
    probabilities = iter(model.predict(np.stack(pictures)))
    for entry, pixels in results:
        if pixels is not None:
            row = next(probabilities)
            entry["label"] = model.classes[row.argmax()]
            entry["confidence"] = float(row.max())
            entry["probabilities"] = dict(zip(model.classes, map(float, row), strict=True))
    return [entry for entry, _ in results]


def _decode(path: Path, spec: ImageSpec, settings: Settings) -> tuple[dict[str, Any], np.ndarray | None]:
    entry: dict[str, Any] = {"path": str(path), "sha256": None, "label": None, "confidence": None}
    entry |= {"probabilities": None, "error": None, "detail": None}
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    try:
        if path.exists() and not path.is_file():
            raise ImageError("unsupported", "the entry is no regular file")
        with open(path, "rb") as file:
            content = file.read(limits.bytes + 1)
        entry["sha256"] = hashlib.sha256(content).hexdigest()
        return entry, decode(content, spec, limits).pixels
    except ImageError as error:
        kind, detail = error.kind, error.detail
    except FileNotFoundError:
        kind, detail = "missing", "expected a picture, found no such file"
    except OSError as error:
        kind, detail = "unreadable", f"the file can't be read: {error.strerror}"
    return entry | {"error": kind, "detail": detail}, None
