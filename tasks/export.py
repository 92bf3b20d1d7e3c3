"""Published weights -> a graph for other runtimes, in a folder of the user's. Needs no Prefect, makes no artifact."""

import errno
import importlib.util
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from artifacts import dataset as datasets
from artifacts import weights
from artifacts.errors import LookbookError
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.shared import model
from tasks.shared.model import Model

if TYPE_CHECKING:
    from tasks.vision.exporting import Format
    from tasks.vision.network import Network

CHECKED, CHECKED_BYTES = 1000, 256 << 20  # test images that a graph is compared on, and their bytes at most
NEEDED = {"saved-model": (), "tflite": (), "onnx": ("onnx", "onnxruntime", "tf2onnx")}  # packages beside TensorFlow
PATTERNS = "*?[\\"  # TensorFlow looks for a SavedModel's variables by pattern, and finds none below such folders


class OutputError(LookbookError):
    """A folder can't be written to or holds something, or a package is missing that writing needs."""


@dataclass(frozen=True)
class Exported:
    """A graph that was written.

    format: saved-model, tflite or onnx.
    path: what a runtime is given.
    folder: where the graph is, with `labels.txt` and `lookbook.json`.
    weights: the ref of the weights.
    images: how many test images the graph was compared on.
    max_difference: the largest absolute difference of a probability from what `predict` answers on this machine.
    other_labels: for how many of these images `predict` answers another label.
    why: why they differ, where `predict` computes in another precision than the graph.
    bytes: the size of all files.
    seconds: how long the export took.
    """

    format: str
    path: str
    folder: str
    weights: str
    images: int
    max_difference: float
    other_labels: int
    why: str | None
    bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def export(store: Store, ref: Ref, file_format: "Format", output: Path, uncalibrated: bool = False) -> Exported:
    """Write the graph of these weights, `labels.txt` and `lookbook.json` to the folder `output`, whole or not at all.

    uncalibrated: whether its probabilities are the softmax of the logits, where the weights have a temperature.

    The graph is loaded back and compared with `predict` on images of the dataset's test split. It computes in float32:
    where `predict` does so, too, both must agree. Where a pretrained network computes in bfloat16, the graph must agree
    with that network in float32, and how far it is from `predict` is told.

    Raises NotFound, Corrupt, WeightsError, OutputError (before anything is computed where it can be known then), and
    ExportError when the graph's numbers are others.
    """
    started = time.perf_counter()
    _require(file_format)
    with _whole(output, PATTERNS if file_format == "saved-model" else "") as (folder, target):
        dataset = Ref.parse(store.open(ref).identity["inputs"]["dataset"])
        images = _spread(datasets.load(store, dataset).test.images)
        from tasks.vision import device, exporting

        device.use_processor()
        device.use_threads(1)
        published = weights.load(store, ref)
        network = model.network_of(store, published)
        notes = {
            "lookbook.weights": str(ref),
            "lookbook.classes": json.dumps(published.classes),
            "lookbook.image_spec": json.dumps(published.image_spec),
        }
        temperature, own = published.temperature, None if uncalibrated else published.temperature
        exporting.write(network, file_format, folder, notes, temperature, uncalibrated)
        answering = model.load(store, ref, own or 1.0, device="cpu")
        checked = _check_graph(network, own or 1.0, temperature, answering, images, file_format, folder)
        _write_beside(
            folder,
            weights=str(ref),
            dataset=str(dataset),
            format=file_format,
            file=exporting.FILES[file_format],
            input={"name": exporting.INPUT, "dtype": "uint8", "shape": [None, *images.shape[1:]]},
            output={"name": exporting.OUTPUT, "dtype": "float32", "shape": [None, len(published.classes)]},
            temperature=own,
            classes=published.classes,
            image_spec=published.image_spec,
            **_calibrated(temperature, len(published.classes)),
            checked=asdict(checked),
            versions={name: version(name) for name in ("lookbook", "tensorflow", *NEEDED[file_format])},
        )
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Exported(
        format=file_format,
        path=str(target / exporting.FILES[file_format]),
        folder=str(target),
        weights=str(ref),
        images=checked.images,
        max_difference=checked.max_difference,
        other_labels=checked.other_labels,
        why=checked.why,
        bytes=size,
        seconds=round(time.perf_counter() - started, 3),
    )


@dataclass(frozen=True)
class _Checked:
    """What a comparison with `predict` found: the fields of Exported."""

    images: int
    max_difference: float
    other_labels: int
    why: str | None


def _check_graph(
    network: "Network",
    temperature: float,
    calibrated_by: float | None,
    answering: Model,
    images: np.ndarray,
    file_format: "Format",
    folder: Path,
) -> _Checked:
    """Compare the graph that was written with what `answering` answers. Raises ExportError.

    network: what was written, in float32; temperature: of its first output; calibrated_by: of its second one, where
    there is one; images: uint8 [items, height, width, channels].
    """
    from tasks.vision import exporting
    from tasks.vision.inference import Predictor

    alike = Predictor(network, temperature)
    given = exporting.run(exporting.load(file_format, folder), images, alike.batch)
    some = images[: alike.batch]  # their logits are as large as the others'
    allowed = exporting.tolerance(network, some, temperature)
    found, answers, why = given[exporting.OUTPUT], answering.predict(images), None
    if answering.precision == "float32":
        exporting.difference(answers, found, allowed)
    else:
        rounding = exporting.difference(alike(images), found, allowed)
        why = (
            f"predict computes the pretrained network in {answering.precision} on this processor, the graph in "
            f"float32; computed alike, probabilities differ by at most {rounding:.1e}"
        )
    if calibrated_by is not None:  # of the same logits: a batch of them tells
        calibrated, allowed = Predictor(network, calibrated_by)(some), exporting.tolerance(network, some, calibrated_by)
        exporting.difference(calibrated, given[exporting.CALIBRATED][: len(some)], allowed)
    other_labels = np.count_nonzero(answers.argmax(1) != found.argmax(1))
    return _Checked(len(images), float(np.abs(answers - found).max()), int(other_labels), why)


def _calibrated(temperature: float | None, classes: int) -> dict[str, Any]:
    """What is told of the second output, where there is one."""
    from tasks.vision.exporting import CALIBRATED

    if temperature is None:
        return {}
    of = {"name": CALIBRATED, "dtype": "float32", "shape": [None, classes], "temperature": temperature}
    return {"calibrated": of}


def _write_beside(folder: Path, **about: Any) -> None:
    """Write the class names, and `about` as JSON."""
    labels = [" ".join(name.splitlines()) for name in about["classes"]]
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    (folder / "lookbook.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _require(file_format: str) -> None:
    """Raises OutputError when a package is missing."""
    missing = [name for name in NEEDED[file_format] if importlib.util.find_spec(name) is None]
    if missing:
        raise OutputError(
            f"expected {', '.join(NEEDED[file_format])} for --format {file_format}, found no {', '.join(missing)}; "
            f"install them beside Lookbook: pip install {' '.join(NEEDED[file_format])}"
        )


@contextmanager
def _whole(output: Path, forbidden: str) -> Iterator[tuple[Path, Path]]:
    """A folder to write to, and the place where it will be: it is moved there when all went well, else removed."""
    target = output.expanduser().absolute()
    try:
        target = target.resolve()
        _check(target, output, forbidden)
        beside = next(parent for parent in target.parents if parent.exists())
        with tempfile.TemporaryDirectory(prefix=".lookbook-export-", dir=beside) as scratch:
            folder = Path(scratch, "export")  # not the scratch itself, which nobody else may read
            folder.mkdir()
            yield folder, target
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise OutputError(f"somebody else has written to {output} meanwhile; name another folder") from error
        raise OutputError(
            f"can't write {output}: {error.strerror}; make room, mend the permissions, or name another folder"
        ) from error


def _check(target: Path, output: Path, forbidden: str) -> None:
    """Raises OutputError unless a folder can be put at `target`."""
    if odd := [each for each in forbidden if each in str(target)]:
        raise OutputError(
            f"expected a path that TensorFlow doesn't take for a pattern, found {' '.join(odd)} in {target}; "
            "name another folder"
        )
    if target.exists() and not target.is_dir():
        raise OutputError(f"expected a folder that is new or empty, found the file {output}; name another")
    if target.is_dir():
        if held := sorted(path.name for path in target.iterdir())[:3]:
            shown = ", ".join(held)
            raise OutputError(
                f"expected a folder that is new or empty, found {shown} in {output}; name another, or empty it"
            )
        if target.is_mount() or target == Path.cwd():
            raise OutputError(
                f"expected a folder that can be put in place as a whole, found {output}, the current folder or a mount "
                "point; name a new folder inside it"
            )


def _spread(images: np.ndarray) -> np.ndarray:
    """At most CHECKED images of CHECKED_BYTES together, evenly from all."""
    most = min(CHECKED, max(1, CHECKED_BYTES // images[0].nbytes), len(images))
    chosen: np.ndarray = images[np.linspace(0, len(images) - 1, most).astype(int)]
    return chosen
