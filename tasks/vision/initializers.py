"""First weights, drawn by a seed."""

from collections.abc import Sequence

import numpy as np

from tasks.vision.device import tf


def glorot_uniform(shape: Sequence[int], seed: tuple[int, int]) -> tf.Tensor:
    """float32 of the shape from U(-l, l) with l = sqrt(6 / (fan in + fan out)).

    The same seed gives the same numbers everywhere.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010), equation 16.
    """
    limit = np.sqrt(6 / sum(shape))
    return tf.random.stateless_uniform(shape, seed, -limit, limit)


def he_normal(shape: Sequence[int], seed: tuple[int, int]) -> tf.Tensor:
    """float32 of the shape from N(0, 2 / fan in).

    shape: [height, width, in, out] of a convolution's kernel.

    He et al., "Delving deep into rectifiers" (2015), equation 10.
    """
    return tf.random.stateless_normal(shape, seed, stddev=np.sqrt(2 / np.prod(shape[:-1])))
