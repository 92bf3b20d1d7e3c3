"""pytest tests/test_training.py: `fit` learns, stops, goes on, and gives the same bits."""

import dataclasses
import os

import numpy as np
import pytest
from conftest import SPEC
from trainings import Forks

from tasks.vision.device import tf
from tasks.vision.errors import DeviceError, Diverged, SettingsError, WeightsError
from tasks.vision.images import ImageSpec
from tasks.vision.inference import Predictor
from tasks.vision.metrics import evaluate
from tasks.vision.network import make_network
from tasks.vision.recipes import TrainingSettings, settings_for
from tasks.vision.training import fit
from tasks.vision.training_data import hold_out

SHORT = TrainingSettings(epochs=3, batch_size=16)


def train(split, settings=SHORT, **more):
    return fit(split.images, split.labels, classes=3, spec=SPEC, settings=settings, **more)


def same(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


@pytest.fixture(scope="module")
def short(shapes):
    """What a short training of the shapes gives, and its state after each epoch."""
    states = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.vision.training.STATE_SECONDS", 0)
        return train(shapes["train"], on_state=states.append), states


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [TrainingSettings(epochs=20, batch_size=16), settings_for("conv", epochs=6, batch_size=30)]
)
def test_it_learns(shapes, settings):
    trained = train(shapes["train"], settings)
    network = make_network(settings.architecture, SPEC, 3, augmentation=settings.augmentation, width=settings.width)
    network.assign(trained.tensors)
    numbers = evaluate(Predictor(network)(shapes["test"].images), shapes["test"].labels, ["a", "b", "c"])
    assert numbers["accuracy"] > 0.95
    assert trained.history[-1].loss < trained.history[0].loss / 2


@pytest.mark.slow
def test_dense_learns_from_bright_pictures_of_any_size():
    """With plain inputs every unit is dead after a few steps."""
    random = np.random.default_rng(0)
    labels = np.arange(400, dtype=np.int32) % 2
    images = random.integers(200, 256, (400, 48, 48, 3), dtype=np.uint8)
    images[labels == 1, :24, :24] -= 60
    spec = ImageSpec(height=48, width=48, channels=3)
    hits = {}
    for inputs in ("plain", "centered"):
        settings = dataclasses.replace(settings_for("dense", per_class=[200, 200], epochs=10), inputs=inputs)
        trained = fit(images, labels, classes=2, spec=spec, settings=settings)
        network = make_network("dense", spec, 2, inputs=inputs)
        network.assign(trained.tensors)
        hits[inputs] = np.mean(Predictor(network)(images).argmax(1) == labels)
    assert hits["centered"] > 0.95
    assert hits["plain"] < 0.6, "else the difference needs no setting"


@pytest.mark.slow
def test_the_same_settings_give_the_same_bits_and_other_seeds_others(shapes, short):
    first, again = short[0], train(shapes["train"])
    assert same(again.tensors, first.tensors)
    assert again.history == first.history
    assert not same(train(shapes["train"], dataclasses.replace(SHORT, seed=1)).tensors, first.tensors)


@pytest.mark.slow
def test_a_memory_map_gives_the_bits_of_an_array(shapes, short, tmp_path):
    images = shapes["train"].images
    mapped = np.memmap(tmp_path / "images", np.uint8, "w+", shape=images.shape)
    mapped[:] = images
    trained = fit(mapped, shapes["train"].labels, classes=3, spec=SPEC, settings=SHORT)
    assert same(trained.tensors, short[0].tensors)


@pytest.mark.slow
def test_labels_may_be_any_whole_numbers(shapes, short):
    for labels in (shapes["train"].labels.astype(np.int64), shapes["train"].labels.tolist()):
        trained = fit(shapes["train"].images, labels, classes=3, spec=SPEC, settings=SHORT)
        assert same(trained.tensors, short[0].tensors)


@pytest.fixture(scope="module")
def forks():
    """Processes of their own. TensorFlow has not computed there yet, so it takes as many threads as `fit` asks for."""
    with Forks() as forks:
        yield forks


BITS = """
import hashlib, os
print(len(os.sched_getaffinity(0)))
import numpy as np
from tasks.vision.images import ImageSpec
from tasks.vision.recipes import settings_for
from tasks.vision.training import fit
random = np.random.default_rng(0)
images = random.integers(0, 256, (600, 12, 12, 1), dtype=np.uint8)
labels = (images[:, 3, 3, 0] // 64).astype(np.int32)
for architecture in ("dense", "conv"):
    settings = settings_for(architecture, epochs=2, batch_size=96)
    trained = fit(images, labels, classes=4, spec=ImageSpec(12, 12, 1), settings=settings)
    digest = hashlib.sha256(repr(trained.history).encode())
    for name, tensor in sorted(trained.tensors.items()):
        digest.update(tensor.tobytes())
    print(architecture, digest.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.kill
def test_processes_with_one_processor_and_with_all_give_the_same_bits(forks, tmp_path):
    """test_resume.py has processes with equal processors."""
    with Forks(1) as of_one_processor:
        (ended, one), (also_ended, many) = (
            each.run(BITS, tmp_path / str(number)) for number, each in enumerate((of_one_processor, forks))
        )
    assert (ended, also_ended) == (0, 0), one + many
    (processors, *one), (all_processors, *many) = one.splitlines(), many.splitlines()
    assert processors == "1"
    assert all_processors == str(len(os.sched_getaffinity(0)))
    assert len(one) == 2
    assert one == many


PLACED = """
import numpy as np
from tasks.vision import device, training
from tasks.vision.device import tf
from tasks.vision.images import ImageSpec
from tasks.vision.recipes import settings_for
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
device.choose, device.describe = lambda on: "/CPU:1", lambda name: name
made = []
make = training.make_network
def make_network(*arguments):
    made.append(make(*arguments))
    return made[-1]
training.make_network = make_network
images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
labels = np.arange(64, dtype=np.int32) % 3
for architecture in ("dense", "conv"):
    settings = settings_for(architecture, epochs=1, batch_size=16)
    for execution in ("graph", "eager"):
        training.fit(images, labels, classes=3, spec=ImageSpec(8, 8, 1), settings=settings, execution=execution)
        print({variable.device.rpartition("/")[2] for variable in made.pop().weights.values()})
"""


@pytest.mark.slow
@pytest.mark.kill
def test_a_network_is_made_and_trained_on_the_chosen_device(forks, tmp_path):
    """Two logical devices of the processor stand for a GPU beside it."""
    status, said = forks.run(PLACED, tmp_path / "said")
    assert status == 0, said
    assert [line for line in said.splitlines() if line.startswith("{")] == ["{'device:CPU:1'}"] * 4, said


def test_a_gpu_that_is_not_there_is_named_before_any_work(shapes):
    if tf.config.list_physical_devices("GPU"):
        assert train(shapes["train"], on="gpu").device.startswith("GPU:0 (")
        return
    with pytest.raises(DeviceError, match="expected a GPU that TensorFlow can use, found none; use --device auto"):
        train(shapes["train"], on="gpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "expected epochs to be 1 to 10,000, found 0"),
        ({"batch_size": 0}, "expected batch_size to be 1 to 65,536, found 0"),
        ({"batch_size": 301}, "expected a batch_size of at most the 300 training items, found 301"),
        ({"learning_rate": -1.0}, "expected learning_rate to be above 0, found -1.0"),
        ({"learning_rate": float("nan")}, "expected learning_rate to be above 0, found nan"),
        ({"architecture": "tree"}, "expected architecture to be one of dense, conv, transfer, found 'tree'"),
        ({"schedule": "cosine"}, "expected schedule to be one of linear, constant, one-cycle, found 'cosine'"),
        ({"optimizer": "adam"}, "expected optimizer to be one of sgd, momentum, nesterov, found 'adam'"),
        ({"augmentation": "crops"}, "expected augmentation to be one of none, flips, auto, found 'crops'"),
        ({"weight_decay": -0.1}, "expected weight_decay to be 0 to 1, found -0.1"),
        ({"label_smoothing": 1.0}, "expected label_smoothing to be 0 to below 1, found 1.0"),
        ({"validation": 0.6}, "expected validation to be 0 to 0.5, found 0.6"),
        (
            {"validation": 0.001, "patience": 1},
            "expected a validation share that holds out an image of some class, found 0.001 of 300",
        ),
        (
            {"validation": 0.5, "batch_size": 200},
            "expected a batch_size of at most the 1\\d\\d training items, found 200",
        ),
        ({"patience": 1}, "expected a validation share for a patience of 1 epochs, found none"),
        ({"patience": 3, "validation": 0.1}, "expected a patience below the 3 epochs, found 3"),
        ({"seed": -1}, "expected seed to be 0 to below 2,147,483,648, found -1"),
    ],
)
def test_settings_that_can_not_work(shapes, change, message):
    with pytest.raises(SettingsError, match=message):
        train(shapes["train"], dataclasses.replace(SHORT, **change))


@pytest.mark.slow
def test_progress_comes_every_100_batches_and_at_the_end_of_an_epoch(shapes):
    seen, epochs = [], []
    settings = TrainingSettings(epochs=2, batch_size=2)  # 100 batches a call
    trained = train(shapes["train"], settings, on_progress=seen.append, on_epoch=lambda *each: epochs.append(each))
    assert [(each.epoch, each.batch, each.items) for each in seen] == [
        (1, 100, 200), (1, 150, 300), (2, 100, 200), (2, 150, 300),
    ]  # fmt: skip
    assert (seen[-1].loss, seen[-1].accuracy) == (trained.history[-1].loss, trained.history[-1].accuracy)
    assert [result for result, _ in epochs] == trained.history


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_very_last_step_may_diverge_too(shapes, share):
    """Losses are from before each step: of one step alone none is wrong. Nearly all items are of one class, so that the
    step is a large one."""
    labels = np.where(np.arange(300) < 6, np.arange(300) % 3, 0).astype(np.int32)
    skewed = dataclasses.replace(shapes["train"], labels=labels)
    size = len(hold_out(labels, share, 0, np.arange(len(labels)))[0])
    settings = TrainingSettings(
        epochs=1, batch_size=size, learning_rate=3.4e38, schedule="constant", optimizer="nesterov", validation=share
    )
    with pytest.raises(Diverged, match="weights or validation loss are no numbers after epoch 1: .* below 3.4e[+]38"):
        train(skewed, settings)


@pytest.mark.slow
def test_a_diverging_training_is_stopped_with_what_to_try(shapes):
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) in epoch 1, by batch \d+ of \d+: .* below 1e\+30"):
        train(shapes["train"], dataclasses.replace(SHORT, learning_rate=1e30, schedule="constant"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        SHORT,
        dataclasses.replace(SHORT, optimizer="nesterov", schedule="one-cycle", validation=0.1, patience=2),
        settings_for("conv", epochs=3, batch_size=100),
    ],
    ids=["sgd", "patience", "conv"],
)
def test_a_training_that_goes_on_from_a_state_gives_the_same_bits(shapes, monkeypatch, settings):
    monkeypatch.setattr("tasks.vision.training.STATE_SECONDS", 0)
    states = []
    whole = train(shapes["train"], settings, on_state=states.append)
    assert [len(state.history) for state in states] == [1, 2, 3]
    for after in (1, 2, 3):
        rest = train(shapes["train"], settings, resume=states[after - 1])
        assert same(rest.tensors, whole.tensors), after
        assert rest.history == whole.history, after
        assert rest.best_epoch == whole.best_epoch, after
        assert len(rest.epoch_seconds) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [{"epochs": 1}, {"optimizer": "momentum"}, {"validation": 0.1}, {"seed": 1}, {"learning_rate": 0.5}],
    ids=str,
)
def test_a_state_of_other_settings_is_refused(shapes, short, other):
    with pytest.raises(WeightsError, match="this state is of a training with other settings; start without it"):
        train(shapes["train"], dataclasses.replace(SHORT, **other), resume=short[1][1])


@pytest.mark.slow
def test_a_state_of_another_network_is_refused(shapes, short):
    images = shapes["train"].images[:, :4].copy()
    with pytest.raises(WeightsError, match="these weights don't fit the network"):
        fit(images, shapes["train"].labels, classes=3, spec=ImageSpec(4, 8, 1), settings=SHORT, resume=short[1][1])


@pytest.mark.slow
def test_states_are_offered_some_seconds_apart(shapes, monkeypatch):
    now, states = [0.0], []
    monkeypatch.setattr("tasks.vision.training.time.monotonic", lambda: now[0])

    def two_seconds_later(result, seconds):
        now[0] += 2

    settings = dataclasses.replace(SHORT, epochs=7)
    train(shapes["train"], settings, on_state=states.append, on_epoch=two_seconds_later)
    assert [len(state.history) for state in states] == [3, 6]
