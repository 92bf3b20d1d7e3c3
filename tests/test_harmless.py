"""pytest tests/test_harmless.py: names that a terminal would obey reach no terminal, no log and no state of a run."""

import logging
import sqlite3
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from artifacts.errors import NotFound
from flows.cli.verb import say
from tasks.reports import progress
from tasks.vision.errors import ImageError, SettingsError

OBEYED = "\x1b]0;pwned\x07"
QUICK = ("--image-size", "8", "--epochs", "1", "--verbose")


def draw(folder, count=30):
    folder.mkdir(parents=True)
    for index in range(count):
        random = np.random.default_rng([index, len(folder.name)])
        Image.fromarray(random.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(folder / f"{index}.png")


def stored(home):
    """All that Prefect's database holds of logs and states."""
    held = [("log", "message"), ("flow_run", "name"), ("flow_run_state", "message"), ("task_run_state", "message"),
            ("artifact", "data")]  # fmt: skip
    with sqlite3.connect(home / "prefect.db") as database:
        rows = [row for table, column in held for row in database.execute(f"select {column} from {table}")]
    return "\n".join(str(value) for [value] in rows)


@pytest.fixture
def lookbook_environment(shared_environment, server, tmp_path):
    return {
        **shared_environment,
        "LOOKBOOK_STORE": str(tmp_path / "store"),
        "PREFECT_API_URL": server,
        "COLUMNS": "400",
    }


@pytest.fixture
def kept(home):
    """What Prefect keeps of a command, after a look at that and at all that it printed."""

    def kept(said):
        kept = stored(home / "prefect")
        for text in (said.stdout, said.stderr, kept):
            assert "\x1b]" not in text
            assert "\x07" not in text
        return kept

    return kept


def test_file_names_in_warnings(lookbook, kept, tmp_path):
    for name in ("red", "blue"):
        draw(tmp_path / "things" / name)
    (tmp_path / f"things/red/no{OBEYED}picture.txt").write_text("no picture")
    said = lookbook("retrain", "--images", tmp_path / "things", "--max-bad", "0.5", *QUICK)
    assert said.returncode == 0, said.stderr
    for text in (said.stderr, kept(said)):
        assert "left out: unsupported" in text
        assert "no\ufffd]0;pwned\ufffdpicture.txt" in text


def test_class_names_in_failures(lookbook_process, kept, tmp_path):
    """A process of its own: Python prints the traceback when it ends."""
    draw(tmp_path / "things" / "red")
    draw(tmp_path / "things" / f"blue{OBEYED}", 1)
    said = lookbook_process("retrain", "--images", tmp_path / "things", *QUICK)
    assert said.returncode == 1
    for text in (said.stderr, kept(said)):
        assert "blue\ufffd]0;pwned\ufffd" in text


@pytest.mark.parametrize("error", [NotFound(OBEYED), SettingsError(OBEYED), ImageError("corrupt", OBEYED)])
def test_errors_tell_their_text_without_what_a_terminal_obeys(error):
    assert str(error).endswith("\ufffd]0;pwned\ufffd")


def test_every_logger_and_every_traceback(caplog):
    assert progress  # whoever tells of pictures has made logs harmless
    try:
        raise RuntimeError(OBEYED)
    except RuntimeError:
        logging.getLogger("somebody.elses").exception("%s failed\n\tin a line of its own", OBEYED)
    [record] = caplog.records
    assert record.getMessage() == "\ufffd]0;pwned\ufffd failed\n\tin a line of its own"
    assert "\x1b" not in logging.Formatter().format(record)
    assert "RuntimeError: \ufffd]0;pwned\ufffd" in logging.Formatter().format(record)


ODD = f"{OBEYED}[/bold][red]\udcff\r\x9b1m\u202e"
REF = "weights/shapes@0123456789abcdef"
MADE = {"ref": REF, "created": "2026-01-01", "settings": {"source": ODD}, "folder": ODD, "licence": ODD}
EVENT = {
    "name": "shapes", "number": 1, "at": "2026-01-01", "by": ODD, "action": "promote", "challenger": REF, "ref": REF,
    "numbers": {}, "reason": ODD,
}  # fmt: skip
IDENTITY = {
    "inputs": {"dataset": ODD}, "settings": {ODD: ODD}, "files": {ODD: {"bytes": 1}},
    "facts": {"classes": [ODD], "bad": {ODD: ODD}, ODD: ODD, "counts": {ODD: {"items": 1}}},
}  # fmt: skip
BACKBONE = {"ref": REF, "architecture": ODD, "features": 1280, "source": ODD, "licence": ODD, "sha256": ODD}
REMOVAL = {"what": ODD, "bytes": 1, "why": ODD}
SHOWN = {
    "predictions": {"results": [{"path": ODD, "error": ODD, "detail": ODD},
                                {"path": ODD, "error": None, "label": ODD, "confidence": 1.0}]},
    "artifacts": [{**MADE, "bytes": 1, "inputs": {"dataset": ODD}}],
    "artifact": {"ref": REF, "path": ODD, "bytes": 1, "pinned": ODD, "identity": IDENTITY, "rendered": {},
                 "provenance": {"folder": ODD, "host": ODD, "versions": {ODD: ODD}}, "findings": [{"text": ODD}]},
    "lineage": {**MADE, "made_from": {ODD: ODD, "y": {"ref": REF, "problem": ODD}, "x": {**MADE, "made_from": {}}},
                "made_into": [{**MADE, "made_into": []}]},
    "history": [EVENT],
    "decision": EVENT,
    "verification": {"checked": 1, "corrupt": [ODD], "repair": [
        {"ref": REF, "whole": False, "same": ODD, "mended": True, "dependants": [ODD]},
        {"ref": REF, "whole": False, "same": None, "refused": ODD, "dependants": [ODD]}]},
    "collection": {"removed": [REMOVAL], "done": True, "notes": [ODD], "stays": {ODD: 1}, "kept": 1, "bytes": 1},
    "pin": {**EVENT, "action": "pin"},
    "export": {"other_labels": 0, "weights": REF, "path": ODD, "images": 1, "max_difference": 0.0, "why": ODD,
               "bytes": 1, "seconds": 1.0, "format": "onnx"},
    "backbone": {**BACKBONE, "citation": ODD},
    "backbones": [BACKBONE],
    "scoring": {"images": 1, "predicted": 1, "reused": 0, "errors": {ODD: 1}, "classes": {ODD: 1}, "predictions": REF,
                "path": f"/{ODD}/data", "differs": {ODD: ODD}, "seconds": 1.0, "images_per_second": 1.0},
    "labelling.written": {"labels": 1, "file": ODD},
    "labelling.read": {"labels": 1, "new": 0, "unchanged": 0, "unseen": 0, "unknown": [ODD], "conflicting": [
        {"path": ODD, "was": ODD, "by": ODD, "at": ODD, "label": ODD}]},
    "labelling.events": [{"at": ODD, "by": ODD, "label": ODD, "predicted": ODD, "confidence": 1.0, "path": ODD,
                          "table": ODD, "taken_back": {"at": ODD}}],
}  # fmt: skip


@pytest.mark.parametrize("show", SHOWN)
def test_a_terminal_obeys_no_name_whatever_shows_it(show, capsys):
    module, _, function = show.rpartition(".")
    getattr(import_module(f"tasks.reports.{module or 'terminal'}"), function)(SHOWN[show])
    said = capsys.readouterr().out
    assert "\ufffd]0;pwned\ufffd[/bold][red]" in said.replace("\n", "")
    assert not {each for each in said if not each.isprintable()} - {"\n"}


def test_what_a_verb_says_while_it_works(capsys):
    say(f"removed {ODD}")
    assert capsys.readouterr().err == "removed \ufffd]0;pwned\ufffd[/bold][red]\ufffd\ufffd\ufffd1m\ufffd\n"


def test_lines_beside_a_bar(capsys):
    with progress.TrainingProgress(1, lambda line: None, "key") as told:
        told.tell(f"[bold]{OBEYED}[/bold]")
    assert "[bold]\ufffd]0;pwned\ufffd[/bold]" in capsys.readouterr().err
