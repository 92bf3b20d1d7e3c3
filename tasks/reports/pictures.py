"""Charts as PNG: learning curve, confusion matrix. matplotlib draws them, imported where one is drawn (0.4 s)."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100
_NAMED_CELLS = 20  # classes up to which every cell has its number and every line its name


def learning_curve(history: Sequence[Mapping[str, Any]], best_epoch: int | None = None) -> bytes:
    """Loss and accuracy over the epochs, on the training images and, where some were held out, on those.

    history: epoch, loss, accuracy an entry, and perhaps validation_loss, validation_accuracy. best_epoch: marked where
    it isn't the last one.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = _figure(7, 2.8)
    epochs = [each["epoch"] for each in history]
    for axes, key, title in zip(figure.subplots(1, 2), ("loss", "accuracy"), ("loss (nats)", "accuracy"), strict=True):
        marker = "." if len(epochs) < 40 else None
        axes.plot(epochs, [each[key] for each in history], color="#3b6ea5", marker=marker, label="learned from")
        if f"validation_{key}" in history[0]:
            held_out = [each[f"validation_{key}"] for each in history]
            axes.plot(epochs, held_out, color="#c8553d", marker=marker, linestyle="--", label="held out")
            if best_epoch not in (None, epochs[-1]):
                axes.axvline(best_epoch, color="#888", linewidth=1, label="taken")
            axes.legend(frameon=False)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if key == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
    return _png(figure)


def confusion_matrix(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> bytes:
    """How often images of each class (rows) were called each class (columns), shaded by the share of the row."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = len(classes) <= _NAMED_CELLS
    side = max(3.5, 0.55 * len(classes) + 1.5) if named else 6.5
    figure = _figure(side, side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="called", ylabel="is")
    if named:
        short = [name if len(name) <= 16 else f"{name[:15]}…" for name in classes]
        # parse_math: a class may be called "$5"
        axes.set_xticks(range(len(classes)), short, rotation=60, ha="right", parse_math=False)
        axes.set_yticks(range(len(classes)), short, parse_math=False)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "#222"
                axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=8)
    return _png(figure)


def data_uri(content: bytes, kind: str) -> str:
    """A picture (`kind`: png, jpeg) as it can stand in a page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _png(figure: "Figure") -> bytes:
    """64 colours are enough for a chart, and a third of the bytes."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(64).save(small, "PNG", optimize=True)
    return small.getvalue()
