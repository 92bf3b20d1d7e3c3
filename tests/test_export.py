"""pytest tests/test_export.py: graphs for other runtimes, run by TensorFlow's C library, LiteRT and ONNX Runtime."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from published import damage, remove

from artifacts import dataset as datasets
from artifacts import weights
from artifacts.errors import Corrupt, LookbookError, NotFound
from artifacts.store import Store
from flows.cli import lookbook as group
from tasks.export import OutputError, export
from tasks.shared import model
from tasks.vision import sources
from tasks.vision.errors import ExportError
from tasks.vision.images import ImageSpec

ROOT = Path(__file__).parents[1]
FORMATS = ("saved-model", "tflite", "onnx")
ARCHITECTURES = ("dense", "conv")
CLASSES = list(sources.FASHION_MNIST.classes)
SPEC = ImageSpec(height=28, width=28, channels=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, fashion_mnist):
    """A store with weights of both architectures, trained for an epoch on 3,000 images, and 2,000 test images."""
    from tasks.vision.recipes import settings_for
    from tasks.vision.training import fit

    store = Store(tmp_path_factory.mktemp("export") / "store")
    train, test = fashion_mnist["train"], fashion_mnist["test"]
    splits = {
        "train": datasets.Split(train.images[:3000], train.labels[:3000], train.sources[:3000]),
        "test": datasets.Split(test.images[:2000], test.labels[:2000], test.sources[:2000]),
    }
    facts = {"classes": CLASSES, "image_spec": SPEC.to_dict(), "made": {}}
    dataset = datasets.save(store, "fashion-mnist", **splits, **facts, settings={}, inputs={})
    refs, predicted = {}, {}
    for architecture, given in (("dense", {}), ("conv", {"batch_size": 64, "learning_rate": 0.02})):
        settings = settings_for(architecture, epochs=1, **given)
        fitted = fit(train.images[:3000], train.labels[:3000], classes=10, spec=SPEC, settings=settings)
        refs[architecture] = weights.save(
            store, "fashion-mnist", **facts, tensors=fitted.tensors, history=[], settings=settings.to_dict(),
            dataset=dataset,
        )  # fmt: skip
        predicted[architecture] = model.load(store, refs[architecture]).predict(test.images[:2000])
    return SimpleNamespace(store=store, dataset=dataset, refs=refs, images=test.images[:2000], predicted=predicted)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Every architecture in every format: what `export` returned."""
    top = tmp_path_factory.mktemp("graphs")
    return {
        (architecture, each): export(trained.store, trained.refs[architecture], each, top / architecture / each)
        for architecture in ARCHITECTURES
        for each in FORMATS
    }


@pytest.mark.slow
@pytest.mark.parametrize("uncalibrated", [False, True])
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_graph_gives_calibrated_probabilities_unless_somebody_says_otherwise(
    trained, tmp_path, file_format, uncalibrated
):
    store, like = trained.store, weights.load(trained.store, trained.refs["dense"])
    ref = weights.save(
        store, "fashion-mnist", tensors=like.tensors, history=[], classes=CLASSES, image_spec=SPEC.to_dict(),
        settings=like.settings, dataset=trained.dataset, made={},
        calibration={"temperature": 2.5, "by": "held-out", "items": 90},
    )  # fmt: skip
    own, calibrated = (model.load(store, ref, each).predict(trained.images) for each in (1, 2.5))
    assert (model.load(store, ref).predict(trained.images) == calibrated).all(), "what `predict` answers"
    result = export(store, ref, file_format, tmp_path / "graph", uncalibrated)
    for name, expected in (
        ("probabilities", own if uncalibrated else calibrated), ("probabilities_calibrated", calibrated)
    ):  # fmt: skip
        found = OUTPUTS[file_format](result.path, trained.images)[name]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    about = json.loads((tmp_path / "graph/lookbook.json").read_text())
    assert about["output"]["name"] == "probabilities"
    assert about["temperature"] == (None if uncalibrated else 2.5)
    assert about["calibrated"] == {
        "name": "probabilities_calibrated", "dtype": "float32", "shape": [None, 10], "temperature": 2.5
    }  # fmt: skip
    if file_format == "saved-model":
        found = run_saved_model(result.path, trained.images, tmp_path)
        np.testing.assert_allclose(found, own if uncalibrated else calibrated, rtol=0, atol=1e-5)


def with_head(trained, architecture, larger, temperature):
    """These weights with an output layer that is so much larger, and a temperature."""
    like = weights.load(trained.store, trained.refs[architecture])
    tensors = {
        name: tensor * np.float32(larger if name.startswith("output") else 1) for name, tensor in like.tensors.items()
    }
    return weights.save(
        trained.store, "fashion-mnist", tensors=tensors, history=[], classes=CLASSES, image_spec=SPEC.to_dict(),
        settings=like.settings, dataset=trained.dataset, made={},
        calibration={"temperature": temperature, "by": "held-out", "items": 90},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["tflite", "onnx"])
@pytest.mark.parametrize(("architecture", "larger", "temperature"), [("conv", 1, 0.05), ("conv", 50, 1.0)])
def test_rounding_is_no_reason_to_refuse_a_graph_of_large_logits(
    trained, tmp_path, architecture, larger, temperature, file_format
):
    """A temperature of 1/20 makes twenty times as much of it, and logits of 390 are rounded by that much more."""
    ref = with_head(trained, architecture, larger, temperature)
    assert export(trained.store, ref, file_format, tmp_path / "graph").other_labels == 0


@pytest.mark.slow
def test_a_calibrated_output_of_another_temperature_is_refused(trained, tmp_path, monkeypatch):
    from tasks.vision import exporting

    ref, write = with_head(trained, "conv", 1, 0.05), exporting.write
    monkeypatch.setattr(exporting, "write", lambda *given: write(*given[:4], given[4] * 1.001, *given[5:]))
    with pytest.raises(ExportError, match="found a difference of"):
        export(trained.store, ref, "tflite", tmp_path / "graph")


def saved_model_outputs(path, images):
    from tasks.vision.device import tf

    found = tf.saved_model.load(path).signatures["serving_default"](images=tf.constant(images))
    return {name: each.numpy() for name, each in found.items()}


def tflite_outputs(path, images):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(path).get_signature_runner("serving_default")(images=images)


def onnx_outputs(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


OUTPUTS = {"saved-model": saved_model_outputs, "tflite": tflite_outputs, "onnx": onnx_outputs}


def run_saved_model(path, images, top):
    np.save(top / "images.npy", images)
    program = [sys.executable, Path(__file__).with_name("c_api.py"), path, top / "images.npy", top / "found.npy"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(top / "found.npy")


def run_tflite(path, images, top):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(path).get_signature_runner("serving_default")(images=images)["probabilities"]


def run_onnx(path, images, top):
    import onnxruntime

    return onnxruntime.InferenceSession(path).run(["probabilities"], {"images": images})[0]


RUNTIMES = {"saved-model": run_saved_model, "tflite": run_tflite, "onnx": run_onnx}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file_format", FORMATS)
def test_another_runtime_gives_the_same_labels_and_probabilities(
    exported, trained, tmp_path, architecture, file_format
):
    result, expected = exported[architecture, file_format], trained.predicted[architecture]
    found = RUNTIMES[file_format](result.path, trained.images, tmp_path)
    assert (found.dtype, found.shape) == (np.float32, (2000, 10))
    assert (found.argmax(1) == expected.argmax(1)).all()
    difference = np.abs(found - expected).max()
    print(f"{architecture} {file_format}: {difference:.2g}, the export found {result.max_difference:.2g}")
    assert difference <= 1e-5
    assert result.max_difference <= 1e-5
    assert len(set(expected.argmax(1))) >= 8, "a network that has learned something"


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("items", [1, 3, 300])
def test_any_batch_will_do(exported, trained, tmp_path, file_format, items):
    path = exported["conv", file_format].path
    found = RUNTIMES[file_format](path, trained.images[:items], tmp_path)
    np.testing.assert_allclose(found, trained.predicted["conv"][:items], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_beside_the_graph(exported, trained, architecture, file_format):
    result = exported[architecture, file_format]
    folder = Path(result.folder)
    assert (folder / "labels.txt").read_text().splitlines() == CLASSES
    about = json.loads((folder / "lookbook.json").read_text())
    assert (about["format"], about["classes"]) == (file_format, CLASSES)
    assert ImageSpec.from_dict(about["image_spec"]) == SPEC
    assert about["weights"] == result.weights == str(trained.refs[architecture])
    assert about["dataset"] == str(trained.dataset)
    assert about["input"] == {"name": "images", "dtype": "uint8", "shape": [None, 28, 28, 1]}
    assert about["output"] == {"name": "probabilities", "dtype": "float32", "shape": [None, 10]}
    assert about["checked"] == {
        "images": 1000, "max_difference": result.max_difference, "other_labels": 0, "why": None
    }  # fmt: skip
    assert "calibrated" not in about, "these weights have no temperature"
    assert folder / about["file"] == Path(result.path)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) == result.bytes
    for path in files:
        assert str(folder.parent).encode() not in path.read_bytes(), "nothing of the machine's"
        assert path.stat().st_mode & 0o444 == 0o444 & ~umask()
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask()
    assert [each.name for each in folder.parent.iterdir() if each.name.startswith(".")] == []


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.slow
def test_an_onnx_graph_is_sound_and_tells_what_it_is(exported, trained):
    import onnx
    import onnxruntime

    for architecture in ARCHITECTURES:
        path = exported[architecture, "onnx"].path
        onnx.checker.check_model(path, full_check=True)
        assert {each.domain for each in onnx.load(path).opset_import} <= {"", "ai.onnx.ml"}
        session = onnxruntime.InferenceSession(path)
        [given], [wanted] = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 28, 28, 1])
        assert (wanted.name, wanted.type, wanted.shape) == ("probabilities", "tensor(float)", ["batch", 10])
        notes = session.get_modelmeta().custom_metadata_map
        assert notes["lookbook.weights"] == str(trained.refs[architecture])
        assert json.loads(notes["lookbook.classes"]) == CLASSES
        assert ImageSpec.from_dict(json.loads(notes["lookbook.image_spec"])) == SPEC


@pytest.mark.slow
def test_a_tflite_graph_needs_built_in_operations_only(exported):
    from ai_edge_litert.interpreter import Interpreter

    for architecture in ARCHITECTURES:
        interpreter = Interpreter(exported[architecture, "tflite"].path)
        [given] = interpreter.get_input_details()
        assert (given["dtype"], given["shape_signature"].tolist()) == (np.uint8, [-1, 28, 28, 1])
        signature = {"inputs": ["images"], "outputs": ["probabilities"]}
        assert interpreter.get_signature_list() == {"serving_default": signature}
        assert not [each["op_name"] for each in interpreter._get_ops_details() if "Flex" in each["op_name"]]


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_colour_pictures_of_an_odd_size(tmp_path, architecture, file_format):
    from tasks.vision import exporting
    from tasks.vision.inference import Predictor
    from tasks.vision.network import make_network

    network = make_network(architecture, ImageSpec(height=13, width=9, channels=3), 4, seed=1)
    images = np.random.default_rng(0).integers(0, 256, (70, 13, 9, 3), dtype=np.uint8)
    exporting.write(network, file_format, tmp_path, {})
    found = exporting.run(exporting.load(file_format, tmp_path), images, batch=64)["probabilities"]
    assert exporting.difference(Predictor(network)(images), found) <= 1e-6
    path = str(tmp_path / exporting.FILES[file_format])
    (tmp_path / "scratch").mkdir()
    found = RUNTIMES[file_format](path, images, tmp_path / "scratch")
    np.testing.assert_allclose(found, Predictor(network)(images), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_onnx_leaves_the_environment_as_it_was(exported):
    assert "tf2onnx" in sys.modules
    assert "TF_CPP_MIN_LOG_LEVEL" not in os.environ


def test_formats_that_can_be_named_are_those_that_are_known():
    from tasks.vision.exporting import FILES, Format

    option = next(each for each in group.commands["export"].params if each.name == "file_format")
    assert tuple(option.type.choices) == get_args(Format) == tuple(FILES) == FORMATS


@pytest.mark.slow
def test_tensorflow_reads_no_saved_model_below_a_folder_whose_name_is_a_pattern(trained, tmp_path):
    with pytest.raises(OutputError, match=r"found \[ in .*/new \[1\]/1; name another"):
        export(trained.store, trained.refs["dense"], "saved-model", tmp_path / "new [1]/1")
    export(trained.store, trained.refs["dense"], "saved-model", tmp_path / "new é %20/1")
    found = run_saved_model(tmp_path / "new é %20/1", trained.images[:50], tmp_path)
    np.testing.assert_allclose(found, trained.predicted["dense"][:50], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_no_room(trained, tmp_path, file_format):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # bytes; the conv network's weights have 1,560,000
    try:
        with pytest.raises(
            (OutputError, ExportError), match=r"can't write .*(: File too large; make room|is there room)"
        ):
            export(trained.store, trained.refs["conv"], file_format, tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_graph_whose_numbers_are_others_is_not_exported(trained, tmp_path, monkeypatch, file_format):
    from tasks.vision import exporting

    monkeypatch.setattr(exporting, "TOLERANCE", 0)
    monkeypatch.setattr(exporting, "ROUNDINGS", 0)
    with pytest.raises(ExportError, match=r"within 0, found a difference of .* and 0 other labels among 1,000 test"):
        export(trained.store, trained.refs["conv"], file_format, tmp_path / "new/er")
    assert list(tmp_path.iterdir()) == []


def test_what_counts_as_other_numbers():
    from tasks.vision.exporting import difference

    table = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    assert difference(table, table) == 0
    assert difference(table, table + np.float32(9e-6)) == pytest.approx(9e-6, rel=0.01)
    with pytest.raises(ExportError, match="difference of 2e-05 and 0 other labels among 2"):
        difference(table, table + np.float32(2e-5))
    with pytest.raises(ExportError, match="and 1 other labels"):
        difference(table, table + np.array([[0, 0], [0, 1e-6]], np.float32))
    with pytest.raises(ExportError, match="difference of nan"):
        difference(table, table * np.array([[1, 1], [1, np.nan]], np.float32))
    with pytest.raises(ExportError, match=r"expected probabilities float32 \[2, 2\].*found float32 \[2, 1\]"):
        difference(table, table[:, :1])
    with pytest.raises(ExportError, match="found float64"):
        difference(table, table.astype(np.float64))


def test_a_dataset_that_is_damaged_or_gone(store, shapes, shapes_dataset, tmp_path):
    from tasks.vision.network import make_network
    from tasks.vision.recipes import settings_for

    spec = ImageSpec(8, 8, 1)
    ref = weights.save(
        store, "shapes", tensors=make_network("dense", spec, 3).tensors(), history=[], classes=["a", "b\nc", "d"],
        image_spec=spec.to_dict(), settings=settings_for("dense").to_dict(), dataset=shapes_dataset, made={},
    )  # fmt: skip
    result = export(store, ref, "tflite", tmp_path / "good")
    assert result.images == len(shapes["test"].images), "all, where there are fewer than 1,000"
    assert (tmp_path / "good/labels.txt").read_text() == "a\nb c\nd\n"
    path = store.open(shapes_dataset).path("test.arrow")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damage(path, content)
    with pytest.raises(Corrupt, match=r"test\.arrow is damaged"):
        export(store, ref, "tflite", tmp_path / "new")
    remove(path.parent / "manifest.json")
    with pytest.raises(NotFound, match="datasets/shapes@"):
        export(store, ref, "tflite", tmp_path / "new")
    assert {each.name for each in tmp_path.iterdir()} == {"store", "good"}
    assert issubclass(OutputError, LookbookError)


@pytest.mark.slow
def test_the_pages_examples_run(exported, trained, tmp_path, monkeypatch):
    """The Python of docs/exporting.md: pixels first, then each runtime with them."""
    pixels, *runtimes = re.findall(r"```python\n(.*?)```", (ROOT / "docs/exporting.md").read_text(), re.DOTALL)
    assert len(runtimes) == 2
    for each in ("onnx", "tflite"):
        (tmp_path / f"fashion-mnist-{each}").symlink_to(exported["dense", each].folder)
    Image.fromarray(trained.images[0, ..., 0]).save(tmp_path / "shoe.png")
    expected = CLASSES[trained.predicted["dense"][0].argmax()]
    for each in runtimes:
        run = subprocess.run([sys.executable, "-c", pixels + each], capture_output=True, text=True, cwd=tmp_path)
        assert run.stdout.strip() == expected, run.stderr
