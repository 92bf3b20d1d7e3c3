"""pytest tests/test_artifact_kinds.py: datasets, weights, metrics: saved, read back, damaged."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from published import damage
from safetensors.numpy import load_file

from artifacts import dataset, metrics, weights
from artifacts.documents import seal
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref

DATASET = Ref("datasets", "shapes", "0" * 16)
WEIGHTS = Ref("weights", "shapes", "1" * 16)


def test_a_dataset_comes_back_memory_mapped(store, shapes, shapes_dataset):
    loaded = dataset.load(store, shapes_dataset)
    assert (loaded.train.images == shapes["train"].images).all()
    assert (loaded.test.labels == shapes["test"].labels).all()
    assert (loaded.train.images.dtype, loaded.train.labels.dtype) == (np.uint8, np.int32)
    assert loaded.test.sources[3].as_py() == "drawn[3]"
    assert loaded.artifact.facts["counts"]["test"]["items"] == 60
    before = pa.total_allocated_bytes()
    assert loaded.train.images[17, 3, 3, 0] == shapes["train"].images[17, 3, 3, 0]
    assert not loaded.train.images.flags.owndata
    assert not loaded.train.images.flags.writeable
    assert pa.total_allocated_bytes() - before < 1000


def test_a_dataset_is_one_uncompressed_arrow_batch_with_a_tensor_column(store, shapes_dataset):
    file = pa.ipc.open_file(store.open(shapes_dataset).path("train.arrow"))
    assert file.num_record_batches == 1
    schema = file.schema
    assert schema.field("image").type == pa.fixed_shape_tensor(pa.uint8(), (8, 8, 1))
    assert (schema.field("label").type, schema.field("source").type) == (pa.int32(), pa.string())


def test_the_same_data_is_the_same_version(store, shapes, shapes_dataset):
    again = dataset.save(
        store, "shapes", **shapes, classes=["circle", "square", "line"],
        image_spec={"height": 8, "width": 8, "channels": 1, "resample": "bilinear", "background": 0, "invert": False},
        settings={"source": "drawn"}, inputs={}, made={"seconds": 9},
    )  # fmt: skip
    assert again == shapes_dataset
    assert not list((store.disk.root / "staging/scratch").iterdir())


LARGE = """
import sys
import numpy as np
from pathlib import Path
from artifacts import dataset
from artifacts.store import Store

class Repeated:
    "One pattern, which begins with the image's number."
    def __init__(self, items):
        self.shape = (items, 512, 512, 3)
        self.pattern = np.random.default_rng(0).integers(0, 255, self.shape[1:], np.uint8)
    def __iter__(self):
        for number in range(self.shape[0]):
            self.pattern[0, 0, :2] = divmod(number, 256)
            yield self.pattern

def side(items):
    return dataset.Side(Repeated(items), np.arange(items, dtype=np.int32) % 2, [f"{each}.png" for each in range(items)])

store = Store(Path(sys.argv[1]))
ref = dataset.save(
    store, "large", train=side(2740), test=side(2), classes=["a", "b"],
    image_spec={}, settings={}, inputs={}, made={},
)
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
assert int(peak) < 300_000, f"{peak} kB"
train = dataset.load(store, ref).train
assert train.images.shape == (2740, 512, 512, 3)
assert train.images.nbytes > 1 << 31
assert not train.images.flags.owndata
assert (train.images[:, 0, 0, :2] @ [256, 1] == np.arange(2740)).all()
assert (train.images[2739, 1:] == train.images[0, 1:]).all()
assert (train.labels.sum(), str(train.sources[2739])) == (1370, "2739.png")
"""


@pytest.mark.slow
def test_more_than_two_gibibytes_of_pixels_are_published_in_little_memory(store):
    """Lengths of 32 bits end at 2,730 pictures of 512x512. Takes 5 s: 2.2 GB are written, and hashed once: the process
    that has published them knows that they are whole."""
    asked = [sys.executable, "-c", LARGE, str(store.disk.root)]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_images_that_are_not_as_many_as_they_say_are_refused(store, shapes):
    class Fewer:
        shape = (5, 8, 8, 1)

        def __iter__(self):
            return iter(shapes["train"].images[:4])

    train = dataset.Side(Fewer(), np.zeros(5, np.int32), [""] * 5)
    given = {"classes": ["a"], "image_spec": {}, "settings": {}, "inputs": {}, "made": {}}
    with pytest.raises(ValueError, match="expected images of 320 bytes, found 256"):
        dataset.save(store, "fewer", train=train, test=shapes["test"], **given)
    assert list(store.refs("datasets", "fewer")) == []


def test_a_flipped_bit_in_a_dataset_is_named(store, shapes_dataset):
    path = store.open(shapes_dataset).path("train.arrow")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damage(path, content)
    with pytest.raises(Corrupt, match=r"train\.arrow is damaged"):
        _ = dataset.load(store, shapes_dataset).train


def save_weights(store, tensors, history=()):
    return weights.save(
        store,
        "shapes",
        tensors=tensors,
        history=history,
        classes=["a", "b"],
        image_spec={"height": 8},
        settings={"architecture": "dense", "seed": 0},
        dataset=DATASET,
        made={"seconds": 1},
    )


@pytest.fixture
def unsynced(store, monkeypatch):
    """A store that asks nothing of a disk: no power is cut here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return store


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__"),
        arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=3, max_side=5)),
        min_size=1,
        max_size=4,
    )
)
def test_weights_come_back_to_the_bit(unsynced, tensors):
    loaded = weights.load(unsynced, save_weights(unsynced, tensors))
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded.tensors[name].tobytes() == tensor.tobytes()
        assert loaded.tensors[name].shape == tensor.shape


def test_weights_know_what_scoring_needs_and_any_tool_reads_them(store):
    ref = save_weights(store, {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}, [{"epoch": 1, "loss": 0.5}])
    loaded = weights.load(store, ref)
    assert (loaded.ref, loaded.settings["architecture"], loaded.classes, loaded.image_spec) == (
        ref,
        "dense",
        ["a", "b"],
        {"height": 8},
    )
    assert loaded.artifact.identity["inputs"] == {"dataset": str(DATASET)}
    assert json.loads(loaded.artifact.read("history.json")) == [{"epoch": 1, "loss": 0.5}]
    assert load_file(loaded.artifact.path("weights.safetensors"))["x"].tolist() == [[0, 1, 2], [3, 4, 5]]


def replace_file(store, ref, name, content):
    """Put other bytes under a published name with a manifest that agrees: what a careless copy could do."""
    from hashlib import sha256

    artifact = store.open(ref)
    artifact.manifest["identity"]["files"][name] = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    from artifacts.documents import digest

    forged = Ref(ref.kind, ref.name, digest(artifact.manifest["identity"])[:16])
    folder = store.disk.root / forged.folder
    folder.mkdir(parents=True)
    for file in artifact.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / name).write_bytes(content)
    (folder / "manifest.json").write_bytes(seal(artifact.manifest))
    return forged


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\x02\0\0\0\0\0\0\0{}",
        b"\x02\0\0\0\0\0\0\0[]",
        (1 << 40).to_bytes(8, "little") + b"{}",
        b'\x40\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[99999999],"data_offsets":[0,8]}}    ',
    ],
)
def test_weights_whose_header_claims_something_else_are_refused_before_allocating(store, content):
    ref = save_weights(store, {"x": np.zeros(2, np.float32)})
    with pytest.raises(Corrupt, match=r"weights\.safetensors is no set of weights of this Lookbook"):
        weights.load(store, replace_file(store, ref, "weights.safetensors", content))


def test_metrics_come_back(store):
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    ref = metrics.save(
        store,
        "shapes",
        numbers={"accuracy": 0.5, "loss": 0.7, "items": 2, "per_class": {}, "confusion_matrix": [[0, 1], [0, 1]]},
        labels=np.array([0, 1], np.int32),
        probabilities=probabilities,
        sources=["a", "b"],
        weights=WEIGHTS,
        dataset=DATASET,
        report=lambda: {"report.html": b"<p>"},
        fair=np.array([1]),
        made={},
    )
    loaded = metrics.load(store, ref)
    assert loaded.artifact.read("report.html") == b"<p>"
    assert loaded.hits().tolist() == (probabilities.argmax(1) == [0, 1]).tolist()
    assert loaded.fair().tolist() == [False, True]
    assert loaded.document["confusion_matrix"] == [[0, 1], [0, 1]]
    assert (loaded.probabilities() == probabilities).all()
    table = pq.read_table(loaded.artifact.path("predictions.parquet"))
    assert table.column_names == ["source", "label", "probabilities", "counted"]
    assert table.column("label").to_pylist() == [0, 1]
    assert loaded.artifact.identity["inputs"] == {"weights": str(WEIGHTS), "dataset": str(DATASET)}


def test_what_is_not_there(store):
    for kind in (dataset, weights, metrics):
        with pytest.raises(NotFound, match="`lookbook list` shows what is"):
            kind.load(store, WEIGHTS)
