"""The training loop, by hand: gradient descent on softmax cross-entropy, many steps a graph call.

`fit` takes arrays and returns arrays; it knows neither Prefect nor the store.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.vision import device
from tasks.vision.device import tf
from tasks.vision.duplicates import firsts
from tasks.vision.errors import Diverged, SettingsError, WeightsError
from tasks.vision.images import ImageSpec
from tasks.vision.inference import Predictor
from tasks.vision.metrics import fit_temperature, log_loss
from tasks.vision.network import Network, Tensors, make_network
from tasks.vision.optimizers import SGD, make_optimizer
from tasks.vision.recipes import Device, Execution, TrainingSettings
from tasks.vision.schedules import make_schedule

__all__ = ["Progress", "State", "Trained", "TrainingSettings", "fit"]

CHUNK_STEPS = 100  # at most so many steps a graph call: often enough for a display, rare enough that the call is free
CHUNK_BYTES = 5 << 20  # and about so many of images, which stay in the processor's cache
STATE_SECONDS = 5.0  # a state is offered at most this often, so that short epochs stay short
BLEND = 0.1  # how far a step moves the running statistics, once there were ten


@dataclass(frozen=True)
class Progress:
    """Where a training is. loss and accuracy are means over the epoch's `items` so far, each seen before its step."""

    epoch: int
    batch: int
    batches: int
    items: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class State:
    """A training between two epochs: all that the rest of it depends on, so that it can go on in another process.

    settings: those of the training; tensors: float32 arrays, `weights/<name>`, `optimizer/<name>` and, where there is
    patience, `best/<name>`; history and seconds: an entry for each finished epoch.
    """

    settings: TrainingSettings
    tensors: dict[str, np.ndarray]
    history: list[dict[str, Any]]
    seconds: list[float]


@dataclass(frozen=True)
class Trained:
    """tensors: name -> float32 array; history: epoch, loss, accuracy, items an epoch, with a validation share also
    validation_loss and validation_accuracy; epoch_seconds: one an epoch; best_epoch: the tensors'; temperature: by
    which the held-out items' loss is least, None where there are too few (`metrics.fit_temperature`)."""

    tensors: dict[str, np.ndarray]
    history: list[dict[str, Any]]
    epoch_seconds: list[float]
    best_epoch: int
    device: str
    threads: int
    temperature: float | None


def fit(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    spec: ImageSpec,
    settings: TrainingSettings,
    execution: Execution = "graph",
    on: Device = "auto",
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[dict[str, Any], float], None] = lambda epoch, seconds: None,
    on_state: Callable[[State], None] = lambda state: None,
    resume: State | None = None,
) -> Trained:
    """Train a network from its first weights, or from where `resume` was taken.

    images: uint8 [items, height, width, channels], also a memory map larger than memory; labels: int32 [items] below
    `classes`. `graph` makes many steps one call; `eager` runs the same code step by step, for breakpoints and prints.
    `on_progress` is called after each call (100 steps, or 5 MiB of images) and after an epoch's last, `on_epoch` with
    each entry of the history and its seconds, `on_state` after an epoch, when the last state is some seconds old.

    A training that goes on from a state gives the bits that it would have given without the interruption. Raises
    SettingsError, DeviceError, WeightsError for a state of other settings or another network, and Diverged when losses
    or weights are no longer numbers.
    """
    settings.check()
    images, labels = _checked(images, labels, spec)
    check_labels(labels, [f"number {index}" for index in range(classes)])
    labels = labels.astype(np.int32)
    contents = firsts(images) if settings.validation else np.arange(len(labels))
    learned_from, held_out = split(labels, settings.validation, settings.seed, contents)
    _check_sizes(settings, len(learned_from), len(held_out))
    place = device.choose(on)
    device.use_threads(1)  # steps are too small to share: 64 x 784 take 1.4 times as long with two (2-core AMD EPYC)
    with tf.device(place):
        of = (settings.seed, settings.augmentation, settings.inputs)
        network = make_network(settings.architecture, spec, classes, *of)
        optimizer = make_optimizer(settings, network.learned)
        run = _Run(network, optimizer, settings)
        if resume:
            run.restore(resume)
        take = make_steps(network, optimizer, settings, execution)
        predict = Predictor(network)
        saved = time.monotonic()
        first = len(run.history) + 1
        gathered = gather(images, labels, learned_from, settings, first_epoch=first, lanes=network.lanes, place=place)
        with closing(_one_ahead(gathered)) as chunks:
            while not run.ended:
                started = time.perf_counter()
                last = _run_epoch(take, chunks, len(learned_from), settings, len(run.history) + 1, on_progress)
                entry = {"epoch": last.epoch, "loss": last.loss, "accuracy": last.accuracy, "items": last.items}
                if len(held_out):
                    probabilities = _predict_items(predict, images, held_out)
                    entry["validation_loss"] = log_loss(probabilities, labels[held_out])
                    entry["validation_accuracy"] = float(np.mean(probabilities.argmax(1) == labels[held_out]))
                _check_finite(network, entry, settings)
                run.add(entry, time.perf_counter() - started)
                on_epoch(entry, run.seconds[-1])
                if time.monotonic() - saved > STATE_SECONDS:
                    on_state(run.state())
                    saved = time.monotonic()
        if settings.patience:
            network.assign(run.best)
        temperature = None
        if len(held_out):
            temperature = fit_temperature(_predict_items(predict, images, held_out), labels[held_out])
        made_on = (device.describe(place), device.threads())
        return Trained(network.tensors(), run.history, run.seconds, run.best_epoch, *made_on, temperature)


def check_labels(labels: np.ndarray, names: Sequence[str]) -> None:
    """Raises SettingsError unless there are two classes or more, with examples of each, and no label beyond them."""
    if len(names) < 2:
        raise SettingsError(f"expected two classes or more to tell apart, found {len(names)}: {', '.join(names)}")
    if len(labels) and (labels.min() < 0 or labels.max() >= len(names)):
        raise SettingsError(f"expected labels from 0 to {len(names) - 1}, found {labels.min()} to {labels.max()}")
    counts = np.bincount(labels, minlength=len(names))
    if missing := [name for name, count in zip(names, counts, strict=True) if not count]:
        raise SettingsError(f"expected training images of every class, found none of {', '.join(missing)}; add some")


def split(labels: np.ndarray, share: float, seed: int, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the items to learn from, and of those held out: of each class up to `share`, rounded, by the seed.

    first: int64 [items], for each item the first one with the same content (`duplicates.firsts`). Copies stay together:
    nothing that is held out is learned from. Of those that are held out the first alone is looked at, and a content
    with more copies than still fit the share is learned from. Both ascend, int64. The same labels, share, seed and
    contents give the same split.
    """
    copies = np.bincount(first, minlength=len(labels))
    contents = np.flatnonzero(copies)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels) if share else ():
        left = round(share * np.count_nonzero(labels == label))
        mine = contents[labels[contents] == label]
        for content in np.random.default_rng([seed, _HELD_OUT, int(label)]).permutation(mine):
            if copies[content] <= left:
                held[content] = True
                left -= copies[content]
            if not left:
                break
    return np.flatnonzero(~held[first]), np.flatnonzero(held)


_HELD_OUT, _FLIPS = 1 << 32, 1 << 33  # beside the epochs' numbers, for seeds of their own


@dataclass(frozen=True)
class Chunk:
    """Up to CHUNK_STEPS batches, padded to one shape so that there is one trace.

    images: uint8 [steps, batch, height, width, channels], where batch is the batch size, or a little more so that lanes
    are equal; labels: int32 [steps, batch]; flips: bool [steps, batch], which images to mirror; counts: int32 [steps],
    how many items of each batch count (an epoch's last is short: others pad it); rates: float32 [steps], the learning
    rate; blends: float32 [steps], how far the running statistics move to those of the batch; steps: how many to take.
    """

    images: tf.Tensor
    labels: tf.Tensor
    flips: tf.Tensor
    counts: tf.Tensor
    rates: tf.Tensor
    blends: tf.Tensor
    steps: tf.Tensor


Steps = Callable[[Chunk], tuple[float, int]]
"""Takes a chunk's steps, changes the variables of network and optimizer; returns the sum of the items' losses, and the
hits."""


def make_steps(network: Network, optimizer: SGD, settings: TrainingSettings, execution: Execution) -> Steps:
    """Gradient descent on `network`: many steps of a chunk in one call."""
    names = list(network.learned)

    def lane(weights: Tensors, images: tf.Tensor, labels: tf.Tensor, flips: tf.Tensor, share: tf.Tensor) -> Any:
        """A part of a batch: the gradients of its part of the loss, its statistics, and its items' losses and hits.
        share: float32, what each item counts in the batch's mean, 0 for padding."""
        if settings.augmentation == "flips":
            images = tf.where(flips[:, tf.newaxis, tf.newaxis, tf.newaxis], tf.reverse(images, [2]), images)
        variables = {name: weights[name] for name in names}
        with tf.GradientTape() as tape:
            tape.watch(variables)
            logits, statistics = network.forward_training(images, {**weights, **variables})
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            targets = losses
            if smoothing := settings.label_smoothing:
                everywhere = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=1)
                targets = (1 - smoothing) * losses + smoothing * everywhere
            objective = tf.reduce_sum(targets * share)
        present = share > 0
        hits = present & (tf.argmax(logits, axis=1, output_type=tf.int32) == labels)
        loss = tf.reduce_sum(tf.where(present, losses, 0.0))
        return tape.gradient(objective, variables), statistics, loss, tf.reduce_sum(tf.cast(hits, tf.int32))

    def step(weights: Tensors, state: Tensors, batch: Sequence[tf.Tensor]) -> Any:
        images, labels, flips, count, rate, blend = batch
        width = labels.shape[0]
        shares = tf.where(tf.range(width) < count, 1 / tf.cast(count, tf.float32), 0.0)
        parts = [slice(start, start + width // network.lanes) for start in range(0, width, width // network.lanes)]
        lanes = [lane(weights, images[part], labels[part], flips[part], shares[part]) for part in parts]
        gradients, statistics, losses, hits = zip(*lanes, strict=True)
        learned, state = optimizer.step(weights, _sums(gradients), state, rate)
        running = {
            name: weights[name] + blend * (total / network.lanes - weights[name])
            for name, total in _sums(statistics).items()
        }
        return {**learned, **running}, state, sum(losses[1:], losses[0]), sum(hits[1:], hits[0])

    def many_steps(*given: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        *batches, steps = given

        def one(index: tf.Tensor, loss: tf.Tensor, hits: tf.Tensor, weights: Tensors, state: Tensors) -> Any:
            moved, state, more_loss, more_hits = step(weights, state, [each[index] for each in batches])
            return index + 1, loss + tf.cast(more_loss, tf.float64), hits + more_hits, moved, state

        carried = [network.turned(_values(variables)) for variables in (network.weights, optimizer.state)]
        start = (0, tf.zeros((), tf.float64), 0, *carried)
        _, loss, hits, weights, state = tf.while_loop(lambda index, *_: index < steps, one, start)
        for variables, values in ((network.weights, weights), (optimizer.state, state)):
            for name, value in network.turned(values).items():
                variables[name].assign(value)
        return loss, hits

    run = many_steps
    if execution == "graph":
        run = tf.function(many_steps, autograph=False, jit_compile=network.compiled)

    def take(chunk: Chunk) -> tuple[float, int]:
        loss, hits = run(chunk.images, chunk.labels, chunk.flips, chunk.counts, chunk.rates, chunk.blends, chunk.steps)
        return float(loss), int(hits)

    return take


@dataclass(frozen=True)
class Plan:
    """Which items are in which batch of an epoch.

    order: int64 [batches, batch], indices of images; flips: bool [batches, batch]; counts: int32 [batches]; rates and
    blends: float32 [batches]; all as in Chunk.
    """

    order: np.ndarray
    flips: np.ndarray
    counts: np.ndarray
    rates: np.ndarray
    blends: np.ndarray


def plan_epoch(items: np.ndarray, settings: TrainingSettings, epoch: int, lanes: int = 1) -> Plan:
    """All of an epoch's batches, each of the `items` (indices of images) once, in an order that depends on the seed and
    the epoch alone; whether an image is mirrored, on its index besides."""
    size = settings.batch_size
    batches = -(-len(items) // size)
    width = _width(size, lanes)
    shuffled = np.random.default_rng([settings.seed, epoch]).permutation(items)
    order = np.resize(shuffled, (batches, width))
    order[:, :size] = np.resize(shuffled, (batches, size))
    counts = np.full(batches, size, np.int32)
    counts[-1] = len(items) - (batches - 1) * size
    mirrored = np.random.default_rng([settings.seed, _FLIPS, epoch]).random(items.max() + 1) < 0.5
    steps = np.arange((epoch - 1) * batches, epoch * batches)
    return Plan(
        order,
        mirrored[order],
        counts,
        learning_rates(settings, batches, epoch),
        np.maximum(BLEND, 1 / (1 + steps)).astype(np.float32),
    )


def _width(batch_size: int, lanes: int) -> int:
    """Of a batch whose lanes are equal."""
    return -(-batch_size // lanes) * lanes


def learning_rates(settings: TrainingSettings, batches: int, epoch: int) -> np.ndarray:
    """The learning rate of every step of an epoch (the first is 1): float32 [batches]."""
    schedule = make_schedule(settings, settings.epochs * batches)
    with tf.device("/CPU:0"):
        steps = tf.range((epoch - 1) * batches, epoch * batches, dtype=tf.float64)
        return np.asarray(schedule(steps), np.float32)


def gather(
    images: np.ndarray,
    labels: np.ndarray,
    items: np.ndarray,
    settings: TrainingSettings,
    *,
    first_epoch: int = 1,
    lanes: int = 1,
    place: str = "/CPU:0",
) -> Iterator[Chunk]:
    """The chunks of all epochs from the first one on, copied to the device as bytes.

    Images are read from where they are, only those of a chunk: a memory map is never held whole.
    """
    width = _width(settings.batch_size, lanes)
    steps = max(1, min(CHUNK_STEPS, CHUNK_BYTES // (width * images[0].nbytes)))
    pixels = np.zeros((steps, width, *images.shape[1:]), np.uint8)  # one buffer for all: new pages cost more
    for epoch in range(first_epoch, settings.epochs + 1):
        plan = plan_epoch(items, settings, epoch, lanes)
        for start in range(0, len(plan.order), steps):
            part = slice(start, start + steps)
            order = plan.order[part]
            np.take(images, order, axis=0, out=pixels[: len(order)], mode="clip")  # unlike "raise", without a copy
            with tf.device(place):
                chunk = Chunk(
                    tf.constant(pixels),
                    _padded(labels[order], steps),
                    _padded(plan.flips[part], steps),
                    _padded(plan.counts[part], steps),
                    _padded(plan.rates[part], steps),
                    _padded(plan.blends[part], steps),
                    tf.constant(len(order)),
                )
            yield chunk


def _one_ahead(chunks: Iterator[Chunk]) -> Generator[Chunk, None, None]:
    """The same, each made in a thread while the one before is at work."""
    with ThreadPoolExecutor(1, thread_name_prefix="gather") as thread:
        waiting = thread.submit(next, chunks, None)
        while (chunk := waiting.result()) is not None:
            waiting = thread.submit(next, chunks, None)
            yield chunk


def _predict_items(predict: Predictor, images: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The probabilities of some images, read a batch at a time."""
    parts = np.split(items, range(predict.batch, len(items), predict.batch))
    return np.concatenate([predict(images[part]) for part in parts])


class _Run:
    """What a training has so far: history, seconds, and the best weights, where there is patience."""

    def __init__(self, network: Network, optimizer: SGD, settings: TrainingSettings) -> None:
        self._network, self._optimizer, self._settings = network, optimizer, settings
        self.history: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.best: dict[str, np.ndarray] = {}

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation loss where there is patience, otherwise the last one."""
        if not self._settings.patience:
            return len(self.history)
        return 1 + int(np.argmin([entry["validation_loss"] for entry in self.history]))

    @property
    def ended(self) -> bool:
        done, patience = len(self.history), self._settings.patience
        return done >= self._settings.epochs or bool(patience and done and done - self.best_epoch >= patience)

    def add(self, entry: dict[str, Any], seconds: float) -> None:
        self.history.append(entry)
        self.seconds.append(seconds)
        if self._settings.patience and self.best_epoch == len(self.history):
            self.best = self._network.tensors()

    def state(self) -> State:
        named = {"weights": self._network.tensors(), "optimizer": _arrays(self._optimizer.state), "best": self.best}
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
    on_progress: Callable[[Progress], None],
) -> Progress:
    loss, hits, batch = 0.0, 0, 0
    batches = -(-items // settings.batch_size)
    while batch < batches:
        chunk = next(chunks)
        more_loss, more_hits = take(chunk)
        loss, hits, batch = loss + more_loss, hits + more_hits, batch + int(chunk.steps)
        seen = min(batch * settings.batch_size, items)
        if not np.isfinite(loss):
            raise _diverged(f"the loss is {loss} in epoch {epoch}, by batch {batch} of {batches}", settings)
        progress = Progress(epoch, batch, batches, seen, loss / seen, hits / seen)
        on_progress(progress)
    return progress


def _check_finite(network: Network, entry: dict[str, Any], settings: TrainingSettings) -> None:
    """The steps' losses are from before each step: what the last one did shows in the weights alone."""
    weights = all(np.isfinite(tensor).all() for tensor in network.tensors().values())
    if not (weights and np.isfinite(entry.get("validation_loss", 0.0))):
        raise _diverged(f"weights or validation loss are no numbers after epoch {entry['epoch']}", settings)


def _diverged(found: str, settings: TrainingSettings) -> Diverged:
    return Diverged(
        f"{found}: the training diverged; try a learning rate below {settings.learning_rate:g} (0.1 is a usual one)"
    )


def _checked(images: np.ndarray, labels: np.ndarray, spec: ImageSpec) -> tuple[np.ndarray, np.ndarray]:
    """Images without gaps, and labels. Raises SettingsError unless there is a whole number for each image of bytes."""
    shape = (spec.height, spec.width, spec.channels)
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise SettingsError(
            f"expected images of uint8 [items, {', '.join(map(str, shape))}], found {images.dtype} "
            f"{list(images.shape)}; 0 to 255, not 0 to 1"
        )
    labels = np.asarray(labels)
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise SettingsError(f"expected {len(images)} labels of int32, found {labels.dtype} {list(labels.shape)}")
    return np.ascontiguousarray(images), labels


def _check_sizes(settings: TrainingSettings, items: int, held_out: int) -> None:
    if settings.batch_size > items:
        raise SettingsError(
            f"expected a batch_size of at most the {items} training items, found {settings.batch_size}; with few "
            "images 32 or less learns more"
        )
    if settings.validation and not held_out:
        raise SettingsError(
            f"expected a validation share that holds out an image of some class, found {settings.validation:g} of "
            f"{items} images, which is none of any (copies of an image stay together); raise it, or add images"
        )


def _padded(values: np.ndarray, steps: int) -> tf.Tensor:
    return tf.constant(np.pad(values, [(0, steps - len(values))] + [(0, 0)] * (values.ndim - 1)))


def _sums(named: Sequence[Tensors]) -> dict[str, tf.Tensor]:
    """Sums by name, in the lanes' order: an order that changed would change the last bits."""
    return {name: sum((each[name] for each in named[1:]), named[0][name]) for name in named[0]}


def _values(variables: dict[str, tf.Variable]) -> dict[str, tf.Tensor]:
    return {name: tf.convert_to_tensor(variable) for name, variable in variables.items()}


def _arrays(variables: dict[str, tf.Variable]) -> dict[str, np.ndarray]:
    return {name: variable.numpy() for name, variable in variables.items()}
