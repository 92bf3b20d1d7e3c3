"""pytest tests/test_export_command.py: `lookbook export`, and the folders that it refuses."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import answer, complaint
from conftest import CLASSES, SPEC
from environment import WITHOUT_ROOTS_RIGHTS

from artifacts import aliases, weights
from artifacts import dataset as datasets
from artifacts.store import Store
from tasks.export import OutputError, export
from tasks.shared import model
from tasks.vision.recipes import settings_for


@pytest.fixture(scope="module")
def made(tmp_path_factory, shapes):
    """A store with the first weights of both architectures; those of `dense` are the champion."""
    from tasks.vision.network import make_network

    store = Store(tmp_path_factory.mktemp("export") / "store")
    facts = {"classes": CLASSES, "image_spec": SPEC.to_dict(), "made": {}}
    dataset = datasets.save(store, "shapes", **shapes, **facts, settings={}, inputs={})
    refs = {}
    for architecture in ("dense", "conv"):
        settings = settings_for(architecture)
        first = make_network(architecture, SPEC, 3, width=settings.width).tensors()
        refs[architecture] = weights.save(
            store, "shapes", **facts, tensors=first, history=[], settings=settings.to_dict(), dataset=dataset
        )
    aliases.promote(store.disk, refs["dense"], "first")
    return SimpleNamespace(store=store, dataset=dataset, refs=refs, images=shapes["test"].images)


@pytest.fixture
def lookbook_environment(made):
    """The command line uses the store of this module; what it is told to write goes elsewhere."""
    return {**os.environ, "LOOKBOOK_STORE": str(made.store.disk.root)}


def test_the_command(lookbook, made, tmp_path):
    import onnxruntime

    run = lookbook("export", "champion", "--format", "onnx", "--output", tmp_path / "new/[1] é/1", "--json")
    result = answer(run)
    assert run.stderr == ""
    assert result["format"] == "onnx"
    assert result["weights"] == str(made.refs["dense"])
    assert 0 <= result["max_difference"] <= 1e-5
    [found] = onnxruntime.InferenceSession(result["path"]).run(["probabilities"], {"images": made.images})
    expected = model.load(made.store, made.refs["dense"]).predict(made.images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert [each.name for each in (tmp_path / "new/[1] é").iterdir()] == ["1"]


def test_the_command_for_a_person_in_an_empty_folder(lookbook, made, tmp_path):
    (tmp_path / "empty").mkdir()
    version = made.refs["conv"].version[:6]
    said = lookbook("export", version, "--format", "tflite", "--output", tmp_path / "empty")
    assert said.stderr == ""
    for part in ("exported as tflite", str(made.refs["conv"]), "model.tflite", "labels.txt", "60 test images"):
        assert part in said.stdout
    assert {each.name for each in (tmp_path / "empty").iterdir()} == {"model.tflite", "labels.txt", "lookbook.json"}


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("nonsense", "expected a ref"),
        ("00000000", "nothing in the store"),
        ("weights/shapes@0123456789abcdef", "nothing in the store"),
        ("shoes@champion", "nothing in the store"),
        ("latest", "latest is an alias of predictions"),
        ("DATASET", "expected one of the weights"),
    ],
)
def test_refs_that_mean_no_weights(lookbook, made, tmp_path, ref, message):
    ref = str(made.dataset) if ref == "DATASET" else ref
    assert message in complaint(lookbook("export", ref, "--format", "onnx", "--output", tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["champion", "--output", "x"], "Missing option '--format'"),
        (["champion", "--format", "onnx"], "Missing option '--output'"),
        (["champion", "--format", "keras", "--output", "x"], "'keras' is not one of 'saved-model', 'tflite', 'onnx'"),
        (["--format", "onnx", "--output", "x"], "Missing argument 'REF'"),
    ],
)
def test_wrong_usage(lookbook, arguments, message):
    run = lookbook("export", *arguments)
    assert complaint(run, status=2)
    assert message in run.stderr


def test_a_folder_that_holds_something_stays_as_it_is(lookbook, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    message = complaint(lookbook("export", "champion", "--format", "onnx", "--output", tmp_path / "full"))
    assert f"expected a folder that is new or empty, found mine.txt in {tmp_path}/full; name another" in message
    assert [each.name for each in tmp_path.rglob("*")] == ["full", "mine.txt"]
    message = complaint(lookbook("export", "champion", "--format", "onnx", "--output", tmp_path / "full/mine.txt"))
    assert "found the file" in message
    message = complaint(lookbook("export", "champion", "--format", "onnx", "--output", tmp_path / "full/mine.txt/new"))
    assert "Not a directory" in message
    assert (tmp_path / "full/mine.txt").read_text() == "mine"


def test_a_folder_that_can_not_be_written(lookbook, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    run = lookbook(
        "export", "champion", "--format", "onnx", "--output", tmp_path / "locked/new", behind=WITHOUT_ROOTS_RIGHTS
    )
    assert f"can't write {tmp_path}/locked/new: Permission denied; make room" in complaint(run)
    assert list((tmp_path / "locked").iterdir()) == []


def test_the_current_folder_can_not_be_replaced(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"found \., the current folder or a mount point; name a new folder inside"):
        export(made.store, made.refs["dense"], "tflite", Path())


def test_a_missing_package_is_named_with_the_command_that_installs_it(lookbook_process, tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys; sys.modules['tf2onnx'] = sys.modules['onnxruntime'] = None")
    path = os.pathsep.join([str(hidden), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = lookbook_process("export", "champion", "--format", "onnx", "--output", tmp_path / "new", PYTHONPATH=path)
    message = complaint(run)
    assert "expected onnx, onnxruntime, tf2onnx for --format onnx, found no onnxruntime, tf2onnx; " in message
    assert message.endswith("install them beside Lookbook: pip install onnx onnxruntime tf2onnx")
    assert not (tmp_path / "new").exists()
