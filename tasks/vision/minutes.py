"""How wide a network is, and how long it learns, to end within some minutes: by a stated cost, and not by a clock, so
that equal settings give equal weights."""

NARROW, WIDE = 32, 48
WIDE_MINUTES = 15
_SECONDS = {NARROW: 0.305e-6, WIDE: 0.66e-6}
"""What an epoch of `conv` takes for each pixel of each image, by width: half of the processor seconds on a 2-core AMD
EPYC with AVX512_BF16 (TensorFlow 2.21, November 2026), so the seconds of two cores that do nothing else."""
_SHARE = 0.9  # of the minutes that are for epochs; the others are for a start, an evaluation and slower moments
LEAST_EPOCHS, MOST_EPOCHS = 4, 60


def width_within(minutes: int) -> int:
    """Channels of the first convolution of `conv` that learns for so many minutes."""
    return NARROW if minutes < WIDE_MINUTES else WIDE


def epochs_within(minutes: int, width: int, pixels: int) -> int:
    """Epochs of `conv` that take about so many minutes.

    pixels: of all images together.
    """
    epochs = int(_SHARE * 60 * minutes / (_SECONDS[width] * pixels))
    return min(max(epochs, LEAST_EPOCHS), MOST_EPOCHS)
