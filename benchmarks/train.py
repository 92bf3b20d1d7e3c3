"""Training the 784-20-10 network on Fashion-MNIST (SGD 0.1, batch 64) beside what others take for the same work.

    python benchmarks/train.py

Every contender is a process of its own, all of them in turn, in several rounds: seconds an epoch (the median after the
first), and in total for 5 and for 20 epochs, the first and its compiling included, imports not. JAX
and PyTorch are no dependencies: `pip install jax torch` brings them; without them their rows are missing. Takes about
seven minutes.
"""

import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 3
RATE, BATCH, HIDDEN = np.float32(0.1), 64, 20

Epochs = Iterator[Any]
"""The accuracy on the training images, an epoch at a time; with the time at its end, where it comes later."""


def lookbook(x: np.ndarray, y: np.ndarray, epochs: int, execution: str = "graph") -> Epochs:
    from tasks.vision.images import ImageSpec
    from tasks.vision.recipes import settings_for
    from tasks.vision.training import fit

    settings = settings_for("dense", epochs=epochs, schedule="constant")
    seen = []
    trained = fit(
        x,
        y,
        classes=10,
        spec=ImageSpec(28, 28, 1),
        settings=settings,
        execution=execution,
        on_epoch=lambda result, seconds: seen.append((time.perf_counter(), result.accuracy)),
    )
    assert len(trained.history) == epochs
    yield from seen


def lookbook_eager(x: np.ndarray, y: np.ndarray, epochs: int) -> Epochs:
    return lookbook(x, y, epochs, "eager")


def numpy_by_hand(x: np.ndarray, y: np.ndarray, epochs: int) -> Epochs:
    random = np.random.default_rng(0)
    pixels, targets = scaled(x), np.eye(10, dtype=np.float32)[y]
    w1, b1, w2, b2 = first_weights(random)
    for _ in range(epochs):
        order, hits = random.permutation(len(x)), 0
        shuffled, wanted = pixels[order], targets[order]
        for start in range(0, len(x), BATCH):
            batch, target = shuffled[start : start + BATCH], wanted[start : start + BATCH]
            hidden = np.maximum(batch @ w1 + b1, 0)
            logits = hidden @ w2 + b2
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            hits += (p.argmax(1) == target.argmax(1)).sum()
            error = (p - target) / len(batch)
            back = error @ w2.T
            back[hidden == 0] = 0
            w2 -= RATE * (hidden.T @ error)
            b2 -= RATE * error.sum(0)
            w1 -= RATE * (batch.T @ back)
            b1 -= RATE * back.sum(0)
        yield hits / len(x)


def jax_scan(x: np.ndarray, y: np.ndarray, epochs: int) -> Epochs:
    """One jit an epoch: a scan over the batches of a permutation; the last 32 images of each are left out."""
    import jax
    import jax.numpy as jnp

    pixels, labels = jnp.asarray(scaled(x)), jnp.asarray(y)
    batches = len(x) // BATCH

    def loss(weights, batch, wanted):
        w1, b1, w2, b2 = weights
        logits = jax.nn.relu(batch @ w1 + b1) @ w2 + b2
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[:, None], axis=1)
        return -chosen.mean(), (logits.argmax(1) == wanted).sum()

    def step(weights, batch):
        (_, hits), gradients = jax.value_and_grad(loss, has_aux=True)(weights, *batch)
        return [weight - RATE * gradient for weight, gradient in zip(weights, gradients, strict=True)], hits

    @jax.jit
    def epoch(weights, key):
        order = jax.random.permutation(key, len(pixels))[: batches * BATCH]
        shuffled = pixels[order].reshape(batches, BATCH, -1), labels[order].reshape(batches, BATCH)
        weights, hits = jax.lax.scan(step, weights, shuffled)
        return weights, hits.sum()

    weights = [jnp.asarray(each) for each in first_weights(np.random.default_rng(0))]
    for number in range(epochs):
        weights, hits = epoch(weights, jax.random.PRNGKey(number))
        yield float(hits) / (batches * BATCH)


def keras_fit(x: np.ndarray, y: np.ndarray, epochs: int) -> Epochs:
    """fit on a tf.data pipeline with steps_per_execution=100."""
    import tensorflow as tf

    layers = tf.keras.layers
    model = tf.keras.Sequential([layers.Flatten(), layers.Dense(HIDDEN, activation="relu"), layers.Dense(10)])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.SGD(0.1), loss, metrics=["accuracy"], steps_per_execution=100)
    data = tf.data.Dataset.from_tensor_slices((scaled(x), y)).shuffle(500).batch(BATCH).prefetch(4)
    seen = []
    callback = tf.keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((time.perf_counter(), logs["accuracy"]))
    )
    model.fit(data, epochs=epochs, verbose=0, callbacks=[callback])
    yield from seen


def torch_tensors(x: np.ndarray, y: np.ndarray, epochs: int) -> Epochs:
    """A permutation of the whole tensor, cut into batches: no DataLoader, which takes longer."""
    import torch

    torch.manual_seed(0)
    pixels, labels = torch.tensor(scaled(x)), torch.tensor(y.astype(np.int64))
    model = torch.nn.Sequential(torch.nn.Linear(784, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 10))
    optimizer, cross_entropy = torch.optim.SGD(model.parameters(), 0.1), torch.nn.CrossEntropyLoss()
    for _ in range(epochs):
        order, hits = torch.randperm(len(x)), 0
        for batch, wanted in zip(pixels[order].split(BATCH), labels[order].split(BATCH), strict=True):
            logits = model(batch)
            optimizer.zero_grad()
            cross_entropy(logits, wanted).backward()
            optimizer.step()
            hits += (logits.argmax(1) == wanted).sum()
        yield int(hits) / len(x)


def tutorial_graph(x: np.ndarray, y: np.ndarray, epochs: int) -> Epochs:
    """As in tutorial.py: one batch a graph call, loss and accuracy read back into Python."""
    import tensorflow as tf

    pixels, labels = scaled(x), y.astype(np.int64)
    data = tf.data.Dataset.from_tensor_slices((pixels, labels)).shuffle(500).batch(BATCH)
    weights = [tf.Variable(each) for each in first_weights(np.random.default_rng(0))]
    cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = tf.keras.optimizers.SGD(0.1)
    optimizer.build(weights)

    @tf.function
    def step(images, wanted):
        with tf.GradientTape() as tape:
            logits = tf.nn.relu(images @ weights[0] + weights[1]) @ weights[2] + weights[3]
            loss = cross_entropy(wanted, logits)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return logits, loss

    for _ in range(epochs):
        hits = 0
        for images, wanted in data:
            logits, loss = step(images, wanted)
            hits += (tf.argmax(logits, 1) == wanted).numpy().sum()
            loss.numpy()
        yield hits / len(x)


def tutorial_eager(x: np.ndarray, y: np.ndarray, epochs: int) -> Epochs:
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    return tutorial_graph(x, y, epochs)


ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
CONTENDERS: dict[str, tuple[Callable[..., Epochs], int, str, dict[str, str]]] = {
    "Lookbook, graph": (lookbook, 20, "tensorflow", {}),
    "NumPy by hand, one thread": (numpy_by_hand, 20, "numpy", ONE_THREAD),
    "NumPy by hand": (numpy_by_hand, 20, "numpy", {}),
    "JAX lax.scan, one jit an epoch, one thread": (jax_scan, 20, "jax", ONE_THREAD),
    "JAX lax.scan, one jit an epoch": (jax_scan, 20, "jax", {}),
    "Keras fit, tf.data, steps_per_execution=100": (keras_fit, 20, "tensorflow", {}),
    "PyTorch, pre-sliced tensors, one thread": (torch_tensors, 20, "torch", ONE_THREAD),
    "PyTorch, pre-sliced tensors": (torch_tensors, 20, "torch", {}),
    "tutorial, tf.function a batch": (tutorial_graph, 5, "tensorflow", {}),
    "tutorial, eager": (tutorial_eager, 3, "tensorflow", {}),
    "Lookbook, eager": (lookbook_eager, 3, "tensorflow", {}),
}
"""What each runs, how many epochs, its package, and its environment. Threads are all processors unless it says one."""


def scaled(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float32) / 255


def first_weights(random: np.random.Generator) -> list[np.ndarray]:
    def glorot(fan_in: int, fan_out: int) -> np.ndarray:
        limit = np.sqrt(6 / (fan_in + fan_out))
        return random.uniform(-limit, limit, (fan_in, fan_out)).astype(np.float32)

    return [glorot(784, HIDDEN), np.zeros(HIDDEN, np.float32), glorot(HIDDEN, 10), np.zeros(10, np.float32)]


def write_data_set(folder: Path) -> None:
    from artifacts.settings import Settings
    from tasks.vision.sources import FASHION_MNIST, fetch, read_side

    settings = Settings()
    contents = fetch(FASHION_MNIST, settings.cache, settings.dataset_mirror, lambda *_: None)
    train = read_side(FASHION_MNIST, contents, "train")
    np.save(folder / "images.npy", train.images)
    np.save(folder / "labels.npy", train.labels)


def run(name: str, folder: Path, items: int) -> None:
    """One contender, in this process: its line of JSON."""
    contender, epochs, package, _ = CONTENDERS[name]
    importlib.import_module(package)
    if contender in (lookbook, lookbook_eager):
        import tasks.vision.training  # noqa: F401  (imports are nobody's seconds)
    x = np.load(folder / "images.npy", mmap_mode="r")[:items]
    y = np.load(folder / "labels.npy")[:items].astype(np.int32)
    seconds, before = [], time.perf_counter()
    for epoch in contender(x, y, epochs):
        now, accuracy = epoch if isinstance(epoch, tuple) else (time.perf_counter(), epoch)
        seconds.append(now - before)
        before = now
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "accuracy": float(accuracy), "peak_mb": peak}))


def measured(name: str, folder: Path, items: int = 60_000) -> dict:
    command = [sys.executable, __file__, name, str(folder), str(items)]
    environment = {**os.environ, **CONTENDERS[name][3]}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    present = [name for name, (_, _, package, _) in CONTENDERS.items() if importlib.util.find_spec(package)]
    with tempfile.TemporaryDirectory() as folder:
        write_data_set(Path(folder))
        runs: dict[str, list[dict]] = {name: [] for name in present}
        for number in range(ROUNDS):
            for name in present:
                runs[name].append(measured(name, Path(folder)))
                epoch = statistics.median(runs[name][-1]["seconds"][1:])
                print(f"round {number + 1}: {name} {epoch:.3f} s an epoch", file=sys.stderr, flush=True)
        few = [measured("Lookbook, graph", Path(folder), 6_400)["peak_mb"] for _ in range(ROUNDS)]
    print("| who | s an epoch | against Lookbook | 5 epochs | 20 epochs | accuracy |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, all_of_them in runs.items():
        epoch, total_5, total_20 = (
            statistics.median(each(run["seconds"]) for run in all_of_them) for each in (_epoch, _total_5, _total_20)
        )
        ratio = statistics.median(
            _epoch(run["seconds"]) / _epoch(ours["seconds"])
            for run, ours in zip(all_of_them, runs["Lookbook, graph"], strict=True)
        )
        print(
            f"| {name} | {epoch:.3f} | {ratio:.2f} | {_seconds(total_5)} | {_seconds(total_20)} "
            f"| {all_of_them[-1]['accuracy']:.3f} |"
        )
    ours = statistics.median(run["peak_mb"] for run in runs["Lookbook, graph"])
    print(
        f"\nPeak memory of Lookbook's process {ours:.0f} MB, with 6,400 images instead of 60,000 "
        f"{statistics.median(few):.0f} MB; the 60,000 are 47 MB."
    )


def _epoch(seconds: list[float]) -> float:
    return statistics.median(seconds[1:])


def _total_5(seconds: list[float]) -> float:
    return sum(seconds[:5]) if len(seconds) >= 5 else float("nan")


def _total_20(seconds: list[float]) -> float:
    return sum(seconds) if len(seconds) == 20 else float("nan")


def _seconds(seconds: float) -> str:
    return "" if np.isnan(seconds) else f"{seconds:.2f} s"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
