"""The training loop, by hand: `fit` goes through epochs of steps until the training ends.

`fit` takes arrays and returns arrays; it knows neither Prefect nor the store. Its batches are made in `batches.py`, its
steps are taken in `steps.py`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np

from tasks.vision import device
from tasks.vision.batches import Chunk, make_chunks, one_ahead, share_of_side
from tasks.vision.device import tf
from tasks.vision.duplicates import firsts
from tasks.vision.errors import Diverged, WeightsError
from tasks.vision.images import ImageSpec
from tasks.vision.inference import Predictor
from tasks.vision.metrics import calibrate, log_loss
from tasks.vision.network import Network, make_network
from tasks.vision.optimizers import SGD, make_optimizer
from tasks.vision.processor import precision
from tasks.vision.recipes import Device, Execution, TrainingSettings
from tasks.vision.steps import Steps, make_steps
from tasks.vision.trained import EpochProgress, EpochResult, State, Trained
from tasks.vision.training_data import check_arrays, check_labels, check_sizes, class_weights, hold_out

__all__ = ["EpochProgress", "EpochResult", "State", "Trained", "TrainingSettings", "fit"]

STATE_SECONDS = 5.0  # a state is offered at most this often, so that short epochs stay short


def fit(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    spec: ImageSpec,
    settings: TrainingSettings,
    make: Callable[[], Network] | None = None,
    cropped: bool = False,
    items: np.ndarray | None = None,
    execution: Execution = "graph",
    on: Device = "auto",
    on_progress: Callable[[EpochProgress], None] = lambda progress: None,
    on_epoch: Callable[[EpochResult, float], None] = lambda result, seconds: None,
    on_state: Callable[[State], None] = lambda state: None,
    resume: State | None = None,
) -> Trained:
    """Train a network from its first weights, or from where `resume` was taken.

    images: uint8 [items, height, width, channels], 0-255; also a memory map that is larger than memory.
    labels: int32 [items], 0 to classes - 1.
    spec: the size of the images.
    make: makes the network with its first weights, where the settings alone don't.
    cropped: whether a part of each image is learned from, another one in each epoch.
    items: int64, which ones are learned from; by default all that the settings don't hold out.
    execution: `graph` makes many steps one call; `eager` runs the same code step by step, for breakpoints and prints.
    on: the device to compute on.
    on_progress: called after each call (100 steps, or 5 MiB of images) and after an epoch's last.
    on_epoch: called after each epoch with its result and its seconds.
    on_state: called after an epoch when the last state is more than STATE_SECONDS old.
    resume: a state of a training with the same settings, images and labels. The result has the bits that the training
        would have given without the interruption.

    Raises SettingsError, DeviceError, WeightsError for a state of other settings or another network, and Diverged when
    losses or weights are no longer numbers.
    """
    settings.check()
    place = device.choose(on)
    device.use_threads(1)  # steps are too small to share: 64 x 784 take 1.4 times as long with two (2-core AMD EPYC)
    with tf.device(place):
        network = make() if make else _of_settings(spec, classes, settings)
        network.precision = precision(settings.precision, place)
        images, labels = check_arrays(images, labels, network.image_shape)
        check_labels(labels, [f"number {index}" for index in range(classes)])
        labels = labels.astype(np.int32)
        contents = firsts(images) if settings.validation else np.arange(len(labels))
        learned_from, held_out = hold_out(labels, settings.validation, settings.seed, contents)
        learned_from = learned_from if items is None else items
        check_sizes(settings, len(learned_from), len(held_out))
        optimizer = make_optimizer(settings, network)
        run = _Run(network, optimizer, settings)
        if resume:
            run.restore(resume)
        balanced = settings.class_weights == "balanced"
        counting = class_weights(labels[learned_from], classes) if balanced else None
        take = make_steps(network, optimizer, settings, execution, counting)
        predict = Predictor(network)
        saved = time.monotonic()
        chunks = make_chunks(
            images, labels, learned_from, settings, first_epoch=run.epoch, lanes=network.lanes,
            shifted=network.shifted, covered=network.covered, cropped=cropped, place=place,
        )  # fmt: skip
        with closing(one_ahead(chunks)) as coming:
            while not run.ended:
                started = time.perf_counter()
                last = _run_epoch(take, coming, len(learned_from), settings, run.epoch, on_progress)
                validation_loss = validation_accuracy = None
                if len(held_out):
                    probabilities = _predict_items(predict, images, held_out)
                    validation_loss = log_loss(probabilities, labels[held_out])
                    validation_accuracy = float(np.mean(probabilities.argmax(1) == labels[held_out]))
                result = EpochResult(
                    last.epoch, last.loss, last.accuracy, last.items, validation_loss, validation_accuracy
                )
                _check_finite(network, result, settings)
                run.add(result, time.perf_counter() - started)
                on_epoch(result, run.seconds[-1])
                if time.monotonic() - saved > STATE_SECONDS:
                    on_state(run.state())
                    saved = time.monotonic()
        if settings.patience:
            network.assign(run.best)
        calibration = None
        if len(held_out):
            calibration = calibrate(_predict_items(predict, images, held_out), labels[held_out], "held-out")
        return Trained(
            tensors=network.tensors(),
            history=run.history,
            epoch_seconds=run.seconds,
            best_epoch=run.best_epoch,
            device=device.describe(place),
            threads=device.threads(),
            calibration=calibration,
        )


def _of_settings(spec: ImageSpec, classes: int, settings: TrainingSettings) -> Network:
    return make_network(
        settings.architecture, spec, classes, settings.seed, settings.augmentation, settings.inputs, settings.width
    )


def seconds_a_step(
    make: Callable[[], Network],
    images: np.ndarray,
    labels: np.ndarray,
    settings: TrainingSettings,
    execution: Execution,
    on: Device,
) -> float:
    """How long a step of gradient descent takes here, tried on the first batch with a network that is thrown away."""
    place = device.choose(on)
    device.use_threads(1)
    with tf.device(place):
        network = make()
        network.precision = precision(settings.precision, place)
        take = make_steps(network, make_optimizer(settings, network), settings, execution)
        items = np.arange(min(len(labels), settings.batch_size))
        tried = replace(settings, batch_size=len(items), epochs=1)
        chunk = next(make_chunks(images, labels, items, tried, lanes=network.lanes, cropped=True, place=place))
        chunk = replace(chunk, share=share_of_side(settings.epochs, settings.epochs))  # later ones take longest
        take(chunk)
        started = time.perf_counter()
        take(chunk)
        return time.perf_counter() - started


class _Run:
    """What a training has done: its history, its seconds, and the best weights where there is patience."""

    def __init__(self, network: Network, optimizer: SGD, settings: TrainingSettings) -> None:
        self._network, self._optimizer, self._settings = network, optimizer, settings
        self.history: list[EpochResult] = []
        self.seconds: list[float] = []
        self.best: dict[str, np.ndarray] = {}

    @property
    def epoch(self) -> int:
        """The number of the epoch that comes next, from 1."""
        return len(self.history) + 1

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation loss where there is patience, otherwise the last one."""
        if not self._settings.patience:
            return len(self.history)
        losses = np.array([result.validation_loss for result in self.history], np.float64)
        return 1 + int(losses.argmin())

    @property
    def ended(self) -> bool:
        done, patience = len(self.history), self._settings.patience
        return done >= self._settings.epochs or bool(patience and done and done - self.best_epoch >= patience)

    def add(self, result: EpochResult, seconds: float) -> None:
        """Take down an epoch that is done; its weights are those of the network now."""
        self.history.append(result)
        self.seconds.append(seconds)
        if self._settings.patience and self.best_epoch == len(self.history):
            self.best = self._network.tensors()

    def state(self) -> State:
        velocities = {name: variable.numpy() for name, variable in self._optimizer.state.items()}
        named = {"weights": self._network.tensors(), "optimizer": velocities, "best": self.best}
        tensors = {f"{kind}/{name}": tensor for kind, tensors in named.items() for name, tensor in tensors.items()}
        return State(self._settings, tensors, list(self.history), list(self.seconds))

    def restore(self, state: State) -> None:
        """Raises WeightsError when the state is of other settings, or of another network."""
        if state.settings != self._settings:
            raise WeightsError("this state is of a training with other settings; start without it")
        named: dict[str, dict[str, np.ndarray]] = {"weights": {}, "optimizer": {}, "best": {}}
        for path, tensor in state.tensors.items():
            kind, _, name = path.partition("/")
            named[kind][name] = tensor
        self._network.assign(named["weights"])
        for name, variable in self._optimizer.state.items():
            variable.assign(named["optimizer"][name])
        self.history, self.seconds, self.best = list(state.history), list(state.seconds), named["best"]


def _run_epoch(
    take: Steps,
    chunks: Iterator[Chunk],
    items: int,
    settings: TrainingSettings,
    epoch: int,
    on_progress: Callable[[EpochProgress], None],
) -> EpochProgress:
    """Take the steps of an epoch; `chunks` begins with its first one. Returns the progress at its end."""
    loss, hits, batch = 0.0, 0, 0
    batches = -(-items // settings.batch_size)
    while batch < batches:
        chunk = next(chunks)
        more_loss, more_hits = take(chunk)
        loss, hits, batch = loss + more_loss, hits + more_hits, batch + int(chunk.steps)
        seen = min(batch * settings.batch_size, items)
        if not np.isfinite(loss):
            raise _diverged(f"the loss is {loss} in epoch {epoch}, by batch {batch} of {batches}", settings)
        progress = EpochProgress(epoch, batch, batches, seen, loss / seen, hits / seen)
        on_progress(progress)
    return progress


def _predict_items(predict: Predictor, images: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The probabilities of some images, read a batch at a time."""
    parts = np.split(items, range(predict.batch, len(items), predict.batch))
    return np.concatenate([predict(images[part]) for part in parts])


def _check_finite(network: Network, result: EpochResult, settings: TrainingSettings) -> None:
    """The steps' losses are from before each step: what the last one did shows in the weights alone."""
    weights = all(np.isfinite(tensor).all() for tensor in network.tensors().values())
    if not (weights and np.isfinite(result.validation_loss or 0.0)):
        raise _diverged(f"weights or validation loss are no numbers after epoch {result.epoch}", settings)


def _diverged(found: str, settings: TrainingSettings) -> Diverged:
    return Diverged(
        f"{found}: the training diverged; try a learning rate below {settings.learning_rate:g} (0.1 is a usual one)"
    )
