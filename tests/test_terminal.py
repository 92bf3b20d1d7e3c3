"""pytest tests/test_terminal.py: results as a person reads them, and copies from them, in terminals of any width."""

import re

import numpy as np
import pytest

from artifacts.printable import many
from tasks.judging import gate
from tasks.reports import labelling, terminal
from tasks.reports.numbers import plain

REF = "predictions/the-autumn-fabrics-of-the-northern-shop@3f9a1c20d4b7e815"
WEIGHTS = "weights/fabrics@8827a0f4d4b7e815"
STORE = "/srv/pictures of the northern shop/and of others/a store with a name"
PROSE = "accuracy 97.50%, the champion's 95.00% on the same 40 test images; just one is right on 3: this one on 3 " * 2

RESULTS = {
    "retraining": {
        "accuracy": 0.975, "loss": 0.1, "promoted": True, "reason": PROSE, "numbers": {"decisions": 1},
        "weights": WEIGHTS, "dataset": "datasets/fabrics@1111111111111111",
        "metrics": "metrics/fabrics@2222222222222222", "store": STORE,
        "seconds": {"prepare": 1.0, "train": 1.0, "epoch": 0.1, "evaluate": 1.0, "total": 4.0},
    },
    "scoring": {
        "images": 1, "predicted": 1, "reused": 0, "errors": {}, "classes": {"plain weave": 1}, "predictions": REF,
        "path": f"{STORE}/predictions/x/data", "seconds": 1.0, "images_per_second": 1.0, "differs": {"size": PROSE},
    },
    "artifacts": [{"ref": REF, "created": "2026-11-22T08:00:00Z", "bytes": 1, "inputs": {"weights": WEIGHTS}}],
    "artifact": {
        "ref": REF, "path": f"{STORE}/{REF}", "bytes": 1, "pinned": None, "rendered": {"report.html": {"bytes": 1}},
        "identity": {
            "inputs": {"weights": WEIGHTS}, "files": {},
            "settings": {"crop": {"side": 3, "odd": {"a": None}}, "flips": True, "sizes": [1, 2], "labels": None},
            "facts": {"counts": {"train": {"items": 1}}},
        },
        "provenance": {"created": "2026-11-22T08:00:00Z", "folder": STORE, "versions": {"tensorflow": "2.21"}},
    },
    "lineage": {
        "ref": REF, "created": "2026-11-22T08:00:00Z", "settings": {"crop": {"side": 3}}, "folder": STORE,
        "made_from": {"weights": {"ref": WEIGHTS, "created": "x", "settings": {}, "made_from": {}}}, "made_into": [],
    },
    "predictions": {"results": [{"path": f"{STORE}/a.png", "error": None, "label": "plain", "confidence": 1.0}]},
    "pin": {"ref": REF, "action": "pin", "reason": PROSE},
    "decision": {"ref": WEIGHTS, "action": "promote", "reason": PROSE},
    "backbone": {"ref": "backbones/efficientnet-lite0@3f9a1c20d4b7e815", "source": "https://example.org/" + "x" * 80,
                 "licence": "Apache-2.0", "citation": PROSE, "architecture": "efficientnet-lite0", "features": 1280,
                 "sha256": "5" * 64},
    "operation": {"url": "http://127.0.0.1:4200", "review": "http://127.0.0.1:4201", "logs": STORE, "ours": True},
    "export": {"weights": WEIGHTS, "path": STORE, "images": 1, "other_labels": 1, "max_difference": 0.0, "why": "",
               "bytes": 1, "seconds": 1.0, "format": "tflite"},
}  # fmt: skip


def strings_of(value):
    """Refs, paths and addresses in a result."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings_of(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings_of(each)]
    return [value] if isinstance(value, str) and re.match(r"/|https?:|\w+/[\w.-]+@", value) else []


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
@pytest.mark.parametrize("verb", RESULTS)
def test_paths_and_refs_can_be_copied_at_any_width(capsys, monkeypatch, verb, columns):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    getattr(terminal, verb)(RESULTS[verb])
    said = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    for text in strings_of({name: each for name, each in RESULTS[verb].items() if name != "store"}
                           if isinstance(RESULTS[verb], dict) else RESULTS[verb]):  # fmt: skip
        assert text in said, f"{said}\nhas no {text}"
    if verb == "retraining":
        assert f"{STORE}/metrics/fabrics/2222222222222222/report.html" in said
    assert not re.search(r"[{}]|\bNone\b|\bTrue\b|\(s\)|\b1 (images|bytes|files|labels|entries|times)\b(?!/s)", said)


def test_what_fits_has_a_frame_and_what_does_not_has_none(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for columns, framed in ((160, True), (60, False)):
        monkeypatch.setenv("COLUMNS", str(columns))
        terminal.retraining(RESULTS["retraining"])
        said = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
        assert ("╭" in said) == framed
        prose = [line for line in said.splitlines() if "test images" in line]
        assert all(len(line) <= columns for line in prose)


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
def test_no_cell_of_a_table_is_broken_or_cut(capsys, monkeypatch, columns):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    digests = [f"sha256:{digit * 64}" for digit in "ab"]
    made = {"ref": REF, "created": "2026-11-22T08:00:00Z", "bytes": 104_000, "inputs": dict(enumerate(digests))}
    path = "the autumn of the northern shop/plain weave and others.jpg"
    said = {"at": "2026-11-22T08:00:00Z", "by": "ann of the shop@vm", "label": "plain weave", "verdict": "class",
            "predicted": "twill of wool", "confidence": 0.5, "path": path, "sha256": "", "table": REF,
            "taken_back": {"at": "2026-11-23T08:00:00Z"}}  # fmt: skip
    terminal.artifacts([made])
    labelling.events([said])
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    for text in (*digests, "104.0 kB", path, REF, "ann of the shop@vm", "taken back 2026-11-23T08:00:00Z"):
        assert text in shown, f"{shown}\nhas no {text}"


def test_values_are_words():
    assert plain({"a": {"b": None, "c": True}, "d": [1, 2.5], "e": {}}) == "a (b -, c yes), d 1, 2.5, e (-)"


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 hours"), (1, "1 hour"), (1.0, "1 hour"), (0.5, "0.5 hours"), (24.0, "24 hours"), (1234, "1,234 hours")],
)
def test_counts_agree_with_their_nouns(count, said):
    assert many(count, "hour") == said


def test_what_stays_is_counted_behind_its_reason(capsys):
    stays = {"needed by something that goes on": 5, "younger than 1 hour": 1}
    result = {"removed": [], "notes": [], "kept": 1, "stays": stays, "done": False, "bytes": 0}
    terminal.collection(result)
    said = capsys.readouterr().out
    assert "1 version stays: needed by something that goes on (5), younger than 1 hour (1)" in said


def test_two_models_that_are_right_on_the_same_images():
    right = np.array([True, True, False])
    same = gate.compare(right, right, np.array([0, 1, 1], np.int32), ["a", "b"])
    assert gate.sentence(same).endswith("on the same 3 test images; both are right on the same ones")
    other = gate.compare(right, ~right, np.array([0, 1, 1], np.int32), ["a", "b"])
    assert "just one is right on 3: this one on 2" in gate.sentence(other)
