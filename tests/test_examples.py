"""pytest tests/test_examples.py: the examples work as they stand, from a folder of the user's own."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from commands import answer

from artifacts import open_store
from artifacts.errors import NotFound

EXAMPLE = Path(__file__).parents[1] / "examples/from_python.py"


@pytest.mark.slow
def test_a_model_is_trained_and_asked_from_python(tmp_path, lookbook, monkeypatch, capsys):
    run = subprocess.run([sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, check=True)
    decided, *pictures = run.stdout.splitlines()
    assert decided == "promote: the first model, accuracy 100.00%"
    assert len(pictures) == 3
    assert all(called == is_ for _, is_, _, _, called, *_ in (line.replace(",", "").split() for line in pictures))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "the same weights version came out, which is champion already" in capsys.readouterr().out
    shown = answer(lookbook("lineage", "champion", "--json", LOOKBOOK_STORE=str(tmp_path / "shapes-store")))
    assert shown["made_from"]["dataset"]["ref"].startswith("datasets/shapes@")


def test_a_store_is_opened_where_it_is_named_or_configured(tmp_path, monkeypatch):
    assert open_store(tmp_path).disk.root == tmp_path
    monkeypatch.setenv("LOOKBOOK_STORE", str(tmp_path / "other"))
    assert open_store().disk.root == tmp_path / "other"
    with pytest.raises(NotFound, match="nothing in the store"):
        open_store().resolve("champion")
