"""Learning from photographs on a pretrained network: whole commands beside a bare Keras script, and pictures a second
beside onnxruntime, in one run.

    python benchmarks/transfer.py [FOLDER]

FOLDER has a folder for each class; without one, 1,000 made-up photographs are drawn (their accuracy means nothing).
Takes five to ten minutes.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tf2onnx  # before TensorFlow: it imports Keras
from PIL import Image
from retrain import BIN, timed
from score import OWN_RATE

from artifacts import backbones
from artifacts.store import Store
from tasks.shared.backbones import add_package
from tasks.vision.architecture import Architecture
from tasks.vision.backbone import Embedder, features
from tasks.vision.device import tf
from tasks.vision.efficientnet_lite import LITE0, LITE2
from tasks.vision.processor import precision

ROUNDS = 5
NEW = 100
ALONE = LITE2  # what is scored with beside what was chosen, at 288 pixels


def draw(top: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(1000):
        folder = top / f"class {index % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (6 + index % 10, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((533, 400), Image.Resampling.BICUBIC).save(
            folder / f"{index:04d}.jpg", quality=88
        )


def onnx_rate(
    architecture: Architecture, folded: dict[str, np.ndarray], side: int, path: Path
) -> Callable[[np.ndarray], object]:
    """The same network in onnxruntime, with a thread for each processor, in batches of 16."""
    import onnxruntime

    weights = {name: tf.Variable(each) for name, each in folded.items()}
    given = [tf.TensorSpec([None, side, side, 3], tf.uint8, "images")]
    graph = tf.function(lambda images: features(architecture, images, weights), input_signature=given, autograph=False)
    tf2onnx.convert.from_function(graph, given, opset=17, output_path=str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: [session.run(None, {"images": images[k : k + 16]}) for k in range(0, len(images), 16)]


def rates(ways: dict[str, Callable[[np.ndarray], object]], images: np.ndarray) -> dict[str, list[float]]:
    """Pictures a second, each way in turn."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for each in ways.values():
        each(images[:32])
    for _ in range(ROUNDS):
        for name, run in ways.items():
            started = time.perf_counter()
            run(images)
            found[name].append(len(images) / (time.perf_counter() - started))
    return found


def tell(what: str, numbers: Iterable[float], unit: str) -> None:
    numbers = sorted(numbers)
    print(f"{what}: {statistics.median(numbers):.1f} {unit} ({numbers[0]:.1f} to {numbers[-1]:.1f})", flush=True)


def embedding(top: Path, architecture: Architecture, side: int) -> None:
    store = Store(top / "embedding")
    folded = architecture.fold(backbones.load(store, add_package(store, architecture.name)).tensors)
    images = np.random.default_rng(0).integers(0, 256, (256, side, side, 3), dtype=np.uint8)
    fastest = precision("auto", "/CPU:0")
    ways: dict[str, Callable[[np.ndarray], object]] = {"float32": Embedder(architecture, folded, "float32")}
    ways |= {fastest: Embedder(architecture, folded, fastest)}
    ways |= {"onnxruntime, float32": onnx_rate(architecture, folded, side, top / f"{architecture.name}-{side}.onnx")}
    found = rates(ways, images)
    what = f"{architecture.name} at {side}x{side}"
    for name, numbers in found.items():
        tell(f"{what}, {name}", numbers, "pictures/s")
    for name in dict.fromkeys(("float32", fastest)):
        pairs = [ours / theirs for ours, theirs in zip(found[name], found["onnxruntime, float32"], strict=True)]
        tell(f"{what}, {name}, percent of onnxruntime", [100 * each for each in pairs], "%")


def whole_commands(top: Path, given: Path) -> None:
    """`lookbook retrain` the first time, with nothing new and with NEW pictures; the Keras script; scoring's rate."""
    folder = top / "photographs"
    shutil.copytree(given, folder)
    pictures = sorted(each for each in folder.rglob("*") if each.is_file())
    late = [pictures[index] for index in np.linspace(0, len(pictures) - 1, NEW).astype(int)]
    environment = {"LOOKBOOK_STORE": f"{top}/store", "PREFECT_HOME": f"{top}/prefect", "PREFECT_API_URL": ""}
    command = [str(BIN / "lookbook"), "retrain", "--images", str(folder), "--json"]
    for each in late:
        each.rename(each.with_name(f".{each.name}"))  # hidden files are left out
    first, result = timed(command, environment)
    print(f"pictures: {len(pictures):,}; accuracy {result['accuracy']:.2%}")
    same, _ = timed(command, environment)
    for each in late:
        each.with_name(f".{each.name}").rename(each)
    more, result = timed(command, environment)
    keras, _ = timed([sys.executable, "benchmarks/keras_transfer.py", str(folder)], {"TF_CPP_MIN_LOG_LEVEL": "3"})
    print(f"whole retrain: first {first:.1f} s, nothing new {same:.1f} s, {NEW} new {more:.1f} s; Keras {keras:.1f} s")
    print(f"accuracy with all: {result['accuracy']:.2%}; seconds a stage: {result['seconds']}")
    scoring("what was chosen", folder, environment)
    alone = {**environment, "LOOKBOOK_STORE": f"{top}/alone"}
    timed([*command, "--backbone", ALONE.name], alone)
    scoring(ALONE.name, folder, alone)


def scoring(what: str, folder: Path, environment: dict[str, str]) -> None:
    run = [sys.executable, "-c", OWN_RATE, str(folder)]
    said = subprocess.run(run, capture_output=True, text=True, check=True, env={**os.environ, **environment}).stdout
    print(f"scoring from disk by {what}: {json.loads(said.splitlines()[-1])['images_per_second']:.0f} pictures/s")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        given = Path(sys.argv[1]) if len(sys.argv) > 1 else top / "drawn"
        if len(sys.argv) == 1:
            draw(given)
        embedding(top, LITE0, 224)
        embedding(top, ALONE, 288)
        whole_commands(top, given)


if __name__ == "__main__":
    main()
