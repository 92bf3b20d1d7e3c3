"""The whole retraining: prepare -> train -> evaluate -> promote."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from artifacts import metrics
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.evaluate import evaluate
from tasks.prepare import prepare
from tasks.promote import promote
from tasks.train import train


@flow(
    name="retrain",
    description="Prepare the data set, train a network on it, measure it on the test split, and promote it to champion "
    "when it is better than the champion there.",
    flow_run_name="retrain-{dataset}",
    persist_result=False,  # refs go into the store; nothing is pickled
)
def retrain(
    dataset: Annotated[Literal["fashion-mnist"], Field(description="The data set to train on.")] = "fashion-mnist",
    architecture: Annotated[
        Literal["dense"], Field(description="The network: dense has one hidden layer of 20 units.")
    ] = "dense",
    epochs: Annotated[int, Field(ge=1, le=10_000, description="How often every training image is seen.")] = 20,
    batch_size: Annotated[int, Field(ge=1, le=65_536, description="Images a step of gradient descent.")] = 64,
    learning_rate: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="Step size of gradient descent, at the start.")
    ] = 0.1,
    schedule: Annotated[
        Literal["linear", "constant"],
        Field(description="linear: the learning rate falls to zero over the training; constant: it stays."),
    ] = "linear",
    seed: Annotated[int, Field(ge=0, lt=2**31, description="Decides the first weights and the order of images.")] = 0,
    execution: Annotated[
        Literal["graph", "eager"],
        Field(description="graph compiles the training loop; eager runs it step by step, for debugging, much slower."),
    ] = "graph",
    device: Annotated[
        Literal["auto", "cpu", "gpu"], Field(description="auto takes a GPU where there is one; gpu insists on one.")
    ] = "auto",
) -> dict[str, Any]:
    """Returns refs (dataset, weights, metrics, champion), accuracy, loss, promoted, reason and seconds a stage."""
    seconds: dict[str, float] = {}
    settings = {
        "architecture": architecture,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "seed": seed,
    }
    with _timed(seconds, "prepare"):
        dataset_ref = prepare(dataset)
    with _timed(seconds, "train"):
        weights_ref = train(dataset_ref, settings, execution, device)
    with _timed(seconds, "evaluate"):
        metrics_ref = evaluate(weights_ref, dataset_ref)
        decision = promote(metrics_ref)
    return {
        "dataset": dataset_ref,
        "weights": weights_ref,
        "metrics": metrics_ref,
        **_measured(weights_ref, metrics_ref, seconds),
        **decision,
    }


def _measured(weights: str, metrics_ref: str, seconds: dict[str, float]) -> dict[str, Any]:
    store = Store(Settings().store)
    numbers = metrics.load(store, Ref.parse(metrics_ref)).numbers
    epochs = store.open(Ref.parse(weights)).manifest["provenance"]["epoch_seconds"]
    seconds["epoch"] = round(median(epochs[1:] or epochs), 4)
    return {"accuracy": numbers["accuracy"], "loss": numbers["loss"], "seconds": seconds}


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)
