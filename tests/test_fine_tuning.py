"""pytest tests/test_fine_tuning.py: all of a pretrained network learns, and is taken where that was better."""

import dataclasses
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from trainings import Forks

from artifacts import backbones, predictions, weights
from artifacts import dataset as datasets
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.commit import commit_predictions
from tasks.export import export
from tasks.judging.measuring import evaluate_weights
from tasks.plan import plan_folder
from tasks.reports.progress import TrainingProgress
from tasks.requests import ScoreRequest
from tasks.score import score_plan
from tasks.scoring.job import make_job
from tasks.shared import backbones as pretrained
from tasks.shared import model
from tasks.shared.deadline import Deadline
from tasks.shared.plans import load_plan
from tasks.train import train_weights
from tasks.training.transferring import HELD_OUT, beside, compare
from tasks.vision.backbone import Embedder
from tasks.vision.batches import share_of_side
from tasks.vision.device import tf
from tasks.vision.efficientnet_lite import LITE0, LITE2
from tasks.vision.families import prefix
from tasks.vision.heads import solve_head_on
from tasks.vision.images import ImageSpec
from tasks.vision.layering import convolution
from tasks.vision.metrics import calibrate
from tasks.vision.recipes import fine_tuning, settings_for
from tasks.vision.transfer import FIRST_RATE, Head, Sight, Whole

SPEC = ImageSpec(height=64, width=64, channels=3)
CLASSES = ["red", "green"]
FROZEN = settings_for("transfer", backbone="efficientnet-lite0:64", augmentation="none", precision="float32")
TUNED = dataclasses.replace(FROZEN, fine_tune=8)


def draw(items, seed):
    """A disc that is a little red, or a little green, before a background of any colours: uint8 [items, 64, 64, 3]."""
    random = np.random.default_rng(seed)
    labels = (np.arange(items) % 2).astype(np.int32)
    coarse = random.integers(0, 200, (items, 5, 5, 3), dtype=np.uint8)
    images = np.stack([np.asarray(Image.fromarray(each).resize((64, 64), Image.Resampling.BICUBIC)) for each in coarse])
    rows, columns = np.mgrid[:64, :64]
    for image, label, (down, along) in zip(images, labels, random.integers(16, 48, (items, 2)), strict=True):
        inside = (rows - down) ** 2 + (columns - along) ** 2 < 12**2
        image[inside] = 120
        image[inside, label] += 90
    return datasets.Split(images, labels, [f"drawn[{index}]" for index in range(items)])


def publish(store, items):
    return datasets.save(
        store, "drawn", train=draw(items, 0), test=draw(20, 1), classes=CLASSES, image_spec=SPEC.to_dict(),
        settings={"source": "pictures"}, inputs={}, made={},
    )  # fmt: skip


def train(store, dataset, settings, lines=None):
    said = lines if lines is not None else []
    with TrainingProgress(settings.epochs_in_all, said.append, "drawn") as progress:
        return train_weights(store, dataset, settings, "graph", "cpu", progress, Deadline.after(1))


def layer(kind, side, stride, padding, rectifier):
    """What a layer of a network may be: its tensors, and how `convolution` and TensorFlow's own operations compute
    it."""
    random = np.random.default_rng(0)
    shape = (side, side, 6, 1) if kind == "depthwise" else (side, side, 6, 4)
    tensors = [
        random.normal(size=(2, 11, 10, 6)).astype(np.float32),
        random.normal(size=shape).astype(np.float32),
        random.normal(size=shape[2] if kind == "depthwise" else shape[3]).astype(np.float32),
    ]

    def ours(images, kernel, bias):
        return convolution(
            images, kernel, bias, depthwise=kind == "depthwise", stride=stride, padding=padding, rectifier=rectifier
        )

    def theirs(images, kernel, bias):
        convolve = tf.nn.depthwise_conv2d if kind == "depthwise" else tf.nn.conv2d
        sums = tf.nn.bias_add(convolve(images, kernel, [1, stride, stride, 1], padding), bias)
        return {"relu": tf.nn.relu, "relu6": tf.nn.relu6, None: tf.identity}[rectifier](sums)

    return tensors, ours, theirs


def gradients(compute, tensors):
    given = [tf.constant(each) for each in tensors]
    with tf.GradientTape() as tape:
        tape.watch(given)
        made = compute(*given)
        along = tf.reshape(tf.cos(tf.range(float(tf.size(made)))), tf.shape(made))
        seen = tf.reduce_sum(tf.cast(made, tf.float32) * along)
    return made, tape.gradient(seen, given)


@pytest.mark.parametrize("rectifier", ["relu6", "relu", None])
@pytest.mark.parametrize(("stride", "padding"), [(1, "SAME"), (2, "SAME"), (2, "VALID")])
@pytest.mark.parametrize(
    ("kind", "side"), [("depthwise", 3), ("depthwise", 5), ("depthwise", 7), ("convolution", 3), ("convolution", 1)]
)
def test_a_layers_backward_pass_is_that_of_tensorflow(kind, side, stride, padding, rectifier):
    tensors, ours, theirs = layer(kind, side, stride, padding, rectifier)
    made, found = gradients(ours, tensors)
    expected_made, expected = gradients(theirs, tensors)
    np.testing.assert_array_equal(made, expected_made)
    for each, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_layers_backward_pass_is_near_in_bfloat16(stride):
    tensors, ours, theirs = layer("depthwise", 5, stride, "SAME", "relu6")
    _, expected = gradients(theirs, tensors)
    _, found = gradients(ours, [tf.cast(each, tf.bfloat16) for each in tensors])
    for each, other in zip(found, expected, strict=True):
        assert each.dtype == tf.bfloat16
        assert np.abs(tf.cast(each, tf.float32) - other).mean() < 0.03 * np.abs(other).mean() + 0.01


def test_pictures_are_small_first_and_never_whole():
    shares = [share_of_side(epoch, 5) for epoch in range(1, 6)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1] < 1
    assert share_of_side(1, 1) == shares[0]


@pytest.fixture(scope="module")
def pretrained_store(tmp_path_factory):
    """A store with the packages' networks."""
    store = Store(tmp_path_factory.mktemp("pretrained") / "store")
    for name in ("efficientnet-lite0", "efficientnet-lite2"):
        pretrained.add_package(store, name)
    return store


@pytest.fixture
def store(pretrained_store, tmp_path):
    return Store(shutil.copytree(pretrained_store.disk.root, tmp_path / "store"))


def test_each_view_is_as_much_smaller_as_the_pictures_and_early_layers_learn_less(pretrained_store):
    sights = [
        Sight(each, each.fold(backbones.load(pretrained_store, ref).tensors), looks_at)
        for each, ref, looks_at in zip(
            (LITE0, LITE2), sorted(pretrained_store.refs("backbones")), ((64, 64), (32, 32)), strict=True
        )
    ]
    head = Head([LITE0.features, LITE2.features], 2)
    head.weights["output/kernel"].assign(tf.ones((2560, 2)) * tf.range(1.0, 3.0) / 100)
    whole = Whole(SPEC, 2, sights, head.tensors())
    images = tf.constant(draw(2, 3).images)
    values = {name: tf.convert_to_tensor(each) for name, each in whole.weights.items()}
    np.testing.assert_allclose(whole.forward_training(tf.cast(images, tf.float32), values)[0], whole(images), rtol=1e-4)
    half = tf.image.resize(tf.cast(images, tf.float32), (32, 32))
    seen = np.concatenate(
        [Embedder(each.architecture, each.tensors, "float32", looks_at=side)(np.asarray(half).round().astype(np.uint8))
         for each, side in zip(sights, ((32, 32), (16, 16)), strict=True)], axis=1,
    )  # fmt: skip
    found = whole.forward_training(tf.round(half), values)[0]
    np.testing.assert_allclose(found, head(tf.constant(seen)), rtol=1e-3)
    assert whole.rates[f"{prefix(0)}stem/kernel"] == FIRST_RATE == whole.rates[f"{prefix(1)}stem/kernel"]
    assert FIRST_RATE < whole.rates[f"{prefix(1)}block10/expand/kernel"] < whole.rates[f"{prefix(1)}head/bias"] == 1
    assert "output/kernel" not in whole.rates


def test_networks_beside_each_other_have_the_mean_of_their_logits(pretrained_store):
    images, seen, parts = tf.constant(draw(3, 4).images), [], []
    for place, (each, ref) in enumerate(zip((LITE0, LITE2), sorted(pretrained_store.refs("backbones")), strict=True)):
        head = Head([each.features], 2)
        head.weights["output/kernel"].assign(tf.random.stateless_normal((each.features, 2), (1, place)) / 10)
        head.weights["output/bias"].assign([place, 1.0])
        head.weights["features/deviation"].assign([1.5 + place])
        sight = Sight(each, each.fold(backbones.load(pretrained_store, ref).tensors), (64, 64))
        alone = Whole(SPEC, 2, [sight], head.tensors())
        parts.append(alone.tensors())
        seen.append((sight, alone(images)))
    joined = beside(parts)
    head = {name: each for name, each in joined.items() if not name.startswith("backbone")}
    both = Whole(SPEC, 2, [sight for sight, _ in seen], head)
    np.testing.assert_allclose(both(images), (seen[0][1] + seen[1][1]) / 2, rtol=1e-4, atol=1e-4)
    assert joined.keys() == both.tensors().keys()


def test_a_head_on_some_items_has_seen_no_other():
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(40, 8)).astype(np.float32), (np.arange(40) % 2).astype(np.int32)
    kept = np.arange(0, 40, 3)
    others = np.setdiff1d(np.arange(40), kept)
    told = labels.copy()
    told[others] = 1 - told[others]
    heads = [solve_head_on(kept, features, each, 2, penalty=0.01) for each in (labels, told)]
    for name, tensor in heads[0].items():
        np.testing.assert_array_equal(tensor, heads[1][name])
    network = Head([8], 2)
    network.assign(heads[0])
    assert (np.argmax(network(tf.constant(features[kept])), 1) == labels[kept]).mean() > 0.9


def answers(right, sure):
    """Probabilities of two classes, and labels of 0: right ones and wrong ones, all equally sure."""
    likely = np.where(np.asarray(right)[:, np.newaxis], [sure, 1 - sure], [1 - sure, sure])
    return likely.astype(np.float32)


def test_a_fine_tuning_is_better_beyond_a_standard_error_or_not_at_all():
    labels = np.zeros(100, np.int32)
    frozen = np.arange(100) < 80
    better = compare(answers(frozen, 0.8), answers(np.arange(100) < 95, 0.9), labels)
    assert better.better
    assert (better.frozen_hits, better.tuned_hits, better.items) == (80, 95, 100)
    assert str(better).startswith(
        "fine-tuned: 15.0 points more right of 100 pictures that it had not seen, loss 0.1987 "
    )
    assert str(better).endswith(": took it")
    chance = compare(answers(frozen, 0.8), answers(np.roll(frozen, 30) | (np.arange(100) == 5), 0.8), labels)
    assert not chance.better
    assert ", within chance: kept the frozen network" in str(chance)
    worse = compare(answers(np.arange(100) < 95, 0.9), answers(frozen, 0.8), labels)
    assert not worse.better
    assert "fine-tuned: 15.0 points fewer right" in str(worse)
    assert "chance" not in str(worse)
    boasting = compare(answers(frozen, 0.8), answers(frozen, 0.999), labels)
    assert abs(boasting.gain) < 1e-3, "confidence is made true first"


@pytest.fixture(scope="module")
def tuned_once(pretrained_store, tmp_path_factory):
    """A fine-tuning that was better than the frozen network."""
    store = Store(shutil.copytree(pretrained_store.disk.root, tmp_path_factory.mktemp("tuned") / "store"))
    dataset, lines = publish(store, 240), []
    return SimpleNamespace(store=store, dataset=dataset, lines=lines, ref=train(store, dataset, TUNED, lines))


@pytest.mark.slow
def test_what_is_better_is_taken_and_says_by_how_much(tuned_once):
    store, published = tuned_once.store, weights.load(tuned_once.store, tuned_once.ref)
    assert any(
        line.startswith("fine-tuning efficientnet-lite0:64 for 8 epochs will take about 0 min")
        for line in tuned_once.lines
    )
    said = published.artifact.manifest["provenance"]["fine_tuned"]
    assert said["said"] in tuned_once.lines
    assert said["said"].endswith(": took it")
    assert said["gain"] > said["gain_error"]
    assert said["tuned_hits"] > said["frozen_hits"]
    assert [each["epoch"] for each in published.history] == list(range(1, 9))
    moved = published.tensors[f"{prefix(0)}block05/expand/kernel"]
    [first, _] = sorted(store.refs("backbones"))
    assert (moved != LITE0.fold(backbones.load(store, first).tensors)["block05/expand/kernel"]).any()
    assert list(store.disk.list("staging/training")) == []
    assert not any("the best of" in line for line in tuned_once.lines)


@pytest.mark.slow
def test_its_temperature_is_of_pictures_that_it_has_not_seen(tuned_once):
    published = weights.load(tuned_once.store, tuned_once.ref)
    learned = datasets.load(tuned_once.store, tuned_once.dataset).train
    held_out = published.out_of_fold
    assert len(held_out.items) == 48
    assert set(held_out.folds) == {HELD_OUT}
    assert {each["items"] for each in published.history} == {192}, "it has seen the others"
    found = calibrate(held_out.probabilities, learned.labels[held_out.items], "held-out")
    assert published.calibration == found.to_dict()
    plain = model.load(tuned_once.store, tuned_once.ref, temperature=1.0).predict(learned.images[held_out.items])
    np.testing.assert_allclose(plain, held_out.probabilities, atol=1e-6)


@pytest.mark.slow
def test_it_predicts_and_its_report_has_a_curve(tuned_once):
    store, ref = tuned_once.store, tuned_once.ref
    test = draw(60, 7)
    ready = model.load(store, ref)
    answered = ready.predict(test.images)
    assert (answered.argmax(1) == test.labels).mean() > 0.75
    np.testing.assert_array_equal(ready.predict_kept(test.images), answered)
    measured = store.open(evaluate_weights(store, ref, tuned_once.dataset))
    assert "learning-curve.png" in measured.files


@pytest.mark.slow
@pytest.mark.parametrize(
    "file_format",
    ["saved-model", pytest.param("tflite", marks=pytest.mark.long), pytest.param("onnx", marks=pytest.mark.long)],
)
def test_its_export_gives_the_answers_of_predict(tuned_once, tmp_path, file_format):
    exported = export(tuned_once.store, tuned_once.ref, file_format, tmp_path / "graph")
    assert exported.images == 20
    assert exported.max_difference <= 1e-4


@pytest.mark.slow
def test_what_is_no_better_leaves_the_frozen_network(store, monkeypatch):
    monkeypatch.setattr(
        "tasks.training.transferring.fine_tuning",
        lambda settings, items: dataclasses.replace(fine_tuning(settings, items), learning_rate=1e-9),
    )
    dataset, lines = publish(store, 60), []
    frozen = weights.load(store, train(store, dataset, FROZEN))
    kept = weights.load(store, train(store, dataset, dataclasses.replace(TUNED, fine_tune=1), lines))
    [said] = [line for line in lines if line.startswith("fine-tuned:")]
    assert said.startswith("fine-tuned: 0.0 points more right of 12 pictures that it had not seen, loss ")
    assert said.endswith("within chance: kept the frozen network")
    assert kept.tensors.keys() == frozen.tensors.keys()
    for name, tensor in frozen.tensors.items():
        np.testing.assert_array_equal(kept.tensors[name], tensor)
    assert (kept.calibration, kept.history) == (frozen.calibration, [])


@pytest.mark.slow
def test_single_pictures_of_classes_are_not_fine_tuned(store):
    lines = []
    ref = train(store, publish(store, 2), TUNED, lines)
    assert any(line.startswith("did not fine-tune: no class has two pictures") for line in lines)
    assert not any(name.startswith("backbone") for name in weights.load(store, ref).tensors)


@pytest.mark.slow
@pytest.mark.kill
def test_a_kill_and_the_number_of_processors_change_no_bits(store, tmp_path):
    """Two views, in bfloat16 where the processor has it."""
    dataset = publish(store, 40)
    both = dataclasses.replace(
        TUNED, backbone="efficientnet-lite0:64+efficientnet-lite2:32", precision="auto", fine_tune=2
    )
    found = {}
    for processors, kill in ((1, None), (2, "training, in epoch 2 of 2")):
        mine = Store(shutil.copytree(store.disk.root, tmp_path / str(processors)))
        job = {"store": str(mine.disk.root), "dataset": str(dataset), "settings": dataclasses.asdict(both)}
        with Forks(processors) as forks:
            for kill_at in [kill, None] if kill else [None]:
                output = tmp_path / f"said-{processors}-{kill_at is None}"
                ended = forks.ask(forks.ask({**job, "kill_at": kill_at, "output": str(output)}))
                assert ended == (-signal.SIGKILL if kill_at else 0), output.read_text()
        found[processors] = output.read_text().splitlines()
    assert found[1][-1] == found[2][-1]
    assert any("going on after epoch 1" in line for line in found[2])


def test_weights_of_an_earlier_lookbook_predict_as_they_did(pretrained_store, tmp_path):
    """One backbone of their own, seen at the size of their pictures, and no view written down."""
    store = Store(shutil.copytree(pretrained_store.disk.root, tmp_path / "store"))
    [ref, _] = sorted(store.refs("backbones"))
    moved = {name: each * 1.01 for name, each in LITE0.fold(backbones.load(store, ref).tensors).items()}
    head = Head([LITE0.features], 2)
    head.weights["output/kernel"].assign(tf.random.stateless_normal((LITE0.features, 2), (1, 2)))
    tensors = {**head.tensors(), **{f"backbone/{name}": np.float32(each) for name, each in moved.items()}}
    history = [{"epoch": epoch, "loss": 1.0, "accuracy": 0.5, "items": 12} for epoch in (1, 2)]
    files = {"weights.safetensors": weights.named.to_bytes(tensors), "history.json": weights.canonical(history)}
    earlier = store.publish(
        "weights", "earlier", files,
        settings=FROZEN.to_dict(), inputs={"dataset": str(publish(store, 4)), "backbone": str(ref)},
        facts={
            "classes": CLASSES, "image_spec": SPEC.to_dict(), "tensors": weights.named.describe(tensors),
            "precision": "float32",
        },
        made={},
    )  # fmt: skip
    images = draw(3, 5).images
    logits = head(tf.constant(Embedder(LITE0, {n: tensors[f"backbone/{n}"] for n in moved}, "float32")(images)))
    np.testing.assert_allclose(model.load(store, earlier).predict(images), tf.nn.softmax(logits), atol=1e-6)
    whole = model.network_of(store, weights.load(store, earlier))
    np.testing.assert_allclose(whole(tf.constant(images)), logits, rtol=1e-3, atol=1e-3)
    assert [each["epoch"] for each in weights.load(store, earlier).history] == [1, 2]


def test_a_folder_is_scored_though_the_backbones_before_the_tuning_are_gone(store, tmp_path):
    """What such weights need they hold; how far pictures are from those that were learned from is left out."""
    folders = sorted(store.refs("backbones"))
    tensors = Head([LITE0.features, LITE2.features], 2).tensors()
    for place, (ref, architecture) in enumerate(zip(folders, (LITE0, LITE2), strict=True)):
        folded = architecture.fold(backbones.load(store, ref).tensors)
        tensors |= {f"{prefix(place)}{name}": each for name, each in folded.items()}
    tuned = weights.save(
        store, "drawn", tensors=tensors, history=[], classes=CLASSES, image_spec=SPEC.to_dict(),
        settings=TUNED.to_dict(), dataset=publish(store, 4), precision="float32", made={},
        views=[weights.View(ref, 64) for ref in folders],
    )  # fmt: skip
    for ref in folders:
        shutil.rmtree(store.disk.root / ref.folder)
    (tmp_path / "night").mkdir()
    for number, pixels in enumerate(draw(3, 5).images):
        Image.fromarray(pixels).save(tmp_path / f"night/{number}.png")
    settings = Settings(image_roots={"root": tmp_path}, decoders=1)
    job = make_job(store, settings, ScoreRequest("root:night", weights=str(tuned)))
    plan = plan_folder(store, settings, job)
    table = commit_predictions(
        store, settings, job, plan, score_plan(store, settings, job, load_plan(store.disk, plan))
    )
    assert predictions.load(store, table).artifact.facts["rows"] == 3
