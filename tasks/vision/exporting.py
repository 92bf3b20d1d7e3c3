"""A network as a graph that needs no Python: pixels in, probabilities out, for TensorFlow, LiteRT or ONNX runtimes.

A format is a function that writes the graph, and one that loads it back as its own runtime does. `difference` compares.
Converters may reorder sums, so a graph agrees with `Predictor` to rounding and not to the bit. It computes in float32
throughout: neither LiteRT nor ONNX Runtime has convolutions in bfloat16 for every processor.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.vision.device import tf, without_greeting
from tasks.vision.errors import ExportError
from tasks.vision.network import Network

Format = Literal["saved-model", "tflite", "onnx"]
Predict = Callable[[np.ndarray], Mapping[str, np.ndarray]]

INPUT, OUTPUT = "images", "probabilities"
CALIBRATED = "probabilities_calibrated"  # what graphs had when OUTPUT was not: after it by name, where only order tells
FILES: dict[Format, str] = {"saved-model": ".", "tflite": "model.tflite", "onnx": "model.onnx"}
"""What a runtime is given, as a path inside the folder: a SavedModel is a folder itself."""
TOLERANCE = 1e-5  # of a probability, where the logits are small
ROUNDINGS = 4  # of a float32, of the largest logit; docs/exporting.md has what was measured
OPSET = 15  # of ONNX; what tf2onnx prefers, named here so that a newer one changes no graph


class Graph(tf.Module):
    """A network and its softmax, traced for any number of images: with a temperature, that of the logits divided by it,
    unless it is uncalibrated; in any case a second output is calibrated then."""

    def __init__(self, network: Network, temperature: float | None, uncalibrated: bool) -> None:
        super().__init__(name="graph")
        self.network, self.temperature, self.uncalibrated = network, temperature, uncalibrated
        images = tf.TensorSpec((None, *network.image_shape), tf.uint8, INPUT)
        self.predict = tf.function(self._predict, input_signature=[images], autograph=False)

    def _predict(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = self.network(images)
        if self.temperature is None:
            return {OUTPUT: tf.nn.softmax(logits)}
        calibrated = tf.nn.softmax(logits / self.temperature)
        first = tf.nn.softmax(logits) if self.uncalibrated else calibrated
        return {OUTPUT: first, CALIBRATED: tf.identity(calibrated)}


def write(
    network: Network,
    file_format: Format,
    folder: Path,
    notes: Mapping[str, str],
    temperature: float | None = None,
    uncalibrated: bool = False,
) -> None:
    """Write the graph into a folder.

    folder: exists already.
    notes: go into the graph where the format has a place for them.
    temperature: what calibrates the probabilities, where there is one.
    uncalibrated: whether `probabilities` are as the network gives them all the same.

    The graph takes `images`, uint8 [batch, height, width, channels], 0-255, in batches of any size. It gives
    `probabilities`, float32 [batch, classes], and with a temperature `probabilities_calibrated`, which are calibrated
    whatever `probabilities` are. Raises ExportError and OSError.
    """
    try:
        _WRITERS[file_format](Graph(network, temperature, uncalibrated), folder / FILES[file_format], notes)
    except tf.errors.OpError as error:
        raise ExportError(f"TensorFlow can't write the {file_format}: {error.message}; is there room?") from error


def load(file_format: Format, folder: Path) -> Predict:
    """What was written, in the format's own runtime.

    It turns uint8 [items, height, width, channels] into what the graph gives: name -> float32 [items, classes]. Load
    only a graph that this process wrote: a SavedModel is a program.
    """
    return _LOADERS[file_format](folder / FILES[file_format])


def run(graph: Predict, images: np.ndarray, batch: int) -> dict[str, np.ndarray]:
    """What a graph gives of images: name -> float32 [items, classes].

    images: uint8 [items, height, width, channels]. The graph gets the first one alone, then batches of this size.
    """
    parts = [graph(part) for part in np.split(images, range(1, len(images), batch))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def tolerance(network: Network, images: np.ndarray, temperature: float = 1.0) -> float:
    """By how much a probability of these images may differ between runtimes: 1e-5, or what rounding explains.

    images: uint8 [items, height, width, channels]. Sums in another order differ by some roundings of a float32
    (2^-23 of its size), a temperature T makes of a difference 1/T of it, and the softmax half of that at most: its
    derivative is p (1 - p), and the other logits may go the other way.
    """
    largest = float(np.abs(network(tf.constant(images)).numpy()).max())
    return max(TOLERANCE, ROUNDINGS * float(np.finfo(np.float32).eps) * largest / temperature)


def difference(expected: np.ndarray, found: np.ndarray, allowed: float = TOLERANCE) -> float:
    """The largest absolute difference between two tables of probabilities, float32 [items, classes].

    Raises ExportError when shapes, dtypes or labels differ, or the difference is above `allowed`.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ExportError(
            f"expected probabilities {expected.dtype} {list(expected.shape)} from the written graph, found "
            f"{found.dtype} {list(found.shape)}; {_REFUSED}"
        )
    largest = float(np.abs(expected - found).max())
    labels = np.count_nonzero(expected.argmax(1) != found.argmax(1))
    if labels or not largest <= allowed:  # so that NaN is refused, too
        raise ExportError(
            f"expected the written graph to give the probabilities of `lookbook predict` within {allowed:.2g}, found a "
            f"difference of {largest:.2g} and {labels:,} other labels among {len(expected):,} test images; {_REFUSED}"
        )
    return largest


_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_REFUSED = "nothing was exported; try another --format"


def _write_saved_model(graph: Graph, path: Path, notes: Mapping[str, str]) -> None:  # noqa: ARG001
    tf.saved_model.save(graph, str(path), signatures={"serving_default": graph.predict})


def _load_saved_model(path: Path) -> Predict:
    loaded = tf.saved_model.load(str(path))
    run = loaded.signatures["serving_default"]
    return lambda images: {name: np.asarray(each) for name, each in run(**{INPUT: tf.constant(images)}).items()}


def _write_tflite(graph: Graph, path: Path, notes: Mapping[str, str]) -> None:  # noqa: ARG001
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.predict.get_concrete_function()], graph)
    path.write_bytes(converter.convert())


def _load_tflite(path: Path) -> Predict:
    with warnings.catch_warnings(), without_greeting():
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated", UserWarning)
        interpreter = tf.lite.Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
    run = interpreter.get_signature_runner()
    return lambda images: {name: np.asarray(each) for name, each in run(**{INPUT: images}).items()}


def _write_onnx(graph: Graph, path: Path, notes: Mapping[str, str]) -> None:
    import onnx

    model, _ = _converter().from_function(graph.predict, graph.predict.input_signature, opset=OPSET)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]  # shapes in between, where the batch still has the converter's names
    onnx.helper.set_model_props(model, dict(notes))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def _load_onnx(path: Path) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {INPUT: images}), strict=True))


def _converter() -> Any:
    """The converter of tf2onnx, whose import changes TensorFlow's log level: that is taken back."""
    kept = os.environ.get(_LOG_LEVEL)
    from tf2onnx import convert

    os.environ.pop(_LOG_LEVEL, None)
    if kept is not None:
        os.environ[_LOG_LEVEL] = kept
    return convert


_WRITERS: dict[Format, Callable[[Graph, Path, Mapping[str, str]], None]] = {
    "saved-model": _write_saved_model,
    "tflite": _write_tflite,
    "onnx": _write_onnx,
}
_LOADERS: dict[Format, Callable[[Path], Predict]] = {
    "saved-model": _load_saved_model,
    "tflite": _load_tflite,
    "onnx": _load_onnx,
}
