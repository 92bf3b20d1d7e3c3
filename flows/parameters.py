"""Types and limits of what run forms ask for. What a field means is in each flow's docstring: Prefect's form shows its
`Args`, and nothing of a Field's description (Prefect 3.8.8)."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import Field

from artifacts.store import Artifact
from tasks.vision.recipes import (
    Architecture,
    Augmentation,
    Color,
    Device,
    Execution,
    Optimizer,
    Schedule,
    TrainingSettings,
    settings_for,
)

__all__ = ["Architecture", "Augmentation", "Color", "Device", "Execution", "Optimizer", "Schedule", "training_settings"]

Epochs = Annotated[int, Field(ge=1, le=10_000)]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
WeightDecay = Annotated[float, Field(ge=0, le=1)]
LabelSmoothing = Annotated[float, Field(ge=0, lt=1)]
Validation = Annotated[float, Field(ge=0, le=0.5)]
Patience = Annotated[int, Field(ge=0, le=10_000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
DeadlineHours = Annotated[float, Field(gt=0, le=720)]
Limit = Annotated[int, Field(ge=1)]


ImageSize = Annotated[int, Field(ge=8, le=512)]
Share = Annotated[float, Field(ge=0, le=1)]
Significance = Annotated[float, Field(gt=0, le=1)]


def training_settings(parameters: Mapping[str, Any], dataset: Artifact | None = None) -> dict[str, Any]:
    """The training settings among a flow's parameters; None stands for the architecture's recipe, which fits the
    published `dataset` where that is there already.

    Raises SettingsError for what can't work on any data, before there is any work.
    """
    given = {field.name: parameters[field.name] for field in fields(TrainingSettings) if field.name in parameters}
    if dataset:
        given["per_class"] = dataset.facts["counts"]["train"]["per_class"].values()
        spec = dataset.facts["image_spec"]
        given["pixels"] = spec["height"] * spec["width"]
        given["pictures"] = dataset.identity["settings"].get("source") == "pictures"
    settings = settings_for(**given)
    settings.check()
    return settings.to_dict()
