"""Pictures of reports: charts as PNG, by matplotlib, which is imported where one is drawn (0.4 s), and thumbnails."""

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

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


def penalty_curve(tried: Sequence[Mapping[str, float]], taken: float) -> bytes:
    """Loss, with its standard error, and accuracy of items that were held out, over the penalties of a head.

    tried: penalty, loss, loss_error, accuracy an entry. taken: the penalty that the head has.
    """
    from matplotlib.ticker import PercentFormatter

    figure = _figure(7, 2.8)
    penalties = [each["penalty"] for each in tried]
    for axes, key, title in zip(figure.subplots(1, 2), ("loss", "accuracy"), ("loss (nats)", "accuracy"), strict=True):
        values = [each[key] for each in tried]
        axes.plot(penalties, values, color="#c8553d", marker=".", label="held out")
        if key == "loss":
            low, high = ([each[key] + sign * each["loss_error"] for each in tried] for sign in (-1, 1))
            axes.fill_between(penalties, low, high, color="#c8553d", alpha=0.2, linewidth=0)
        else:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.axvline(taken, color="#888", linewidth=1, label="taken")
        axes.set(title=title, xlabel="penalty", xscale="log")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
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


def reliability(calibration: Mapping[str, Any], uncalibrated: Mapping[str, Any] | None = None) -> bytes:
    """How often the answers of each confidence are right: on the diagonal they are as sure as they should be.

    calibration: bins of items, confidence and accuracy, as `metrics.calibration` gives them.
    uncalibrated: those without the temperature, where the others have one.
    """
    from matplotlib.ticker import PercentFormatter

    figure = _figure(4.6, 4.2)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color="#888", linewidth=1, linestyle=":")
    for measured, label, colour in ((calibration, "calibrated", "#3b6ea5"), (uncalibrated, "uncalibrated", "#c8553d")):
        if measured:
            filled = [each for each in measured["bins"] if each["items"]]
            sure, right = ([each[key] for each in filled] for key in ("confidence", "accuracy"))
            axes.plot(sure, right, marker="o", markersize=4, color=colour, label=label)
    if uncalibrated:
        axes.legend(frameon=False)
    counts = [each["items"] for each in calibration["bins"]]
    width = 1 / len(counts)
    below.bar([(place + 0.5) * width for place in range(len(counts))], counts, width=0.9 * width, color="#9db7d2")
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    below.set(xlabel="confidence", ylabel="images")
    for each in (axes.yaxis, below.xaxis):
        each.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    return _png(figure)


def mistakes(images: Sequence[np.ndarray], captions: Sequence[Sequence[str]]) -> bytes:
    """A grid of thumbnails, each with up to three short lines below it. images: uint8 [height, width, channels]."""
    from PIL import Image, ImageDraw, ImageFont

    across = max(1, min(6, len(images)))
    side, width, height = 96, 150, 156
    grid = Image.new("RGB", (across * width, max(1, -(-len(images) // across)) * height), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(12)
    for place, (pixels, lines) in enumerate(zip(images, captions, strict=True)):
        left, top = place % across * width, place // across * height
        grid.paste(_picture(pixels).convert("RGB").resize((side, side), Image.Resampling.NEAREST), (left + 27, top + 4))
        for line, words in enumerate(lines):
            short = words if len(words) <= 22 else f"{words[:21]}…"
            draw.text((left + width / 2, top + side + 14 + 17 * line), short, "#222", font, anchor="mm")
    drawn = io.BytesIO()
    grid.quantize(64).save(drawn, "PNG", optimize=True)
    return drawn.getvalue()


def growth_chart(grown: Mapping[str, Sequence[tuple[datetime, int]]]) -> bytes:
    """Bytes over time, a step line a kind. grown: kind -> when (ascending), and the bytes from then on."""
    from matplotlib import dates as untyped
    from matplotlib.ticker import FuncFormatter

    from tasks.reports.numbers import size

    dates: Any = untyped
    figure = _figure(7, 3)
    axes = figure.subplots()
    last = max(changes[-1][0] for changes in grown.values())
    for kind, changes in sorted(grown.items()):
        times = dates.date2num([*(at for at, _ in changes), last])
        axes.plot(times, [*(total for _, total in changes), changes[-1][1]], drawstyle="steps-post", label=kind)
    axes.xaxis_date()
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: size(int(value))))
    axes.set(ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return _png(figure)


def thumbnail(pixels: np.ndarray) -> str:
    """A data URI of an image, at most 64 pixels wide and high. pixels: uint8 [height, width, channels]."""
    picture = _picture(pixels)
    picture.thumbnail((64, 64))
    drawn, kind = io.BytesIO(), "png" if picture.mode == "L" else "jpeg"
    picture.save(drawn, kind, **({} if kind == "png" else {"quality": 80}))
    return data_uri(drawn.getvalue(), kind)


def data_uri(content: bytes, kind: str) -> str:
    """A picture (`kind`: png, jpeg) as it can stand in a page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _picture(pixels: np.ndarray) -> "Image":
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _png(figure: "Figure") -> bytes:
    """64 colours are enough for a chart, and a third of the bytes."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a class may be called by an emoji
        figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(64).save(small, "PNG", optimize=True)
    return small.getvalue()
