"""The forward pass of networks of convolutions."""

from typing import TYPE_CHECKING

from tasks.vision.convolutional import Layer
from tasks.vision.device import tf
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
    if layer.kind == "depthwise":
        sums = tf.nn.depthwise_conv2d(images, kernel, [1, stride, stride, 1], padding)
    else:
        sums = tf.nn.conv2d(images, kernel, stride, padding)
    sums = tf.nn.bias_add(sums, weights[f"{layer.name}/bias"])
    if not layer.rectified:
        return sums
    return tf.nn.relu6(sums) if network.rectifier == "relu6" else tf.nn.relu(sums)
