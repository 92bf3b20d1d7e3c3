"""The stage that measures weights on the test split of a dataset, and draws the report."""

from prefect import get_run_logger, task

from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.judging.measuring import evaluate_weights
from tasks.shared.retries import RETRIES


@task(
    name="evaluate network",
    persist_result=False,
    description="Measure the weights on the test split; publish the numbers with a report.",
    **RETRIES,
)
def evaluate(weights: str, dataset: str) -> str:
    """The ref of the published metrics."""
    ref = evaluate_weights(Store(Settings().store), Ref.parse(weights), Ref.parse(dataset))
    get_run_logger().info("published %s", ref)
    return str(ref)
