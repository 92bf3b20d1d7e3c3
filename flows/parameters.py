"""The fields of the run forms: types, limits, and a description that says units and effect."""

from typing import Annotated, Literal

from pydantic import Field

Architecture = Annotated[
    Literal["dense"], Field(description="The network. dense: one hidden layer of 20 rectified units.")
]
Epochs = Annotated[
    int,
    Field(
        ge=1, le=10_000, description="How often every training image is seen. More takes longer, up to a point better."
    ),
]
BatchSize = Annotated[
    int,
    Field(ge=1, le=65_536, description="Images a step of gradient descent. At most as many as there are to train on."),
]
LearningRate = Annotated[
    float,
    Field(
        gt=0,
        le=1000,
        allow_inf_nan=False,
        description="Step size of gradient descent, at the start. Too high and the training diverges, which it says.",
    ),
]
Schedule = Annotated[
    Literal["linear", "constant"],
    Field(description="linear: the learning rate falls to zero over the training. constant: it stays."),
]
Seed = Annotated[
    int,
    Field(
        ge=0,
        lt=2**31,
        description="Decides the first weights and the order of the images. The same seed, the same weights.",
    ),
]
Execution = Annotated[
    Literal["graph", "eager"],
    Field(description="graph: the training loop is compiled. eager: step by step, for debugging, many times slower."),
]
Device = Annotated[
    Literal["auto", "cpu", "gpu"],
    Field(description="auto: a GPU where there is one. gpu: a GPU, or an error before any work."),
]
DeadlineHours = Annotated[
    float,
    Field(
        gt=0,
        le=720,
        description="Hours after which the run gives up, waiting included. What is finished stays for the next run.",
    ),
]
