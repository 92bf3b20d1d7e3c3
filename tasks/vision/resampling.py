"""Resizing as products with matrices, which every runtime and every gradient knows. Plain NumPy."""

from typing import Literal

import numpy as np


def resampling(before: int, after: int, kernel: Literal["linear", "cubic"]) -> np.ndarray:
    """The matrix that turns `before` values along a line into `after`: float32 [after, before].

    kernel: `linear` is the triangle, `cubic` Keys' with a = -1/2 (Keys, "Cubic convolution interpolation for digital
        image processing", 1981). Where values become fewer it is widened by as much (antialiased), as Pillow does it.
    """
    scale = before / after
    wide = max(scale, 1.0)
    centres = (np.arange(after) + 0.5) * scale
    far = np.abs(np.arange(before) + 0.5 - centres[:, np.newaxis]) / wide
    if kernel == "linear":
        weights = np.maximum(1 - far, 0)
    else:
        near = 1.5 * far**3 - 2.5 * far**2 + 1
        weights = np.where(far < 1, near, np.where(far < 2, -0.5 * far**3 + 2.5 * far**2 - 4 * far + 2, 0))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)
