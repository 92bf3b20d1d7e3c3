"""The report of a scoring: what a person wants to know of a table of predictions, as a page, and its short form."""

import html
import io
from collections.abc import Sequence

from PIL import Image

from artifacts.refs import Ref
from tasks.reports.numbers import many
from tasks.reports.pages import address_of, gallery
from tasks.reports.pages import page as whole_page
from tasks.reports.pictures import data_uri
from tasks.reports.summary import Row, Summary
from tasks.reports.tables import cell, table
from tasks.results import Scored
from tasks.vision.images import ImageSpec
from tasks.vision.stability import LITTLE, MUCH, Shift

THUMBNAIL = ImageSpec(height=64, width=64, channels=3, background=255)
_SHOWN, _CLASSES = 30, 50  # thumbnails and classes of the short form
_SAMPLES_BYTES = 150_000  # of its thumbnails: Prefect wants a report below 200 KB
OTHER_KIND = "These pictures differ from what the model has learned from"
_SO_WHAT = (
    "The model names one of its classes whatever it sees, and its confidence holds only for pictures like those "
    "that it has learned from."
)


def page(name: str, weights: str, dataset: str, summary: Summary, drawn: dict[str, bytes]) -> bytes:
    """A self-contained page, readable on a phone."""
    scored = sum(summary.classes.values())
    parts = [
        f"<h1>{html.escape(name)}</h1>",
        f"<p>{summary.rows:,} entries: {scored:,} predicted, {many(sum(summary.errors.values()), 'error')}.<br>"
        f"By <code>{html.escape(weights)}</code>, trained on <code>{html.escape(dataset)}</code>"
        f"; {summary.calibrated}.</p>",
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
    parts.append(f"Confidence is {summary.calibrated}.")
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
