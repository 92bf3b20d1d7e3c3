"""The forward pass of vision transformers."""

from typing import TYPE_CHECKING

from tasks.vision.device import tf
from tasks.vision.dinov2 import HEAD, PATCH
from tasks.vision.network import Tensors
from tasks.vision.resampling import interpolation, resampling

if TYPE_CHECKING:
    from tasks.vision.dinov2 import DinoV2

_EPSILON = 1e-6  # added to a variance before the division by its root


def attend(images: tf.Tensor, weights: Tensors, dtype: tf.DType, network: "DinoV2") -> tf.Tensor:
    """What a network makes of pictures: arguments and result as `Architecture.forward` has them.

    Products are computed in `dtype`, all else in float32.
    """
    tokens = _tokens(images, weights, dtype, network)
    for block in network.blocks:
        of = {name.removeprefix(f"{block}/"): each for name, each in weights.items() if name.startswith(block)}
        seen = tf.cast(_normalize(tokens, of, "norm1"), dtype)
        tokens += _dense(_attention(_dense(seen, of, "qkv")), of, "project", tf.float32)
        seen = tf.cast(_normalize(tokens, of, "norm2"), dtype)
        wide = _gelu(_dense(seen, of, "widen", tf.float32))
        tokens += _dense(tf.cast(wide, dtype), of, "narrow", tf.float32)
    return _normalize(tokens[:, 0], weights, "norm")


def _tokens(images: tf.Tensor, weights: Tensors, dtype: tf.DType, network: "DinoV2") -> tf.Tensor:
    """The class token, registers, and a token for each patch at its position: float32 [batch, tokens, channels]."""
    passed = tf.nn.conv2d(tf.cast(images, dtype), weights["patches/kernel"], PATCH, "VALID")
    passed = tf.cast(tf.nn.bias_add(passed, weights["patches/bias"]), tf.float32)
    _, height, width, channels = passed.shape
    passed = tf.reshape(passed + _positions(weights, height, width, network), [-1, height * width, channels])
    first = [weights["class_token"][tf.newaxis]]
    if network.registers:
        first.append(weights["registers"])
    leading = tf.concat(first, axis=0)
    shape = tf.stack([tf.shape(passed)[0], 1 + network.registers, channels])
    return tf.concat([tf.broadcast_to(leading, shape), passed], axis=1)


def _positions(weights: Tensors, height: int, width: int, network: "DinoV2") -> tf.Tensor:
    """Those of as many patches: float32 [height, width, channels]. They are resized as the authors did it when they
    trained the network: antialiased with registers, and not without."""
    positions = weights["positions"]
    _, grid, channels = positions.shape
    if (height, width) == (grid, grid):
        return positions
    down, along = (
        resampling(grid, side, "cubic") if network.registers else interpolation(grid, side) for side in (height, width)
    )
    resized = tf.reshape(down @ tf.reshape(positions, [grid, -1]), [height, grid, channels])
    return along @ resized


def _attention(joined: tf.Tensor) -> tf.Tensor:
    """joined: queries, keys and values side by side, [batch, tokens, 3 * channels]. Returns [batch, tokens, channels].
    The queries are scaled already."""
    _, tokens, wide = joined.shape
    heads = wide // 3 // HEAD
    queries, keys, values = tf.unstack(tf.transpose(tf.reshape(joined, [-1, tokens, 3, heads, HEAD]), [2, 0, 3, 1, 4]))
    attention = tf.nn.softmax(tf.cast(tf.matmul(queries, keys, transpose_b=True), tf.float32))
    seen = tf.matmul(tf.cast(attention, values.dtype), values)
    return tf.reshape(tf.transpose(seen, [0, 2, 1, 3]), [-1, tokens, wide // 3])


def _dense(tokens: tf.Tensor, weights: Tensors, layer: str, returned: tf.DType | None = None) -> tf.Tensor:
    kernel = weights[f"{layer}/kernel"]
    _, count, channels = tokens.shape
    sums = tf.nn.bias_add(tf.reshape(tokens, [-1, channels]) @ kernel, weights[f"{layer}/bias"])
    return tf.cast(tf.reshape(sums, [-1, count, kernel.shape[1]]), returned or sums.dtype)


def _gelu(sums: tf.Tensor) -> tf.Tensor:
    """The exact one, by erf: TensorFlow's own asks for erfc, which ONNX has not."""
    return 0.5 * sums * (1 + tf.math.erf(sums * 0.5**0.5))


def _normalize(tokens: tf.Tensor, weights: Tensors, layer: str) -> tf.Tensor:
    """Each token to mean 0 and variance 1 over its channels, in float32, then scaled and offset."""
    mean, variance = tf.nn.moments(tokens, [-1], keepdims=True)
    standard = (tokens - mean) * tf.math.rsqrt(variance + _EPSILON)
    return standard * weights[f"{layer}/scale"] + weights[f"{layer}/offset"]
