"""Resizing as products with matrices, which every runtime and every gradient knows. Plain NumPy."""

from typing import Literal

import numpy as np


def resampling(before: int, after: int, kernel: Literal["linear", "cubic"]) -> np.ndarray:
    """The matrix that turns `before` values along a line into `after`: float32 [after, before].

    kernel: `linear` is a triangle, `cubic` that of Keys, "Cubic convolution interpolation for digital image
        processing" (1981), with a = -1/2. Where values become fewer it is widened by as much (antialiased); where it
        reaches beyond an end, the others count the more. Pillow resizes pictures in this way.
    """
    scale = before / after
    wide = max(scale, 1.0)
    centres = (np.arange(after) + 0.5) * scale
    far = np.abs(np.arange(before) + 0.5 - centres[:, np.newaxis]) / wide
    weights = np.maximum(1 - far, 0) if kernel == "linear" else _cubic(far, -0.5)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def interpolation(before: int, after: int) -> np.ndarray:
    """The same, cubic with a = -3/4 and not antialiased, where the values at the ends go on for ever: what PyTorch
    does unless it is asked for more."""
    centres = (np.arange(after) + 0.5) * before / after - 0.5
    matrix = np.zeros((after, before))
    for tap in (-1, 0, 1, 2):
        places = np.floor(centres).astype(int) + tap
        matrix[np.arange(after), places.clip(0, before - 1)] += _cubic(np.abs(centres - places), -0.75)
    return matrix.astype(np.float32)


def _cubic(far: np.ndarray, a: float) -> np.ndarray:
    """far: distances, at least 0."""
    near = (a + 2) * far**3 - (a + 3) * far**2 + 1
    return np.where(far < 1, near, np.where(far < 2, a * (far**3 - 5 * far**2 + 8 * far - 4), 0))
