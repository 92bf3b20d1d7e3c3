"""pytest tests/test_views.py: heads that see pictures by several pretrained networks, at several sizes, mirrored."""

import dataclasses
import json
import shutil
import signal
from types import SimpleNamespace

import duckdb
import numpy as np
import pytest
from PIL import Image
from test_collecting import age, collect
from test_transfer import CLASSES, SPEC, Counted, draw, publish, save_backbone, train
from trainings import Forks

from artifacts import backbones, copying, predictions, weights
from artifacts import dataset as datasets
from artifacts.lineage import lineage
from artifacts.metrics import load as metrics_of
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.commit import commit_predictions
from tasks.embed import embed_dataset
from tasks.export import export
from tasks.judging.measuring import evaluate_weights
from tasks.plan import plan_folder
from tasks.requests import ScoreRequest
from tasks.score import score_plan
from tasks.scoring.job import make_job
from tasks.shared import backbones as pretrained
from tasks.shared import model
from tasks.shared.deadline import Deadline
from tasks.shared.embedding import Embedding
from tasks.shared.plans import load_plan
from tasks.shared.views import Views, views_for
from tasks.vision.device import tf
from tasks.vision.heads import solve_head
from tasks.vision.recipes import settings_for

pytestmark = pytest.mark.slow

SEEN = "efficientnet-lite0:64+efficientnet-lite2:32"
MIRRORED = settings_for("transfer", backbone=SEEN, augmentation="flips", precision="float32")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with weights that stand on two backbones, mirrored."""
    store = Store(tmp_path_factory.mktemp("views") / "store")
    for name in ("efficientnet-lite0", "efficientnet-lite2"):
        pretrained.add_package(store, name)
    dataset = publish(store, draw(24, 0), draw(12, 1))
    embed_dataset(store, dataset, MIRRORED, "cpu", Deadline.after(1), lambda line: None)
    return SimpleNamespace(store=store, dataset=dataset, ref=train(store, dataset, MIRRORED))


@pytest.fixture
def seen(made, tmp_path):
    """A copy of it."""
    copied = Store(shutil.copytree(made.store.disk.root, tmp_path / "seen"))
    return SimpleNamespace(**{**vars(made), "store": copied})


def lopsided(items, seed):
    """Pictures that differ from their mirror images."""
    images = draw(items, seed).images
    images[:, :, :20] //= 4
    return images


def test_weights_name_all_that_they_stand_on(made):
    store, published = made.store, weights.load(made.store, made.ref)
    lite0, lite2 = (
        pretrained.backbone_named(store, each, print) for each in ("efficientnet-lite0", "efficientnet-lite2")
    )
    assert published.artifact.identity["inputs"] == {
        "dataset": str(made.dataset), "backbone": str(lite0), "backbone-2": str(lite2),
    }  # fmt: skip
    assert published.views == (weights.View(lite0, 64), weights.View(lite2, 32))
    assert (published.mirrored, published.precision, published.backbone) == (True, "float32", lite0)
    assert published.tensors["features/mean"].shape == (2560,)
    assert published.tensors["features/deviation"].shape == (2,)
    behind = lineage(store, made.ref)["made_from"]
    assert [behind[name]["licence"] for name in ("backbone", "backbone-2")] == ["Apache-2.0"] * 2
    below = lineage(store, lite2)["made_into"]
    assert [each["ref"] for each in below] == [str(made.ref)]


def test_all_ways_to_an_answer_agree(seen):
    """And neither neighbours nor the number of processors change it."""
    store, images = seen.store, lopsided(13, 2)
    ready = model.load(store, seen.ref)
    answers = ready.predict(images)
    np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(ready.predict_kept(images), answers)
    one = model.load(store, seen.ref, processors=1)
    np.testing.assert_array_equal(np.concatenate([one.predict(images[k : k + 1]) for k in range(13)]), answers)
    whole = model.network_of(store, weights.load(store, seen.ref))
    np.testing.assert_allclose(tf.nn.softmax(whole(tf.constant(images)) / weights.load(store, seen.ref).temperature),
                               answers, atol=1e-5)  # fmt: skip


def test_a_mirror_image_has_the_answer_of_its_picture(made):
    images = lopsided(6, 3)
    ready = model.load(made.store, made.ref)
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    np.testing.assert_allclose(ready.predict(mirrored), ready.predict(images), atol=1e-6)
    views = views_for(made.store, SPEC, dataclasses.replace(MIRRORED, augmentation="none"), "cpu", print)
    assert np.abs(views(mirrored) - views(images)).max() > 0.01, "else mirroring would show nothing"


def test_features_stand_side_by_side_in_the_order_that_is_named(made):
    images, store = lopsided(4, 4), made.store
    views = views_for(store, SPEC, MIRRORED, "cpu", print)
    assert (views.backbone, views.widths, views.mirrored) == (SEEN, (1280, 1280), True)
    one, other = (each.embedder for each in views.embeddings)
    found = views(images)
    np.testing.assert_array_equal(found[:, :1280], (one(images) + one(images, mirrored=True)) / 2)
    np.testing.assert_array_equal(found[:, 1280:], (other(images) + other(images, mirrored=True)) / 2)
    turned = dataclasses.replace(MIRRORED, backbone="efficientnet-lite2:32+efficientnet-lite0:64")
    np.testing.assert_array_equal(views_for(store, SPEC, turned, "cpu", print)(images)[:, 1280:], found[:, :1280])


def test_a_folder_is_scored_as_its_pictures_are_predicted(seen, tmp_path):
    store, images = seen.store, lopsided(5, 5)
    (tmp_path / "night").mkdir()
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f"night/{number}.png")
    settings = Settings(image_roots={"root": tmp_path}, decoders=1)
    job = make_job(store, settings, ScoreRequest("root:night", weights=str(seen.ref)))
    plan = plan_folder(store, settings, job)
    table = commit_predictions(
        store, settings, job, plan, score_plan(store, settings, job, load_plan(store.disk, plan))
    )
    asking = f"select probabilities from '{predictions.load(store, table).folder}/*.parquet' order by path"
    found = np.array([row[0] for row in duckdb.sql(asking).fetchall()], np.float32)
    np.testing.assert_array_equal(found, model.load(store, seen.ref).predict(images))


def test_an_evaluation_measures_what_is_predicted(seen, monkeypatch):
    counted = Counted(monkeypatch)
    measured = evaluate_weights(seen.store, seen.ref, seen.dataset)
    assert counted.pictures == 0, "the features of the test images were on record"
    test = datasets.load(seen.store, seen.dataset).test
    answers = model.load(seen.store, seen.ref).predict(np.asarray(test.images))
    found = metrics_of(seen.store, measured)
    assert found.numbers.accuracy == np.mean(answers.argmax(1) == test.labels)
    card = found.artifact.read("model-card.md").decode()
    for view in weights.load(seen.store, seen.ref).views:
        assert f"| stands on | `{view.backbone}` |" in card


@pytest.mark.parametrize(
    "file_format",
    ["saved-model", pytest.param("tflite", marks=pytest.mark.long), pytest.param("onnx", marks=pytest.mark.long)],
)
def test_an_export_gives_the_same_answers(made, tmp_path, file_format):
    exported = export(made.store, made.ref, file_format, tmp_path / "graph")
    assert exported.images == 12
    assert exported.max_difference <= 1e-5
    if file_format == "saved-model":
        images = lopsided(3, 6)
        graph = tf.saved_model.load(str(tmp_path / "graph")).signatures["serving_default"]
        found = graph(images=tf.constant(images))["probabilities"].numpy()
        np.testing.assert_allclose(found, model.load(made.store, made.ref).predict(images), atol=1e-5)
    about = json.loads((tmp_path / "graph/lookbook.json").read_text())
    assert about["input"]["shape"] == [None, 64, 64, 3]


def test_two_sizes_of_one_backbone_are_two_views(seen, monkeypatch):
    store, both = seen.store, "efficientnet-lite0:64+efficientnet-lite0:32"
    counted = Counted(monkeypatch)
    settings = dataclasses.replace(MIRRORED, backbone=both, augmentation="none")
    published = weights.load(store, train(store, seen.dataset, settings))
    assert counted.pictures == 24, "at 64 pixels they were on record"
    assert set(published.artifact.identity["inputs"]) == {"dataset", "backbone"}
    assert [view.side for view in published.views] == [64, 32]
    assert len({view.backbone for view in published.views}) == 1
    images = lopsided(4, 7)
    ready = model.load(store, published.ref)
    np.testing.assert_array_equal(ready.predict_kept(images), ready.predict(images))
    found = Views.__call__(views_for(store, SPEC, settings, "cpu", print), images)
    assert np.abs(found[:, :1280] - found[:, 1280:]).max() > 0.01


def test_backbones_that_make_as_many_features_are_never_mixed_up(store):
    """Their features are kept apart by what made them."""
    lite0 = backbones.load(store, pretrained.add_package(store))
    other = {**lite0.tensors, "stem/offset": lite0.tensors["stem/offset"] + 1}
    save_backbone(store, "other", other)
    dataset = publish(store, draw(12, 0), draw(4, 1))
    images, answered = draw(5, 2).images, {}
    for name in ("efficientnet-lite0", "other"):
        settings = settings_for("transfer", backbone=name, augmentation="none", precision="float32")
        ref = train(store, dataset, settings)
        published = weights.load(store, ref)
        own = backbones.load(store, published.backbone)
        found = Embedding(own, SPEC, "float32", "/CPU:0").embedder(draw(12, 0).images)
        alone = solve_head(found, draw(12, 0).labels, 2, widths=[1280], first=np.arange(12))
        np.testing.assert_array_equal(published.tensors["output/kernel"], alone.tensors["output/kernel"])
        ready = model.load(store, ref)
        np.testing.assert_array_equal(ready.predict_kept(images), ready.predict(images))
        answered[name] = ready.predict(images)
    one, two = answered.values()
    assert (one != two).any()


def test_a_collection_and_a_copy_keep_both_backbones_and_all_files(seen, tmp_path):
    """A backbone that is nobody's newest stays for the weights that stand on it."""
    store, published = seen.store, weights.load(seen.store, seen.ref)
    age(store, 400)
    collect(store)
    assert all(store.has(view.backbone) for view in published.views)
    assert store.verify().corrupt == []
    target = Store(tmp_path / "target")
    copying.copy(store, target)
    assert target.verify().corrupt == []
    there = weights.load(target, seen.ref)
    assert there.artifact.files.keys() == {
        "weights.safetensors", "history.json", "penalties.json", "out-of-fold.safetensors",
    }  # fmt: skip
    images = lopsided(3, 8)
    np.testing.assert_array_equal(
        model.load(target, seen.ref).predict(images), model.load(store, seen.ref).predict(images)
    )
    second = published.views[1].backbone
    shutil.rmtree(target.disk.root / second.folder)
    [told] = [line for line in target.verify().corrupt if str(second) in line]
    assert str(seen.ref) in told


@pytest.mark.parametrize("augmentation", ["none", "flips"])
def test_weights_of_an_earlier_lookbook_predict_as_before(seen, augmentation):
    """They name one backbone and no views; flips were those of the training; an answer is of the picture alone."""
    store, images = seen.store, lopsided(6, 9)
    backbone = pretrained.backbone_named(store, "efficientnet-lite0", print)
    embedder = Embedding(backbones.load(store, backbone), SPEC, "float32", "/CPU:0").embedder
    learned_from = draw(24, 0)
    tensors = solve_head(embedder(learned_from.images), learned_from.labels, 2, widths=[1280],
                         first=np.arange(24)).tensors  # fmt: skip
    like = weights.save(
        store, "before", tensors=tensors, history=[{"epoch": 1, "loss": 0.1, "accuracy": 1.0, "items": 24}],
        classes=CLASSES, image_spec=SPEC.to_dict(), settings={}, dataset=seen.dataset, precision="float32", made={},
    )  # fmt: skip
    files = {file: store.open(like).read(file) for file in ("weights.safetensors", "history.json")}
    ref = store.publish(
        "weights", "drawn", files, facts=store.open(like).facts,
        settings={
            "architecture": "transfer", "epochs": 20, "batch_size": 32, "learning_rate": 0.01, "schedule": "one-cycle",
            "optimizer": "nesterov", "weight_decay": 1e-3, "label_smoothing": 0.1, "augmentation": augmentation,
            "inputs": "plain", "validation": 0.0, "patience": 0, "seed": 0, "precision": "float32",
        },
        inputs={"dataset": str(seen.dataset), "backbone": str(backbone)}, made={},
    )  # fmt: skip
    published = weights.load(store, ref)
    assert published.views == (weights.View(backbone, 64),)
    assert (published.mirrored, published.penalties, published.out_of_fold) == (False, None, None)
    ready = model.load(store, ref)
    features = embedder(images).astype(np.float64)
    logits = (features - tensors["features/mean"]) / tensors["features/deviation"] @ tensors["output/kernel"]
    logits += tensors["output/bias"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ready.predict(images), expected, atol=1e-5)
    np.testing.assert_array_equal(ready.predict_kept(images), ready.predict(images))
    whole = model.network_of(store, published)
    np.testing.assert_allclose(tf.nn.softmax(whole(tf.constant(images))), ready.predict(images), atol=1e-5)
    evaluate_weights(store, ref, seen.dataset)


def job(seen, output, kill_at=None):
    settings = dataclasses.asdict(MIRRORED)
    return {
        "store": str(seen.store.disk.root), "dataset": str(seen.dataset), "settings": settings,
        "output": str(output), "kill_at": kill_at,
    }  # fmt: skip


@pytest.mark.kill
@pytest.mark.parametrize("processors", [1, 2])
def test_another_process_gives_the_same_version(seen, tmp_path, processors):
    """Whatever the number of its processors; also when a first one is killed while it solves."""
    shutil.rmtree(seen.store.disk.root / "weights")
    shutil.rmtree(seen.store.disk.root / "features")
    with Forks(processors) as forks:
        killed = forks.ask(job(seen, tmp_path / "said", "solving the last layer"))
        assert forks.ask(killed) == -signal.SIGKILL
        assert list(seen.store.refs("weights")) == []
        assert list(seen.store.disk.list("features")) != [], "what was embedded stays"
        again = forks.ask(job(seen, tmp_path / "said"))
        assert forks.ask(again) == 0, (tmp_path / "said").read_text()
    assert (tmp_path / "said").read_text().splitlines()[-1] == str(seen.ref)
    assert seen.store.verify().corrupt == []
