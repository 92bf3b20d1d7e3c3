"""pytest tests/test_network.py: the networks' forward passes beside NumPy, their gradients, their first weights."""

import numpy as np
import pytest
from conftest import SPEC

from tasks.vision.device import tf
from tasks.vision.errors import WeightsError
from tasks.vision.images import ImageSpec
from tasks.vision.inference import BATCH, Predictor
from tasks.vision.initializers import glorot_uniform, he_normal
from tasks.vision.network import ARCHITECTURES, Conv, Dense, convolutions, make_network


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


@pytest.mark.parametrize("width", [0, 2])
def test_the_convolutions_are_numpys(width):
    """The whole forward pass in loops and float64: convolution with zeros around, pooling, normalization, residuals."""
    network = Conv(ImageSpec(height=6, width=5, channels=2), 3, seed=1, width=width)
    random = np.random.default_rng(0)
    for name, weight in network.weights.items():
        if not name.endswith("kernel"):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    weights = {name: tensor.astype(np.float64) for name, tensor in network.tensors().items()}
    images = random.integers(0, 256, (2, 6, 5, 2), dtype=np.uint8)
    features = images / 255
    inputs = []
    for index, (_, pooled, residual) in enumerate(convolutions(width)):
        layer = f"conv{index + 1}"
        inputs.append(features)
        padded = np.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)))
        _, height, across, _ = features.shape
        windows = np.stack([padded[:, y : y + height, x : x + across] for y in range(3) for x in range(3)], axis=3)
        features = np.einsum(
            "nhwkc,kco->nhwo", windows, weights[f"{layer}/kernel"].reshape(9, -1, len(weights[f"{layer}/mean"]))
        )
        if pooled:
            features = np.pad(features, ((0, 0), (0, height % 2), (0, across % 2), (0, 0)), constant_values=-np.inf)
            features = np.max([features[:, y::2, x::2] for y in (0, 1) for x in (0, 1)], axis=0)
        features = (features - weights[f"{layer}/mean"]) / np.sqrt(weights[f"{layer}/variance"] + 1e-3)
        features = np.maximum(features * weights[f"{layer}/scale"] + weights[f"{layer}/offset"], 0)
        if residual:
            features = features + inputs[-2]
    expected = features.max((1, 2)) @ weights["output/kernel"] + weights["output/bias"]
    np.testing.assert_allclose(network(tf.constant(images)), expected, rtol=1e-4)


def test_a_conv_without_a_width_is_the_one_of_older_weights():
    shapes = {name: list(tensor.shape) for name, tensor in Conv(SPEC, 3).tensors().items() if name.endswith("kernel")}
    assert shapes == {
        "conv1/kernel": [3, 3, 1, 32], "conv2/kernel": [3, 3, 32, 64], "conv3/kernel": [3, 3, 64, 64],
        "conv4/kernel": [3, 3, 64, 128], "output/kernel": [128, 3],
    }  # fmt: skip


def test_a_training_in_bfloat16_computes_nearly_the_same_and_prediction_the_very_same(shapes):
    images = tf.constant(shapes["train"].images[:64])
    networks = [make_network("conv", SPEC, 3, width=8) for _ in range(2)]
    networks[1].precision = "bfloat16"
    exact, rounded = (network(images).numpy() for network in networks)
    assert (exact == rounded).all()
    exact, rounded = (network.forward_training(images, _values(network))[0] for network in networks)
    assert exact.dtype == rounded.dtype == tf.float32
    assert not (exact.numpy() == rounded.numpy()).all()
    np.testing.assert_allclose(rounded, exact, atol=0.03 * np.abs(exact).max())


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


def test_an_unknown_architecture_is_refused():
    with pytest.raises(WeightsError, match="expected an architecture out of dense, conv, found 'tree'"):
        make_network("tree", SPEC, 3)


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


def test_a_conv_with_a_width_answers_for_an_image_and_for_it_moved(shapes):
    images = shapes["train"].images[:50]
    network = make_network("conv", SPEC, 3, augmentation="flips", width=8)
    plain = make_network("conv", SPEC, 3, width=8)

    def moved(images):
        return np.pad(images[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")

    mirrored = images[:, :, ::-1]
    views = (images, mirrored, moved(images), moved(mirrored))
    expected = sum(plain(tf.constant(view)).numpy() for view in views) / 4
    np.testing.assert_allclose(network(tf.constant(images)), expected, rtol=1e-4, atol=1e-6)
    assert (network(tf.constant(images)).numpy() == network(tf.constant(mirrored)).numpy()).all()
    assert not np.allclose(expected, (plain(tf.constant(images)) + plain(tf.constant(mirrored))) / 2)


def test_conv_alone_moves_images_and_only_with_flips():
    def moved(architecture, augmentation, size):
        return make_network(architecture, ImageSpec(size, size, 1), 3, augmentation=augmentation).shifted

    assert [moved("conv", "flips", size) for size in (8, 28, 56, 224)] == [1, 1, 2, 8]
    assert moved("conv", "none", 28) == moved("dense", "flips", 28) == 0


def test_in_training_features_are_normalized_by_their_own_batch_and_the_statistics_run_along(shapes):
    network = Conv(SPEC, 3)
    weights = _values(network)
    images = tf.constant(shapes["train"].images[:64])
    _, statistics = network.forward_training(images, weights)
    assert statistics.keys() == {f"conv{n}/{what}" for n in (1, 2, 3, 4) for what in ("mean", "variance")}
    raw = tf.nn.max_pool2d(
        tf.nn.conv2d(tf.cast(images, tf.float32) / 255, weights["conv1/kernel"], 1, "SAME"), 2, 2, "SAME"
    )
    np.testing.assert_allclose(statistics["conv1/mean"], np.mean(raw, axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(statistics["conv1/variance"], np.var(raw, axis=(0, 1, 2), ddof=1), atol=1e-5)


def _values(network):
    return {name: tf.convert_to_tensor(weight) for name, weight in network.weights.items()}
