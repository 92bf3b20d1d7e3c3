"""pytest tests/test_validation.py: held-out images are looked at, end a training, and give its temperature."""

import dataclasses

import numpy as np
import pytest
from conftest import SPEC

from tasks.vision.inference import Predictor
from tasks.vision.metrics import evaluate
from tasks.vision.network import Dense
from tasks.vision.recipes import TrainingSettings
from tasks.vision.training import fit
from tasks.vision.training_data import hold_out

SHORT = TrainingSettings(epochs=3, batch_size=16)


def train(split, settings=SHORT, **more):
    return fit(split.images, split.labels, classes=3, spec=SPEC, settings=settings, **more)


def held_out(labels, share, seed):
    """The split where no image is a copy."""
    return hold_out(labels, share, seed, np.arange(len(labels)))


def same(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


@pytest.mark.slow
def test_held_out_images_are_looked_at_and_not_learned_from(shapes):
    settings = dataclasses.replace(SHORT, validation=0.2)
    whole, shared = train(shapes["train"]), train(shapes["train"], settings)
    labels = shapes["train"].labels
    _, held = held_out(labels, 0.2, 0)
    assert shared.history[0].items == 300 - len(held) < whole.history[0].items
    assert not same(whole.tensors, shared.tensors)
    network = Dense(SPEC, 3)
    network.assign(shared.tensors)
    numbers = evaluate(Predictor(network)(shapes["train"].images[held]), labels[held], ["a", "b", "c"])
    assert shared.history[-1].validation_accuracy == numbers["accuracy"]
    assert shared.history[-1].validation_loss == numbers["loss"]


@pytest.mark.slow
def test_copies_of_what_is_learned_are_not_held_out():
    """150 pictures that nothing can be learned of but by heart, each four times: who has seen one knows it."""
    random = np.random.default_rng(0)
    images = np.repeat(random.integers(0, 256, (150, 8, 8, 1), dtype=np.uint8), 4, axis=0)
    labels = np.repeat(random.integers(0, 3, 150).astype(np.int32), 4)
    settings = TrainingSettings(epochs=60, batch_size=16, validation=0.2, patience=5)
    trained = fit(images, labels, classes=3, spec=SPEC, settings=settings)
    assert max(result.validation_accuracy for result in trained.history) < 0.75
    assert len(trained.history) < 60, "patience ends it"
    assert trained.calibration is not None
    assert trained.history[0].items == pytest.approx(480, abs=12)


@pytest.mark.slow
def test_patience_ends_a_training_and_takes_the_best_epoch(shapes):
    """Labels that mean nothing: what is learned of them only harms."""
    labels = np.random.default_rng(5).integers(0, 3, 300).astype(np.int32)
    settings = TrainingSettings(epochs=60, batch_size=16, learning_rate=0.5, validation=0.3, patience=3)
    trained = fit(shapes["train"].images, labels, classes=3, spec=SPEC, settings=settings)
    losses = [result.validation_loss for result in trained.history]
    assert len(losses) < 60
    assert trained.best_epoch == 1 + int(np.argmin(losses)) == len(losses) - 3
    network = Dense(SPEC, 3)
    network.assign(trained.tensors)
    _, held = held_out(labels, 0.3, 0)
    assert evaluate(Predictor(network)(shapes["train"].images[held]), labels[held], "abc")["loss"] == min(losses)


@pytest.mark.slow
def test_the_temperature_is_that_of_the_held_out_images(shapes):
    from tasks.vision.metrics import calibrate, scale

    train, settings = (
        shapes["train"],
        TrainingSettings(epochs=4, batch_size=16, validation=0.5, patience=2, learning_rate=0.003),
    )
    trained = fit(train.images, train.labels, classes=3, spec=SPEC, settings=settings)
    network = Dense(SPEC, 3)
    network.assign(trained.tensors)
    held = held_out(train.labels, 0.5, 0)[1]
    probabilities = Predictor(network)(train.images[held])
    assert trained.calibration == calibrate(probabilities, train.labels[held], "held-out")
    temperature = trained.calibration.temperature
    scaled = Predictor(network, temperature)(train.images[held])
    np.testing.assert_allclose(scaled, scale(probabilities, temperature), atol=1e-5)
    without = fit(train.images, train.labels, classes=3, spec=SPEC, settings=TrainingSettings(epochs=1, batch_size=16))
    assert without.calibration is None


def test_a_share_that_holds_out_no_image_leaves_the_weights_without_a_temperature(shapes):
    """As where each picture is there more often than the share allows: nobody asked for the share of the recipe."""
    settings = TrainingSettings(epochs=1, batch_size=16, validation=0.001)
    trained = train(shapes["train"], settings)
    assert trained.calibration is None
    assert same(trained.tensors, train(shapes["train"], dataclasses.replace(settings, validation=0.0)).tensors)
