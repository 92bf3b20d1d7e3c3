"""pytest tests/test_resume.py: a training that is killed goes on where it was, and ends in the same version."""

import dataclasses
import os
import random
import shutil
import signal

import numpy as np
import pytest
from conftest import CLASSES, SPEC
from published import damage, remove
from trainings import Forks

from artifacts import dataset as datasets
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
        epochs=12, batch_size=2, optimizer="nesterov", learning_rate=0.001, validation=0.1, patience=11
    ),
    "conv": settings_for("conv", epochs=12, batch_size=50),
}
MOMENTS = [  # before what a training is killed, and where the next one goes on; the first one has no state yet
    ("training, in epoch 1 of 12", None),
    (r"os.link .*-00000003\.json", "going on after epoch 2,"),  # the third state's tensors are there, and no document
    ("training, in epoch 6 of 12", "going on after epoch 5,"),
    (r"os.remove .*-00000007\.json", "going on after epoch 8,"),  # two states are there
    (r"os.remove .*-00000009\.safetensors", "going on after epoch 10,"),  # and tensors whose document is gone
    ("os.link .*/weights/shapes/.*/manifest.json", "going on after epoch 12,"),  # all done, nothing published
    (r"os.remove .*-00000012\.json", "going on after epoch 12,"),  # published, and the state still there
]
RANDOM_KILLS = 2  # of one training; each goes on where the one before was killed


@pytest.fixture(scope="module")
def forks():
    """Trainings in processes of their own (trainings.py)."""
    with Forks() as forks:
        yield forks


class Training:
    """One that is at work in a process of its own."""

    def __init__(self, forks, store, dataset, settings, output, kill_at=None):
        self.output = output
        self._forks = forks
        self.pid = forks.ask(
            {
                "store": str(store.disk.root),
                "dataset": str(dataset),
                "settings": settings.to_dict(),
                "output": str(output),
                "kill_at": kill_at,
            }
        )

    def status(self):
        """How it ends, negative for a signal."""
        return self._forks.ask(self.pid)

    def wait(self):
        """Its exit status, and the lines that it printed."""
        return self.status(), self.output.read_text().splitlines()


def train(store, ref, settings, lines=None, deadline=None):
    """In this process; `lines` takes what is logged."""
    lines = [] if lines is None else lines
    with TrainingProgress(settings.epochs, lines.append, "train") as progress:
        return train_weights(store, ref, settings, "graph", "cpu", progress, deadline or Deadline.after(1))


def states(store):
    return [key for key in store.disk.list("staging/training") if key.endswith(".json")]


@pytest.fixture
def elsewhere(store, shapes_dataset, tmp_path):
    """Another store with the same dataset."""
    other = Store(tmp_path / "elsewhere")
    other.prepare()
    (other.disk.root / "datasets").symlink_to(store.disk.root / "datasets")
    return other


@pytest.mark.slow
@pytest.mark.kill
def test_killed_at_every_stage_it_ends_in_the_same_version(forks, shapes_dataset, store, elsewhere, tmp_path):
    settings = SETTINGS["dense"]
    whole = Training(forks, elsewhere, shapes_dataset, settings, tmp_path / "whole")
    before = None
    for moment, after in MOMENTS:
        killed = Training(forks, store, shapes_dataset, settings, tmp_path / "killed", moment)
        status, lines = killed.wait()
        assert status == -signal.SIGKILL, (moment, lines)
        assert any("going on" in line for line in lines) == bool(before)
        assert before is None or any(line.startswith(before) for line in lines), (moment, lines)
        before = after
    status, lines = Training(forks, store, shapes_dataset, settings, tmp_path / "last").wait()
    assert status == 0, lines
    assert any(line.startswith(before) for line in lines), lines
    ended, uninterrupted = whole.wait()
    assert (ended, uninterrupted[-1]) == (0, lines[-1])
    assert list(store.disk.list("staging/training")) == []
    published = weights.load(store, Ref.parse(lines[-1]))
    assert published.artifact.manifest["provenance"]["threads"] == 1
    assert len(published.artifact.manifest["provenance"]["epoch_seconds"]) == len(published.history) == settings.epochs


@pytest.mark.slow
@pytest.mark.kill
def test_killed_at_random_moments_it_ends_in_the_same_version(forks, shapes_dataset, store, elsewhere, tmp_path):
    """Somebody else kills it who has read what it says about an epoch, so that it happens between any two instructions
    of those that follow: it learns on, or keeps a state and removes an older one."""
    settings = SETTINGS["conv"]
    whole = Training(forks, elsewhere, shapes_dataset, settings, tmp_path / "whole")
    os.mkfifo(tmp_path / "said")
    moments, epoch = random.Random(5), 0
    for _ in range(RANDOM_KILLS):
        killed = Training(forks, store, shapes_dataset, settings, tmp_path / "said")
        epoch += moments.randint(1, (settings.epochs - 1) // RANDOM_KILLS)
        with open(tmp_path / "said") as said:
            lines = []
            for line in said:
                lines.append(line)
                if line.startswith(f"epoch {epoch}/"):
                    os.kill(killed.pid, signal.SIGKILL)
        assert killed.status() == -signal.SIGKILL, lines
    status, lines = Training(forks, store, shapes_dataset, settings, tmp_path / "last").wait()
    assert status == 0, lines
    assert any(line.startswith("going on after epoch") for line in lines)
    ended, uninterrupted = whole.wait()
    assert (ended, uninterrupted[-1]) == (0, lines[-1])
    assert list(store.disk.list("staging/training")) == []
    assert len(weights.load(store, Ref.parse(lines[-1])).history) == settings.epochs


@pytest.mark.slow
@pytest.mark.kill
def test_equal_trainings_at_once_give_one_version(forks, shapes_dataset, store, tmp_path):
    """They share states, and each removes them at its end: neither may fail or lose anything by that."""
    settings = dataclasses.replace(SETTINGS["dense"], epochs=60, patience=59)
    together = [Training(forks, store, shapes_dataset, settings, tmp_path / str(each)) for each in range(3)]
    ended = [each.wait() for each in together]
    assert [status for status, _ in ended] == [0, 0, 0], ended
    assert len({lines[-1] for _, lines in ended}) == 1
    assert not any("can't go on" in line for _, lines in ended for line in lines)
    assert store.verify().corrupt == []


def save_shapes(store, shapes):
    return datasets.save(
        store, "shapes", **shapes, classes=CLASSES, image_spec=SPEC.to_dict(), settings={"source": "drawn"}, inputs={},
        made={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shapes):
    """The version that a training gives which nobody interrupts."""
    store = Store(tmp_path_factory.mktemp("whole"))
    return train(store, save_shapes(store, shapes), SETTINGS["dense"])


@pytest.fixture(scope="module")
def first_half(tmp_path_factory, shapes):
    """A store with a training that reached its deadline after six epochs, and the dataset's ref."""
    store = Store(tmp_path_factory.mktemp("half"))
    dataset = save_shapes(store, shapes)

    class Soon(Deadline):
        def check(self, doing):
            if "epoch 7 " in doing:
                raise DeadlineExceeded(doing)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "STATE_SECONDS", 0)
        with pytest.raises(DeadlineExceeded):
            train(store, dataset, SETTINGS["dense"], deadline=Soon.after(1))
    return store, dataset


@pytest.fixture
def interrupted(first_half, tmp_path, monkeypatch):
    """A copy of that store to go on in, the dataset, the settings, and the state."""
    monkeypatch.setattr(training, "STATE_SECONDS", 0)
    store = Store(shutil.copytree(first_half[0].disk.root, tmp_path / "store"))
    [state] = states(store)
    assert state.endswith("-00000006.json")
    return store, first_half[1], SETTINGS["dense"], state


@pytest.mark.slow
def test_only_the_newest_state_is_kept_and_none_after_the_end(interrupted):
    store, ref, settings, _ = interrupted
    assert len(list(store.disk.list("staging/training"))) == 2
    lines = []
    train(store, ref, settings, lines)
    assert lines[0] == "going on after epoch 6, where an earlier run was"
    assert lines[1].startswith("epoch 7/12 ")
    assert list(store.disk.list("staging/training")) == []


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_state_is_named_and_the_training_starts_anew(interrupted, whole, suffix, harm):
    store, ref, settings, state = interrupted
    path = store.disk.local_path(state.removesuffix("json") + suffix)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    remove(path) if harm == "gone" else damage(path, content[: 100 if harm == "cut" else None])
    lines = []
    assert train(store, ref, settings, lines) == whole
    if (harm, suffix) == ("gone", "json"):  # what was not committed is not there
        assert lines[0].startswith("epoch 1/12 ")
    else:
        assert lines[0].startswith(
            f"can't go on where an earlier run was, starting anew: {state.removesuffix('json')}{suffix}"
        )
        assert lines[1].startswith("epoch 1/12 ")
    assert list(store.disk.list("staging/training")) == []


@pytest.mark.slow
def test_a_state_of_other_settings_is_not_gone_on_with(interrupted):
    store, ref, settings, state = interrupted
    lines = []
    train(store, ref, dataclasses.replace(settings, learning_rate=0.002), lines)
    assert lines[0].startswith("epoch 1/12 ")
    assert states(store) == [state]


@pytest.mark.slow
def test_other_execution_is_another_training(interrupted, monkeypatch):
    store, ref, settings, state = interrupted
    lines = []
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    train(store, ref, settings, lines)
    assert lines[0].startswith("epoch 1/12 ")
    assert states(store) == [state]


def test_a_state_that_goes_while_it_is_read_is_none(store, monkeypatch):
    states = TrainingStates(store.disk, {"seed": 1})
    states.save({"weights/a": np.ones(3, np.float32)}, [{"epoch": 1}], [0.5])
    read = store.disk.read

    def somebody_is_done(key):
        states.remove()
        return read(key)

    monkeypatch.setattr(store.disk, "read", somebody_is_done)
    assert states.load() is None


@pytest.mark.slow
def test_the_epoch_that_was_taken_is_named(store, shapes_dataset):
    settings = TrainingSettings(
        epochs=50, batch_size=8, learning_rate=3.0, schedule="constant", validation=0.3, patience=2
    )
    lines = []
    ref = train(store, shapes_dataset, settings, lines)
    history = weights.load(store, ref).history
    best = store.open(ref).manifest["provenance"]["best_epoch"]
    assert best == 1 + int(np.argmin([entry["validation_loss"] for entry in history])) == len(history) - 2
    assert lines[-1] == f"took the weights of epoch {best}, the best of {len(history)}"


@pytest.mark.slow
def test_too_few_steps_to_learn_much_are_named(store, shapes_dataset):
    lines = []
    train(store, shapes_dataset, settings_for("conv", epochs=2, batch_size=150), lines)
    assert lines[0] == "only 4 steps of gradient descent; with 300 images a batch size of 32 learns more"


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
