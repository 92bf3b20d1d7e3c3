"""The stage that chooses what pretrained networks a training stands on."""

from functools import partial

from prefect import get_run_logger, task

from artifacts import dataset as datasets
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.reports.progress import tell
from tasks.shared.deadline import Deadline
from tasks.shared.retries import RETRIES
from tasks.shared.training_turn import training_turn
from tasks.training.choosing import Choice, choose_views
from tasks.vision.recipes import Device, TrainingSettings


@task(
    name="choose backbone",
    persist_result=False,
    description="Choose the pretrained networks to stand on: the champion's, or what does best on a sample.",
    **RETRIES,
)
def choose(dataset: str, settings: TrainingSettings, device: Device, deadline: Deadline) -> Choice:
    """The settings with the backbone that the training will have.

    dataset: the dataset's ref.

    Raises what `choose_views` does.
    """
    configured = Settings()
    store = Store(configured.store)
    logger = get_run_logger()
    with training_turn(configured, store, device, deadline, logger.info):
        data = datasets.load(store, Ref.parse(dataset))
        return choose_views(store, data, settings, device, partial(tell, log=logger.info), deadline)
