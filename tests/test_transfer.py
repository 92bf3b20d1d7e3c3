"""pytest tests/test_transfer.py: a pretrained network's features, kept; and what is trained on them."""

import dataclasses
import hashlib
import json
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from published import damage, remove
from sklearn.datasets import load_sample_images
from trainings import Forks

from artifacts import backbones, weights
from artifacts import dataset as datasets
from artifacts.errors import Corrupt, NotFound
from artifacts.features import Features
from artifacts.lineage import lineage
from artifacts.settings import Settings
from artifacts.store import Store
from flows.retrain import _trained_so
from tasks import embed as embedding
from tasks.embed import embed_dataset
from tasks.export import export
from tasks.judging.measuring import evaluate_weights
from tasks.preparing.usual import usual_side
from tasks.reports.progress import TrainingProgress
from tasks.shared import backbones as pretrained
from tasks.shared import model
from tasks.shared.deadline import Deadline, DeadlineExceeded
from tasks.shared.embedding import Embedding, embed, missing_features
from tasks.shared.views import views_for
from tasks.train import train_weights
from tasks.vision import device as devices
from tasks.vision import processor
from tasks.vision.backbone import Embedder, features
from tasks.vision.device import tf
from tasks.vision.duplicates import contents_of
from tasks.vision.efficientnet_lite import LITE0
from tasks.vision.errors import WeightsError
from tasks.vision.heads import solve_head
from tasks.vision.images import ImageSpec
from tasks.vision.mobilenetv4 import CONV_MEDIUM
from tasks.vision.recipes import STEPS, fine_tuning, settings_for
from tasks.vision.trained import Compared
from tasks.vision.transfer import Sight, Whole

SPEC = ImageSpec(height=64, width=64, channels=3)
CLASSES = ["dots", "stripes"]
TRAINING = settings_for("transfer", backbone="efficientnet-lite0", augmentation="none", precision="float32")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """The package's pretrained network, in a store of its own."""
    store = Store(tmp_path_factory.mktemp("backbone"))
    return backbones.load(store, pretrained.add_package(store))


@pytest.fixture(scope="module")
def folded(backbone):
    return LITE0.fold(backbone.tensors)


def draw(items, seed):
    """Pictures of dots, and of stripes, with noise: uint8 [items, 64, 64, 3]."""
    random = np.random.default_rng(seed)
    labels = (np.arange(items) % 2).astype(np.int32)
    images = random.integers(0, 120, (items, 64, 64, 3), dtype=np.uint8)
    images[labels == 0, ::8, ::8] = 255
    images[labels == 1, :, ::8] = 255
    return datasets.Split(images, labels, [f"drawn[{index}]" for index in range(items)])


@pytest.fixture
def drawn(store):
    """A dataset of 40 pictures to train on and 20 to test on."""
    return publish(store, draw(40, 0), draw(20, 1))


def publish(store, train, test):
    return datasets.save(
        store, "drawn", train=train, test=test, classes=CLASSES, image_spec=SPEC.to_dict(),
        settings={"source": "pictures"}, inputs={}, made={},
    )  # fmt: skip


def train(store, dataset, settings=TRAINING, lines=None, execution="graph"):
    said = lines if lines is not None else []
    with TrainingProgress(settings.epochs, said.append, "drawn") as progress:
        return train_weights(store, dataset, settings, execution, "cpu", progress, Deadline.after(1))


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A store with the dataset of `drawn`, its features, and weights that were trained on it."""
    store = Store(tmp_path_factory.mktemp("trained") / "store")
    dataset = publish(store, draw(40, 0), draw(20, 1))
    embedded(store, dataset)
    return SimpleNamespace(store=store, dataset=dataset, ref=train(store, dataset))


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of it."""
    copied = Store(shutil.copytree(trained_once.store.disk.root, tmp_path / "trained"))
    return SimpleNamespace(**{**vars(trained_once), "store": copied})


@pytest.fixture(scope="module")
def forks():
    """Processes of their own (trainings.py)."""
    with Forks() as forks:
        yield forks


def save_backbone(store, name, tensors, checkpoint="0"):
    """Another backbone of Lite0's architecture."""
    return backbones.save(
        store, name, tensors=tensors, image_spec=SPEC.to_dict(), scaling={"subtract": 127.0, "divide": 128.0},
        features=1280, architecture="efficientnet-lite0", checkpoint=checkpoint * 64, source="drawn", licence="none",
        citation="none",
    )  # fmt: skip


def embedded(store, dataset, settings=TRAINING):
    embed_dataset(store, dataset, settings, "cpu", Deadline.after(1), lambda line: None)


@pytest.mark.slow
def test_photographs_get_the_right_class_of_imagenet(folded, backbone):
    """scikit-learn's samples: a Chinese temple, and a flower (Google's class 442 is a bell cote, 985 a daisy)."""
    photographs = np.stack(
        [np.asarray(Image.fromarray(each).resize((224, 224))) for each in load_sample_images().images]
    )
    found = features(
        LITE0, tf.constant(photographs), {name: tf.constant(each) for name, each in folded.items()}
    ).numpy()
    logits = found @ backbone.tensors["classifier/kernel"] + backbone.tensors["classifier/bias"]
    best = np.argsort(-logits, axis=1)[:, :5]
    assert best[:, 0].tolist() == [442, 985]
    assert {663, 698} <= set(best[0].tolist()), "monastery and palace come near"
    assert found.shape == (2, LITE0.features)
    assert found.min() >= 0
    assert found.max() <= 6
    golden = [[3.0028, 2.1222, 2.5403, 1.7257, 2.8912, 0.9258], [0.9425, 1.1408, 0.4781, 1.2329, 0.0, 1.9121]]
    np.testing.assert_allclose(found[:, [164, 852, 1227, 1221, 77, 439]], golden, atol=2e-3)


def test_folding_changes_no_numbers(backbone):
    """Convolution and normalization by the running statistics, as the network was trained; here of the first layer."""
    images = tf.random.stateless_uniform((2, 32, 32, 3), (0, 1), -1, 1)
    stem = {name: backbone.tensors[f"stem/{name}"] for name in ("kernel", "scale", "offset", "mean", "variance")}
    sums = tf.nn.conv2d(images, stem["kernel"], 2, "SAME")
    expected = tf.nn.batch_normalization(sums, stem["mean"], stem["variance"], stem["offset"], stem["scale"], 1e-3)
    folded = LITE0.fold(backbone.tensors)
    found = tf.nn.conv2d(images, folded["stem/kernel"], 2, "SAME") + folded["stem/bias"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_depend_on_no_neighbours_and_no_number_of_processors(folded, precision, monkeypatch):
    images = draw(21, 3).images
    found = Embedder(LITE0, folded, precision)(images)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    alone = Embedder(LITE0, folded, precision)
    np.testing.assert_array_equal(np.concatenate([alone(images[k : k + 1]) for k in range(21)]), found)


@pytest.mark.slow
def test_bfloat16_is_near(folded):
    images = draw(16, 4).images
    exact, near = (Embedder(LITE0, folded, each)(images) for each in ("float32", "bfloat16"))
    assert np.abs(exact - near).mean() < 0.05 * exact.std()


@pytest.mark.slow
def test_a_grey_picture_is_its_colours_alike(folded):
    images = draw(3, 5).images
    images[:] = images[..., :1]
    grey = Embedder(LITE0, folded, "float32")(images[..., :1])
    np.testing.assert_array_equal(grey, Embedder(LITE0, folded, "float32")(images))


@pytest.mark.slow
def test_mirror_images_are_views_of_their_own(folded):
    images = draw(5, 6).images
    embedder = Embedder(LITE0, folded, "float32")
    [(_, mirrored)] = embedder.embed(images, np.arange(5), mirrored=True)
    np.testing.assert_array_equal(mirrored, embedder(np.ascontiguousarray(images[:, :, ::-1])))


class Counted:
    """How many pictures an Embedding embeds."""

    def __init__(self, monkeypatch):
        self.pictures = 0
        run = Embedder._embed

        def counted(embedder, images, part, mirrored):
            self.pictures += len(part)
            return run(embedder, images, part, mirrored)

        monkeypatch.setattr(Embedder, "_embed", counted)


@pytest.mark.slow
def test_a_picture_is_embedded_once(store, drawn, backbone, monkeypatch):
    counted = Counted(monkeypatch)
    embedded(store, drawn)
    assert counted.pictures == 60, "both sides"
    first = train(store, drawn)
    evaluate_weights(store, first, drawn)
    train(store, drawn, dataclasses.replace(TRAINING, class_weights="balanced", seed=3))
    assert counted.pictures == 60, "other settings embed nothing, and neither does an evaluation"
    more = draw(50, 7)
    more.images[:40] = draw(40, 0).images
    later = publish(store, more, draw(20, 1))
    embedded(store, later)
    assert counted.pictures == 70, "what is new"
    embedded(store, later, dataclasses.replace(TRAINING, augmentation="flips"))
    assert counted.pictures == 140, "the mirror images of both sides"


@pytest.mark.slow
def test_equal_trainings_are_one_version_and_name_what_they_stand_on(store, drawn):
    lines = []
    first = train(store, drawn, lines=lines)
    [said] = [line for line in lines if "pretrained" in line]
    assert said.startswith(
        "took over the pretrained network efficientnet-lite0 (Apache-2.0) of efficientnet-lite0-pyto"
    )
    published = weights.load(store, first)
    [backbone] = store.refs("backbones")
    assert (published.backbone, published.precision) == (backbone, "float32")
    assert published.artifact.files["weights.safetensors"]["bytes"] < 20_000, "the head alone"
    behind = lineage(store, first)["made_from"]
    assert behind["backbone"]["licence"] == "Apache-2.0"
    assert behind["dataset"]["ref"] == str(drawn)
    again = train(store, drawn, lines=lines)
    assert again == first
    assert len([line for line in lines if "pretrained" in line]) == 1
    assert store.verify().corrupt == []


@pytest.mark.slow
def test_two_classes_of_three_pictures_give_a_model(store):
    dataset = publish(store, draw(6, 0), draw(2, 1))
    settings = settings_for("transfer", per_class=[3, 3], backbone="efficientnet-lite0:64", precision="float32")
    assert fine_tuning(settings, 6).batch_size == 6, "of those there are"
    assert model.load(store, train(store, dataset, settings)).predict(draw(4, 2).images).shape == (4, 2)


def test_the_usual_picture_of_a_folder_decides_what_is_recommended(tmp_path):
    for index, side in enumerate((1, 20, 80, 90, 100)):
        (tmp_path / "photographs" / CLASSES[index % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, 2 * side)).save(tmp_path / f"photographs/{CLASSES[index % 2]}/{index}.png")
    (tmp_path / "photographs/dots/no.png").write_text("no picture")
    settings = Settings(image_roots={"all": tmp_path})
    assert usual_side(settings, "all:photographs") == 80
    for each in (tmp_path / "photographs").glob("*/*"):
        each.write_text("no picture")
    assert usual_side(settings, "all:photographs") == 0


@pytest.mark.slow
def test_it_tells_dots_from_stripes(trained):
    ready = model.load(trained.store, trained.ref)
    test = draw(30, 9)
    probabilities = ready.predict(test.images)
    assert (probabilities.argmax(1) == test.labels).mean() > 0.9
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(ready.predict_kept(test.images), probabilities)
    np.testing.assert_array_equal(ready.predict(test.images[3:4])[0], probabilities[3])


@pytest.mark.slow
def test_weights_hold_the_head_that_features_have(trained, folded):
    """And what cross-validation found, by which the confidence is made true."""
    published = weights.load(trained.store, trained.ref)
    drawn = draw(40, 0)
    found = Embedder(LITE0, folded, "float32")(drawn.images)
    alone = solve_head(found, drawn.labels, 2, widths=[1280], first=np.arange(40))
    assert published.tensors.keys() == alone.tensors.keys()
    for name, tensor in alone.tensors.items():
        np.testing.assert_array_equal(published.tensors[name], tensor)
    assert published.history == []
    provenance = published.artifact.manifest["provenance"]
    assert (provenance["epoch_seconds"], provenance["best_epoch"]) == ([], 0)
    assert published.penalties.taken == alone.found.chosen.penalty
    assert [each["penalty"] for each in published.penalties.tried] == [each.penalty for each in alone.found.tried]
    out_of_fold = published.out_of_fold
    np.testing.assert_array_equal(out_of_fold.items, np.arange(40))
    np.testing.assert_array_equal(out_of_fold.folds, alone.found.folds)
    np.testing.assert_array_equal(out_of_fold.probabilities, alone.found.probabilities)
    assert (published.calibration["by"], published.calibration["items"]) == ("out-of-fold", 40)
    assert published.settings["backbone"] == "efficientnet-lite0"
    assert published.settings.keys() & {*STEPS, "minutes"} == set()


@pytest.mark.slow
def test_what_no_fold_holds_out_is_not_among_what_was_held_out(store):
    """A class with a single picture, here shown twice; and copies of a picture are held out together."""
    train_side = draw(24, 0)
    images, labels = train_side.images.copy(), train_side.labels.copy()
    images[3], labels[[4, 5]] = images[1], 2
    images[5] = images[4]
    side = dataclasses.replace(train_side, images=images, labels=labels)
    dataset = datasets.save(
        store, "drawn", train=side, test=draw(4, 1), classes=[*CLASSES, "rare"], image_spec=SPEC.to_dict(),
        settings={"source": "pictures"}, inputs={}, made={},
    )  # fmt: skip
    published = weights.load(store, train(store, dataset))
    held_out = published.out_of_fold
    np.testing.assert_array_equal(held_out.items, [item for item in range(24) if item not in (4, 5)])
    fold_of = dict(zip(held_out.items.tolist(), held_out.folds.tolist(), strict=True))
    assert fold_of[1] == fold_of[3]
    assert set(fold_of.values()) == set(range(5))
    assert held_out.probabilities.shape == (22, 3)
    np.testing.assert_allclose(held_out.probabilities.sum(axis=1), 1, atol=1e-5)
    assert published.calibration["items"] == 22


@pytest.mark.slow
def test_pictures_that_are_all_alike_give_finite_weights(store):
    black = [dataclasses.replace(side, images=np.zeros_like(side.images)) for side in (draw(8, 0), draw(4, 1))]
    ref = train(store, publish(store, *black))
    published = weights.load(store, ref)
    assert all(np.isfinite(tensor).all() for tensor in published.tensors.values())
    np.testing.assert_allclose(model.load(store, ref).predict(black[1].images), 0.5, atol=0.01)


@pytest.mark.slow
def test_features_that_are_no_numbers_are_refused(store, drawn, backbone):
    """Whoever has put them on record."""
    pretrained.add_package(store)
    embedding = Embedding(backbone, SPEC, "float32", "/CPU:0")
    with embedding.kept(store.disk, False) as features:
        features.add_pictures(contents_of(draw(40, 0).images)[:1], np.full((1, 1280), np.nan, np.float32))
    with pytest.raises(WeightsError, match="expected features that are numbers, found NaN or infinity"):
        train(store, drawn)
    assert list(store.refs("weights")) == []


@pytest.mark.slow
def test_a_fine_tuned_network_that_is_mirrored_answers_alike_for_a_mirror_image(store, few, monkeypatch):
    monkeypatch.setattr(Compared, "better", property(lambda compared: True))  # one epoch on 10 pictures is luck
    ref = train(store, few, dataclasses.replace(TRAINING, fine_tune=1, augmentation="flips"))
    images = draw(6, 2).images
    images[:, :, :20] = 0
    ready = model.load(store, ref)
    published = weights.load(store, ref)
    assert published.mirrored
    assert "backbone/block05/expand/kernel" in published.tensors
    np.testing.assert_allclose(ready.predict(images[:, :, ::-1]), ready.predict(images), atol=1e-5)
    np.testing.assert_allclose(
        tf.nn.softmax(model.network_of(store, published)(tf.constant(images)) / published.temperature),
        ready.predict(images), atol=1e-5,
    )  # fmt: skip


@pytest.fixture
def few(store):
    """A dataset of 12 pictures to train on and 4 to test on."""
    return publish(store, draw(12, 0), draw(4, 1))


@pytest.fixture
def elsewhere(tmp_path):
    """Another store with the same dataset."""
    store = Store(tmp_path / "undisturbed")
    publish(store, draw(12, 0), draw(4, 1))
    return store


def interrupted(store, dataset, settings, monkeypatch, execution):
    """A training that is interrupted in the second epoch of fine-tuning. States are kept all the time."""
    monkeypatch.setattr("tasks.vision.training.STATE_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        told = TrainingProgress.on_epoch

        def interrupt(progress, result, seconds):
            told(progress, result, seconds)
            if result.epoch == 2:
                raise KeyboardInterrupt

        patch.setattr(TrainingProgress, "on_epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(store, dataset, settings, execution=execution)


@pytest.mark.slow
def test_a_fine_tuning_does_not_go_on_from_that_of_another_head(store, few, elsewhere, monkeypatch):
    settings = dataclasses.replace(TRAINING, fine_tune=2)
    undisturbed = train(elsewhere, few, settings, execution="eager")
    interrupted(store, few, dataclasses.replace(settings, augmentation="flips"), monkeypatch, "eager")
    assert train(store, few, settings, execution="eager") == undisturbed


@pytest.mark.long
@pytest.mark.parametrize("execution", ["graph", "eager"])
def test_a_fine_tuning_that_was_interrupted_goes_on_to_the_same_version(store, few, elsewhere, monkeypatch, execution):
    settings = dataclasses.replace(TRAINING, fine_tune=2)
    undisturbed = train(elsewhere, few, settings, execution=execution)
    interrupted(store, few, settings, monkeypatch, execution)
    lines = []
    assert train(store, few, settings, lines, execution=execution) == undisturbed
    assert [line for line in lines if "going on" in line][-1] == "going on after epoch 1, where an earlier run was"
    assert list(store.disk.list("staging/training")) == []


@pytest.mark.slow
def test_a_gradient_of_the_whole_network_is_a_finite_difference(folded):
    images = draw(4, 2)
    found = Embedder(LITE0, folded, "float32")(images.images)
    head = solve_head(found, images.labels, 2, widths=[LITE0.features], first=np.arange(4))
    network = Whole(SPEC, 2, [Sight(LITE0, folded, (64, 64))], head.tensors)
    network.weights["output/kernel"].assign(tf.random.stateless_normal((LITE0.features, 2), (1, 2), stddev=0.05))
    along = tf.random.stateless_normal(LITE0.folded["head/bias"], (3, 4))

    def loss(step):
        moved = {name: tf.convert_to_tensor(each) for name, each in network.weights.items()}
        moved["backbone/head/bias"] = moved["backbone/head/bias"] + step * along
        logits, _ = network.forward_training(tf.constant(images.images), moved)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=images.labels, logits=logits))

    step = tf.Variable(0.0)
    with tf.GradientTape() as tape:
        found = loss(step)
    slope = tape.gradient(found, step)
    difference = (loss(2e-3) - loss(-2e-3)) / 4e-3
    np.testing.assert_allclose(slope, difference, rtol=2e-2)


@pytest.mark.slow
def test_features_of_another_backbone_are_not_taken_over(store, drawn, backbone, monkeypatch):
    counted = Counted(monkeypatch)
    train(store, drawn)
    assert counted.pictures == 40
    [ref] = store.refs("backbones")
    spec = ImageSpec.from_dict(datasets.load(store, drawn).image_spec)
    other = {**backbone.tensors, "stem/offset": backbone.tensors["stem/offset"] + 1}
    theirs = save_backbone(store, "other", other)
    images = datasets.load(store, drawn).train.images
    ours, others = (
        embed(store, Embedding(backbones.load(store, each), spec, "float32", "/CPU:0"), images)
        for each in (ref, theirs)
    )
    assert counted.pictures == 80
    assert (ours != others).any()


@pytest.mark.slow
def test_a_backbone_that_changed_is_refused(trained):
    store, drawn, ref = trained.store, trained.dataset, trained.ref
    [backbone] = store.refs("backbones")
    damage(store.disk.local_path(f"{backbone.folder}/weights.safetensors"), b"damaged")
    for use in (lambda: train(store, drawn), lambda: model.load(store, ref)):
        with pytest.raises(Corrupt, match=r"weights\.safetensors is damaged"):
            use()
    assert [each for each in store.verify().corrupt if "backbones" in each]


@pytest.mark.slow
def test_damaged_features_are_made_again(store, drawn, monkeypatch):
    ref = train(store, drawn)
    counted = Counted(monkeypatch)
    [key] = store.disk.list("features")
    damage(store.disk.local_path(key), b"damaged")
    assert train(store, drawn) == ref
    assert counted.pictures == 40


@pytest.mark.slow
def test_a_deadline_ends_the_embedding_and_what_is_done_stays(store, drawn, monkeypatch):
    monkeypatch.setattr("artifacts.segments._BYTES", 0)
    with pytest.raises(DeadlineExceeded, match="embedding the pictures of datasets/drawn"):
        embed_dataset(store, drawn, TRAINING, "cpu", Deadline.after(1e-9), lambda line: None)
    assert len(list(store.disk.list("features"))) <= 1


EMBED = """
import resource, sys
from pathlib import Path
from artifacts.refs import Ref
from artifacts.store import Store
from flows.retrain import _trained_so
from tasks.embed import embed_dataset
from tasks.export import export
from tasks.shared.deadline import Deadline
from tasks.vision.recipes import settings_for
import artifacts.segments
artifacts.segments._BYTES = 0
if sys.argv[3] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000))
embed_dataset(
    Store(Path(sys.argv[1])), Ref.parse(sys.argv[2]),
    settings_for("transfer", backbone="efficientnet-lite0", augmentation="none", precision="float32"), "cpu",
    Deadline.after(1), print,
)
"""


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_nothing_half_done(forks, store, drawn, backbone, tmp_path):
    pretrained.add_package(store)
    status, said = forks.run(EMBED, tmp_path / "said", store.disk.root, drawn, "full")
    assert status == 1
    assert "StoreError: can't write" in said
    assert "make room" in said
    assert list(store.disk.list("features")) == []
    status, said = forks.run(EMBED, tmp_path / "said", store.disk.root, drawn, "room")
    assert status == 0, said
    assert list(store.disk.list("features"))


@pytest.mark.slow
@pytest.mark.kill
def test_what_was_embedded_before_a_kill_is_kept(forks, store, drawn, monkeypatch, tmp_path):
    pretrained.add_package(store)
    driver = EMBED.replace(
        "embed_dataset(\n",
        "import os, signal\n"
        "from artifacts.features import Features\n"
        "commit = Features.on_batches\n"
        "def die(self, batches):\n"
        "    commit(self, batches)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Features.on_batches = die\n"
        "embed_dataset(\n",
        1,
    )
    status, _ = forks.run(driver, tmp_path / "said", store.disk.root, drawn, "room")
    assert status == -signal.SIGKILL
    kept = list(store.disk.list("features"))
    assert len(kept) == 1
    counted = Counted(monkeypatch)
    embedded(store, drawn)
    assert 0 < counted.pictures < 60


def test_features_are_kept_by_content(store):
    decided = {"backbone": "one"}
    found = np.arange(12, dtype=np.float32).reshape(3, 4)
    contents = [hashlib.sha256(bytes([each])).digest() for each in range(3)]
    with Features(store.disk, decided, 4) as features:
        features.add_pictures(contents, found)
    again = Features(store.disk, decided, 4)
    into = np.zeros((4, 4), np.float32)
    again.gather([contents[2], contents[0], contents[2], contents[1]], into)
    np.testing.assert_array_equal(into, found[[2, 0, 2, 1]])
    assert contents[0] not in Features(store.disk, {"backbone": "two"}, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file_format",
    ["saved-model", pytest.param("tflite", marks=pytest.mark.long), pytest.param("onnx", marks=pytest.mark.long)],
)
def test_another_runtime_gives_the_same_answers(trained, tmp_path, file_format):
    exported = export(trained.store, trained.ref, file_format, tmp_path / "graph")
    assert exported.images == 20
    assert exported.max_difference <= 1e-5
    about = json.loads((tmp_path / "graph/lookbook.json").read_text())
    assert about["input"]["shape"] == [None, 64, 64, 3]


def with_bfloat16(monkeypatch):
    """What a processor with instructions for it computes in; others compute the same more slowly."""
    monkeypatch.setattr("tasks.vision.processor._cpu_info", lambda wanted: "avx512_bf16")


@pytest.mark.slow
def test_an_export_is_compared_with_what_predict_answers(store, tmp_path, monkeypatch):
    with_bfloat16(monkeypatch)
    sides = []
    for items, seed in ((40, 0), (60, 1)):  # noise and faint stripes, of which no model can be sure
        noise = np.random.default_rng(seed).integers(0, 215, (items, 64, 64, 3), dtype=np.uint8)
        side = draw(items, seed)
        noise[side.labels == 1, :, ::8] += 40
        sides.append(dataclasses.replace(side, images=noise))
    drawn = publish(store, *sides)
    ref = train(store, drawn, dataclasses.replace(TRAINING, precision="auto"))
    assert weights.load(store, ref).precision == "bfloat16"
    exported = export(store, ref, "saved-model", tmp_path / "graph")
    images = np.asarray(datasets.load(store, drawn).test.images)
    answered = model.load(store, ref).predict(images)
    graph = tf.saved_model.load(str(tmp_path / "graph")).signatures["serving_default"]
    found = graph(images=tf.constant(images))["probabilities"].numpy()
    assert exported.max_difference == pytest.approx(np.abs(found - answered).max(), abs=1e-5)
    assert exported.max_difference > 1e-3
    assert exported.other_labels == (found.argmax(1) != answered.argmax(1)).sum()
    checked = json.loads((tmp_path / "graph/lookbook.json").read_text())["checked"]
    assert checked["max_difference"] == exported.max_difference
    assert checked["other_labels"] == exported.other_labels
    assert checked["why"] == exported.why
    assert exported.why.startswith(
        "predict computes the pretrained network in bfloat16 on this processor, the graph in float32; computed alike"
    )


def test_a_gpu_embeds_here_and_not_on_a_cluster(store, drawn, backbone, monkeypatch):
    """Processors elsewhere give other last bits, which a training here would not take. There is no GPU: the processor,
    called by another name, stands for one."""
    pretrained.add_package(store)
    made = views_for(store, SPEC, TRAINING, "cpu", print)
    called = dataclasses.replace(made.embeddings[0], place="/device:CPU:0")
    monkeypatch.setattr(devices, "describe", lambda name: name)
    monkeypatch.setattr(embedding, "views_for", lambda *_: dataclasses.replace(made, embeddings=(called,)))
    asked = []
    embedding.embed_dataset(store, drawn, TRAINING, "gpu", Deadline.after(1), print, lambda *given: asked.append(given))
    assert not asked
    assert not len(missing_features(store, called, contents_of(datasets.load(store, drawn).test.images), False))


@pytest.mark.slow
@pytest.mark.parametrize("made", ["by an older Lookbook", "by another processor", "by another TensorFlow"])
def test_features_whose_bits_may_be_others_are_not_learned_from(store, drawn, trained, monkeypatch, made):
    """Whatever is on record: the same data, settings, seed and machine give the same weights."""
    backbone = backbones.load(store, pretrained.add_package(store))
    embedding = Embedding(backbone, SPEC, "float32", "/CPU:0")
    images = datasets.load(store, drawn).train.images
    found = embedding.embedder(images) * np.float32(1.01)  # so that it shows
    with monkeypatch.context() as elsewhere:
        if made == "by another processor":
            elsewhere.setattr(processor, "instructions", lambda: "avx2")
        elif made == "by another TensorFlow":
            elsewhere.setattr(processor, "version", lambda package: "2.30.0")
        machine = {} if made == "by an older Lookbook" else {"computed_by": embedding.computed_by}
        with Features(store.disk, embedding.decided_by(mirrored=False), LITE0.features, **machine) as features:
            features.add_pictures(contents_of(images), found)
    counted = Counted(monkeypatch)
    assert train(store, drawn) == trained.ref
    assert counted.pictures == 40
    assert train(store, drawn) == trained.ref
    assert counted.pictures == 40, "its own are taken over"


@pytest.mark.slow
def test_a_training_on_another_backbone_repeats_none(trained, backbone, tmp_path):
    """So `if_unchanged: stop` does not stop it."""
    from safetensors.numpy import save_file

    store, ref, dataset = trained.store, trained.ref, str(trained.dataset)
    assert _trained_so(store, ref, dataset, TRAINING)
    save_file(dict(backbone.tensors), tmp_path / "mine.safetensors")
    pretrained.add_backbone(store, str(tmp_path / "mine.safetensors"))
    assert _trained_so(store, ref, dataset, TRAINING), "what settings name stays what it is"
    assert not _trained_so(store, ref, dataset, dataclasses.replace(TRAINING, backbone="mine"))
    assert not _trained_so(store, ref, dataset, dataclasses.replace(TRAINING, backbone="efficientnet-lite0:32"))
    assert not _trained_so(store, ref, dataset, dataclasses.replace(TRAINING, backbone="efficientnet-lite2"))


@pytest.fixture
def mobile(store, tmp_path):
    """MobileNetV4 with random tensors."""
    from references import drawn as drawn_tensors
    from safetensors.numpy import save_file

    layout = next(each for each in CONV_MEDIUM.layouts if each.whose == "timm")
    save_file(drawn_tensors(layout.shapes), tmp_path / "mobile.safetensors")
    return pretrained.add_backbone(store, str(tmp_path / "mobile.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("fine_tune", [0, pytest.param(1, marks=pytest.mark.long)], ids=["frozen", "fine-tuned"])
def test_weights_stand_on_another_architecture_and_on_its_version(store, drawn, mobile, fine_tune, monkeypatch):
    """It makes as many features as Lite0. Gone, and added again from the same file, it is the same; meanwhile those
    weights go on that hold a network of their own."""
    monkeypatch.setattr(Compared, "better", property(lambda compared: True))  # random tensors gain nothing
    pretrained.add_package(store)
    ref = train(store, drawn, dataclasses.replace(TRAINING, backbone=mobile.name, fine_tune=fine_tune))
    published = weights.load(store, ref)
    assert published.backbone == mobile
    images = draw(20, 1).images
    answered = model.load(store, ref).predict(images)
    whole = model.network_of(store, published)
    np.testing.assert_allclose(tf.nn.softmax(whole(tf.constant(images)) / published.temperature), answered, atol=1e-5)
    remove(store.open(mobile).folder)
    if fine_tune:
        np.testing.assert_array_equal(model.load(store, ref).predict(images), answered)
    else:
        with pytest.raises(NotFound, match=rf"{mobile} is not in the store .*lookbook backbone add"):
            model.load(store, ref)
