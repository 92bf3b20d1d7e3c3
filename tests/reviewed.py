"""Tables of predictions for tests of the page and of labels: real files, real Parquet, but nothing that predicts. And
the page's server."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
from asgi import serve
from PIL import Image
from pydantic import SecretStr

from artifacts import aliases, dataset, predictions, weights
from artifacts.aliases import Choice
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.shards import Shards, record_digest
from artifacts.store import Store
from flows.review_app import make_app
from flows.review_door import guarded
from tasks.vision.images import ImageSpec

CLASSES = ["circle", "square", "line"]
SPEC = ImageSpec(height=8, width=8, channels=3)


def draw(path: Path, seed: int) -> str:
    """A picture like no other. Returns the SHA-256 of its file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def draw_folder(folder: Path, items: int, seed: int = 0) -> None:
    for item in range(items):
        draw(folder / f"{item:06d}.png", seed * 1_000_000 + item)


def publish_weights(
    store: Store, name: str = "shapes", learned: Sequence[str] = (), classes: Sequence[str] = CLASSES
) -> Ref:
    """Weights that have learned from files of these contents (SHA-256, hex); from images that are no files without."""
    side = dataset.Split(
        np.zeros((len(classes), 8, 8, 3), np.uint8), np.arange(len(classes), dtype=np.int32), list(classes)
    )
    files = dataset.Split(
        np.zeros((len(learned), 8, 8, 3), np.uint8), np.zeros(len(learned), np.int32), list(learned), list(learned)
    )
    learned_from = dataset.save(
        store, name, train=files if learned else side, test=side, classes=classes, image_spec=SPEC.to_dict(),
        settings={}, inputs={}, made={},
    )  # fmt: skip
    return weights.save(
        store, name, tensors={"output/bias": np.zeros(len(classes), np.float32)}, history=[], classes=classes,
        image_spec=SPEC.to_dict(), settings={"architecture": "dense"}, dataset=learned_from, made={},
    )  # fmt: skip


def dataset_of(store: Store, made_by: Ref) -> str:
    return str(store.open(made_by).identity["inputs"]["dataset"])


def publish_table(
    store: Store,
    folder: Path,
    name: str,
    probabilities: np.ndarray,
    parts: int = 1,
    classes: Sequence[str] = CLASSES,
    made_by: Ref | None = None,
    report: Mapping[str, bytes] = {},
) -> Ref:
    """A table of the folder's files, in their order, as `lookbook score` would write it.

    report: its pages.
    probabilities: float32 [files, classes]; a row of NaN is a file that could not be decoded.
    """
    made_by = made_by or publish_weights(store)
    spec = store.open(made_by).facts["image_spec"]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    schema = predictions.schema(made_by, dataset_of(store, made_by), classes, spec, None)
    shards, finished = Shards(store.disk), []
    for number, items in enumerate(np.array_split(np.arange(len(files)), parts)):
        rows = [_row(folder, files[item], probabilities[item], made_by, classes) for item in items]
        digest = hashlib.sha256(f"{folder} {number} {probabilities.tobytes()[:64]!r}".encode()).hexdigest()
        finished.append(shards.finish(record_digest(digest, str(folder)), digest, pa.Table.from_pylist(rows, schema)))
    ref = predictions.save(
        store, name, parts=finished, weights=made_by, dataset=dataset_of(store, made_by), settings={},
        classes=classes, image_spec=spec, report=report, made={"folder": str(folder)},
    )  # fmt: skip
    choice = Choice("promote", str(ref), str(ref), "the newest")
    aliases.decide(store.disk, "predictions", name, "latest", lambda events: choice)
    return ref


def _row(
    folder: Path, path: Path, probabilities: np.ndarray, made_by: Ref, classes: Sequence[str]
) -> dict[str, object]:
    found, wrong = path.stat(), bool(np.isnan(probabilities).any())
    return {
        "path": path.relative_to(folder).as_posix(),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "width": None if wrong else 16,
        "height": None if wrong else 12,
        "label": None if wrong else classes[int(probabilities.argmax())],
        "confidence": None if wrong else float(probabilities.max()),
        "probabilities": None if wrong else probabilities.tolist(),
        "weights": str(made_by),
        "error": "corrupt" if wrong else None,
        "detail": "the header is damaged" if wrong else None,
    }


def guesses(items: int, seed: int = 0, classes: int = 3) -> np.ndarray:
    """Probabilities of a model that is more or less sure: float32 [items, classes]."""
    drawn = np.random.default_rng(seed).dirichlet(np.full(classes, 0.7), items)
    return np.ascontiguousarray(drawn, np.float32)


class Clock:
    """The time at which a test began, and what it adds to it: the machine's own goes on by as much as it is busy."""

    def __init__(self) -> None:
        self._began, self.ahead = time.monotonic(), 0.0

    def __call__(self) -> float:
        return self._began + self.ahead


def served(
    settings: Settings, password: str | None = None, clock: Callable[[], float] = time.monotonic
) -> AbstractContextManager[str]:
    """The page's server, in a thread of this process: its URL."""
    settings = settings.model_copy(update={"review_password": SecretStr(password) if password else None})
    return serve(lambda port: guarded(make_app(settings, clock=clock), settings, port, clock))
