"""Pages for people: one file that needs no other, no script and no network, and is readable on a phone."""

import html
from collections.abc import Iterable, Sequence

from artifacts.refs import Ref


def page(title: str, parts: Iterable[str]) -> bytes:
    """A page of finished HTML."""
    return _PAGE.replace("{title}", html.escape(title)).replace("{body}", "\n".join(parts)).encode()


def address_of(report: Ref, review: str | None) -> str | None:
    """Where people open a report of a published version. review: the address of the page where pictures are labelled,
    beside which reports are; None for none."""
    return f"{review.rstrip('/')}/reports/{report.folder}" if review else None


def text(given: object) -> str:
    """Text from strangers (a class, a path) as it can stand in a page."""
    return html.escape(str(given))


def rows(titles: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A table of finished cells; every column but the first holds numbers."""
    head = "".join(f"<th{' class=number' if place else ''}>{title}" for place, title in enumerate(titles))
    body = "".join(
        "<tr>" + "".join(f"<td{' class=number' if place else ''}>{cell}" for place, cell in enumerate(row))
        for row in cells
    )
    return f"<div class=wide><table>{f'<tr>{head}' if any(titles) else ''}{body}</table></div>"


def gallery(figures: Iterable[tuple[str, str, str]]) -> str:
    """Thumbnails, each a data URI, a finished caption and a finer line below it."""
    shown = (
        f"<figure><img src='{uri}' alt='' width=64 height=64>"
        f"<figcaption>{caption}<br><small>{below}</small></figcaption></figure>"
        for uri, caption, below in figures
    )
    return f"<div class=gallery>{''.join(shown)}</div>"


_PAGE = """<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body { font: 16px/1.4 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; color: #222; }
h2 { margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .15rem .5rem .15rem 0; vertical-align: middle; text-align: left; }
td:first-child { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { width: 50%; }
.bar i { display: block; height: .8rem; background: #3b6ea5; min-width: 1px; }
.gallery { display: flex; flex-wrap: wrap; gap: .75rem; }
.wide { overflow-x: auto; }
figure { margin: 0; width: 6rem; font-size: .8rem; overflow-wrap: anywhere; }
figure img { image-rendering: pixelated; object-fit: contain; }
img.chart { max-width: 100%; height: auto; }
small, .small { color: #666; }
code { overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem; margin: 1rem 0; }
.figures div { font-size: .85rem; color: #666; }
.figures b { display: block; font-size: 1.6rem; color: #222; }
.warnings { border-left: .3rem solid #d9a400; padding: .3rem .8rem .3rem 1.8rem; background: #fdf6e0; }
.matrix { width: auto; font-size: .85rem; }
.matrix th { font-weight: normal; padding: .2rem .4rem; }
.matrix tr:first-child th { height: 7rem; vertical-align: bottom; }
.matrix tr:first-child span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9rem; }
.matrix td { padding: 0; border: 1px solid #fff; text-align: center; white-space: nowrap; }
.matrix td:first-child { text-align: right; padding-right: .4rem; position: sticky; left: 0; background: #fff; }
.matrix td:first-child { min-width: 4rem; max-width: 7rem; white-space: normal; overflow-wrap: anywhere; }
.matrix a { display: block; min-width: 2.2rem; padding: .35rem .2rem; color: inherit; text-decoration: none; }
.matrix a:hover { outline: 2px solid #c8553d; }
@media (max-width: 30rem) { .wide { font-size: .85rem; } td, th { padding-right: .35rem; } }
.cell { display: none; scroll-margin-top: 1rem; }
.cell:target { display: block; }
</style>
{body}
</html>
"""
