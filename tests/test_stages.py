"""pytest tests/test_stages.py: what the stages do, without Prefect's machinery around them."""

import dataclasses
import gzip
import hashlib
import shutil
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from published import remove

from artifacts import aliases, dataset, metrics, weights
from artifacts.errors import AlreadyExists, NotPromotable
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.judging.measuring import evaluate_weights
from tasks.prepare import prepare_dataset
from tasks.promote import decide_promotion
from tasks.reports.progress import TrainingProgress
from tasks.requests import Gate
from tasks.shared.deadline import Deadline
from tasks.train import train_weights
from tasks.vision.errors import SourceError
from tasks.vision.images import ImageSpec
from tasks.vision.sources import FASHION_MNIST, IdxDataset, IdxFile
from tasks.vision.training import TrainingSettings


@pytest.fixture
def source(shapes, tmp_path):
    return make_source(shapes, tmp_path)


def make_source(shapes, top):
    """The shapes as IDX files in a mirror, and the settings that point at it."""
    (top / "mirror").mkdir()
    files = []
    for name, array, magic in [
        ("train-images", shapes["train"].images[..., 0], 0x803),
        ("train-labels", shapes["train"].labels.astype(np.uint8), 0x801),
        ("test-images", shapes["test"].images[..., 0], 0x803),
        ("test-labels", shapes["test"].labels.astype(np.uint8), 0x801),
    ]:
        content = struct.pack(f">I{array.ndim}I", magic, *array.shape) + array.tobytes()
        (top / "mirror" / f"{name}.gz").write_bytes(gzip.compress(content))
        files.append(IdxFile(name, len(content), hashlib.sha256(content).hexdigest()))
    spec = ImageSpec(height=8, width=8, channels=1)
    settings = Settings(cache=top / "cache", dataset_mirror=top / "mirror")
    return IdxDataset("shapes", ("circle", "square", "line"), *files, image_spec=spec), settings


@pytest.fixture(scope="module")
def trained_once(shapes, tmp_path_factory):
    """A store with the shapes and weights that were trained on them: weak ones, and two that make no mistake."""
    top = tmp_path_factory.mktemp("trained")
    store = Store(top / "store")
    data = prepare_dataset(store, *make_source(shapes, top), "shapes")
    weak = train(store, data, epochs=1, learning_rate=0.001)
    strong, equal = (train(store, data, epochs=20, seed=seed) for seed in (0, 1))
    for each in (weak, strong, equal):
        evaluate_weights(store, each, data)
    return SimpleNamespace(store=store, data=data, weak=weak, strong=strong, equal=equal)


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of it, whose champion is nobody yet."""
    copied = Store(shutil.copytree(trained_once.store.disk.root, tmp_path / "trained"))
    return SimpleNamespace(**{**vars(trained_once), "store": copied})


def train(store, ref, **settings):
    settings = TrainingSettings(**{"epochs": 2, "batch_size": 16, **settings})
    with TrainingProgress(settings.epochs, log=lambda line: None, key="train") as progress:
        return train_weights(store, ref, settings, "graph", "cpu", progress, Deadline.after(1))


def judge(store, weights_ref, dataset_ref):
    return decide_promotion(store, evaluate_weights(store, weights_ref, dataset_ref), Gate())


def test_prepare_publishes_what_the_files_hold(store, source, shapes):
    ref = prepare_dataset(store, *source, "shapes")
    loaded = dataset.load(store, ref)
    assert (loaded.train.images == shapes["train"].images).all()
    assert (loaded.test.labels == shapes["test"].labels).all()
    assert loaded.classes == ["circle", "square", "line"]
    assert loaded.artifact.identity["inputs"]["train-images"].startswith("sha256:")


def test_preparing_again_reads_nothing_and_returns_the_same_version(store, source, tmp_path):
    data, settings = source
    ref = prepare_dataset(store, data, settings, "shapes")
    for file in (tmp_path / "mirror").iterdir():
        file.unlink()
    assert prepare_dataset(store, data, settings, "shapes") == ref


def test_a_data_set_can_be_given_another_name(store, source):
    assert prepare_dataset(store, *source, "other").name == "other"
    assert prepare_dataset(store, *source, "shapes").name == "shapes"


def test_a_dataset_that_was_removed_is_made_again(store, source):
    ref = prepare_dataset(store, *source, "shapes")
    remove(store.open(ref).folder)
    assert prepare_dataset(store, *source, "shapes") == ref
    assert len(dataset.load(store, ref).train.labels) == 300


def test_a_source_with_a_wrong_file_publishes_nothing(store, source, tmp_path):
    (tmp_path / "mirror/test-labels.gz").write_bytes(b"<html>")
    with pytest.raises(SourceError, match=r"test-labels\.gz is not the expected file"):
        prepare_dataset(store, *source, "shapes")
    assert list(store.refs()) == []


@pytest.mark.slow
def test_equal_trainings_are_one_version_and_weights_say_where_they_come_from(store, source):
    data = prepare_dataset(store, *source, "shapes")
    first = train(store, data)
    made = store.open(first).manifest
    assert train(store, data) == first
    assert train(store, data, seed=1) != first
    assert made["identity"]["inputs"] == {"dataset": str(data)}
    assert made["identity"]["settings"] == TrainingSettings(epochs=2, batch_size=16).to_dict()
    assert made["provenance"]["device"].startswith("CPU:0 (")
    assert made["provenance"]["threads"] >= 1
    assert len(made["provenance"]["epoch_seconds"]) == 2
    assert weights.load(store, first).image_spec == data_spec(store, data)


def data_spec(store, ref):
    return dataset.load(store, ref).image_spec


@pytest.mark.slow
def test_evaluation_is_stored_with_every_items_probabilities(trained, shapes):
    for weights_ref, least in ((trained.weak, 0), (trained.strong, 0.9)):
        loaded = metrics.load(trained.store, evaluate_weights(trained.store, weights_ref, trained.data))
        predicted = loaded.probabilities().argmax(1)
        assert loaded.document["accuracy"] == np.mean(predicted == shapes["test"].labels) > least
        assert sum(map(sum, loaded.document["confusion_matrix"])) == loaded.document["items"] == 60


@pytest.mark.slow
def test_the_better_model_is_champion_and_every_decision_is_kept(trained):
    store, data, weak, strong = trained.store, trained.data, trained.weak, trained.strong
    first = judge(store, weak, data)
    assert (first.action, first.ref) == ("promote", str(weak))
    assert first.reason.startswith("the first model, accuracy ")
    better = judge(store, strong, data)
    assert (better.action, better.ref, better.previous) == ("promote", str(strong), str(weak))
    assert better.numbers["accuracy"] > better.numbers["champion_accuracy"]
    assert "on the same 60 test images" in better.reason
    worse = judge(store, weak, data)
    assert (worse.action, worse.ref, worse.challenger) == ("keep", str(strong), str(weak))
    assert worse.reason.startswith("not better: accuracy ")
    again = judge(store, strong, data)
    assert (again.action, again.ref) == ("keep", str(strong))
    assert again.reason.startswith("the same weights version came out, which is champion already")
    assert len(aliases.history(store.disk, "weights", "shapes", "champion")) == 4


@pytest.mark.slow
def test_equal_accuracy_is_not_better(trained):
    judge(trained.store, trained.strong, trained.data)
    event = judge(trained.store, trained.equal, trained.data)
    assert (event.numbers["accuracy"], event.numbers["champion_accuracy"]) == (1.0, 1.0)
    assert event.action == "keep"


@pytest.mark.slow
def test_a_champion_is_measured_on_the_challengers_test_split(trained, shapes):
    store = trained.store
    judge(store, trained.strong, trained.data)
    fewer = dataclasses.replace(
        shapes["test"], images=shapes["test"].images[:30], labels=shapes["test"].labels[:30], sources=["x"] * 30
    )
    other = dataset.save(
        store, "shapes", train=shapes["train"], test=fewer, classes=["circle", "square", "line"],
        image_spec=ImageSpec(8, 8, 1).to_dict(), settings={}, inputs={}, made={},
    )  # fmt: skip
    event = judge(store, train(store, other, epochs=1, learning_rate=0.001), other)
    assert event.action == "keep"
    assert "on the same 30 test images" in event.reason


def nan_weights(store, ref, data):
    published = weights.load(store, ref)
    tensors = {name: np.full_like(tensor, np.nan) for name, tensor in published.tensors.items()}
    return weights.save(
        store, "shapes", tensors=tensors, history=[], classes=published.classes, image_spec=published.image_spec,
        settings=published.artifact.identity["settings"], dataset=data, made={},
    )  # fmt: skip


@pytest.mark.slow
def test_a_model_that_answers_nan_is_never_promoted(trained):
    store, data, good = trained.store, trained.data, trained.strong
    broken = nan_weights(store, good, data)
    with pytest.raises(NotPromotable, match=r"can't be the first champion: its predictions are not numbers \(NaN\)"):
        judge(store, broken, data)
    judge(store, good, data)
    event = judge(store, broken, data)
    assert (event.action, event.ref) == ("keep", str(good))
    assert "not numbers (NaN)" in event.reason


@pytest.mark.slow
def test_whoever_loses_the_race_is_compared_with_the_new_champion(trained, monkeypatch):
    store, data, weak, strong = trained.store, trained.data, trained.weak, trained.strong
    create = store.disk.create
    raced = []

    def create_after_another(key, content):
        if key.startswith("aliases/") and not raced:
            raced.append(key)
            judge(store, strong, data)
            raise AlreadyExists(key)
        create(key, content)

    metrics_ref = evaluate_weights(store, weak, data)
    monkeypatch.setattr(store.disk, "create", create_after_another)
    event = decide_promotion(store, metrics_ref, Gate())
    assert (event.number, event.action, event.ref) == (2, "keep", str(strong))


@pytest.mark.slow
def test_fashion_mnists_seeds_reach_what_the_readme_says(fashion_mnist, store):
    """Seed 0 alone, to keep the tests short; benchmarks/retrain.py measures all five."""
    from tasks.vision.inference import Predictor
    from tasks.vision.metrics import evaluate
    from tasks.vision.network import Dense
    from tasks.vision.training import fit

    train, test = fashion_mnist["train"], fashion_mnist["test"]
    trained = fit(train.images, train.labels, classes=10, spec=FASHION_MNIST.image_spec, settings=TrainingSettings())
    network = Dense(FASHION_MNIST.image_spec, 10)
    network.assign(trained.tensors)
    assert evaluate(Predictor(network)(test.images), test.labels, FASHION_MNIST.classes)["accuracy"] > 0.86
