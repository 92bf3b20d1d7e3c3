"""The whole retraining: prepare -> train -> evaluate -> promote."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from artifacts import aliases, metrics, runs
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref, check_name
from artifacts.settings import Settings
from artifacts.store import Store
from flows import parameters as fields
from flows.names import run_name, subject_of
from flows.notices import tell_of_failure
from flows.train import TrainingCancelled, check_device, train, train_on_gpu_pool
from tasks.evaluate import evaluate
from tasks.judging.gate import Gate
from tasks.prepare import Pictures, prepare
from tasks.preparing.labelled import split_table
from tasks.promote import promote
from tasks.reports import decision as decisions
from tasks.reports import retraining
from tasks.reports.progress import report_key
from tasks.shared.deadline import Deadline
from tasks.shared.listing import check_folder, default_name


def _run_name() -> str:
    given = flow_run.parameters
    subject = subject_of(split_table(given["images"])[0]) if given["images"] else given["dataset"]
    return run_name("retrain", given["name"] or subject)


@flow(
    name="retrain",
    description="""
Prepare the data, **train** a network on them, **evaluate** it on the test split, and **promote** it to champion when it
is better there than the champion, beyond chance.

The defaults retrain on Fashion-MNIST in under a minute. For pictures of your own give `images`: a folder that holds a
folder a class. The result is a report on this run's *Artifacts* page, and another one on the decision.
""",
    flow_run_name=_run_name,
    on_failure=[tell_of_failure],
    persist_result=False,  # refs go into the store; nothing is pickled
)
def retrain(
    dataset: Literal["fashion-mnist"] = "fashion-mnist",
    images: str | None = None,
    name: str | None = None,
    image_size: fields.ImageSize = 64,
    color: fields.Color = "rgb",
    max_bad: fields.Share = 0.01,
    split_seed: fields.Seed = 0,
    architecture: fields.Architecture = "dense",
    epochs: fields.Epochs | None = None,
    batch_size: fields.BatchSize | None = None,
    learning_rate: fields.LearningRate | None = None,
    schedule: fields.Schedule | None = None,
    optimizer: fields.Optimizer | None = None,
    weight_decay: fields.WeightDecay | None = None,
    label_smoothing: fields.LabelSmoothing | None = None,
    augmentation: fields.Augmentation | None = None,
    validation: fields.Validation = 0.0,
    patience: fields.Patience = 0,
    seed: fields.Seed = 0,
    minimum_accuracy: fields.Share = 0.0,
    significance: fields.Significance = 0.05,
    max_recall_drop: fields.Share = 0.1,
    execution: fields.Execution = "graph",
    device: fields.Device = "auto",
    train_on: Literal["here", "gpu pool"] = "here",
    if_unchanged: Literal["train", "stop"] = "train",
    deadline_hours: fields.DeadlineHours = 12,
) -> Any:
    """Prepare, train, evaluate, promote.

    Args:
        dataset: The data set to train on, unless `images` names a folder.
        images: Pictures of your own instead, as root:sub/path; root is one of LOOKBOOK_IMAGE_ROOTS. It holds a folder a
            class, or train and test with a folder a class in each, or is a table (.csv, .parquet) with columns path and
            label. Unless it says so itself, about one picture in seven, chosen by its content, is kept for testing.
        name: What the dataset, the weights and their champion are called; by default as the data set or the folder.
        image_size: Height and width, in pixels, at which the network looks at the pictures of a folder. 8 to 512.
        color: rgb, or grey: what it sees of them.
        max_bad: Largest share of a folder's files that may be left out, as they can't be read, have no class or
            several. They are listed in the dataset; more of them stop the run. 0 to 1.
        split_seed: Decides which of a folder's contents are kept for testing. Models of different ones can't be
            compared: the new one was trained on what the other is tested with.
        architecture: The network. dense: one hidden layer of 20 units, trained in seconds. conv: a small convolutional
            network, better and minutes slower. What stays None below is as told for each.
        epochs: How often every training image is seen. More takes longer and is better up to a point. 1 to 10000;
            dense 20, conv 12.
        batch_size: Images a step of gradient descent, at most as many as there are to train on. With few pictures 32 or
            less; dense 64, conv 256.
        learning_rate: Step size of gradient descent at its largest. Too high and the training diverges, which it says;
            dense 0.1, conv 0.2.
        schedule: linear: the learning rate falls to zero over the training. constant: it stays. one-cycle: it rises for
            a fifth of the training, and falls to zero; dense linear, conv one-cycle.
        optimizer: sgd: plain gradient descent. momentum, nesterov: each step also goes on in the direction of the last;
            dense sgd, conv nesterov.
        weight_decay: How strongly large weights are drawn to zero. 0 to 1; dense 0.0, conv 0.001.
        label_smoothing: Share of the right answer that is spread over all classes; dense 0.0, conv 0.1.
        augmentation: none, or flips: half of the images are mirrored, others each epoch, and predictions are
            the mean over an image and its mirror image. Not for writing; dense none, conv flips.
        validation: Share of the training images of each class that is held out, to watch the training. 0 to 0.5.
        patience: Epochs without a better loss on the held-out images after which the training ends, with the best
            epoch's weights. 0: it never does.
        seed: Decides the first weights, the order of the images and what is held out. The same seed gives the same
            weights.
        minimum_accuracy: Accuracy on the test split below which no model is promoted. 0 to 1.
        significance: Chance of promoting a model that is just as good as the champion, by McNemar's exact test. Above
            0, to 1; with 1 any gain promotes.
        max_recall_drop: By how much the recall of any class may be below the champion's, where that is beyond chance
            or more than half of the class. 0 to 1; with 1 it does not matter.
        execution: graph: the training loop is compiled. eager: step by step, for debugging, many times slower.
        device: auto: a GPU where there is one. gpu: a GPU, or an error before any work.
        train_on: here: in this run's own process. gpu pool: as a run of train/gpu, for which this run waits; both
            workers need the same store.
        if_unchanged: When data, settings and what is asked of a champion are those of the last retraining. train: train
            all the same, which gives the same weights. stop: say that nothing changed, and end.
        deadline_hours: Hours after which the run gives up, waiting included. What is finished stays for the next run.

    Returns refs (dataset, weights, metrics, champion), accuracy, loss, promoted, reason, the decision's numbers, and
    seconds a stage.
    """
    given = dict(locals())
    settings = fields.training_settings(given)
    gate = Gate(minimum_accuracy, significance, max_recall_drop)
    pictures = Pictures(images, image_size, color, max_bad, split_seed) if images else None
    deadline = Deadline.after(deadline_hours)
    configured = Settings()
    store = Store(configured.store)
    seconds: dict[str, float] = {}
    if images:
        check_folder(configured, split_table(images)[0])
    called = check_name(name or (default_name(configured, split_table(images)[0]) if images else dataset))
    if train_on == "here":
        check_device(device)
    with _timed(seconds, "prepare"):
        dataset_ref = prepare(dataset, pictures, called, deadline)
    settings = fields.training_settings(given, store.open(Ref.parse(dataset_ref)))
    if if_unchanged == "stop" and (judged := _judged(store, dataset_ref, settings, gate)):
        return _nothing_changed(store, dataset_ref, judged)
    with _timed(seconds, "train"):
        training = {name: value for name, value in settings.items() if name in given}  # the rest follows from the data
        training |= {"dataset": dataset_ref, "execution": execution, "device": device}
        training["deadline_hours"] = round(deadline.hours_left(), 3)
        try:
            weights_ref = (
                _trained_before(store, dataset_ref, settings)
                or (train_on == "here" and train(**training)["weights"])
                or train_on_gpu_pool(store, training, deadline)
            )
        except TrainingCancelled as cancelled:
            return Cancelled(message=str(cancelled))
    with _timed(seconds, "evaluate"):
        metrics_ref = evaluate(weights_ref, dataset_ref)
        decision = promote(metrics_ref, gate)
    numbers = metrics.load(store, Ref.parse(metrics_ref)).numbers
    epochs_took = store.open(Ref.parse(weights_ref)).manifest["provenance"]["epoch_seconds"]
    seconds["epoch"] = round(median(epochs_took[1:] or epochs_took), 4)
    produced = {"dataset": dataset_ref, "weights": weights_ref, "metrics": metrics_ref}
    decided = aliases.event_key("weights", Ref.parse(weights_ref).name, "champion", decision["decision"])
    runs.record(store.disk, str(flow_run.id), {**produced, "decision": decided})
    result = {**produced, "accuracy": numbers["accuracy"], "loss": numbers["loss"], "seconds": seconds, **decision}
    _report("decision", called, decisions.markdown(store, result), f"Decision on the champion of {called}")
    _report("retrain", called, retraining.markdown(store, result), f"Retraining of {called}")
    return result


@dataclass(frozen=True)
class _Judged:
    """weights: a ref; champion: which one stays; why: what became of the weights, as the end of a sentence."""

    weights: str
    champion: str
    why: str


def _judged(store: Store, dataset: str, settings: dict[str, Any], gate: Gate) -> _Judged | None:
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


def _trained_before(store: Store, dataset: str, settings: dict[str, Any]) -> str | None:
    """When this run was interrupted and started again: the weights that it may have published before."""
    if flow_run.run_count < 2:
        return None
    for ref in store.refs("weights", Ref.parse(dataset).name):
        if _trained_so(store, ref, dataset, settings):
            get_run_logger().info("an earlier attempt published %s", ref)
            return str(ref)
    return None


def _trained_so(store: Store, weights: Ref, dataset: str, settings: dict[str, Any]) -> bool:
    with suppress(NotFound, Corrupt):
        identity = store.open(weights).identity
        return bool(identity["inputs"] == {"dataset": dataset} and identity["settings"] == settings)
    return False


def _nothing_changed(store: Store, dataset: str, judged: _Judged) -> Any:
    """End here: the training would give again what was judged already."""
    reason = f"nothing changed: {judged.weights} was trained from {dataset} with these settings, {judged.why}"
    get_run_logger().info(reason)
    produced = {"dataset": dataset, "weights": judged.weights}
    runs.record(store.disk, str(flow_run.id), produced)
    told = {**produced, "champion": judged.champion}
    name = Ref.parse(dataset).name
    _report("retrain", name, retraining.unchanged(reason, told), f"Retraining of {name}")
    return Completed(message=reason, data={**told, "promoted": False, "reason": reason})


def _report(of: str, name: str, markdown: str, description: str) -> None:
    create_markdown_artifact(markdown, key=report_key(of, name), description=description)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)
