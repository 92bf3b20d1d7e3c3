"""How far a table of predictions is from what its weights have learned from, in a few numbers."""

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from artifacts import dataset as datasets
from artifacts.errors import Corrupt, NotFound
from artifacts.features import Features
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.shards import Part
from artifacts.store import Artifact, Store
from tasks.judging.fairness import fair_to
from tasks.reports.summary import UNSURE_BINS, Summary, read_part
from tasks.scoring.job import Job
from tasks.shared.embedding import Embedding
from tasks.shared.listing import FolderError, to_bytes
from tasks.shared.litter import is_litter, is_no_picture
from tasks.shared.looks import Picture, features_of, first_look, stands_on_backbone
from tasks.vision.duplicates import contents_of
from tasks.vision.stability import Shift, median_ratio

NUMBERS = "numbers.json"
_LOOKED_AT, _LEARNED_FROM = 200, 5000  # pictures of the table, and of the training set


def drift(
    store: Store, settings: Settings, job: Job, parts: Sequence[Part], summary: Summary
) -> dict[str, float | None]:
    """Numbers of a table. Each number is None where nothing is known. Those that compare with the weights' own test
    split compare with what is fair of it (tasks/judging/fairness.py), and have its chance: without a reason they are
    above 0 (the distance: above 1) for one table of different pictures in a hundred. Every row of a table counts, so
    they are above it more often where many are copies.

    low_confidence: share of the predictions with a confidence below 0.5.
    low_confidence_rise: by how much that is above the share of the test split.
    class_shift, confidence_shift: the population stability index against the test split.
    distance: how far pictures are from those that the weights learned from, 1 being as far as those of the test split.
    errors: share of the rows. Where that would be a wish (LOOKBOOK_RETRAIN_WHEN), it is the share without what no
    person takes for a picture: a folder from a Mac has a `._` file beside each picture.
    """
    scored = sum(summary.confidence)
    errors = sum(summary.errors.values())
    if errors > settings.retrain_when.get("errors", 1) * summary.rows:
        others = no_pictures(store, parts, summary.errors)
        errors, rows = errors - others, summary.rows - others
    else:
        rows = summary.rows
    return {
        "low_confidence": _rounded(sum(summary.confidence[:UNSURE_BINS]) / scored) if scored else None,
        "low_confidence_rise": _known(summary.low_confidence_rise),
        "class_shift": _beyond_chance(summary.class_shift),
        "confidence_shift": _beyond_chance(summary.confidence_shift),
        "distance": _distance(store, settings, job, parts) if scored else None,
        "errors": _rounded(errors / rows) if rows else 0.0,
    }


def no_pictures(store: Store, parts: Iterable[Part], kinds: Container[str]) -> int:
    """How many rows with such errors are of what machines and programs leave, or of files that say by their names that
    they are no pictures."""
    found = 0
    for part in parts:
        if any(kind in kinds for kind in part.errors):
            rows = read_part(store, part).select(["path", "error"]).to_pydict()
            paths = (to_bytes(path) for path, error in zip(*rows.values(), strict=True) if error in kinds)
            found += sum(is_litter(path) or is_no_picture(path) for path in paths)
    return found


def exceeded(numbers: Mapping[str, float | None], limits: Mapping[str, float]) -> dict[str, float]:
    """The numbers that are above their limit. A share of unsure predictions counts only where it rose: on a hard set
    many of the test split are unsure, too."""
    above = {name: value for name, value in numbers.items() if value is not None and value > limits.get(name, np.inf)}
    if not numbers.get("low_confidence_rise"):
        above.pop("low_confidence", None)
    return above


def _beyond_chance(found: Shift | None) -> float | None:
    return None if found is None else _rounded(found.index) if found.index > found.chance else 0.0


def _known(value: float | None) -> float | None:
    return None if value is None else _rounded(value)


def _distance(store: Store, settings: Settings, job: Job, parts: Sequence[Part]) -> float | None:
    """The median distance from a picture to the nearest one that was learned from, over that of the test split's (after
    Sun and others, Out-of-Distribution Detection with Deep Nearest Neighbors, 2022). Only features that are on record
    are looked at, beside those of the sample. None without a backbone (fine-tuned weights predict without it), without
    such features, or where the folder is gone by now."""
    if not stands_on_backbone(store, str(job.weights)):
        return None
    try:
        embedding = first_look(store, str(job.weights), job.spec)
        data = datasets.load(store, Ref.parse(job.dataset))
        learned = _on_record(store, embedding, data.train.images, np.arange(len(data.train.images)))
        tested = _on_record(store, embedding, data.test.images, fair_to(store, job.weights, data.artifact.ref))
    except (NotFound, Corrupt):
        return None
    columns = ["path", "bytes", "mtime_ns", "sha256"]
    sample = [Picture(*(row[name] for name in columns)) for row in sampled(store, parts, _LOOKED_AT)]
    try:
        found = [features for _, features in features_of(store, settings, job.request.folder, embedding, sample)]
    except FolderError:
        return None
    if not (len(learned) and len(tested) and found):
        return None
    return _rounded(median_ratio(_nearest(tested, learned), _nearest(np.concatenate(found), learned)))


def _on_record(store: Store, embedding: Embedding, images: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Features of some of a side's pictures, the same ones each time: float32 [some, width]. Whichever machine made
    them: a distance has no use for their last bits. among: int64, the places of the pictures that count."""
    items = np.sort(np.random.default_rng(0).permutation(among)[:_LEARNED_FROM])
    contents = contents_of(images[items])
    with Features(store.disk, embedding.decided_by(mirrored=False), embedding.width) as features:
        known = [each for each in contents if each in features]
        gathered = np.empty((len(known), embedding.width), np.float32)
        features.gather(known, gathered)
    return gathered


def sampled(store: Store, parts: Sequence[Part], most: int) -> list[dict[str, Any]]:
    """About `most` predicted rows of up to ten parts, the same ones for the same table: path, bytes, mtime_ns, sha256
    and label."""
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(parts[0].digest.encode()).digest()[:4]))
    chosen = [parts[place] for place in random.permutation(len(parts))[:10]]
    found: list[dict[str, Any]] = []
    for part in chosen:
        rows = read_part(store, part).select(["path", "bytes", "mtime_ns", "sha256", "label", "error"])
        rows = rows.filter(pa.compute.is_null(rows.column("error")))
        items = np.sort(random.permutation(len(rows))[: -(-most // len(chosen))])
        found += rows.drop_columns("error").take(items).to_pylist()
    return found


def _nearest(features: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """Euclidean distance from each to the nearest of `learned`, both of length one: float64 [features]."""
    ours, theirs = (
        each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in (features, learned)
    )
    return np.asarray(np.sqrt(np.maximum(2 - 2 * (ours @ theirs.T).max(axis=1), 0)), np.float64)


def _rounded(value: float) -> float:
    return round(float(value), 4)


def numbers_of(artifact: Artifact) -> dict[str, Any]:
    """The numbers of a published table; none of an earlier Lookbook's. Raises Corrupt."""
    return dict(json.loads(artifact.read(NUMBERS))) if NUMBERS in artifact.files else {}
