"""pytest tests/test_training.py"""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from tasks.vision.device import tf
from tasks.vision.errors import DeviceError, Diverged, SettingsError, WeightsError
from tasks.vision.images import ImageSpec
from tasks.vision.inference import BATCH, Predictor
from tasks.vision.metrics import evaluate
from tasks.vision.network import Network, glorot_uniform
from tasks.vision.training import CHUNK, TrainingSettings, chunks, fit, learning_rates

SPEC = ImageSpec(height=8, width=8, channels=1)
SHORT = TrainingSettings(epochs=3, batch_size=16)


def train(split, settings=SHORT, **more):
    return fit(split.images, split.labels, classes=3, spec=SPEC, settings=settings, **more)


def same(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def by_hand(images, labels, settings, weights):
    """The same training in NumPy, float64: forward, softmax cross-entropy, backward, step."""
    w1, b1, w2, b2 = (weights[f"{layer}"].astype(np.float64) for layer in weights)
    pixels = images.reshape(len(images), -1) / 255
    history = []
    for epoch in range(1, settings.epochs + 1):
        loss = hits = 0
        for chunk in chunks(len(images), settings, epoch):
            for batch, count, rate in zip(chunk.batches, chunk.counts, chunk.rates[: chunk.steps], strict=False):
                x, y = pixels[batch[:count]], labels[batch[:count]]
                hidden = x @ w1 + b1
                active = np.maximum(hidden, 0)
                logits = active @ w2 + b2
                p = np.exp(logits - logits.max(1, keepdims=True))
                p /= p.sum(1, keepdims=True)
                loss -= np.log(p[np.arange(count), y]).sum()
                hits += (logits.argmax(1) == y).sum()
                d = (p - np.eye(p.shape[1])[y]) / count
                back = (d @ w2.T) * (hidden > 0)
                w2, b2 = w2 - rate * active.T @ d, b2 - rate * d.sum(0)
                w1, b1 = w1 - rate * x.T @ back, b1 - rate * back.sum(0)
        history.append((loss / len(images), hits / len(images)))
    return history, (w1, b1, w2, b2)


def test_training_is_the_same_as_by_hand_in_numpy(shapes):
    images, labels = shapes["train"].images[:299], shapes["train"].labels[:299]  # 299 = 18 batches of 16, and 11
    first = Network(SPEC, 3, SHORT.seed).tensors()
    history, weights = by_hand(images, labels, SHORT, first)
    trained = fit(images, labels, classes=3, spec=SPEC, settings=SHORT)
    assert [entry["loss"] for entry in trained.history] == pytest.approx([loss for loss, _ in history], rel=1e-5)
    assert [entry["accuracy"] for entry in trained.history] == pytest.approx([accuracy for _, accuracy in history])
    for found, expected in zip(trained.tensors.values(), weights, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_it_learns(shapes):
    trained = train(shapes["train"], TrainingSettings(epochs=20, batch_size=16))
    network = Network(SPEC, 3)
    network.assign(trained.tensors)
    numbers = evaluate(Predictor(network)(shapes["test"].images), shapes["test"].labels, ["a", "b", "c"])
    assert numbers["accuracy"] > 0.95
    assert trained.history[-1]["loss"] < trained.history[0]["loss"] / 2


def test_graph_and_eager_give_the_same_losses(shapes):
    graph, eager = train(shapes["train"]), train(shapes["train"], execution="eager")
    for one, other in zip(graph.history, eager.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["accuracy"] == pytest.approx(other["accuracy"], abs=1 / 300)
    for name, tensor in graph.tensors.items():
        np.testing.assert_allclose(tensor, eager.tensors[name], atol=1e-5)


def test_eager_runs_the_python_of_the_forward_pass_at_every_step(shapes, monkeypatch):
    seen = []
    forward = Network.forward
    monkeypatch.setattr(
        Network,
        "forward",
        staticmethod(lambda images, weights: seen.append(tf.executing_eagerly()) or forward(images, weights)),
    )
    train(shapes["train"], dataclasses.replace(SHORT, epochs=1), execution="eager")
    assert seen == [True] * 19


def test_the_same_settings_give_the_same_bits_and_other_seeds_others(shapes):
    first = train(shapes["train"])
    assert same(train(shapes["train"]).tensors, first.tensors)
    assert train(shapes["train"]).history == first.history
    assert not same(train(shapes["train"], dataclasses.replace(SHORT, seed=1)).tensors, first.tensors)


@pytest.mark.parametrize(("items", "size"), [(300, 16), (299, 16), (16, 16), (17, 16), (5000, 4), (1, 1)])
def test_every_item_once_an_epoch_the_short_batch_included(items, size):
    settings = TrainingSettings(batch_size=size, epochs=3)
    orders = []
    for epoch in (1, 2):
        order = []
        for chunk in chunks(items, settings, epoch):
            assert chunk.batches.shape == (CHUNK, size)
            for batch, count in list(zip(chunk.batches, chunk.counts, strict=True))[: chunk.steps]:
                order += batch[:count].tolist()
        assert sorted(order) == list(range(items))
        orders.append(order)
    assert items < 10 or orders[0] != orders[1]


def test_the_rate_falls_linearly_to_zero_or_stays():
    rates = learning_rates(TrainingSettings(epochs=4, learning_rate=0.2), batches=25)
    assert rates[[0, 50, 99]] == pytest.approx([0.2, 0.1, 0.002])
    assert set(learning_rates(TrainingSettings(schedule="constant"), 10)) == {np.float32(0.1)}


def test_progress_is_told_every_100_batches_and_at_the_end_of_an_epoch(shapes):
    told, epochs = [], []
    settings = TrainingSettings(epochs=2, batch_size=2)
    trained = train(shapes["train"], settings, on_progress=told.append, on_epoch=lambda *seen: epochs.append(seen))
    assert [(each.epoch, each.batch, each.items) for each in told] == [
        (1, 100, 200), (1, 150, 300), (2, 100, 200), (2, 150, 300),
    ]  # fmt: skip
    assert (told[-1].loss, told[-1].accuracy) == (trained.history[-1]["loss"], trained.history[-1]["accuracy"])
    assert [entry for entry, _ in epochs] == trained.history


def test_a_diverging_training_is_stopped_and_told(shapes):
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) in epoch 1, by batch \d+ of \d+: .* below 1e\+30"):
        train(shapes["train"], dataclasses.replace(SHORT, learning_rate=1e30, schedule="constant"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "expected epochs of 1 or more, found 0"),
        ({"batch_size": 0}, "expected batch_size of 1 or more, found 0"),
        ({"batch_size": 301}, "expected a batch_size of at most the 300 training items, found 301"),
        ({"learning_rate": -1.0}, "expected a learning_rate above 0, found -1.0"),
        ({"learning_rate": float("nan")}, "expected a learning_rate above 0, found nan"),
        ({"schedule": "cosine"}, "expected a schedule out of linear, constant, found 'cosine'"),
        ({"seed": -1}, "expected seed of 0 or more, found -1"),
    ],
)
def test_settings_that_can_not_work(shapes, change, message):
    with pytest.raises(SettingsError, match=message):
        train(shapes["train"], dataclasses.replace(SHORT, **change))


def test_a_gpu_that_is_not_there_is_told_before_any_work(shapes):
    if tf.config.list_physical_devices("GPU"):
        assert train(shapes["train"], on="gpu").device.startswith("GPU:0 (")
        return
    with pytest.raises(DeviceError, match="expected a GPU that TensorFlow can use, found none; use --device auto"):
        train(shapes["train"], on="gpu")


PLACED = """
import numpy as np
from tasks.vision import device, training
from tasks.vision.device import tf
from tasks.vision.images import ImageSpec
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
device.choose, device.describe = lambda on: "/CPU:1", lambda name: name
made = []
class Network(training.Network):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        made.append(self)
training.Network = Network
images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
settings = training.TrainingSettings(epochs=1, batch_size=16)
labels = np.arange(64, dtype=np.int32) % 3
for execution in ("graph", "eager"):
    training.fit(images, labels, classes=3, spec=ImageSpec(8, 8, 1), settings=settings, execution=execution)
    print({variable.device.rpartition("/")[2] for variable in made.pop().weights.values()})
"""


def test_a_network_is_made_and_trained_on_the_chosen_device():
    """Two logical devices of the processor stand for a GPU beside it."""
    said = subprocess.run([sys.executable, "-c", PLACED], capture_output=True, text=True)
    assert said.stdout.splitlines() == ["{'device:CPU:1'}"] * 2, said.stderr


def test_the_forward_pass_is_numpys():
    network = Network(ImageSpec(height=28, width=28, channels=1), 10, seed=3)
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28, 1), dtype=np.uint8)
    weights = network.tensors()
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        "hidden/kernel": (784, 20), "hidden/bias": (20,), "output/kernel": (20, 10), "output/bias": (10,),
    }  # fmt: skip
    hidden = np.maximum(images.reshape(7, 784) / 255 @ weights["hidden/kernel"] + weights["hidden/bias"], 0)
    expected = hidden @ weights["output/kernel"] + weights["output/bias"]
    np.testing.assert_allclose(network(tf.constant(images)), expected, atol=1e-5)
    np.testing.assert_allclose(tf.function(network)(tf.constant(images)), expected, atol=1e-5)


def test_gradients_are_finite_differences(shapes):
    network = Network(SPEC, 3)
    images, labels = tf.constant(shapes["train"].images[:8]), shapes["train"].labels[:8]
    weights = {name: tf.cast(tensor, tf.float32) for name, tensor in network.weights.items()}

    def loss(values):
        logits = network.forward(images, values)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))

    with tf.GradientTape() as tape:
        tape.watch(list(weights.values()))
        value = loss(weights)
    for name, gradient in tape.gradient(value, weights).items():
        index = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        step = np.zeros(gradient.shape, np.float32)
        step[index] = 1e-2
        difference = loss({**weights, name: weights[name] + step}) - loss({**weights, name: weights[name] - step})
        assert float(difference) / 2e-2 == pytest.approx(float(gradient[index]), rel=0.02)


def test_first_weights_are_glorot_uniform():
    kernel = glorot_uniform((784, 20), (0, 0)).numpy()
    limit = np.sqrt(6 / 804)
    assert np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    assert (Network(SPEC, 3).tensors()["hidden/bias"] == 0).all()


def test_weights_that_do_not_fit_are_refused_by_name():
    tensors = Network(SPEC, 3).tensors()
    with pytest.raises(WeightsError, match=r"output/bias: expected float32 \[3\], found float32 \[4\]"):
        Network(SPEC, 3).assign({**tensors, "output/bias": np.zeros(4, np.float32)})
    with pytest.raises(WeightsError, match=r"output/bias: expected float32 \[3\], found nothing"):
        Network(SPEC, 3).assign({name: tensor for name, tensor in tensors.items() if name != "output/bias"})


def test_a_rows_numbers_do_not_depend_on_its_neighbours(shapes):
    predict = Predictor(Network(SPEC, 3))
    images = np.concatenate([shapes["train"].images] * 2)
    together = predict(images)
    assert len(images) > 2 * BATCH
    assert together.dtype == np.float32
    np.testing.assert_allclose(together.sum(1), 1, rtol=1e-6)
    for index in (0, BATCH - 1, BATCH, len(images) - 1):
        assert (predict(images[index : index + 1])[0] == together[index]).all()
    assert predict(images[:0]).shape == (0, 3)
