"""Verbs that compute without Prefect: predict, export."""

from pathlib import Path
from typing import Any

import click

from flows.cli.verb import Result, open_store, verb

_uncalibrated = click.option(
    "--uncalibrated", is_flag=True, help="Probabilities as the network gives them: the softmax of its logits."
)


@verb(show="predictions", only_shows=True)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("--weights", default="champion", show_default=True, help="A ref, champion, or NAME@champion.")
@_uncalibrated
def predict(images: tuple[Path, ...], weights: str, uncalibrated: bool) -> Result:
    """Tell what is on a few pictures, by the champion.

    \b
    Example:
      lookbook predict shoe.png shirt.jpg
      lookbook predict shoe.png --weights shoes@champion
    """
    from tasks.vision.imports import quick_imports

    with quick_imports():
        from tasks.predict import predict_files
        from tasks.shared import model

        settings, store = open_store()
    ready = model.load(store, store.resolve(weights, "weights"), 1.0 if uncalibrated else None)
    results = predict_files(ready, images, settings)
    return {"weights": str(ready.ref), "results": results, "failed": sum(bool(each["error"]) for each in results)}


@verb(show="export")
@click.argument("ref")
@click.option(
    "--format",
    "file_format",
    required=True,
    type=click.Choice(["saved-model", "tflite", "onnx"]),
    help="For TensorFlow, LiteRT, or ONNX runtimes.",
)
@click.option(
    "--output", required=True, metavar="FOLDER", type=click.Path(path_type=Path), help="A folder, new or empty."
)
@_uncalibrated
def export(ref: str, file_format: Any, output: Path, uncalibrated: bool) -> Result:
    """Write weights as a graph that needs no Python: pixels in, probabilities out.

    REF is a ref of weights, a version's first digits, or champion. Beside the graph are labels.txt and lookbook.json:
    the class names, and how a picture becomes pixels. The graph is loaded back and compared with predict on test images
    before the folder appears. ONNX needs packages of its own: pip install onnx onnxruntime tf2onnx.

    \b
    Example:
      lookbook export champion --format saved-model --output fashion-mnist/1
      lookbook export 3f9a1c20 --format onnx --output fashion-mnist-onnx
    """
    from tasks.export import export as write

    _, store = open_store()
    return write(store, store.resolve(ref, "weights"), file_format, output, uncalibrated).to_dict()
