"""A scoring as it is carried out: what was asked for, resolved once, and the digests that follow from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from artifacts import predictions
from artifacts.documents import digest
from artifacts.refs import Ref, check_name
from artifacts.settings import Settings
from artifacts.shards import record_digest
from artifacts.store import Store
from tasks.reports.numbers import calibrated
from tasks.requests import ScoreRequest
from tasks.shared.folders import check_folder
from tasks.shared.listing import default_name, real_path
from tasks.vision.images import ImageSpec, Limits
from tasks.vision.processor import precision

SCORING = 2  # raise it when the same picture and weights give another row: earlier shards are then scored anew


@dataclass(frozen=True)
class Job:
    """A scoring as it is carried out: what was asked for, and what the published weights say. It is made once a run.

    request: as it was asked for.
    where: the `real_path` of the folder, without links.
    name: what the predictions are called.
    weights: the ref that `request.weights` means.
    dataset: the ref of what these weights were trained on.
    classes: names, in the order of the logits.
    spec: how a picture becomes pixels.
    limits: on a source image.
    temperature: what logits are divided by; None for probabilities as the network gives them.
    precision: what the pretrained network computes in; None where there is none.
    calibration: by what the temperature was fitted (`artifacts.weights.save`); None where the weights don't say.
    """

    request: ScoreRequest
    where: str
    name: str
    weights: Ref
    dataset: str
    classes: tuple[str, ...]
    spec: ImageSpec
    limits: Limits
    temperature: float | None
    precision: str | None
    calibration: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; `from_dict` reads it back."""
        return {**asdict(self), "weights": str(self.weights)}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Job":
        """The job that `to_dict` has written."""
        return cls(
            **{
                **given,
                "request": ScoreRequest(**given["request"]),
                "weights": Ref.parse(given["weights"]),
                "classes": tuple(given["classes"]),
                "spec": ImageSpec(**given["spec"]),
                "limits": Limits(**given["limits"]),
            }
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What a table of predictions says of how it was made, beside weights and ImageSpec."""
        calibrated = {} if self.temperature is None else {"temperature": self.temperature}
        computed_in = {} if self.precision is None else {"precision": self.precision}
        return {"limits": asdict(self.limits), "scoring": SCORING, **calibrated, **computed_in}

    @property
    def calibrated(self) -> str:
        """How its confidence is calibrated, in words."""
        if self.request.uncalibrated:
            return "not calibrated, as was asked for"
        return calibrated(self.temperature, self.calibration)

    def digest(self, entries: str) -> str:
        """The digest of a shard: of its entries, and of how they are read and scored. It is in published tables, so
        where the folder is must not decide it."""
        spec = self.spec.to_dict()
        return digest({"entries": entries, "weights": str(self.weights), "image_spec": spec, **self.settings})

    def record(self, shard: str) -> str:
        """The digest under which the shard with the digest `shard` is on record."""
        return record_digest(shard, self.where)

    @property
    def fresh_digest(self) -> str:
        """The digest under which this job is on record while it is scored afresh."""
        return digest({"job": self.digest(""), "folder": self.where, "name": self.name})

    def schema(self) -> pa.Schema:
        """The columns of the table, and its metadata."""
        return predictions.schema(self.weights, self.dataset, self.classes, self.spec.to_dict(), self.temperature)


def make_job(store: Store, settings: Settings, request: ScoreRequest) -> Job:
    """Resolve what a scoring asks for. Of the weights only the manifest is read: they are loaded when they predict.

    Raises FolderError, InvalidRef, NotFound and Corrupt.
    """
    check_folder(settings, request.folder)
    name = check_name(request.name or default_name(settings, request.folder))
    weights = store.resolve(request.weights, "weights")
    published = store.open(weights)
    temperature, calibration = (
        None if request.uncalibrated else published.facts.get(name) for name in ("temperature", "calibration")
    )
    return Job(
        request,
        real_path(settings, request.folder),
        name,
        weights,
        published.identity["inputs"]["dataset"],
        tuple(published.facts["classes"]),
        ImageSpec.from_dict({**published.facts["image_spec"], "invert": request.invert}),
        Limits(settings.max_image_bytes, settings.max_image_pixels),
        temperature,
        precision(published.facts["precision"], "/CPU:0") if "precision" in published.facts else None,
        calibration,
    )
