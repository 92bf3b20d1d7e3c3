"""pytest tests/test_tables.py: text of strangers in a report is no markup and no link; each name has its reports."""

import re

import pytest
from markdown_it import MarkdownIt

from tasks.reports.progress import report_key
from tasks.reports.tables import cell, table

LINKS = re.compile(r"https?://|ftp://|www\.|(mailto|xmpp):|[\w.+-]+@[\w-]+\.\w", re.IGNORECASE)
"""What GitHub Flavored Markdown makes a link of, beside markup."""


@pytest.mark.parametrize(
    "name",
    ["www.evil.example", "WWW.evil.example", "Www.Evil.Example", "HTTP://evil.example", "https://evil.example",
     "ftp://evil.example", "a.b+c@evil.example", "mailto:a@b.example", "MAILTO:a@b.example", "xmpp:a@b.example/x",
     "<b>[a](b)</b>", "![a](b)", "`a` | b", "a\\b"],
)  # fmt: skip
def test_a_name_is_shown_as_it_is_and_links_nowhere(name):
    assert not LINKS.search(cell(name))
    html = MarkdownIt("gfm-like", {"linkify": False}).render(table(("class",), [(cell(name),)]))
    shown = re.fullmatch(r".*<td>([^<]*)</td>.*", html, re.DOTALL)
    assert shown, html
    assert shown[1] == name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def test_names_of_versions_stay_as_they_are():
    assert cell("weights/shoes@3f9a1c20d4b7e815") == "weights/shoes@3f9a1c20d4b7e815"


def test_keys_are_as_they_were_for_plain_names_and_others_have_their_own():
    assert report_key("retrain", "fashion-mnist") == "retrain-fashion-mnist"
    assert report_key("score", "photos", "progress") == "score-photos-progress"
    names = ["a.b", "a-b", "a_b", "a.-b", "a-b-", "a--b"]
    keys = {report_key("retrain", name) for name in names}
    assert len(keys) == len(names)
    assert "retrain-a-b" in keys
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key) for key in keys)
    assert report_key("retrain", "a.b") == report_key("retrain", "a.b")
