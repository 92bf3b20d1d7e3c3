"""The stage that measures weights on the test split of a dataset."""

import time

from prefect import get_run_logger, task

from artifacts import dataset as datasets
from artifacts import metrics
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks import model
from tasks.retries import RETRIES
from tasks.vision.metrics import evaluate as measure


@task(
    name="evaluate network",
    persist_result=False,
    description="Measure the weights on the test split; publish the numbers.",
    **RETRIES,
)
def evaluate(weights: str, dataset: str) -> str:
    """The ref of the published metrics."""
    ref = evaluate_weights(Store(Settings().store), Ref.parse(weights), Ref.parse(dataset))
    get_run_logger().info("published %s", ref)
    return str(ref)


def evaluate_weights(store: Store, weights: Ref, dataset: Ref) -> Ref:
    """Measure and publish. Raises NotFound, Corrupt and WeightsError."""
    started = time.perf_counter()
    data = datasets.load(store, dataset)
    ready = model.load(store, weights)
    probabilities = ready.predict(data.test.images)
    return metrics.save(
        store,
        dataset.name,
        numbers=measure(probabilities, data.test.labels, ready.classes),
        labels=data.test.labels,
        probabilities=probabilities,
        sources=data.test.sources,
        weights=weights,
        dataset=dataset,
        made={"seconds": round(time.perf_counter() - started, 3)},
    )
