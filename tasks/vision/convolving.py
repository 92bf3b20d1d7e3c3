"""The forward pass of networks of convolutions."""

from typing import TYPE_CHECKING

from tasks.vision.convolutional import Layer
from tasks.vision.device import tf
from tasks.vision.layering import convolution
from tasks.vision.network import Tensors

if TYPE_CHECKING:
    from tasks.vision.convolutional import Convolutional


def convolve(images: tf.Tensor, weights: Tensors, dtype: tf.DType, network: "Convolutional") -> tf.Tensor:
    """What a network makes of pictures: arguments and result as `Architecture.forward` has them."""
    passed = tf.cast(images, dtype)
    for block in network.blocks:
        if block.averages:
            passed = tf.cast(tf.reduce_mean(tf.cast(passed, tf.float32), [1, 2], keepdims=True), dtype)
        before = passed
        for layer in block.layers:
            passed = _apply(passed, layer, weights, network)
        if block.residual:
            passed += before
    return tf.reduce_mean(tf.cast(passed, tf.float32), [1, 2])


def _apply(images: tf.Tensor, layer: Layer, weights: Tensors, network: "Convolutional") -> tf.Tensor:
    kernel, stride, padding = weights[f"{layer.name}/kernel"], layer.stride, "SAME"
    if network.padding == "symmetric" and stride > 1:
        beyond = [[each // 2, each // 2] for each in layer.kernel[:2]]
        images, padding = tf.pad(images, [[0, 0], *beyond, [0, 0]]), "VALID"
    return convolution(
        images, kernel, weights[f"{layer.name}/bias"], depthwise=layer.kind == "depthwise", stride=stride,
        padding=padding, rectifier=network.rectifier if layer.rectified else None,
    )  # fmt: skip
