"""pytest tests/test_backbones.py: networks that others stand on. What they make of pictures is held against timm's and
transformers' features (references.py); how their checkpoints are read, and what is none."""

import json
import os
import struct

import numpy as np
import pytest
from references import CASES, GOLDEN, SHOWN, drawn, pictures
from safetensors.numpy import save_file
from sklearn.datasets import load_sample_images

from artifacts import backbones
from artifacts.errors import Ambiguous, NotFound
from tasks.shared import backbones as pretrained
from tasks.shared.embedding import Embedding
from tasks.vision.architecture import IMAGENET_MEAN
from tasks.vision.backbone import Embedder, features, resize
from tasks.vision.checkpoints import read_safetensors
from tasks.vision.device import tf
from tasks.vision.dinov2 import VITS14, VITS14_REG, dinov2
from tasks.vision.efficientnet_lite import LITE0, LITE2
from tasks.vision.errors import CheckpointError, WeightsError
from tasks.vision.families import ARCHITECTURES, parted, prefix
from tasks.vision.images import ImageSpec
from tasks.vision.mobilenetv4 import CONV_MEDIUM
from tasks.vision.recognition import recognize, to_backbone
from tasks.vision.resampling import resampling

GOLDENS = json.loads(GOLDEN.read_text())
SMALL = {"two blocks": dinov2("t", 128, 2, 0), "two blocks-reg": dinov2("t", 128, 2, 4)}


def layout_of(architecture, whose):
    return next(each for each in architecture.layouts if each.whose == whose)


def made(architecture, whose="timm"):
    """Random tensors of an architecture, under our names."""
    layout = layout_of(architecture, whose)
    return layout.converted(drawn(layout.shapes))


@pytest.mark.parametrize("case", [case for case in CASES if case.golden], ids=lambda case: case.title)
def test_features_are_those_of_another_implementation(case):
    architecture = ARCHITECTURES.get(case.name) or SMALL[case.name]
    layout = next(
        each
        for each in architecture.layouts
        if each.whose == case.whose
        and ("dinov2.embeddings.cls_token" in each.shapes) == (case.model == "Dinov2ForImageClassification")
    )
    tensors = layout.converted(drawn(layout.shapes))
    assert {name: each.shape for name, each in tensors.items()} == architecture.shapes
    folded = architecture.fold(tensors)
    assert {name: each.shape for name, each in folded.items()} == architecture.folded
    found = features(architecture, tf.constant(pictures(case.size)), folded).numpy()
    expected = np.array(GOLDENS[case.title])
    assert found.shape == (2, architecture.features)
    assert np.abs(found[:, ::SHOWN] - expected).max() < 1e-4 * np.abs(expected).max()


def test_each_small_reference_is_compared():
    assert set(GOLDENS) == {case.title for case in CASES if case.golden}
    assert {case.name for case in CASES if not case.name.startswith("two")} == set(ARCHITECTURES)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", [SMALL["two blocks-reg"], CONV_MEDIUM], ids=lambda each: each.name)
def test_features_depend_on_no_neighbours_and_no_number_of_processors(architecture, precision, monkeypatch):
    images = np.random.default_rng(3).integers(0, 255, (13, 64, 64, 3), dtype=np.uint8)
    given = (architecture, architecture.fold(made(architecture)), precision, "/CPU:0", None, (56, 56))
    found = Embedder(*given)(images)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    alone = Embedder(*given)
    np.testing.assert_array_equal(np.concatenate([alone(images[k : k + 1]) for k in range(13)]), found)


@pytest.mark.parametrize("architecture", [SMALL["two blocks-reg"], CONV_MEDIUM], ids=lambda each: each.name)
def test_bfloat16_is_near(architecture):
    images = pictures((70, 84))
    folded = architecture.fold(made(architecture))
    exact, near = (Embedder(architecture, folded, each)(images) for each in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - near).max() < 0.05 * np.abs(exact).max()


def test_no_two_architectures_have_the_same_tensors():
    """So tensors alone say whose they are."""
    for of in (lambda each: each.shapes, lambda each: each.folded):
        told = [json.dumps(sorted(of(each).items())) for each in ARCHITECTURES.values()]
        assert len(set(told)) == len(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda each: each.name)
def test_each_layout_of_each_architecture_is_recognized(architecture):
    for layout in architecture.layouts:
        spare = dict.fromkeys(layout.spare, (3,))
        assert recognize({**layout.shapes, **spare}) == (architecture, layout)
        assert recognize(layout.shapes).architecture is architecture
        fewer = dict(list(layout.shapes.items())[1:])
        with pytest.raises(CheckpointError, match=f"no {next(iter(layout.shapes))}"):
            recognize(fewer)
        with pytest.raises(CheckpointError, match=rf"expected the tensors of {architecture.title} .*odd, which it has"):
            recognize({**layout.shapes, "odd": (1,)})
        name = list(layout.shapes)[-1]
        with pytest.raises(CheckpointError, match=rf"{name} of \[7, 7\] instead of"):
            recognize({**layout.shapes, name: (7, 7)})


def test_another_network_is_told_what_there_is():
    with pytest.raises(CheckpointError) as refused:
        recognize({f"layer{number}.weight": (3, 3) for number in range(9)})
    said = str(refused.value)
    assert "out of EfficientNet-Lite0" in said
    assert "MobileNetV4-conv-medium, found layer0.weight, " in said
    assert "and 4 more" in said


def test_a_classifier_may_be_there_or_not():
    layout = layout_of(LITE2, "timm")
    given = drawn(layout.shapes)
    bare = to_backbone(given)[1]
    assert set(bare) == set(LITE2.shapes)
    for classes in (1000, 10):  # of ImageNet, or of somebody's own
        head = {
            "classifier.weight": np.ones((classes, 1280), np.float32),
            "classifier.bias": np.ones(classes, np.float32),
        }
        found = to_backbone({**given, **head})[1]
        assert set(found) == set(LITE2.shapes) | (set(LITE2.classifier) if classes == 1000 else set())
    given = drawn(layout_of(CONV_MEDIUM, "timm").shapes)
    assert set(to_backbone({**given, "classifier.weight": np.ones((10, 1280), np.float32)})[1]) == set(
        CONV_MEDIUM.shapes
    )


def test_numbers_that_are_none_are_refused():
    given = drawn(layout_of(LITE0, "timm").shapes)
    for harm, said in ((np.nan, "not finite"), (np.inf, "not finite")):
        with pytest.raises(CheckpointError, match=f"bn1.bias with numbers that are {said}"):
            to_backbone({**given, "bn1.bias": np.full(32, harm, np.float32)})
    with pytest.raises(CheckpointError, match="bn1.bias of int8 instead of float32, float16 or bfloat16"):
        to_backbone({**given, "bn1.bias": np.zeros(32, np.int8)})


@pytest.fixture(scope="module")
def lite2(tmp_path_factory):
    """A file of random tensors of Lite2, as timm has them."""
    path = tmp_path_factory.mktemp("lite2") / "model.safetensors"
    save_file(drawn(layout_of(LITE2, "timm").shapes), path)
    return path


def with_dtype(tensors, dtype, path):
    """A safetensors file by hand, of F16 or BF16."""
    header, parts, at = {}, [], 0
    for name, tensor in tensors.items():
        half = tensor.astype(np.float16) if dtype == "F16" else (tensor.view(np.uint32) >> 16).astype(np.uint16)
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [at, at + half.nbytes]}
        parts.append(half.tobytes())
        at += half.nbytes
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    path.write_bytes(struct.pack("<Q", len(told)) + told + b"".join(parts))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_becomes_float32(tmp_path, dtype):
    given = drawn(layout_of(CONV_MEDIUM, "timm").shapes)
    with_dtype(given, dtype, tmp_path / "half.safetensors")
    architecture, found = to_backbone(read_safetensors(tmp_path / "half.safetensors")[0])
    assert architecture is CONV_MEDIUM
    assert all(each.dtype == np.float32 for each in found.values())
    expected = made(CONV_MEDIUM)
    for name, each in found.items():
        np.testing.assert_allclose(each, expected[name], rtol=2**-7, atol=1e-6)
    stem = given["conv_stem.weight"].transpose(2, 3, 1, 0)
    lower = stem.view(np.uint32) & 0xFFFF0000
    exact = stem.astype(np.float16).astype(np.float32) if dtype == "F16" else lower.view(np.float32)
    np.testing.assert_array_equal(found["stem/kernel"], exact)


def test_of_a_large_file_of_another_network_the_header_alone_is_read(tmp_path, monkeypatch):
    """Four gigabytes, of which the disk holds the header."""
    size = 4 << 30
    told = json.dumps({"fc.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(told)) + told)
        file.truncate(8 + len(told) + size)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: pytest.fail("it was read"))
    with pytest.raises(CheckpointError, match="expected the tensors of a network out of .*, found fc.weight"):
        read_safetensors(path)


def test_a_part_of_a_checkpoint_is_refused(store, tmp_path):
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (tmp_path / name).write_bytes(b"{}")
        with pytest.raises(CheckpointError, match="expected one file with all tensors of a network, found .*" + name):
            pretrained.add_backbone(store, str(tmp_path / name))
    assert list(store.refs()) == []


def test_a_file_that_is_cut_off_is_refused(lite2, tmp_path):
    content = lite2.read_bytes()
    for size in (0, 4, 1000, len(content) - 1):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="expected a safetensors file, found"):
            read_safetensors(path)


def with_header(told, path):
    told = told if isinstance(told, bytes) else json.dumps(told).encode()
    path.write_bytes(struct.pack("<Q", len(told)) + told + bytes(4))
    return path


def of_one(shape, name="a", starts=0):
    return {name: {"dtype": "F32", "shape": shape, "data_offsets": [starts, 4]}}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (b"[1, 2]", "expected a safetensors file, found .*; get it again from its owner"),
        (b'{"a":' + b"[" * 100_000, "expected a safetensors file, found .*; get it again"),
        (of_one([-1]), "expected a safetensors file, found .*; get it again"),
        (of_one([1 << 62, 8]), "expected a safetensors file, found .*; get it again"),
        (of_one([1], "n" * 1_000_000), "found n{200}…: another network's"),
        (
            {**of_one([1]), **{f"n{k}": of_one([0], "n", 4)["n"] for k in range(10_000)}},
            "at most 10,000 tensors, found 10,001",
        ),
    ],
    ids=["no object", "deep", "negative", "overflow", "a long name", "many names"],
)
def test_a_hostile_header_is_refused_in_few_words(tmp_path, told, said):
    with pytest.raises(CheckpointError, match=said) as refused:
        read_safetensors(with_header(told, tmp_path / "hostile.safetensors"))
    assert len(str(refused.value)) < 2_000


@pytest.mark.parametrize("shape", [[0, 1 << 63], [0, 1 << 62], [1] * 70, [1 << 28]], ids=lambda shape: str(shape[:3]))
def test_a_classifier_of_any_size_is_not_read(tmp_path, shape):
    """The last one has a gigabyte, of which the disk holds none."""
    header, at = {}, 0
    for name, sides in layout_of(LITE0, "timm").shapes.items():
        size = 4 * int(np.prod(sides))
        header[name] = {"dtype": "F32", "shape": list(sides), "data_offsets": [at, at + size]}
        at += size
    size = 0 if 0 in shape else 4 * shape[0]
    header["classifier.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
    path = with_header(header, tmp_path / "hostile.safetensors")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4 + at + size)
    with pytest.raises(CheckpointError, match="expected classifier.weight of at most 8 sides .*: leave it out"):
        read_safetensors(path)


def test_what_is_no_regular_file_is_refused(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("folder", "pipe"):
        with pytest.raises(CheckpointError, match=f"{name}.safetensors, which is a folder or no regular file"):
            read_safetensors(tmp_path / f"{name}.safetensors")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="which can't be read: No such file"):
        read_safetensors(tmp_path / "link.safetensors")


def test_a_file_whose_name_is_no_name_is_refused_before_it_is_read(store, tmp_path):
    with pytest.raises(CheckpointError, match="found 'a b', from which its backbone .*; rename the file"):
        pretrained.add_backbone(store, str(tmp_path / "a b.safetensors"))


def test_a_file_is_taken_over_and_found_by_its_names(store, lite2, tmp_path):
    added = pretrained.add_backbone(store, str(lite2))
    assert added.name == "efficientnet-lite2", "as its architecture, for model.safetensors is no name"
    facts = store.open(added).facts
    assert facts["licence"] == "as its owner says (its authors' own: Apache-2.0)"
    assert facts["image_spec"] == ImageSpec(260, 260, 3).to_dict()
    assert facts["scaling"] == {"subtract": 127.0, "divide": 128.0}
    mobile = tmp_path / "Mine.safetensors"
    save_file(drawn(layout_of(CONV_MEDIUM, "timm").shapes), mobile)
    mine = pretrained.add_backbone(store, str(mobile))
    assert store.open(mine).facts["scaling"]["subtract"] == list(IMAGENET_MEAN)
    lines = []
    for name in ("mine", "mobilenetv4-conv-medium", str(mine)):
        assert pretrained.backbone_named(store, name, lines.append) == mine
    assert lines == []
    package = pretrained.backbone_named(store, "efficientnet-lite2", lines.append)
    assert package not in (added, mine), "the name of a package means the package's own"
    assert len(lines) == 1
    assert pretrained.backbone_named(store, "efficientnet-lite2", lines.append) == package
    assert len(lines) == 1
    with pytest.raises(NotFound, match=r"expected a backbone out of efficientnet-lite0, .*mine, found 'resnet'"):
        pretrained.backbone_named(store, "resnet", lines.append)
    save_file(drawn({**layout_of(CONV_MEDIUM, "timm").shapes, "classifier.bias": (5,)}), tmp_path / "mine.safetensors")
    assert pretrained.add_backbone(store, str(tmp_path / "mine.safetensors")) != mine
    with pytest.raises(Ambiguous, match="'mine' fits 2 backbones, name one: backbones/mine@"):
        pretrained.backbone_named(store, "mine", lines.append)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite2"])
def test_the_packages_that_are_installed_are_backbones(store, name):
    ref = pretrained.add_package(store, name)
    loaded = backbones.load(store, ref)
    assert loaded.architecture == name
    spec = ImageSpec(288, 288, 3)
    embedding = Embedding(loaded, spec, "float32", "/CPU:0")
    assert embedding.looks_at == (288, 288)
    assert list(embedding.decided_by(False)) == ["backbone", "image", "precision", "view", "embedding"], "as ever"
    smaller = Embedding(loaded, spec, "float32", "/CPU:0", side=224)
    assert smaller.decided_by(False) == {**embedding.decided_by(False), "looks at": [224, 224]}
    assert Embedding(loaded, spec, "float32", "/CPU:0", side=288).decided_by(False) == embedding.decided_by(False)


@pytest.mark.slow
def test_lite2_knows_a_photograph(store):
    """scikit-learn's Chinese temple, looked at at two sizes: Google's class 442 is a bell cote, 698 a palace."""
    tensors = backbones.load(store, pretrained.add_package(store, "efficientnet-lite2")).tensors
    folded = LITE2.fold(tensors)
    temple = tf.constant(load_sample_images().images[:1])
    for side in (260, 224):
        found = features(LITE2, temple, folded, looks_at=(side, side)).numpy()
        logits = found @ tensors["classifier/kernel"] + tensors["classifier/bias"]
        assert set(np.argsort(-logits[0])[:2]) == {442, 698}


def test_the_side_at_which_a_picture_is_looked_at():
    assert VITS14.looks_at(288, 300) == (280, 294)
    assert VITS14.looks_at(5, 64) == (14, 56)
    assert VITS14.looks_at(288, 288, 224) == (224, 224)
    assert LITE0.looks_at(289, 101) == (289, 101)
    for side in (200, 0, -14):
        with pytest.raises(WeightsError, match=f"multiple of 14 pixels for DINOv2 ViT-S/14, found {side}; take "):
            VITS14.looks_at(288, 288, side)


@pytest.mark.parametrize("size", [(56, 42), (40, 90), (64, 64)])
def test_pictures_are_resized_as_pillow_does_it(size):
    from PIL import Image

    image = pictures((64, 64))[0]
    channels = [Image.fromarray(image[..., each].astype(np.float32)) for each in range(3)]
    expected = np.stack([np.asarray(each.resize(size[::-1], Image.Resampling.BILINEAR)) for each in channels], axis=-1)
    found = resize(tf.constant(image[np.newaxis].astype(np.float32)), *size)[0]
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_matrix_of_resampling_keeps_what_is_constant():
    for before, after in ((37, 16), (16, 37), (37, 37)):
        for kernel in ("linear", "cubic"):
            np.testing.assert_allclose(resampling(before, after, kernel).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(resampling(37, 37, "cubic"), np.eye(37, dtype=np.float32))


def test_weights_that_hold_a_backbone_say_which():
    head = {"output/bias": np.zeros(2, np.float32)}
    assert parted(head) == (head, [])
    architectures = (LITE2, VITS14_REG)
    folded = [architecture.fold(made(architecture)) for architecture in architectures]
    both = {f"{prefix(place)}{name}": each for place, own in enumerate(folded) for name, each in own.items()}
    found, own = parted({**head, **both})
    assert found == head
    assert [architecture for architecture, _ in own] == list(architectures)
    assert [set(tensors) for _, tensors in own] == [set(each) for each in folded]
    for place in (0, 1):
        cut = next(name for name in both if name.startswith(prefix(place)))
        with pytest.raises(WeightsError, match="expected all tensors of a pretrained network .*, or none"):
            parted({name: each for name, each in both.items() if name != cut})
