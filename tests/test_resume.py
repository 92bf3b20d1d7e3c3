"""pytest tests/test_resume.py: a training that is killed goes on where it was, and ends in the same version."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from published import damage, remove

from artifacts import weights
from artifacts.errors import Corrupt
from artifacts.refs import Ref
from artifacts.store import Store
from artifacts.training_state import TrainingStates
from tasks.reports.progress import TrainingProgress
from tasks.shared.deadline import Deadline, DeadlineExceeded
from tasks.train import train_weights
from tasks.vision import training
from tasks.vision.recipes import TrainingSettings, settings_for

SETTINGS = {
    "dense": TrainingSettings(
        epochs=300, batch_size=2, optimizer="nesterov", learning_rate=0.001, validation=0.1, patience=299
    ),
    "conv": settings_for("conv", epochs=40, batch_size=30),
}
TRAIN = """
import json, sys
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.shared.deadline import Deadline
from tasks.reports.progress import TrainingProgress
from tasks.train import train_weights
from tasks.vision import training
from tasks.vision.recipes import TrainingSettings
from pathlib import Path
training.STATE_SECONDS = 0
store, ref, settings = Store(Path(sys.argv[1])), Ref.parse(sys.argv[2]), TrainingSettings(**json.loads(sys.argv[3]))
with TrainingProgress(settings.epochs, print, "train") as progress:
    print(train_weights(store, ref, settings, "graph", "cpu", progress, Deadline.after(1)))
"""


def start(store, ref, settings):
    command = [sys.executable, "-c", TRAIN, str(store.disk.root), str(ref), json.dumps(settings.to_dict())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def train(store, ref, settings, told=None, deadline=None):
    log = (told if told is not None else []).append
    with TrainingProgress(settings.epochs, log, "train") as progress:
        return train_weights(store, ref, settings, "graph", "cpu", progress, deadline or Deadline.after(1))


def states(store):
    return [key for key in store.disk.list("staging/training") if key.endswith(".json")]


@pytest.mark.parametrize("architecture", SETTINGS)
def test_killed_at_random_moments_it_ends_in_the_same_version(shapes_dataset, store, tmp_path, architecture):
    settings = SETTINGS[architecture]
    moments, seen, kills = random.Random(5), set(), 0
    while True:
        process = start(store, shapes_dataset, settings)
        while process.poll() is None and set(states(store)) <= seen:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        seen |= set(states(store))
        if process.poll() is None and kills < 4:
            process.kill()
            kills += 1
        output, errors = process.communicate(timeout=120)
        if process.returncode != -signal.SIGKILL:
            break
    assert process.returncode == 0, errors
    assert kills == 4
    lines = output.splitlines()
    assert any("going on after epoch" in line for line in lines), output
    elsewhere = Store(tmp_path / "elsewhere")
    elsewhere.prepare()
    (elsewhere.disk.root / "datasets").symlink_to(store.disk.root / "datasets")
    whole, errors = start(elsewhere, shapes_dataset, settings).communicate(timeout=120)
    assert lines[-1] == whole.splitlines()[-1], errors
    assert list(store.disk.list("staging/training")) == []
    published = weights.load(store, Ref.parse(lines[-1]))
    assert published.artifact.manifest["provenance"]["threads"] == 1
    assert len(published.artifact.manifest["provenance"]["epoch_seconds"]) == len(published.history) == settings.epochs


@pytest.fixture
def interrupted(store, shapes_dataset, monkeypatch):
    """A training that reached its deadline with a state of some epochs behind it."""
    monkeypatch.setattr(training, "STATE_SECONDS", 0)
    settings = dataclasses.replace(SETTINGS["dense"], epochs=12, patience=11)

    class Soon(Deadline):
        def check(self, doing):
            if len(states(store)) and "epoch 7 " in doing:
                raise DeadlineExceeded(doing)

    with pytest.raises(DeadlineExceeded):
        train(store, shapes_dataset, settings, deadline=Soon.after(1))
    [state] = states(store)
    assert state.endswith("-00000006.json")
    return store, shapes_dataset, settings, state


def test_only_the_newest_state_is_kept_and_none_after_the_end(interrupted):
    store, ref, settings, _ = interrupted
    assert len(list(store.disk.list("staging/training"))) == 2
    told = []
    train(store, ref, settings, told)
    assert told[0] == "going on after epoch 6, where an earlier run was"
    assert told[1].startswith("epoch 7/12 ")
    assert list(store.disk.list("staging/training")) == []


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_state_is_named_and_the_training_starts_anew(interrupted, suffix, harm):
    store, ref, settings, state = interrupted
    path = store.disk.local_path(state.removesuffix("json") + suffix)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    remove(path) if harm == "gone" else damage(path, content[: 100 if harm == "cut" else None])
    told = []
    found = train(store, ref, settings, told)
    if (harm, suffix) == ("gone", "json"):  # what was not committed is not there
        assert told[0].startswith("epoch 1/12 ")
    else:
        assert told[0].startswith(
            f"can't go on where an earlier run was, starting anew: {state.removesuffix('json')}{suffix}"
        )
        assert told[1].startswith("epoch 1/12 ")
    assert list(store.disk.list("staging/training")) == []
    assert train(store, ref, settings) == found


def test_a_state_of_other_settings_is_not_gone_on_with(interrupted):
    store, ref, settings, state = interrupted
    told = []
    train(store, ref, dataclasses.replace(settings, learning_rate=0.002), told)
    assert told[0].startswith("epoch 1/12 ")
    assert states(store) == [state]


def test_other_execution_is_another_training(interrupted, monkeypatch):
    store, ref, settings, state = interrupted
    told = []
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    train(store, ref, settings, told)
    assert told[0].startswith("epoch 1/12 ")
    assert states(store) == [state]


def test_equal_trainings_at_once_give_one_version(shapes_dataset, store):
    """They share states, and each removes them at its end: neither may fail or lose anything by that."""
    settings = dataclasses.replace(SETTINGS["dense"], epochs=100, patience=99)
    together = [start(store, shapes_dataset, settings) for _ in range(3)]
    said = [process.communicate(timeout=120) for process in together]
    assert [process.returncode for process in together] == [0, 0, 0], said
    assert len({output.splitlines()[-1] for output, _ in said}) == 1
    assert not any("can't go on" in output for output, _ in said)
    assert store.verify().corrupt == []


def test_a_state_that_goes_while_it_is_read_is_none(store, monkeypatch):
    states = TrainingStates(store.disk, {"seed": 1})
    states.save({"weights/a": np.ones(3, np.float32)}, [{"epoch": 1}], [0.5])
    read = store.disk.read

    def somebody_is_done(key):
        states.remove()
        return read(key)

    monkeypatch.setattr(store.disk, "read", somebody_is_done)
    assert states.load() is None


def test_the_epoch_that_was_taken_is_told(store, shapes_dataset):
    settings = TrainingSettings(
        epochs=50, batch_size=8, learning_rate=3.0, schedule="constant", validation=0.3, patience=2
    )
    told = []
    ref = train(store, shapes_dataset, settings, told)
    history = weights.load(store, ref).history
    best = store.open(ref).manifest["provenance"]["best_epoch"]
    assert best == 1 + int(np.argmin([entry["validation_loss"] for entry in history])) == len(history) - 2
    assert told[-1] == f"took the weights of epoch {best}, the best of {len(history)}"


def test_too_few_steps_to_learn_much_are_told(store, shapes_dataset):
    told = []
    train(store, shapes_dataset, settings_for("conv", epochs=2, batch_size=150), told)
    assert told[0] == "only 4 steps of gradient descent; with 300 images a batch size of 32 learns more"


def test_a_state_that_was_moved_to_other_settings_is_refused(store):
    one, other = TrainingStates(store.disk, {"seed": 1}), TrainingStates(store.disk, {"seed": 2})
    one.save({"weights/a": np.ones(3, np.float32)}, [{"epoch": 1}], [0.5])
    for suffix in ("json", "safetensors"):
        end = f"-00000001.{suffix}"
        store.disk.local_path(one.prefix + end).rename(store.disk.local_path(other.prefix + end))
    assert one.load() is None
    with pytest.raises(Corrupt, match=r"-00000001\.json is the state of a training with other settings or data"):
        other.load()


def test_what_was_saved_is_loaded(store):
    states = TrainingStates(store.disk, {"seed": 1})
    tensors = {"weights/a": np.arange(6, dtype=np.float32).reshape(2, 3), "best/a": np.zeros((2, 3), np.float32)}
    for epochs in (1, 2):
        states.save(tensors, [{"epoch": each, "loss": 0.1} for each in range(epochs)], [0.5] * epochs)
    saved = states.load()
    assert saved.history == [{"epoch": 0, "loss": 0.1}, {"epoch": 1, "loss": 0.1}]
    assert saved.seconds == [0.5, 0.5]
    assert saved.tensors.keys() == tensors.keys()
    assert all((saved.tensors[name] == tensor).all() for name, tensor in tensors.items())
