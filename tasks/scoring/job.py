"""What a scoring wants, and what came of it."""

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from artifacts import predictions, weights
from artifacts.documents import digest
from artifacts.errors import LookbookError
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.shards import Part
from artifacts.store import Store
from tasks.shared.listing import real_path
from tasks.vision.images import ImageSpec, Limits
from tasks.vision.metrics import MISTAKES_TO_FIT

SCORING = 1  # raise it when the same picture and weights give another row: earlier shards are then scored anew


class NotCalibrated(LookbookError):
    """Weights without a temperature, where calibrated probabilities are wanted."""


@dataclass(frozen=True)
class Job:
    """What a run scores, and how. All of it but the name decides the rows.

    folder: root:sub/path; where: its `real_path`, without links; temperature: what logits are divided by, None for
    probabilities as the network gives them.
    """

    folder: str
    where: str
    name: str
    weights: Ref
    dataset: str
    classes: list[str]
    spec: ImageSpec
    limits: Limits
    temperature: float | None

    @property
    def settings(self) -> dict[str, Any]:
        """What a table of predictions says of how it was made, beside weights and ImageSpec."""
        calibrated = {} if self.temperature is None else {"temperature": self.temperature}
        return {"limits": asdict(self.limits), "scoring": SCORING, **calibrated}

    def digest(self, entries: str) -> str:
        """The digest of a shard: of its entries, and of how they are read and scored. It is in published tables, so
        where the folder is must not decide it."""
        spec = self.spec.to_dict()
        return digest({"entries": entries, "weights": str(self.weights), "image_spec": spec, **self.settings})

    def record(self, shard: str) -> str:
        """The digest under which the shard with the digest `shard` is on record. The folder is in it: in another one,
        files of the same paths, sizes and times may be other files."""
        return digest({"shard": shard, "folder": self.where})

    @property
    def fresh(self) -> str:
        """The digest under which this job is on record while it is scored afresh."""
        return digest({"job": self.digest(""), "folder": self.where, "name": self.name})

    def schema(self) -> pa.Schema:
        return predictions.schema(self.weights, self.dataset, self.classes, self.spec.to_dict(), self.temperature)


@dataclass
class Outcome:
    """parts: one a shard, in order; predicted and reused: rows; seconds: of the stage, without `waited`, the seconds in
    which all the rest waited for TensorFlow's import."""

    parts: list[Part]
    predicted: int = 0
    reused: int = 0
    seconds: float = 0.0
    waited: float = 0.0


def make_job(
    store: Store, settings: Settings, folder: str, name: str, ref: Ref, invert: bool = False, calibrated: bool = False
) -> Job:
    """What to score with published weights; `calibrated` by their temperature.

    Raises FolderError, NotFound, Corrupt, and NotCalibrated for weights that have none.
    """
    published = weights.load(store, ref)
    spec = ImageSpec.from_dict({**published.image_spec, "invert": invert})
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    dataset = published.artifact.identity["inputs"]["dataset"]
    if calibrated and published.temperature is None:
        raise NotCalibrated(
            f"expected weights with a temperature, fitted on held-out images; {ref} has none: retrain with a "
            f"validation share (--validation 0.1) in which it makes {MISTAKES_TO_FIT} mistakes at least, or score "
            "without calibration"
        )
    temperature = published.temperature if calibrated else None
    where = real_path(settings, folder)
    return Job(folder, where, name, ref, dataset, published.classes, spec, limits, temperature)
