"""pytest tests/test_examples.py: the examples work as they stand, from a folder of the user's own."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import answer

from artifacts import open_store
from artifacts.errors import NotFound

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[1] / "examples/from_python.py"


def test_a_model_is_trained_and_asked_from_python(tmp_path, lookbook):
    def run():
        return subprocess.run(
            [sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    decided, *pictures = run().splitlines()
    assert decided == "promote: the first model, accuracy 100.00%"
    assert len(pictures) == 3
    assert all(called == is_ for _, is_, _, _, called, *_ in (line.replace(",", "").split() for line in pictures))
    assert "the same weights version came out, which is champion already" in run()
    shown = answer(lookbook("lineage", "champion", "--json", LOOKBOOK_STORE=str(tmp_path / "shapes-store")))
    assert shown["made_from"]["dataset"]["ref"].startswith("datasets/shapes@")


def test_a_store_is_opened_where_it_is_named_or_configured(tmp_path, monkeypatch):
    assert open_store(tmp_path).disk.root == tmp_path
    monkeypatch.setenv("LOOKBOOK_STORE", str(tmp_path / "other"))
    assert open_store().disk.root == tmp_path / "other"
    with pytest.raises(NotFound, match="nothing in the store"):
        open_store().resolve("champion")
