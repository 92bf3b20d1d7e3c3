"""The report of a scoring: what a person wants to know of a table of predictions, as numbers and as a page."""

import heapq
import html
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from PIL import Image

from artifacts import metrics, predictions
from artifacts.errors import Corrupt, NotFound
from artifacts.opening import use_file
from artifacts.refs import Ref
from artifacts.shards import LEAST, Part, confidences
from artifacts.store import Store
from tasks.judging.fairness import fair_to
from tasks.reports.numbers import many
from tasks.reports.pages import address_of, gallery
from tasks.reports.pages import page as whole_page
from tasks.reports.pictures import data_uri
from tasks.reports.tables import cell, table
from tasks.results import Scored
from tasks.vision.images import ImageSpec
from tasks.vision.metrics import scale
from tasks.vision.stability import LITTLE, MUCH, Shift, rise, shift

THUMBNAIL = ImageSpec(height=64, width=64, channels=3, background=255)
_A_CLASS, _ERRORS = 6, 5
_SHOWN, _CLASSES = 30, 50  # thumbnails and classes of the short form
_SAMPLES_BYTES = 150_000  # of its thumbnails: Prefect wants a report below 200 KB
_BINS = np.linspace(0, 1, 11)
OTHER_KIND = "These pictures differ from what the model has learned from"
_SO_WHAT = (
    "The model names one of its classes whatever it sees, and its confidence holds only for pictures like those "
    "that it has learned from."
)
UNSURE_BINS = 5  # of ten: a confidence below one half
_COLUMNS = ["path", "sha256", "bytes", "mtime_ns", "label", "confidence", "error", "detail"]


@dataclass(frozen=True)
class Row:
    """One row of the table, as the report shows it."""

    path: str
    size: int
    mtime_ns: int
    label: str | None
    confidence: float | None
    error: str | None
    detail: str | None


@dataclass
class Summary:
    """Counts and samples. `class_shift`, `confidence_shift` and `low_confidence_rise` (by how much the share of the
    confidences below 0.5 is higher, beyond chance) compare with what is fair of the test split; they are None where the
    predictions of that are not in the store, where the weights have learned from all of it, and where nothing was
    predicted. `differences`: what the pictures have that those which were learned from have not, in sentences."""

    rows: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[Row]] = field(default_factory=dict)
    unsure: list[Row] = field(default_factory=list)
    examples: dict[str, list[Row]] = field(default_factory=dict)
    confidence: list[int] = field(default_factory=lambda: [0] * 10)
    temperature: float | None = None
    class_shift: Shift | None = None
    confidence_shift: Shift | None = None
    low_confidence_rise: float | None = None
    differences: dict[str, str] = field(default_factory=dict)

    def shown(self) -> list[Row]:
        """The rows that the page has pictures of."""
        return [*(row for rows in self.samples.values() for row in rows), *self.unsure]


def summarize(
    store: Store,
    weights: Ref,
    dataset: str,
    classes: Sequence[str],
    parts: Iterable[Part],
    temperature: float | None = None,
) -> Summary:
    """Add up what the parts' records tell, and read the few parts whose rows are shown, one after another.

    temperature: that their probabilities are scaled by.
    """
    parts = [part if part.confidence is not None else _looked_into(store, part) for part in parts]
    summary = Summary(
        rows=sum(part.rows for part in parts),
        classes=dict.fromkeys(classes, 0),
        samples={name: [] for name in classes},
        temperature=temperature,
    )
    lowest = heapq.nsmallest(LEAST, ((each, place) for place, part in enumerate(parts) for each in part.least or ()))
    unsure_of = Counter(place for _, place in lowest)
    unsure: list[tuple[float, int, Row]] = []
    bins = np.zeros(10, np.int64)
    for place, part in enumerate(parts):
        bins += np.array(part.confidence, np.int64)
        for name, rows in part.labels.items():
            summary.classes[name] += rows
        for kind, rows in part.errors.items():
            summary.errors[kind] = summary.errors.get(kind, 0) + rows
            summary.examples.setdefault(kind, [])
        if unsure_of[place] or _shows(summary, part):
            table = read_part(store, part)
            _show(summary, table)
            unsure += [(row.confidence or 0.0, place, row) for row in _least_certain(table, unsure_of[place])]
    summary.confidence = bins.tolist()
    summary.unsure = [row for _, _, row in sorted(unsure, key=lambda each: each[:2])]
    if bins.any() and (expected := _test_split(store, weights, dataset)) is not None:
        expected = expected if temperature is None else scale(expected, temperature)
        counts = np.array(list(summary.classes.values()), np.int64)
        summary.class_shift = shift(np.bincount(expected.argmax(1), minlength=len(classes)), counts)
        tested = np.histogram(expected.max(1), _BINS)[0]
        summary.confidence_shift = shift(tested, bins)
        unsure_tested, unsure_found = ((int(each[:UNSURE_BINS].sum()), int(each.sum())) for each in (tested, bins))
        summary.low_confidence_rise = rise(unsure_tested, unsure_found)
    return summary


def _looked_into(store: Store, part: Part) -> Part:
    """A part of an earlier Lookbook, with what its record does not tell."""
    confidence, least = confidences(read_part(store, part))
    return replace(part, confidence=confidence, least=least)


def read_part(store: Store, part: Part) -> pa.Table:
    """The rows of a part, with the columns that a report needs."""
    return use_file(store.disk, part.key, part.sha256, lambda path: predictions.read_part(path, _COLUMNS))


def _shows(summary: Summary, part: Part) -> bool:
    """Whether the part has rows that are still looked for."""
    return any(len(summary.samples[name]) < _A_CLASS for name in part.labels) or any(
        len(summary.examples[kind]) < _ERRORS for kind in part.errors
    )


def _show(summary: Summary, table: pa.Table) -> None:
    """Take samples and examples of a part, as far as they are still looked for."""
    for column, wanted, most in (("label", summary.samples, _A_CLASS), ("error", summary.examples, _ERRORS)):
        texts = table.column(column).cast(pa.string()).to_numpy(zero_copy_only=False)
        for text, shown in wanted.items():
            if len(shown) < most:
                shown += [_row(table, int(item)) for item in np.flatnonzero(texts == text)[: most - len(shown)]]


def _least_certain(table: pa.Table, most: int) -> list[Row]:
    """That many rows with the lowest confidence."""
    confidence = table.column("confidence").to_numpy(zero_copy_only=False)
    scored = np.flatnonzero(~np.isnan(confidence))
    return [_row(table, int(item)) for item in scored[np.argsort(confidence[scored], kind="stable")[:most]]]


def page(name: str, weights: str, dataset: str, summary: Summary, drawn: dict[str, bytes]) -> bytes:
    """A self-contained page, readable on a phone."""
    scored = sum(summary.classes.values())
    parts = [
        f"<h1>{html.escape(name)}</h1>",
        f"<p>{summary.rows:,} entries: {scored:,} predicted, {many(sum(summary.errors.values()), 'error')}.<br>"
        f"By <code>{html.escape(weights)}</code>, trained on <code>{html.escape(dataset)}</code>"
        f"{_calibrated(summary)}.</p>",
        _differences(summary),
        _shift(summary),
        "<h2>Classes</h2>",
        _bars(summary.classes, max(scored, 1)),
        "<h2>Confidence</h2>",
        _bars(
            {f"{10 * index}-{10 * index + 10} %": rows for index, rows in enumerate(summary.confidence)}, max(scored, 1)
        ),
    ]
    if summary.errors:
        parts += ["<h2>Errors</h2>", _bars(summary.errors, summary.rows)]
        for kind, rows in summary.examples.items():
            items = "".join(
                f"<li><code>{html.escape(row.path)}</code>: {html.escape(row.detail or '')}" for row in rows
            )
            parts.append(f"<h3>{html.escape(kind)}</h3><ul>{items}</ul>")
    parts += ["<h2>Least certain</h2>", _gallery(summary.unsure, drawn)]
    for label, rows in summary.samples.items():
        if rows:
            parts += [f"<h2>{html.escape(label)}</h2>", _gallery(rows, drawn)]
    return whole_page(f"Predictions of {name}", parts)


def markdown(summary: Summary, drawn: dict[str, bytes]) -> str:
    """The short form for Prefect's UI: GitHub's tables, with a few thumbnails inside."""
    scored = max(sum(summary.classes.values()), 1)
    shown = max(1, _SHOWN // max(len(summary.classes), 1))
    rows, left = [], _SAMPLES_BYTES
    for label, count in summary.classes.items():
        samples = [drawn[row.path] for row in summary.samples[label] if row.path in drawn][:shown]
        strip = data_uri(_strip(samples), "jpeg") if samples else ""
        left -= len(strip)
        rows.append(
            (
                cell(label),
                f"{count:,}",
                f"{count / scored:.1%}",
                f"![{cell(label)}]({strip})" if strip and left > 0 else "",
            )
        )
    parts = []
    if summary.differences:
        lines = [f"- **{cell(what)}**: {cell(text)}" for what, text in summary.differences.items()]
        parts += [f"**{OTHER_KIND}.** {_SO_WHAT}", "\n".join(lines)]
    parts += [table(("class", "images", "share", "some of them"), rows[:_CLASSES])]
    if summary.temperature is not None:
        parts.append(f"Confidence is calibrated by the temperature {summary.temperature:.3f}.")
    if len(rows) > _CLASSES:
        parts.append(f"... and {len(rows) - _CLASSES:,} more classes.")
    if summary.errors:
        examples = {kind: cell(found[0].path) for kind, found in summary.examples.items()}
        errors = [(kind, f"{count:,}", examples.get(kind, "")) for kind, count in summary.errors.items()]
        parts += ["No prediction for:", table(("error", "entries", "for example"), errors)]
    return "\n\n".join(parts)


def opening(name: str, result: Scored, review: str | None) -> str:
    """What this run did, above the short form of the table. review: the address of the page where pictures are
    labelled, and beside which reports are, if there is one."""
    whole = address_of(Ref.parse(result.predictions), review)
    label = (
        f"[Label what it was least sure of]({review.rstrip('/')}/review/{name})"
        if review
        else f"`lookbook review {name}`"
    )
    return "\n\n".join(
        [
            f"**{result.images:,}** entries of {cell(name)}: **{result.predicted:,}** scored now, "
            f"{result.reused:,} taken over, {sum(result.errors.values()):,} without a prediction. "
            f"{result.seconds:.1f} s, {result.images_per_second:,.0f} images/s.",
            f"[The whole report]({whole}) shows pictures of every class, and those of which the model is least certain."
            if whole
            else "The whole report is the page `report.html` beside the folder of the table.",
            f"The table is `{result.predictions}`: Parquet files in `{result.path}`.",
            f"{label}: a few minutes of it teach the next model most.",
        ]
    )


def _row(table: pa.Table, item: int) -> Row:
    [row] = table.slice(item, 1).to_pylist()
    return Row(row["path"], row["bytes"], row["mtime_ns"], row["label"], row["confidence"], row["error"], row["detail"])


def _test_split(store: Store, weights: Ref, dataset: str) -> np.ndarray | None:
    """The weights' probabilities of what is fair of their own test split, float32 [items, classes]; None for none."""
    with suppress(NotFound, Corrupt):  # a report is no reason to fail; `lookbook verify` tells
        if found := metrics.find(store, weights, dataset):
            probabilities = found.probabilities()[fair_to(store, weights, Ref.parse(dataset))]
            return np.asarray(probabilities) if len(probabilities) else None
    return None


def _calibrated(summary: Summary) -> str:
    return "" if summary.temperature is None else f"; calibrated by the temperature {summary.temperature:.3f}"


def _differences(summary: Summary) -> str:
    if not summary.differences:
        return ""
    lines = "".join(
        f"<li><b>{html.escape(what)}</b>: {html.escape(text)}" for what, text in summary.differences.items()
    )
    return f"<h2>{OTHER_KIND}</h2><ul>{lines}</ul><p>{_SO_WHAT}</p>"


def _shift(summary: Summary) -> str:
    if summary.class_shift is None or summary.confidence_shift is None:
        return "<p>Nothing to compare: no evaluation of these weights is in the store, or nothing was predicted.</p>"
    lines = [
        f"<li>{what}: <b>{found.index:.2f}</b>, {_meaning(found, *words)}"
        for what, found, words in (
            ("shares of the classes", summary.class_shift, _SHARES),
            ("confidence", summary.confidence_shift, _CONFIDENCE),
        )
    ]
    return (
        f"<h2>Compared with the test split</h2><ul>{''.join(lines)}</ul>"
        f"<p class=small>This is the population stability index: below {LITTLE:g} little has changed, above {MUCH:g} "
        "much has. It only counts where it is also above what as many images give by chance in 99 of 100 cases.</p>"
    )


_SHARES = (
    "the shares differ somewhat from those in the test split",
    "the shares differ from those in the test split. That alone does not mean that the pictures are of another kind: "
    "the test split may have been balanced by hand",
)
_CONFIDENCE = ("look closer: it differs somewhat from that on the test split", "these are other pictures")


def _meaning(found: Shift, somewhat: str, much: str) -> str:
    """In words: `somewhat` above LITTLE, `much` above MUCH, and neither when chance alone may be the reason."""
    if found.above(MUCH):
        return much
    if found.above(LITTLE):
        return somewhat
    if found.index > LITTLE:
        return f"no more than {many(found.sizes[1], 'image')} vary by chance (up to {found.chance:.2f})"
    return "much the same as in the test split"


def _bars(counts: dict[str, int], whole: int) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}<td class=number>{count:,}<td class=number>{count / whole:.1%}"
        f"<td class=bar><i style='width:{count / whole:.1%}'></i>"
        for name, count in counts.items()
    )
    return f"<table>{rows}</table>"


def _strip(samples: Sequence[bytes]) -> bytes:
    """Thumbnails side by side, as one JPEG: Prefect's page puts pictures of one cell below each other."""
    strip = Image.new("RGB", ((THUMBNAIL.width + 4) * len(samples) - 4, THUMBNAIL.height), "white")
    for place, sample in enumerate(samples):
        strip.paste(Image.open(io.BytesIO(sample)), ((THUMBNAIL.width + 4) * place, 0))
    file = io.BytesIO()
    strip.save(file, "JPEG", quality=80)
    return file.getvalue()


def _gallery(rows: list[Row], drawn: dict[str, bytes]) -> str:
    return gallery(
        (
            data_uri(drawn[row.path], "jpeg"),
            f"{html.escape(row.label or '')} {row.confidence or 0:.0%}",
            html.escape(row.path),
        )
        for row in rows
        if row.path in drawn
    )
