"""TensorFlow, imported once and quietly, and the device that it computes on.

Import `tf` from here. TensorFlow alone takes 3.0 s to import; with Keras, which nothing here uses, it takes 4.6 s. It
prints lines about oneDNN and CUDA that no log level silences (TensorFlow 2.21, 2-core AMD EPYC).
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tasks.vision.errors import DeviceError
from tasks.vision.imports import quick_imports
from tasks.vision.processor import processor

_GREETING = re.compile(
    rb"WARNING: All log messages before absl|I0000 |E0000 .*failed call to cuInit|INFO: Created TensorFlow Lite XNNPACK"
)


@contextmanager
def without_greeting() -> Iterator[None]:
    """Hold back what is written to file descriptor 2, then pass on all that is no greeting."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held:
                if not _GREETING.match(line):
                    os.write(2, line)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables that the user has not set, and remove them again: other code may want Keras."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


with _environment(TF_CPP_MIN_LOG_LEVEL="2", TF_USE_LEGACY_KERAS="1"), without_greeting(), quick_imports():
    import tensorflow as tf

    _GPUS = tf.config.list_physical_devices("GPU")

__all__ = [
    "choose",
    "describe",
    "tf",
    "threads",
    "use_processor",
    "use_threads",
    "without_greeting",
]


def choose(device: str) -> str:
    """The TensorFlow device for `auto`, `cpu` or `gpu`: `/CPU:0` or `/GPU:0`.

    A GPU's memory is taken as it is needed. Raises DeviceError for `gpu` without a GPU.
    """
    if device == "cpu":
        return "/CPU:0"
    if not _GPUS and device == "gpu":
        raise DeviceError(
            "expected a GPU that TensorFlow can use, found none; use --device auto, or install the GPU build (in the "
            "checkout: pip install '.[gpu]') and NVIDIA's driver; importing tensorflow by hand tells what it misses"
        )
    for gpu in _GPUS:
        with suppress(RuntimeError):  # already in use by this process
            tf.config.experimental.set_memory_growth(gpu, True)
    return "/GPU:0" if _GPUS else "/CPU:0"


def describe(name: str) -> str:
    """The device with its hardware's name: `CPU:0 (AMD EPYC)` for `/CPU:0`, `GPU:0 (NVIDIA A100...)` for `/GPU:0`."""
    if name == "/CPU:0":
        return f"CPU:0 ({processor()})"
    return f"GPU:0 ({tf.config.experimental.get_device_details(_GPUS[0]).get('device_name', 'unnamed')})"


def use_threads(count: int) -> int:
    """Compute with `count` threads for each operation, unless this process has computed already.

    Returns how many threads it is.
    """
    with suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(count)
    return threads()


def use_processor() -> None:
    """Compute without GPUs, unless this process has computed already: their convolutions may round to fewer bits."""
    with suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")


def threads() -> int:
    """How many threads an operation may use in this process."""
    return tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
