"""Checkpoints of pretrained networks -> their tensors. No pickle is ever run.

A legacy PyTorch checkpoint is five pickles and raw numbers. What stands in its pickles is read by an unpickler that
knows an ordered dict, two kinds of storage and how a tensor lies in one, and refuses every other name.
"""

import hashlib
import io
import math
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np

from tasks.vision.architecture import Shapes
from tasks.vision.errors import CheckpointError
from tasks.vision.recognition import recognize, shortened

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_COUNT = struct.Struct("<q")


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


_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
_MOST_TENSORS = 10_000  # of a file: a header may tell of millions
_MOST_SIDES, _MOST_SPARE = 8, 1 << 27  # of a classifier and the like: half a gigabyte of float32


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a safetensors file, and its SHA-256 (hex). bfloat16 becomes float32.

    The header is looked at first: of a file that is no backbone nothing else is read, however large it is.

    Raises CheckpointError.
    """
    from safetensors import SafetensorError, deserialize, safe_open

    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise CheckpointError(f"expected a safetensors file, found {path}, which is a folder or no regular file")
        with safe_open(path, "numpy") as file:
            names = file.keys()
            if len(names) > _MOST_TENSORS:
                raise CheckpointError(
                    f"expected a network of at most {_MOST_TENSORS:,} tensors, found {len(names):,} in {path}; "
                    "docs/backbones.md says which checkpoints can be read"
                )
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            layout = recognize(shapes).layout
            _check_spare({name: shape for name, shape in shapes.items() if name not in layout.shapes})
        content = path.read_bytes()
        read = deserialize(content)  # type: ignore[no-untyped-call]
        tensors = {str(name): _numbers_of(str(name), each) for name, each in read}
    except OSError as error:
        raise CheckpointError(
            f"expected a safetensors file, found {path}, which can't be read: {error.strerror or error}"
        ) from None
    except SafetensorError as error:
        raise CheckpointError(
            f"expected a safetensors file, found {path}, which is none ({error}); get it again from its owner"
        ) from None
    return tensors, hashlib.sha256(content).hexdigest()


def _check_spare(shapes: Shapes) -> None:
    """Of tensors that decide no feature any shape is recognized, so they are looked at before they are read."""
    for name, shape in shapes.items():
        if len(shape) > _MOST_SIDES or math.prod(max(side, 1) for side in shape) > _MOST_SPARE:
            raise CheckpointError(
                f"expected {shortened(name)} of at most {_MOST_SIDES} sides and {_MOST_SPARE:,} numbers, found one of "
                f"{shortened(str(list(shape)))}; no feature needs it: leave it out of the file"
            )


def _numbers_of(name: str, tensor: dict[str, Any]) -> np.ndarray:
    """tensor: `dtype`, `shape` and `data`, as safetensors tells them."""
    shape, data = tensor["shape"], tensor["data"]
    if tensor["dtype"] == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if tensor["dtype"] not in _DTYPES:
        raise CheckpointError(f"expected float32, float16 or bfloat16, found {name} of {tensor['dtype']}")
    return np.frombuffer(data, _DTYPES[tensor["dtype"]]).reshape(shape)
