"""pytest tests/test_training.py"""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.vision.device import tf
from tasks.vision.errors import DeviceError, Diverged, SettingsError, WeightsError
from tasks.vision.images import ImageSpec
from tasks.vision.inference import BATCH, Predictor
from tasks.vision.metrics import evaluate
from tasks.vision.network import ARCHITECTURES, Conv, Dense, glorot_uniform, he_normal, make_network
from tasks.vision.recipes import RECIPES, TrainingSettings, settings_for
from tasks.vision.training import check_labels, fit, gather, learning_rates, plan_epoch, split

SPEC = ImageSpec(height=8, width=8, channels=1)
SHORT = TrainingSettings(epochs=3, batch_size=16)
SHORT_CONV = settings_for("conv", epochs=1, batch_size=32, learning_rate=0.05)


def train(split, settings=SHORT, **more):
    return fit(split.images, split.labels, classes=3, spec=SPEC, settings=settings, **more)


def held_out(labels, share, seed):
    """The split where no image is a copy."""
    return split(labels, share, seed, np.arange(len(labels)))


def same(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def by_hand(images, labels, settings, weights):
    """The same training in NumPy, float64: forward, softmax cross-entropy, backward, step."""
    w1, b1, w2, b2 = (weights[f"{layer}"].astype(np.float64) for layer in weights)
    pixels = images.reshape(len(images), -1) / 255
    history, velocity, decay = [], [0, 0, 0, 0], settings.weight_decay
    for epoch in range(1, settings.epochs + 1):
        loss = hits = 0
        plan = plan_epoch(np.arange(len(images)), settings, epoch)
        for batch, count, rate in zip(plan.order, plan.counts, plan.rates, strict=True):
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
    assert [entry["loss"] for entry in trained.history] == pytest.approx([loss for loss, _ in history], rel=1e-5)
    assert [entry["accuracy"] for entry in trained.history] == pytest.approx([accuracy for _, accuracy in history])
    for found, expected in zip(trained.tensors.values(), weights, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [TrainingSettings(epochs=20, batch_size=16), settings_for("conv", epochs=6, batch_size=30)]
)
def test_it_learns(shapes, settings):
    trained = train(shapes["train"], settings)
    network = make_network(settings.architecture, SPEC, 3, augmentation=settings.augmentation)
    network.assign(trained.tensors)
    numbers = evaluate(Predictor(network)(shapes["test"].images), shapes["test"].labels, ["a", "b", "c"])
    assert numbers["accuracy"] > 0.95
    assert trained.history[-1]["loss"] < trained.history[0]["loss"] / 2


@pytest.mark.parametrize(("settings", "near"), [(SHORT, 1e-5), (SHORT_CONV, 1e-3)], ids=["dense", "conv"])
def test_graph_and_eager_give_the_same_losses(shapes, settings, near):
    graph, eager = train(shapes["train"], settings), train(shapes["train"], settings, execution="eager")
    for one, other in zip(graph.history, eager.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=near)
        assert one["accuracy"] == pytest.approx(other["accuracy"], abs=1 / 300)
    for name, tensor in graph.tensors.items():
        np.testing.assert_allclose(tensor, eager.tensors[name], atol=near)


def test_eager_runs_the_python_of_the_forward_pass_at_every_step(shapes, monkeypatch):
    seen = []
    forward = Dense.forward_training
    monkeypatch.setattr(
        Dense, "forward_training", lambda *arguments: seen.append(tf.executing_eagerly()) or forward(*arguments)
    )
    train(shapes["train"], dataclasses.replace(SHORT, epochs=1), execution="eager")
    assert seen == [True] * 19


def test_the_same_settings_give_the_same_bits_and_other_seeds_others(shapes):
    first = train(shapes["train"])
    assert same(train(shapes["train"]).tensors, first.tensors)
    assert train(shapes["train"]).history == first.history
    assert not same(train(shapes["train"], dataclasses.replace(SHORT, seed=1)).tensors, first.tensors)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize(("items", "size"), [(300, 16), (299, 16), (16, 16), (17, 16), (5000, 3), (1, 1)])
def test_every_item_once_an_epoch_the_short_batch_included(items, size, lanes):
    settings = TrainingSettings(batch_size=size, epochs=3)
    some = np.arange(items) * 3
    orders = []
    for epoch in (1, 2):
        plan = plan_epoch(some, settings, epoch, lanes)
        assert plan.order.shape[1] % lanes == 0
        assert np.isin(plan.order, some).all()  # padding, too: statistics are of real images
        order = [item for batch, count in zip(plan.order, plan.counts, strict=True) for item in batch[:count]]
        assert sorted(order) == some.tolist()
        orders.append(order)
    assert items < 10 or orders[0] != orders[1]


def test_an_image_is_mirrored_by_seed_epoch_and_index_whoever_is_beside_it():
    settings = settings_for("conv", batch_size=10)

    def flips(items, **change):
        plan = plan_epoch(np.asarray(items), dataclasses.replace(settings, **change.pop("settings", {})), **change)
        return dict(zip(plan.order.ravel().tolist(), plan.flips.ravel().tolist(), strict=True))

    all_of_them = flips(range(1000), epoch=1)
    assert 400 < sum(all_of_them.values()) < 600
    few = flips(range(0, 1000, 7), epoch=1)
    assert few == {item: all_of_them[item] for item in few}
    assert flips(range(1000), epoch=2) != all_of_them != flips(range(1000), epoch=1, settings={"seed": 1})


def test_flips_mirror_images_left_to_right(shapes):
    """A class that differs from its mirror image in nothing but the side can't be told apart with flips."""
    images, labels = shapes["train"].images.copy(), np.arange(300, dtype=np.int32) % 2
    images[:] = 0
    images[labels == 0, :, :3] = 200
    images[labels == 1, :, 5:] = 200
    settings = settings_for("dense", epochs=5, batch_size=30)
    accuracy = {
        each: fit(
            images, labels, classes=2, spec=SPEC, settings=dataclasses.replace(settings, augmentation=each)
        ).history[-1]["accuracy"]
        for each in ("none", "flips")
    }
    assert accuracy["none"] == 1
    assert accuracy["flips"] < 0.7


def rates_of(settings, batches):
    return np.concatenate([learning_rates(settings, batches, epoch) for epoch in range(1, settings.epochs + 1)])


def test_the_rate_falls_linearly_to_zero_or_stays():
    rates = rates_of(TrainingSettings(epochs=4, learning_rate=0.2), batches=25)
    assert rates[[0, 50, 99]] == pytest.approx([0.2, 0.1, 0.002])
    assert set(rates_of(TrainingSettings(schedule="constant"), 10)) == {np.float32(0.1)}


def test_one_cycle_rises_for_a_fifth_and_falls_to_zero():
    rates = rates_of(TrainingSettings(epochs=10, learning_rate=0.5, schedule="one-cycle"), batches=10)
    assert rates.max() == pytest.approx(0.5, rel=0.05)
    assert 18 <= rates.argmax() <= 20
    assert (np.diff(rates[:19]) > 0).all()
    assert (np.diff(rates[21:]) < 0).all()
    assert 0 < rates[-1] < 0.02
    assert 0 < rates[0] < 0.05


def test_progress_is_told_every_100_batches_and_at_the_end_of_an_epoch(shapes):
    told, epochs = [], []
    settings = TrainingSettings(epochs=2, batch_size=2)  # 100 batches a call
    trained = train(shapes["train"], settings, on_progress=told.append, on_epoch=lambda *seen: epochs.append(seen))
    assert [(each.epoch, each.batch, each.items) for each in told] == [
        (1, 100, 200), (1, 150, 300), (2, 100, 200), (2, 150, 300),
    ]  # fmt: skip
    assert (told[-1].loss, told[-1].accuracy) == (trained.history[-1]["loss"], trained.history[-1]["accuracy"])
    assert [entry for entry, _ in epochs] == trained.history


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_very_last_step_may_diverge_too(shapes, share):
    """Losses are from before each step: of one step alone none is wrong."""
    size = len(held_out(shapes["train"].labels, share, 0)[0])
    settings = TrainingSettings(
        epochs=1, batch_size=size, learning_rate=1e37, schedule="constant", weight_decay=1e4, validation=share
    )
    with pytest.raises(Diverged, match="weights or validation loss are no numbers after epoch 1: .* below 1e[+]37"):
        train(shapes["train"], settings)


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
        ({"architecture": "tree"}, "expected architecture to be one of dense, conv, found 'tree'"),
        ({"schedule": "cosine"}, "expected schedule to be one of linear, constant, one-cycle, found 'cosine'"),
        ({"optimizer": "adam"}, "expected optimizer to be one of sgd, momentum, nesterov, found 'adam'"),
        ({"augmentation": "crops"}, "expected augmentation to be one of none, flips, found 'crops'"),
        ({"weight_decay": -0.1}, "expected a weight_decay of 0 or more, found -0.1"),
        ({"label_smoothing": 1.0}, "expected a label_smoothing from 0 to below 1, found 1.0"),
        ({"validation": 0.6}, "expected a validation share from 0 to 0.5, found 0.6"),
        (
            {"validation": 0.001},
            "expected a validation share that holds out an image of some class, found 0.001 of 300",
        ),
        (
            {"validation": 0.5, "batch_size": 200},
            "expected a batch_size of at most the 1\\d\\d training items, found 200",
        ),
        ({"patience": 1}, "expected a validation share for a patience of 1 epochs, found none"),
        ({"patience": 3, "validation": 0.1}, "expected a patience below the 3 epochs, found 3"),
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


def test_a_network_is_made_and_trained_on_the_chosen_device():
    """Two logical devices of the processor stand for a GPU beside it."""
    said = subprocess.run([sys.executable, "-c", PLACED], capture_output=True, text=True)
    assert said.stdout.splitlines() == ["{'device:CPU:1'}"] * 4, said.stderr


def test_the_forward_pass_is_numpys():
    network = Dense(ImageSpec(height=28, width=28, channels=1), 10, seed=3)
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28, 1), dtype=np.uint8)
    weights = network.tensors()
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        "hidden/kernel": (784, 20), "hidden/bias": (20,), "output/kernel": (20, 10), "output/bias": (10,),
    }  # fmt: skip
    hidden = np.maximum(images.reshape(7, 784) / 255 @ weights["hidden/kernel"] + weights["hidden/bias"], 0)
    expected = hidden @ weights["output/kernel"] + weights["output/bias"]
    np.testing.assert_allclose(network(tf.constant(images)), expected, atol=1e-5)
    np.testing.assert_allclose(tf.function(network)(tf.constant(images)), expected, atol=1e-5)


@pytest.mark.parametrize(("architecture", "far"), [("dense", 1e-2), ("conv", 1e-3)])
def test_gradients_are_finite_differences(shapes, architecture, far):
    network = make_network(architecture, SPEC, 3)
    images, labels = tf.constant(shapes["train"].images[:8]), shapes["train"].labels[:8]
    weights = {name: tf.cast(tensor, tf.float32) for name, tensor in network.learned.items()}
    others = {name: tensor for name, tensor in network.weights.items() if name not in weights}

    def loss(values):
        logits, _ = network.forward_training(images, network.turned({**values, **others}))
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))

    with tf.GradientTape() as tape:
        tape.watch(list(weights.values()))
        value = loss(weights)
    for name, gradient in tape.gradient(value, weights).items():
        index = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        step = np.zeros(gradient.shape, np.float32)
        step[index] = far
        difference = loss({**weights, name: weights[name] + step}) - loss({**weights, name: weights[name] - step})
        assert float(difference) / (2 * far) == pytest.approx(float(gradient[index]), rel=0.05)


def test_first_weights_are_glorot_uniform():
    kernel = glorot_uniform((784, 20), (0, 0)).numpy()
    limit = np.sqrt(6 / 804)
    assert np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    assert (Dense(SPEC, 3).tensors()["hidden/bias"] == 0).all()
    assert he_normal((3, 3, 64, 128), (0, 0)).numpy().std() == pytest.approx(np.sqrt(2 / 576), rel=0.01)


def test_weights_that_do_not_fit_are_refused_by_name():
    tensors = Dense(SPEC, 3).tensors()
    with pytest.raises(WeightsError, match=r"output/bias: expected float32 \[3\], found float32 \[4\]"):
        Dense(SPEC, 3).assign({**tensors, "output/bias": np.zeros(4, np.float32)})
    with pytest.raises(WeightsError, match=r"output/bias: expected float32 \[3\], found nothing"):
        Dense(SPEC, 3).assign({name: tensor for name, tensor in tensors.items() if name != "output/bias"})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_rows_numbers_do_not_depend_on_its_neighbours(shapes, architecture):
    predict = Predictor(make_network(architecture, SPEC, 3))
    images = np.concatenate([shapes["train"].images] * 2)
    together = predict(images)
    assert len(images) > 2 * BATCH
    assert together.dtype == np.float32
    np.testing.assert_allclose(together.sum(1), 1, rtol=1e-6)
    for index in (0, BATCH - 1, BATCH, len(images) - 1):
        assert (predict(images[index : index + 1])[0] == together[index]).all()
    assert predict(images[:0]).shape == (0, 3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_network_that_learned_from_flips_answers_mirror_images_alike(shapes, architecture):
    images = shapes["train"].images[:50]
    network = make_network(architecture, SPEC, 3, augmentation="flips")
    plain = make_network(architecture, SPEC, 3)
    assert (network(tf.constant(images)).numpy() == network(tf.constant(images[:, :, ::-1])).numpy()).all()
    both = (plain(tf.constant(images)) + plain(tf.constant(images[:, :, ::-1]))) / 2
    np.testing.assert_allclose(network(tf.constant(images)), both, rtol=1e-5)
    assert not np.allclose(plain(tf.constant(images)), both)


def test_the_convolutions_are_numpys():
    """The whole forward pass in loops and float64: convolution with zeros around, pooling, normalization."""
    network = Conv(ImageSpec(height=6, width=5, channels=2), 3, seed=1)
    random = np.random.default_rng(0)
    for name, weight in network.weights.items():
        if not name.endswith("kernel"):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    weights = {name: tensor.astype(np.float64) for name, tensor in network.tensors().items()}
    images = random.integers(0, 256, (2, 6, 5, 2), dtype=np.uint8)
    features = images / 255
    for layer, pooled in (("conv1", True), ("conv2", True), ("conv3", False), ("conv4", False)):
        padded = np.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)))
        _, height, width, _ = features.shape
        windows = np.stack([padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=3)
        features = np.einsum(
            "nhwkc,kco->nhwo", windows, weights[f"{layer}/kernel"].reshape(9, -1, len(weights[f"{layer}/mean"]))
        )
        if pooled:
            features = np.pad(features, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=-np.inf)
            features = np.max([features[:, y::2, x::2] for y in (0, 1) for x in (0, 1)], axis=0)
        features = (features - weights[f"{layer}/mean"]) / np.sqrt(weights[f"{layer}/variance"] + 1e-3)
        features = np.maximum(features * weights[f"{layer}/scale"] + weights[f"{layer}/offset"], 0)
    expected = features.max((1, 2)) @ weights["output/kernel"] + weights["output/bias"]
    np.testing.assert_allclose(network(tf.constant(images)), expected, rtol=1e-4)


def test_in_training_features_are_normalized_by_their_own_batch_and_the_statistics_run_along(shapes):
    network = Conv(SPEC, 3)
    weights = {name: tf.convert_to_tensor(weight) for name, weight in network.weights.items()}
    images = tf.constant(shapes["train"].images[:64])
    _, statistics = network.forward_training(images, weights)
    assert statistics.keys() == {f"conv{n}/{what}" for n in (1, 2, 3, 4) for what in ("mean", "variance")}
    raw = tf.nn.max_pool2d(
        tf.nn.conv2d(tf.cast(images, tf.float32) / 255, weights["conv1/kernel"], 1, "SAME"), 2, 2, "SAME"
    )
    np.testing.assert_allclose(statistics["conv1/mean"], np.mean(raw, axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(statistics["conv1/variance"], np.var(raw, axis=(0, 1, 2), ddof=1), atol=1e-5)


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


def test_a_memory_map_gives_the_bits_of_an_array(shapes, tmp_path):
    images = shapes["train"].images
    mapped = np.memmap(tmp_path / "images", np.uint8, "w+", shape=images.shape)
    mapped[:] = images
    assert same(
        fit(mapped, shapes["train"].labels, classes=3, spec=SPEC, settings=SHORT).tensors,
        train(shapes["train"]).tensors,
    )


def test_large_images_come_in_small_chunks(shapes):
    """So that memory is a few MiB and not a hundred batches, whatever the images are."""
    images = np.zeros((40, 200, 200, 3), np.uint8)
    settings = settings_for("conv", batch_size=8)
    chunks = gather(images, np.zeros(40, np.int32), np.arange(40), settings)
    assert next(chunks).images.shape == (5, 8, 200, 200, 3)
    assert next(gather(images[:, :28, :28, :1], np.zeros(40, np.int32), np.arange(40), settings)).images.shape[0] == 100


def test_the_held_out_share_is_of_each_class_and_the_seeds():
    labels = np.repeat(np.arange(3, dtype=np.int32), [100, 50, 9])
    learned, held = held_out(labels, 0.1, seed=0)
    assert np.bincount(labels[held]).tolist() == [10, 5, 1]
    assert len(held_out(labels[:100], 0.29, seed=0)[1]) == 29
    assert sorted([*learned, *held]) == list(range(159))
    assert (held_out(labels, 0.1, seed=0)[1] == held).all()
    assert (held_out(labels, 0.1, seed=1)[1] != held).any()
    assert len(held_out(labels, 0.0, seed=0)[1]) == 0


def split_by_index(labels, share, seed):
    """As it was before copies were kept together."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        items = np.flatnonzero(labels == label)
        order = np.random.default_rng([seed, 1 << 32, int(label)]).permutation(items)
        held[order[: round(share * len(items))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.floats(0.001, 0.5), st.integers(0, 9), st.data())
def test_copies_stay_on_one_side_and_without_any_the_split_is_that_of_before(labels, share, seed, data):
    labels = np.array(labels, np.int32)
    alone = split(labels, share, seed, np.arange(len(labels)))
    for found, expected in zip(alone, split_by_index(labels, share, seed), strict=True):
        np.testing.assert_array_equal(found, expected)
    contents = np.array(data.draw(st.lists(st.integers(0, 30), min_size=len(labels), max_size=len(labels))))
    first = np.unique(contents, return_index=True)[1][np.unique(contents, return_inverse=True)[1]]
    labels = labels[first]  # equal contents have equal labels
    learned, held = split(labels, share, seed, first)
    assert not set(contents[learned]) & set(contents[held])
    assert len(set(contents[held])) == len(held), "of the held out each content once"
    gone = np.bincount(labels, minlength=5) - np.bincount(labels[learned], minlength=5)
    assert (gone <= np.round(share * np.bincount(labels, minlength=5))).all(), "never more than the share"


def test_copies_of_what_is_learned_are_not_held_out():
    """150 pictures that nothing can be learned of but by heart, each four times: who has seen one knows it."""
    random = np.random.default_rng(0)
    images = np.repeat(random.integers(0, 256, (150, 8, 8, 1), dtype=np.uint8), 4, axis=0)
    labels = np.repeat(random.integers(0, 3, 150).astype(np.int32), 4)
    settings = TrainingSettings(epochs=60, batch_size=16, validation=0.2, patience=5)
    trained = fit(images, labels, classes=3, spec=SPEC, settings=settings)
    assert max(entry["validation_accuracy"] for entry in trained.history) < 0.75
    assert len(trained.history) < 60, "patience ends it"
    assert trained.temperature is not None
    assert trained.history[0]["items"] == pytest.approx(480, abs=12)


def test_what_is_mostly_copies_of_one_image_holds_out_others():
    labels = np.zeros(40, np.int32)
    first = np.array([0] * 30 + list(range(30, 40)))
    held = split(labels, 0.1, 0, first)[1]
    assert len(held) == 4
    assert held.min() >= 30
    with pytest.raises(SettingsError, match="which is none of any \\(copies of an image stay together\\); raise it"):
        fit(np.zeros((40, 8, 8, 1), np.uint8), labels[:] + np.arange(40) // 20, classes=2, spec=SPEC,
            settings=TrainingSettings(epochs=1, batch_size=2, validation=0.1))  # fmt: skip


def test_held_out_images_are_looked_at_and_not_learned_from(shapes):
    settings = dataclasses.replace(SHORT, validation=0.2)
    whole, shared = train(shapes["train"]), train(shapes["train"], settings)
    labels = shapes["train"].labels
    _, held = held_out(labels, 0.2, 0)
    assert shared.history[0]["items"] == 300 - len(held) < whole.history[0]["items"]
    assert not same(whole.tensors, shared.tensors)
    network = Dense(SPEC, 3)
    network.assign(shared.tensors)
    numbers = evaluate(Predictor(network)(shapes["train"].images[held]), labels[held], ["a", "b", "c"])
    assert shared.history[-1]["validation_accuracy"] == numbers["accuracy"]
    assert shared.history[-1]["validation_loss"] == numbers["loss"]


def test_patience_ends_a_training_and_takes_the_best_epoch(shapes):
    """Labels that mean nothing: what is learned of them only harms."""
    labels = np.random.default_rng(5).integers(0, 3, 300).astype(np.int32)
    settings = TrainingSettings(epochs=60, batch_size=16, learning_rate=0.5, validation=0.3, patience=3)
    trained = fit(shapes["train"].images, labels, classes=3, spec=SPEC, settings=settings)
    losses = [entry["validation_loss"] for entry in trained.history]
    assert len(losses) < 60
    assert trained.best_epoch == 1 + int(np.argmin(losses)) == len(losses) - 3
    network = Dense(SPEC, 3)
    network.assign(trained.tensors)
    _, held = held_out(labels, 0.3, 0)
    assert evaluate(Predictor(network)(shapes["train"].images[held]), labels[held], "abc")["loss"] == min(losses)


@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize(
    "settings",
    [
        dataclasses.replace(SHORT, epochs=5),
        dataclasses.replace(SHORT, epochs=5, optimizer="nesterov", schedule="one-cycle", validation=0.1, patience=4),
        settings_for("conv", epochs=5, batch_size=100),
    ],
    ids=["sgd", "patience", "conv"],
)
def test_a_training_that_goes_on_from_a_state_gives_the_same_bits(shapes, monkeypatch, settings, after):
    monkeypatch.setattr("tasks.vision.training.STATE_SECONDS", 0)
    states = []
    whole = train(shapes["train"], settings, on_state=states.append)
    assert [len(state.history) for state in states] == [1, 2, 3, 4, 5]
    rest = train(shapes["train"], settings, resume=states[after - 1])
    assert same(rest.tensors, whole.tensors)
    assert rest.history == whole.history
    assert len(rest.epoch_seconds) == 5
    finished = train(shapes["train"], settings, resume=states[-1])
    assert same(finished.tensors, whole.tensors)
    assert finished.best_epoch == whole.best_epoch


@pytest.mark.parametrize(
    "other",
    [{"epochs": 1}, {"optimizer": "momentum"}, {"validation": 0.1}, {"seed": 1}, {"learning_rate": 0.5}],
    ids=str,
)
def test_a_state_of_other_settings_is_refused(shapes, monkeypatch, other):
    monkeypatch.setattr("tasks.vision.training.STATE_SECONDS", 0)
    states = []
    train(shapes["train"], on_state=states.append)
    with pytest.raises(WeightsError, match="this state is of a training with other settings; start without it"):
        train(shapes["train"], dataclasses.replace(SHORT, **other), resume=states[1])
    images = shapes["train"].images[:, :4].copy()
    with pytest.raises(WeightsError, match="these weights don't fit the network"):
        fit(images, shapes["train"].labels, classes=3, spec=ImageSpec(4, 8, 1), settings=SHORT, resume=states[1])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            lambda x: x / 255,
            lambda y: y,
            r"expected images of uint8 \[items, 8, 8, 1\], found float64 \[300, 8, 8, 1\]",
        ),
        (lambda x: x[..., 0], lambda y: y, r"expected images of uint8 \[items, 8, 8, 1\], found uint8 \[300, 8, 8\]"),
        (lambda x: x, lambda y: y[:-1], r"expected 300 labels of int32, found int32 \[299\]"),
        (lambda x: x[:-1], lambda y: y, r"expected 299 labels of int32, found int32 \[300\]"),
        (lambda x: x, lambda y: y * 1.0, r"expected 300 labels of int32, found float64 \[300\]"),
        (lambda x: x, lambda y: y.astype(np.int64) + 2**32, r"expected labels from 0 to 2, found 4294967296 to"),
    ],
)
def test_arrays_that_are_no_images_and_labels(shapes, images, labels, message):
    split = shapes["train"]
    with pytest.raises(SettingsError, match=message):
        fit(images(split.images), labels(split.labels), classes=3, spec=SPEC, settings=SHORT)


def test_labels_may_be_any_whole_numbers(shapes):
    expected = train(shapes["train"]).tensors
    for labels in (shapes["train"].labels.astype(np.int64), shapes["train"].labels.tolist()):
        assert same(fit(shapes["train"].images, labels, classes=3, spec=SPEC, settings=SHORT).tensors, expected)


def test_states_are_offered_some_seconds_apart(shapes, monkeypatch):
    now, states = [0.0], []
    monkeypatch.setattr("tasks.vision.training.time.monotonic", lambda: now[0])

    def two_seconds_later(entry, seconds):
        now[0] += 2

    settings = dataclasses.replace(SHORT, epochs=7)
    train(shapes["train"], settings, on_state=states.append, on_epoch=two_seconds_later)
    assert [len(state.history) for state in states] == [3, 6]


BITS = """
import hashlib, os, sys
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:int(sys.argv[1])])
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


def test_processes_with_one_processor_and_with_all_give_the_same_bits():
    said = [
        subprocess.run([sys.executable, "-c", BITS, processors], capture_output=True, text=True, check=True).stdout
        for processors in ("1", "64", "64")
    ]
    assert said[0].count("\n") == 2
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 0, 0], ["boot"], "expected two classes or more to tell apart, found 1: boot"),
        ([0, 0, 2], ["boot", "shoe", "hat"], "expected training images of every class, found none of shoe; add some"),
        ([0, 1, 2], ["boot", "shoe"], "expected labels from 0 to 1, found 0 to 2"),
        ([], ["boot", "shoe"], "expected training images of every class, found none of boot, shoe"),
    ],
)
def test_labels_that_nothing_can_be_learned_from(labels, names, message):
    with pytest.raises(SettingsError, match=message):
        check_labels(np.array(labels, np.int32), names)


def test_a_recipe_is_an_architectures_and_what_is_given_comes_first():
    assert settings_for("dense") == TrainingSettings()
    assert settings_for("conv", epochs=3, schedule=None) == dataclasses.replace(RECIPES["conv"], epochs=3)
    for architecture, recipe in RECIPES.items():
        assert recipe.architecture == architecture
        recipe.check()
    assert RECIPES.keys() == ARCHITECTURES.keys()


def test_a_recipe_fits_the_data():
    sizes = {items: settings_for("conv", per_class=[items // 2] * 2).batch_size for items in (20, 500, 20_000)}
    assert sizes == {20: 20, 500: 32, 20_000: 256}
    assert settings_for("conv", per_class=[15, 15], validation=0.2).batch_size == 24, "the others are held out"
    assert settings_for("dense", per_class=[6000] * 10) == TrainingSettings()
    assert settings_for("conv", per_class=[500], batch_size=128).batch_size == 128, "what is given stays"
    large = {
        side: settings_for("conv", per_class=[20_000] * 2, pixels=side**2).batch_size for side in (64, 128, 256, 512)
    }
    assert large == {64: 256, 128: 256, 256: 64, 512: 16}, "what a batch takes is bounded"
    assert settings_for("conv", per_class=[500], pixels=512**2, batch_size=128).batch_size == 128
    assert settings_for("dense", per_class=[20_000] * 2, pixels=512**2) == TrainingSettings()
    assert [settings_for(each, pictures=True).inputs for each in RECIPES] == ["centered", "plain"]


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


def test_the_temperature_is_that_of_the_held_out_images(shapes):
    from tasks.vision.metrics import fit_temperature, scale

    train, settings = (
        shapes["train"],
        TrainingSettings(epochs=4, batch_size=16, validation=0.5, patience=2, learning_rate=0.003),
    )
    trained = fit(train.images, train.labels, classes=3, spec=SPEC, settings=settings)
    network = Dense(SPEC, 3)
    network.assign(trained.tensors)
    held = held_out(train.labels, 0.5, 0)[1]
    assert trained.temperature is not None
    assert trained.temperature == fit_temperature(Predictor(network)(train.images[held]), train.labels[held])
    scaled = Predictor(network, trained.temperature)(train.images[held])
    np.testing.assert_allclose(scaled, scale(Predictor(network)(train.images[held]), trained.temperature), atol=1e-5)
    without = fit(train.images, train.labels, classes=3, spec=SPEC, settings=TrainingSettings(epochs=1, batch_size=16))
    assert without.temperature is None


def test_an_unknown_architecture_is_told():
    with pytest.raises(WeightsError, match="expected an architecture out of dense, conv, found 'tree'"):
        make_network("tree", SPEC, 3)
