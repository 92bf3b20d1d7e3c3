"""python c_api.py SAVED_MODEL IMAGES.npy PROBABILITIES.npy: a SavedModel run by TensorFlow's C library alone.

The library is the one inside TensorFlow's package; of Python only what calls it is used, and TensorFlow's Python code
is not imported. Signatures: tensorflow/c/c_api.h.
"""

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

UINT8, FLOAT = 4, 1  # TF_DataType
BATCH = 1000


class Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def library() -> ctypes.CDLL:
    folder = Path(next(iter(find_spec("tensorflow").submodule_search_locations)))
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    tf = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"))
    pointers = "NewStatus NewSessionOptions NewGraph LoadSessionFromSavedModel GraphOperationByName AllocateTensor"
    for name in (*pointers.split(), "TensorData"):
        getattr(tf, f"TF_{name}").restype = ctypes.c_void_p
    tf.TF_Message.restype = ctypes.c_char_p
    tf.TF_Dim.restype = ctypes.c_int64
    return tf


def main(saved_model: str, images: str, probabilities: str) -> None:
    tf = library()
    status, graph = ctypes.c_void_p(tf.TF_NewStatus()), ctypes.c_void_p(tf.TF_NewGraph())
    tags = (ctypes.c_char_p * 1)(b"serve")
    session = ctypes.c_void_p(
        tf.TF_LoadSessionFromSavedModel(
            ctypes.c_void_p(tf.TF_NewSessionOptions()), None, saved_model.encode(), tags, 1, graph, None, status
        )
    )
    assert tf.TF_GetCode(status) == 0, tf.TF_Message(status)
    given = Output(tf.TF_GraphOperationByName(graph, b"serving_default_images"), 0)
    wanted = Output(tf.TF_GraphOperationByName(graph, b"StatefulPartitionedCall"), 0)
    assert given.operation
    assert wanted.operation

    def run(pixels: np.ndarray) -> np.ndarray:
        shape = (ctypes.c_int64 * 4)(*pixels.shape)
        tensor = ctypes.c_void_p(tf.TF_AllocateTensor(UINT8, shape, 4, ctypes.c_size_t(pixels.nbytes)))
        ctypes.memmove(tf.TF_TensorData(tensor), pixels.tobytes(), pixels.nbytes)
        found = ctypes.c_void_p()
        tf.TF_SessionRun(
            session, None, ctypes.byref(given), ctypes.byref(tensor), 1, ctypes.byref(wanted), ctypes.byref(found), 1,
            None, 0, None, status,
        )  # fmt: skip
        assert tf.TF_GetCode(status) == 0, tf.TF_Message(status)
        assert tf.TF_TensorType(found) == FLOAT
        rows, classes = tf.TF_Dim(found, 0), tf.TF_Dim(found, 1)
        content = ctypes.string_at(tf.TF_TensorData(found), rows * classes * 4)
        for each in (tensor, found):
            tf.TF_DeleteTensor(each)
        return np.frombuffer(content, np.float32).reshape(rows, classes)

    pixels = np.load(images)
    np.save(probabilities, np.concatenate([run(part) for part in np.split(pixels, range(BATCH, len(pixels), BATCH))]))
    assert "tensorflow" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
