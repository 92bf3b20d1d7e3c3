"""pytest tests/test_steps.py: steps of gradient descent beside the same in NumPy, in the graph and step by step."""

import dataclasses

import numpy as np
import pytest
from conftest import SPEC

from tasks.vision.batches import shuffle_epoch
from tasks.vision.device import tf
from tasks.vision.network import Conv, Dense
from tasks.vision.recipes import TrainingSettings, settings_for
from tasks.vision.training import fit

SHORT = TrainingSettings(epochs=3, batch_size=16)
SHORT_CONV = settings_for("conv", epochs=1, batch_size=32, learning_rate=0.05)


def train(split, settings=SHORT, **more):
    return fit(split.images, split.labels, classes=3, spec=SPEC, settings=settings, **more)


def by_hand(images, labels, settings, weights):
    """The same training in NumPy, float64: forward, softmax cross-entropy, backward, step."""
    w1, b1, w2, b2 = (weights[f"{layer}"].astype(np.float64) for layer in weights)
    pixels = images.reshape(len(images), -1) / 255
    history, velocity, decay = [], [0, 0, 0, 0], settings.weight_decay
    for epoch in range(1, settings.epochs + 1):
        loss = hits = 0
        batches = shuffle_epoch(np.arange(len(images)), settings, epoch)
        for batch, count, rate in zip(batches.order, batches.counts, batches.rates, strict=True):
            x, y = pixels[batch[:count]], labels[batch[:count]]
            hidden = x @ w1 + b1
            active = np.maximum(hidden, 0)
            logits = active @ w2 + b2
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            loss -= np.log(p[np.arange(count), y]).sum()
            hits += (logits.argmax(1) == y).sum()
            targets = np.eye(p.shape[1])[y] * (1 - settings.label_smoothing) + settings.label_smoothing / p.shape[1]
            d = (p - targets) / count
            back = (d @ w2.T) * (hidden > 0)
            gradients = [x.T @ back + decay * w1, back.sum(0), active.T @ d + decay * w2, d.sum(0)]
            if settings.optimizer == "sgd":
                moves = gradients
            else:
                velocity = [0.9 * old + new for old, new in zip(velocity, gradients, strict=True)]
                moves = velocity
            if settings.optimizer == "nesterov":
                moves = [new + 0.9 * fast for new, fast in zip(gradients, velocity, strict=True)]
            w1, b1, w2, b2 = (old - rate * move for old, move in zip((w1, b1, w2, b2), moves, strict=True))
        history.append((loss / len(images), hits / len(images)))
    return history, (w1, b1, w2, b2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optimizer": "momentum", "schedule": "one-cycle", "learning_rate": 0.02},
        {"optimizer": "nesterov", "weight_decay": 0.01, "label_smoothing": 0.2},
    ],
    ids=str,
)
def test_training_is_the_same_as_by_hand_in_numpy(shapes, change):
    images, labels = shapes["train"].images[:299], shapes["train"].labels[:299]  # 299 = 18 batches of 16, and 11
    settings = dataclasses.replace(SHORT, **change)
    first = Dense(SPEC, 3, settings.seed).tensors()
    history, weights = by_hand(images, labels, settings, first)
    trained = fit(images, labels, classes=3, spec=SPEC, settings=settings)
    assert [result.loss for result in trained.history] == pytest.approx([loss for loss, _ in history], rel=1e-5)
    assert [result.accuracy for result in trained.history] == pytest.approx([accuracy for _, accuracy in history])
    for found, expected in zip(trained.tensors.values(), weights, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "near"), [(SHORT, 1e-5), (SHORT_CONV, 1e-3)], ids=["dense", "conv"])
def test_graph_and_eager_give_the_same_losses(shapes, settings, near):
    graph, eager = train(shapes["train"], settings), train(shapes["train"], settings, execution="eager")
    for one, other in zip(graph.history, eager.history, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=near)
        assert one.accuracy == pytest.approx(other.accuracy, abs=1 / 300)
    for name, tensor in graph.tensors.items():
        np.testing.assert_allclose(tensor, eager.tensors[name], atol=near)


def test_eager_runs_the_python_of_the_forward_pass_at_every_step(shapes, monkeypatch):
    seen = []
    forward = Dense.forward_training

    def forward_and_note(*arguments):
        seen.append(tf.executing_eagerly())
        return forward(*arguments)

    monkeypatch.setattr(Dense, "forward_training", forward_and_note)
    train(shapes["train"], dataclasses.replace(SHORT, epochs=1), execution="eager")
    assert seen == [True] * 19


@pytest.mark.slow
def test_flips_mirror_images_left_to_right(shapes):
    """A class that differs from its mirror image in nothing but the side can't be told apart with flips."""
    images, labels = shapes["train"].images.copy(), np.arange(300, dtype=np.int32) % 2
    images[:] = 0
    images[labels == 0, :, :3] = 200
    images[labels == 1, :, 5:] = 200
    settings = settings_for("dense", epochs=5, batch_size=30)
    accuracy = {
        each: fit(images, labels, classes=2, spec=SPEC, settings=dataclasses.replace(settings, augmentation=each))
        .history[-1]
        .accuracy
        for each in ("none", "flips")
    }
    assert accuracy["none"] == 1
    assert accuracy["flips"] < 0.7


@pytest.mark.slow
def test_running_statistics_are_of_the_data_even_after_few_steps(shapes):
    """Two steps: nothing of the first 0 and 1 is left."""
    split = shapes["train"]
    settings = settings_for("conv", epochs=1, batch_size=150, learning_rate=1e-9, augmentation="none")
    tensors = train(split, settings).tensors
    network = Conv(SPEC, 3)
    raw = tf.nn.conv2d(tf.cast(split.images, tf.float32) / 255, network.weights["conv1/kernel"], 1, "SAME")
    raw = tf.nn.max_pool2d(raw, 2, 2, "SAME")
    np.testing.assert_allclose(tensors["conv1/mean"], np.mean(raw, axis=(0, 1, 2)), atol=0.01)
    np.testing.assert_allclose(tensors["conv1/variance"], np.var(raw, axis=(0, 1, 2)), rtol=0.2, atol=1e-4)
