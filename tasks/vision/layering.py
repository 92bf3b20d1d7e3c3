"""A layer of a pretrained network of convolutions, with a backward pass by hand: in bfloat16 that of TensorFlow 2.21
takes three times as long (docs/photographs.md)."""

from typing import Any, Literal

from tasks.vision.device import tf

_QUICK_COLUMNS = 3  # columns of a depthwise kernel whose gradient oneDNN computes quickly


def convolution(
    images: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    *,
    depthwise: bool,
    stride: int,
    padding: str,
    rectifier: Literal["relu", "relu6"] | None,
) -> tf.Tensor:
    """A convolution, a bias, and a rectifier where there is one: [batch, height, width, out].

    images: [batch, height, width, in].
    kernel: [height, width, in, out], of a depthwise one [height, width, in, 1]. bias: [out].
    stride: in pixels, both ways.
    padding: `SAME` or `VALID`.

    All are of one dtype. The backward pass knows whether a number was rectified by what came out: so oneDNN makes one
    operation of the three, as in prediction.
    """
    strides = [1, stride, stride, 1]

    def compute(images: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> Any:
        convolve = tf.nn.depthwise_conv2d if depthwise else tf.nn.conv2d
        made = tf.nn.bias_add(convolve(images, kernel, strides, padding), bias)
        if rectifier:
            made = (tf.nn.relu6 if rectifier == "relu6" else tf.nn.relu)(made)

        def gradients(above: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            if rectifier:
                slope = tf.raw_ops.Relu6Grad if rectifier == "relu6" else tf.raw_ops.ReluGrad
                above = slope(gradients=above, features=made)
            by_bias = tf.reduce_sum(tf.cast(above, tf.float32), [0, 1, 2])
            if depthwise:
                by_images = _depthwise_by_images(images, kernel, above, strides, padding)
                by_kernel = _depthwise_by_kernel(images, kernel, above, stride, padding)
            else:
                given = {"out_backprop": above, "strides": strides, "padding": padding}
                by_images = tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(images), filter=kernel, **given)
                by_kernel = tf.raw_ops.Conv2DBackpropFilter(input=images, filter_sizes=kernel.shape, **given)
            return by_images, by_kernel, tf.cast(by_bias, bias.dtype)

        return made, gradients

    made: tf.Tensor = tf.custom_gradient(compute)(images, kernel, bias)
    return made


def _depthwise_by_images(
    images: tf.Tensor, kernel: tf.Tensor, above: tf.Tensor, strides: list[int], padding: str
) -> tf.Tensor:
    """The gradient by the images; with a stride in float32.

    Of 96 channels of 8 pictures of 96x96, by 3x3 with a stride of 2, it takes 31 ms in bfloat16 and 2.6 ms in float32
    (TensorFlow 2.21, a thread of an AMD EPYC with AVX512_BF16).

    above: the gradient by the convolution's result.
    """
    dtype = images.dtype if strides[1] == 1 else tf.float32
    found = tf.nn.depthwise_conv2d_backprop_input(
        tf.shape(images), tf.cast(kernel, dtype), tf.cast(above, dtype), strides, padding
    )
    return tf.cast(found, images.dtype)


def _depthwise_by_kernel(
    images: tf.Tensor, kernel: tf.Tensor, above: tf.Tensor, stride: int, padding: str
) -> tf.Tensor:
    """The gradient by the kernel, a few of its columns at a time.

    Of 672 channels of 8 pictures of 12x12, by 5x5, it takes 12.4 ms in bfloat16 and 5.0 ms in float32; by the first
    three columns and the last three it takes 0.8 and 1.3 ms (measured as above).
    """
    height, width, channels, _ = kernel.shape
    rows, columns = above.shape[1:3]
    if padding == "SAME":
        above_and_below = _beyond(images.shape[1], rows, height, stride)
        beside = _beyond(images.shape[2], columns, width, stride)
        images = tf.pad(images, [[0, 0], above_and_below, beside, [0, 0]])
    found: list[tf.Tensor] = []
    wide = min(_QUICK_COLUMNS, width)
    for start in range(0, width, wide):
        first = min(start, width - wide)  # the last ones overlap those before
        seen = images[:, : (rows - 1) * stride + height, first : first + (columns - 1) * stride + wide]
        part = tf.nn.depthwise_conv2d_backprop_filter(
            seen, [height, wide, channels, 1], above, [1, stride, stride, 1], "VALID"
        )
        found.append(part[:, start - first :])
    return tf.concat(found, 1)


def _beyond(side: int, made: int, kernel: int, stride: int) -> list[int]:
    """How many pixels of zeros `SAME` adds before and after."""
    added = max((made - 1) * stride + kernel - side, 0)
    return [added // 2, added - added // 2]
