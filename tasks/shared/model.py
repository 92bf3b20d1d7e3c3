"""A model ready to predict: published weights in their network. No Prefect here: `lookbook predict` needs none."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from artifacts import weights
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.vision.errors import ImageError
from tasks.vision.images import ImageSpec, Limits, decode


@dataclass(frozen=True)
class Model:
    """`predict`: uint8 [items, height, width, channels] -> probabilities float32 [items, classes]."""

    ref: Ref
    classes: list[str]
    spec: ImageSpec
    predict: Any


def load(store: Store, ref: Ref, temperature: float | None = None) -> Model:
    """The model of published weights; `temperature` scales its probabilities. Raises NotFound, Corrupt, WeightsError.

    It computes with one thread: the same numbers wherever it is asked, and decoders have the other processors.
    """
    published = weights.load(store, ref)
    from tasks.vision import device
    from tasks.vision.inference import Predictor
    from tasks.vision.network import make_network

    device.use_threads(1)
    spec = ImageSpec.from_dict(published.image_spec)
    settings = published.settings
    of = {name: settings[name] for name in ("augmentation", "inputs") if name in settings}  # older weights have fewer
    network = make_network(settings["architecture"], spec, len(published.classes), **of)
    network.assign(published.tensors)
    return Model(ref, published.classes, spec, Predictor(network, temperature or 1.0))


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
