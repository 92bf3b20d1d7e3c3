"""Types and limits of what run forms ask for. What a field means is in each flow's docstring: Prefect's form shows its
`Args`, and nothing of a Field's description (Prefect 3.8.8)."""

from typing import Annotated, Literal

from pydantic import Field

Architecture = Literal["dense"]
Epochs = Annotated[int, Field(ge=1, le=10_000)]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Schedule = Literal["linear", "constant"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Execution = Literal["graph", "eager"]
Device = Literal["auto", "cpu", "gpu"]
DeadlineHours = Annotated[float, Field(gt=0, le=720)]
Limit = Annotated[int, Field(ge=1)]
