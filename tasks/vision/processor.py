"""What this machine's processor is, and what it computes in. No TensorFlow here."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

Precision = Literal["float32", "bfloat16"]

_VECTORS = ("amx", "avx", "f16c", "fma", "sse")
_VARIABLES = ("TF_ENABLE_ONEDNN_OPTS", "TF_XLA_FLAGS", "XLA_FLAGS")
_ONEDNN = ("ONEDNN_", "DNNL_")
_BFLOAT16 = {"avx512_bf16", "amx_bf16"}  # as Linux names a processor's instructions


def precision(asked: str, place: str) -> Precision:
    """What a pretrained network's convolutions are computed in.

    asked: `float32`, or another word for bfloat16 on a processor that has instructions for it.
    place: the TensorFlow device.

    On a 2-core Intel Xeon with AVX512_BF16 and AMX a picture takes less than half of the time in bfloat16. On a
    processor without them it would take longer, and a GPU is given float32.
    """
    if asked != "float32" and place == "/CPU:0" and _BFLOAT16 & set(_cpu_info("flags").split()):
        return "bfloat16"
    return "float32"


def processor() -> str:
    """The processor's name."""
    return _cpu_info("model name") or platform.machine()


def instructions() -> str:
    """The vector instructions that it has, as Linux names them, separated by spaces: they decide a sum's last bits."""
    return " ".join(sorted(each for each in _cpu_info("flags").split() if each.startswith(_VECTORS)))


def arithmetic() -> dict[str, str]:
    """What decides the last bits of what TensorFlow computes on this processor, beside code and data: TensorFlow's
    version, the processor's instructions, and the variables that TensorFlow and oneDNN read.

    Not the number of threads: one computes an operation.
    """
    try:
        tensorflow = version("tensorflow")
    except PackageNotFoundError:
        tensorflow = "none"
    read = sorted(name for name in os.environ if name in _VARIABLES or name.startswith(_ONEDNN))
    return {
        "TensorFlow": tensorflow,
        "the processor's instructions": instructions(),
        "TensorFlow's variables": " ".join(f"{name}={os.environ[name]}" for name in read),
    }


def _cpu_info(wanted: str) -> str:
    """What Linux says of the first processor; empty where it says nothing."""
    with suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == wanted:
                return value.strip()
    return ""
