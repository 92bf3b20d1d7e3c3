"""The training loop, by hand: gradient descent on sparse softmax cross-entropy, a chunk of steps a graph call.

`fit` takes arrays and returns arrays; it knows neither Prefect nor the store.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from tasks.vision import device
from tasks.vision.device import tf
from tasks.vision.errors import Diverged, SettingsError
from tasks.vision.images import ImageSpec
from tasks.vision.network import Network

CHUNK = 100  # steps a graph call: often enough for a progress display, rare enough that the call costs nothing

Schedule = Literal["linear", "constant"]
Execution = Literal["graph", "eager"]
Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class TrainingSettings:
    """What decides the numbers of a training. The defaults reach 86.6% on Fashion-MNIST (README, median of five seeds).

    epochs and batch_size: 1 or more; learning_rate: above 0; schedule: `linear` falls from the learning rate to zero
    over all steps, `constant` stays; seed: of the first weights and of every epoch's order.
    """

    architecture: Literal["dense"] = "dense"
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.1
    schedule: Schedule = "linear"
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def check(self, items: int) -> None:
        """Raises SettingsError for settings that can't work on this many training items."""
        for name, minimum in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < minimum:
                raise SettingsError(f"expected {name} of {minimum} or more, found {getattr(self, name)}")
        if not (np.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise SettingsError(f"expected a learning_rate above 0, found {self.learning_rate}; 0.1 is the default")
        if self.schedule not in get_args(Schedule):
            raise SettingsError(f"expected a schedule out of {', '.join(get_args(Schedule))}, found {self.schedule!r}")
        if self.batch_size > items:
            raise SettingsError(f"expected a batch_size of at most the {items} training items, found {self.batch_size}")


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
class Trained:
    """tensors: name -> float32 array; history: epoch, loss, accuracy, items an epoch; epoch_seconds: one an epoch."""

    tensors: dict[str, np.ndarray]
    history: list[dict[str, Any]]
    epoch_seconds: list[float]
    device: str
    threads: int


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
) -> Trained:
    """Train a network from its first weights.

    images: uint8 [items, height, width, channels]; labels: int32 [items] below `classes`. `graph` compiles 100 steps
    into one call; `eager` runs the same code step by step, for breakpoints and prints. `on_progress` is called every
    100 batches and after the last, `on_epoch` with each entry of the history and its seconds.

    Raises SettingsError, DeviceError, and Diverged when the loss is no longer a number.
    """
    settings.check(len(images))
    place = device.choose(on)
    device.use_threads(
        1
    )  # steps of 64 x 784 are too small to share: one thread is 1.4x as fast as two (2-core AMD EPYC)
    with tf.device(place):
        network = Network(spec, classes, settings.seed)
        steps = make_steps(network, tf.constant(images), tf.constant(labels), execution)
        history, seconds = [], []
        for epoch in range(1, settings.epochs + 1):
            started = time.perf_counter()
            last = _run_epoch(steps, len(images), settings, epoch, on_progress)
            history.append({"epoch": epoch, "loss": last.loss, "accuracy": last.accuracy, "items": last.items})
            seconds.append(time.perf_counter() - started)
            on_epoch(history[-1], seconds[-1])
        return Trained(network.tensors(), history, seconds, device.describe(place), device.threads())


@dataclass(frozen=True)
class Chunk:
    """Up to CHUNK batches, padded to one shape so that there is one trace.

    batches: int32 [CHUNK, batch_size], the items of each batch; counts: int32 [CHUNK], how many of them count; rates:
    float32 [CHUNK], the learning rate of each step; steps: how many batches there are.
    """

    batches: np.ndarray
    counts: np.ndarray
    rates: np.ndarray
    steps: int


Steps = Callable[[Chunk], tuple[float, int]]
"""Takes a chunk's steps, changes the network's variables; returns the sum of the items' losses, and the hits."""


def make_steps(network: Network, images: tf.Tensor, labels: tf.Tensor, execution: Execution) -> Steps:
    """Gradient descent on `network` with these images (uint8, they stay so on the device) and labels (int32)."""
    names = list(network.weights)

    def step(
        batch: tf.Tensor, count: tf.Tensor, rate: tf.Tensor, weights: list[tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        present = tf.range(tf.shape(batch)[0]) < count
        batch_labels = tf.gather(labels, batch)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits = network.forward(tf.gather(images, batch), dict(zip(names, weights, strict=True)))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=batch_labels, logits=logits)
            total = tf.reduce_sum(tf.where(present, losses, 0.0))
            loss = total / tf.cast(count, tf.float32)
        gradients = tape.gradient(loss, weights)
        hits = present & (tf.argmax(logits, axis=1, output_type=tf.int32) == batch_labels)
        moved = [weight - rate * gradient for weight, gradient in zip(weights, gradients, strict=True)]
        return total, tf.reduce_sum(tf.cast(hits, tf.int32)), moved

    def many_steps(batches: tf.Tensor, counts: tf.Tensor, rates: tf.Tensor, steps: tf.Tensor) -> tuple[Any, Any]:
        def one(index: tf.Tensor, loss: tf.Tensor, hits: tf.Tensor, *weights: tf.Tensor) -> tuple[Any, ...]:
            more_loss, more_hits, moved = step(batches[index], counts[index], rates[index], list(weights))
            return index + 1, loss + tf.cast(more_loss, tf.float64), hits + more_hits, *moved

        start = (0, tf.zeros((), tf.float64), 0, *(tf.convert_to_tensor(network.weights[name]) for name in names))
        _, loss, hits, *weights = tf.while_loop(lambda index, *_: index < steps, one, start)
        for name, weight in zip(names, weights, strict=True):
            network.weights[name].assign(weight)
        return loss, hits

    run = many_steps
    if execution == "graph":
        run = tf.function(many_steps, autograph=False, jit_compile=True)

    def take(chunk: Chunk) -> tuple[float, int]:
        loss, hits = run(
            tf.constant(chunk.batches), tf.constant(chunk.counts), tf.constant(chunk.rates), tf.constant(chunk.steps)
        )
        return float(loss), int(hits)

    return take


def chunks(items: int, settings: TrainingSettings, epoch: int) -> Iterator[Chunk]:
    """All of an epoch's batches, each item once, in an order that depends on (seed, epoch) alone."""
    size = settings.batch_size
    batches = -(-items // size)
    order = np.zeros((batches, size), np.int32)
    order.ravel()[:items] = np.random.default_rng([settings.seed, epoch]).permutation(items)
    counts = np.full(batches, size, np.int32)
    counts[-1] = items - (batches - 1) * size
    rates = learning_rates(settings, batches)[(epoch - 1) * batches : epoch * batches]
    for start in range(0, batches, CHUNK):
        part = slice(start, start + CHUNK)
        missing = CHUNK - len(counts[part])
        yield Chunk(
            np.pad(order[part], ((0, missing), (0, 0))),
            np.pad(counts[part], (0, missing), constant_values=1),
            np.pad(rates[part], (0, missing)),
            CHUNK - missing,
        )


def learning_rates(settings: TrainingSettings, batches: int) -> np.ndarray:
    """The learning rate of every step of the training: float32 [epochs * batches]."""
    steps = settings.epochs * batches
    falling = 1 - np.arange(steps) / steps if settings.schedule == "linear" else np.ones(steps)
    return (settings.learning_rate * falling).astype(np.float32)


def _run_epoch(
    take: Steps, items: int, settings: TrainingSettings, epoch: int, on_progress: Callable[[Progress], None]
) -> Progress:
    loss, hits, batch = 0.0, 0, 0
    batches = -(-items // settings.batch_size)
    for chunk in chunks(items, settings, epoch):
        more_loss, more_hits = take(chunk)
        loss, hits, batch = loss + more_loss, hits + more_hits, batch + chunk.steps
        seen = min(batch * settings.batch_size, items)
        if not np.isfinite(loss):
            raise Diverged(
                f"the loss is {loss} in epoch {epoch}, by batch {batch} of {batches}: the training diverged; "
                f"try a learning rate below {settings.learning_rate:g} (0.1 is the default)"
            )
        progress = Progress(epoch, batch, batches, seen, loss / seen, hits / seen)
        on_progress(progress)
    return progress
