"""The whole retraining: prepare -> train -> evaluate -> promote."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from artifacts import aliases, metrics, runs
from artifacts import dataset as datasets
from artifacts import weights as weights_of
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref, check_name
from artifacts.settings import Settings
from artifacts.store import Store
from flows.names import run_name, subject_of
from flows.needs import needs_of_run
from flows.notices import tell_of_failure
from flows.parameters import asks_for, training_settings
from flows.reports import report
from flows.train import TrainingCancelled, check_device, train_here, train_on_gpu_pool
from tasks.cluster.conducting import check_cluster
from tasks.evaluate import evaluate
from tasks.judging.decision import Decision
from tasks.prepare import prepare
from tasks.preparing.labelled import split_table
from tasks.preparing.usual import usual_side
from tasks.promote import promote
from tasks.reports import decision as decisions
from tasks.reports import retraining
from tasks.reports.progress import tell
from tasks.requests import Data, Gate, RetrainRequest
from tasks.results import Retrained
from tasks.shared.deadline import Deadline
from tasks.shared.folders import check_folder
from tasks.shared.listing import default_name
from tasks.shared.views import named_views
from tasks.training.choosing import settled
from tasks.vision.errors import CheckpointError, SettingsError
from tasks.vision.images import ImageSpec
from tasks.vision.recipes import IMAGE_SIZE, TRANSFER_IMAGE_SIZE, TrainingSettings, recommended, without_effect

_FEW = ("images", "name", "architecture", "epochs", "labels", "new_classes", "train_on", "if_unchanged")
"""The settings that people change most: those of the short form."""
_DESCRIPTION = """
Prepare the data, **train** a network on them, **evaluate** it on the test split, and **promote** it to champion when it
is better there than the champion, beyond chance.

The defaults retrain on Fashion-MNIST in under a minute. For pictures of your own give `images`: a folder that has a
folder for each class. The result is a report on this run's *Artifacts* page, and another one on the decision.
"""


def _run_name() -> str:
    given = {"because": None, "dataset": Data.dataset, **flow_run.parameters}  # a short form does not ask for these
    subject = subject_of(split_table(given["images"])[0]) if given["images"] else given["dataset"]
    because = f"-{re.sub(r'[^a-z0-9]+', '-', given['because'].lower())[:60].strip('-')}" if given["because"] else ""
    return run_name("retrain", f"{given['name'] or subject}{because}")


@flow(
    name="retrain",
    description=_DESCRIPTION,
    flow_run_name=_run_name,
    on_failure=[tell_of_failure],
    persist_result=False,  # refs go into the store; nothing is pickled
)
@asks_for(RetrainRequest)
def retrain(request: RetrainRequest) -> Any:
    """Prepare, train, evaluate, promote.

    Returns refs (dataset, weights, metrics, champion), accuracy, loss, promoted, reason, the decision's numbers, and
    seconds a stage.
    """
    return _retrain(request)


@flow(
    name="retrain",
    description=f"{_DESCRIPTION}\nThese settings are changed most; the form of `retrain/weekly` has all of them.",
    flow_run_name=_run_name,
    on_failure=[tell_of_failure],
    persist_result=False,
)
@asks_for(RetrainRequest, only=_FEW)
def retrain_by_hand(request: RetrainRequest) -> Any:
    """As `retrain`, with a short form."""
    return _retrain(request)


def _retrain(request: RetrainRequest) -> Any:
    deadline = Deadline.after(request.deadline_hours)
    configured = Settings()
    store = Store(configured.store)
    if before := runs.find(store.disk, str(flow_run.id)):
        return _done_before(store, before, request.because)
    called = _called(configured, request.data, request.pictures.labels)
    request = _settled(configured, request)
    training_settings(request.training)
    data, computing = request.data, request.computing
    seconds: dict[str, float | None] = {}
    if request.train_on == "here":
        check_device(computing.device)
    if computing.run_on == "cluster":
        check_cluster(configured)
    with needs_of_run(store) as needs:
        with _timed(seconds, "prepare"):
            dataset_ref = prepare(data, request.pictures, called, computing.run_on, deadline)
        needs.add(dataset_ref)
        settings = training_settings(request.training, store.open(Ref.parse(dataset_ref)))
        known = _known(store, dataset_ref, settings)
        if request.if_unchanged == "stop" and (judged := _judged(store, dataset_ref, known, request.gate)):
            return _nothing_changed(store, dataset_ref, judged)
        with _timed(seconds, "train"):
            weights_ref = _trained_before(store, dataset_ref, known)
            if weights_ref is None and request.train_on == "here":
                weights_ref = train_here(dataset_ref, settings, computing, deadline)
            elif weights_ref is None:
                idle = without_effect(settings.architecture, request.training)
                asked = {name: getattr(settings, name) for name in request.training if name not in idle}
                training = {"dataset": dataset_ref, **asked, **asdict(computing)}
                training["deadline_hours"] = round(deadline.hours_left(), 3)
                try:
                    weights_ref = train_on_gpu_pool(store, training, deadline)
                except TrainingCancelled as cancelled:
                    return Cancelled(message=str(cancelled))
        needs.add(weights_ref)
        with _timed(seconds, "evaluate"):
            metrics_ref = evaluate(weights_ref, dataset_ref)
            needs.add(metrics_ref)
            decision = promote(metrics_ref, request.gate)
        epochs_took = store.open(Ref.parse(weights_ref)).manifest["provenance"]["epoch_seconds"]
        seconds["epoch"] = round(median(epochs_took[1:] or epochs_took), 4) if epochs_took else None
        produced = {"dataset": dataset_ref, "weights": weights_ref, "metrics": metrics_ref}
        decided = aliases.event_key("weights", Ref.parse(weights_ref).name, "champion", decision.number)
        runs.record(store.disk, str(flow_run.id), {**produced, "decision": decided})
    return _told(store, produced, decision, seconds, request.because)


def _told(
    store: Store, produced: Mapping[str, str], decision: Decision, seconds: dict[str, float | None], because: str | None
) -> dict[str, Any]:
    """The result of a retraining, after its reports are in Prefect's UI. produced: refs of dataset, weights and
    metrics."""
    called = Ref.parse(produced["weights"]).name
    numbers = metrics.load(store, Ref.parse(produced["metrics"])).numbers
    findings = datasets.load(store, Ref.parse(produced["dataset"])).findings
    refs = (produced["dataset"], produced["weights"], produced["metrics"])
    result = Retrained(*refs, numbers.accuracy, numbers.loss, seconds, decision, findings)
    report(
        lambda: decisions.markdown(store, result.weights, decision),
        "decision", called, description=f"Decision on the champion of {called}",
    )  # fmt: skip
    report(
        lambda: retraining.markdown(store, result, because, Settings().review_url),
        "retrain", called, description=f"Retraining of {called}",
    )  # fmt: skip
    return result.to_dict()


def _done_before(store: Store, before: dict[str, str], because: str | None) -> Any:
    """End with what an earlier attempt of this run put on record: a run decides once, whatever the data are by now."""
    if (decided := before.pop("decision", None)) is None:
        reason = f"nothing had changed when this run was at work: {before['weights']} was judged already"
        champion = aliases.current(store.disk, "weights", Ref.parse(before["weights"]).name, "champion")
        return Completed(
            message=reason, data={**before, "champion": str(champion), "promoted": False, "reason": reason}
        )
    get_run_logger().info("this run made %s before it was run again", before["weights"])
    decision = Decision.from_event(aliases.read_event(store.disk, decided))
    return _told(store, before, decision, dict.fromkeys(("prepare", "train", "evaluate"), 0.0), because)


def _called(configured: Settings, data: Data, labels: str | None) -> str:
    """The name of all that is made. Raises FolderError for a folder that can't be read, before there is any work."""
    if not data.images:
        if labels:
            raise SettingsError("expected images with labels: a folder of pictures that they join; found none")
        return check_name(data.name or data.dataset)
    folder, table = split_table(data.images)
    check_folder(configured, folder, table)
    return check_name(data.name or default_name(configured, folder))


def _settled(configured: Settings, request: RetrainRequest) -> RetrainRequest:
    """The request with the architecture that is recommended for the data, and the size of its pictures, where nobody
    said otherwise. Raises FolderError and LabelError for pictures that can't be looked at."""
    images, architecture = request.data.images, request.training["architecture"]
    if architecture is None:
        architecture = recommended(usual_side(configured, images) if images else None)
        get_run_logger().info("architecture: %s, as nobody named one", architecture)
    if idle := without_effect(architecture, request.training):
        tell(
            f"{', '.join(idle)}: of no effect, as the last layer of transfer is solved to its optimum",
            get_run_logger().info,
        )
    size = request.pictures.image_size or (TRANSFER_IMAGE_SIZE if architecture == "transfer" else IMAGE_SIZE)
    return replace(
        request,
        training={**request.training, "architecture": architecture},
        pictures=replace(request.pictures, image_size=size),
    )


@dataclass(frozen=True)
class _Judged:
    """weights: a ref; champion: which one stays; why: what became of the weights, as the end of a sentence."""

    weights: str
    champion: str
    why: str


def _judged(store: Store, dataset: str, settings: TrainingSettings, gate: Gate) -> _Judged | None:
    """Weights that were trained from these data with these settings, when the newest decision was about them or left
    them champion, and was made by this gate or by a person."""
    events = aliases.history(store.disk, "weights", Ref.parse(dataset).name, "champion")
    if not events or any(events[-1].numbers.get(name, asked) != asked for name, asked in asdict(gate).items()):
        return None
    newest = events[-1]
    if _trained_so(store, Ref.parse(newest.challenger), dataset, settings):
        if rollback := aliases.withdrawn(events).get(newest.challenger):
            why = (
                f"and was withdrawn by the rollback that is decision {rollback.number} ({rollback.reason}); "
                f"`lookbook promote {newest.challenger} --reason ...` makes it champion again"
            )
        else:
            why = f"and was judged already ({newest.reason})"
        return _Judged(newest.challenger, newest.ref, why)
    if _trained_so(store, Ref.parse(newest.ref), dataset, settings):
        return _Judged(newest.ref, newest.ref, "and is champion")
    return None


def _trained_before(store: Store, dataset: str, settings: TrainingSettings) -> str | None:
    """When this run was interrupted and started again: the weights that it may have published before."""
    if flow_run.run_count < 2:
        return None
    for ref in store.refs("weights", Ref.parse(dataset).name):
        if _trained_so(store, ref, dataset, settings):
            get_run_logger().info("an earlier attempt published %s", ref)
            return str(ref)
    return None


def _known(store: Store, dataset: str, settings: TrainingSettings) -> TrainingSettings:
    """The settings, with the backbone that a training now would choose where that takes no look at the pictures."""
    if settings.architecture != "transfer":
        return settings
    choice = settled(store, store.open(Ref.parse(dataset)), settings, get_run_logger().info)
    return choice.settings if choice else settings


def _trained_so(store: Store, weights: Ref, dataset: str, settings: TrainingSettings) -> bool:
    """Whether a training now would have the data, the settings and the pretrained networks that these weights had."""
    with suppress(NotFound, Corrupt, CheckpointError):
        artifact = store.open(weights)
        identity = artifact.identity
        if identity["inputs"]["dataset"] != dataset or identity["settings"] != settings.to_dict():
            return False
        if settings.backbone is None:
            return True
        _, refs = named_views(store, ImageSpec.from_dict(artifact.facts["image_spec"]), settings.backbone)
        return refs == [view.backbone for view in weights_of.views_of(artifact)]
    return False


def _nothing_changed(store: Store, dataset: str, judged: _Judged) -> Any:
    """End here: the training would give again what was judged already."""
    reason = f"nothing changed: {judged.weights} was trained from {dataset} with these settings, {judged.why}"
    get_run_logger().info(reason)
    produced = {"dataset": dataset, "weights": judged.weights}
    runs.record(store.disk, str(flow_run.id), produced)
    refs = {**produced, "champion": judged.champion}
    name = Ref.parse(dataset).name
    report(lambda: retraining.unchanged(reason, refs), "retrain", name, description=f"Retraining of {name}")
    return Completed(message=reason, data={**refs, "promoted": False, "reason": reason})


@contextmanager
def _timed(seconds: dict[str, float | None], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)
