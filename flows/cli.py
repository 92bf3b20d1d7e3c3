"""`lookbook VERB`: reads arguments, calls what does the work, prints the result."""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, get_args

import click

from tasks.vision.recipes import RECIPES, Architecture, Augmentation, Color, Device, Execution, Optimizer, Schedule

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

Result = Any


class Lookbook(click.Group):
    """Lists the verbs in the order in which they are met, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)


@click.group(cls=Lookbook, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lookbook")
def lookbook() -> None:
    """Retrain an image classifier on a schedule and score folders of images in bulk.

    \b
    Example:
      lookbook retrain
      lookbook predict shoe.png
      lookbook history
    """


def verb(show: str, name: str | None = None) -> Callable[[Callable[..., Result]], click.Command]:
    """A command whose function returns data: JSON with --json, otherwise what `tasks.reports.terminal.<show>` shows."""

    def decorate(function: Callable[..., Result]) -> click.Command:
        @wraps(function)
        def run(as_json: bool, verbose: bool, **arguments: Any) -> None:
            _set_up(verbose)
            result = function(**arguments)
            for each in result if isinstance(result, Iterator) else [result]:
                _print(show, each, as_json)
                if isinstance(each, dict) and (each.get("corrupt") or each.get("failed")):
                    raise SystemExit(FAILED)

        run = click.option("--verbose", is_flag=True, help="Show logs, and the traceback of a failure.")(run)
        run = click.option("--json", "as_json", is_flag=True, help="Print one JSON value, as the last line.")(run)
        return lookbook.command(name=name or function.__name__)(run)

    return decorate


def recipe_option(flag: str, kind: Any, told: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """An option whose default is the architecture's, and is told for each of them."""
    name = flag.removeprefix("--").replace("-", "_")
    defaults = {architecture: getattr(recipe, name) for architecture, recipe in RECIPES.items()}
    default = ", ".join(f"{architecture} {value}" for architecture, value in defaults.items())
    return click.option(
        flag,
        type=kind,
        callback=lambda context, option, value: _finite(value),
        help=f"{told} [default: {default}]",
    )


def share_option(
    flag: str, default: float, told: str, min_open: bool = False
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """An option from 0 to 1."""
    return click.option(
        flag,
        type=click.FloatRange(0, 1, min_open=min_open),
        callback=lambda context, option, value: _finite(value),
        default=default,
        show_default=True,
        help=told,
    )


@verb(show="retraining")
@click.option("--dataset", type=click.Choice(["fashion-mnist"]), default="fashion-mnist", show_default=True)
@click.option(
    "--images",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Pictures of your own: a folder a class, train/ and test/ with a folder a class, or a .csv or .parquet of "
    "path and label.",
)
@click.option("--name", help="What weights and champion are called; by default as the data set or the folder.")
@click.option(
    "--image-size", type=click.IntRange(8, 512), default=64, show_default=True, help="Pixels, height and width."
)
@click.option("--color", type=click.Choice(get_args(Color)), default="rgb", show_default=True, help="Of the pictures.")
@share_option("--max-bad", 0.01, "Largest share of the files that may be left out.")
@click.option(
    "--split-seed",
    type=click.IntRange(0, 2**31, max_open=True),
    default=0,
    show_default=True,
    help="Decides which of the pictures are for testing.",
)
@click.option("--architecture", type=click.Choice(get_args(Architecture)), default="dense", show_default=True)
@recipe_option("--epochs", click.IntRange(1, 10_000), "How often every training image is seen.")
@recipe_option("--batch-size", click.IntRange(1, 65_536), "Images a step; with few pictures 32 or less.")
@recipe_option("--learning-rate", click.FloatRange(0, min_open=True), "Step size at its largest.")
@recipe_option("--schedule", click.Choice(get_args(Schedule)), "How the learning rate goes.")
@recipe_option("--optimizer", click.Choice(get_args(Optimizer)), "How gradients move weights.")
@recipe_option("--weight-decay", click.FloatRange(0, 1), "How strongly large weights are drawn to zero.")
@recipe_option("--label-smoothing", click.FloatRange(0, 1, max_open=True), "Share of the target for all classes alike.")
@recipe_option(
    "--augmentation", click.Choice(get_args(Augmentation)), "flips: mirror half of the images, others each epoch."
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 0.5),
    callback=lambda context, option, value: _finite(value),
    default=0.0,
    show_default=True,
    help="Share of each class to hold out and watch.",
)
@click.option(
    "--patience",
    type=click.IntRange(0, 10_000),
    default=0,
    show_default=True,
    help="End after so many epochs without a better validation loss, with the best epoch; 0: never.",
)
@click.option("--seed", type=click.IntRange(0, 2**31, max_open=True), default=0, show_default=True)
@share_option("--minimum-accuracy", 0.0, "Accuracy below which no model is promoted.")
@share_option("--significance", 0.05, "Chance of promoting one as good as the champion; 1: any gain.", min_open=True)
@share_option("--max-recall-drop", 0.1, "How far any class's recall may be below the champion's.")
@click.option("--execution", type=click.Choice(get_args(Execution)), default="graph", show_default=True)
@click.option("--device", type=click.Choice(get_args(Device)), default="auto", show_default=True)
def retrain(images: Path | None, **parameters: Any) -> Result:
    """Prepare the data, train, evaluate on the test images, and promote the model when it is better beyond chance.

    Uses the Prefect server at PREFECT_API_URL, or brings its own for as long as it works.

    \b
    Example:
      lookbook retrain
      lookbook retrain --epochs 5 --schedule constant --seed 3
      lookbook retrain --architecture conv
      lookbook retrain --images shoes --epochs 50
      lookbook retrain --images shoes/labels.csv --image-size 32 --color grey
    """
    if images is not None:
        parameters["images"] = _images_as_root(images)
    elif given := [flag for flag in ("image_size", "color", "max_bad", "split_seed") if _was_given(flag)]:
        raise click.UsageError(f"--{given[0].replace('_', '-')} is about pictures of your own: it goes with --images")
    from flows.server import prefect_api

    with prefect_api() as api:
        import tasks.vision.training  # noqa: F401  (now, while a temporary server starts on the other core)
        from flows.retrain import retrain as flow

        api.wait()
        with _tagged():
            result = flow(**parameters)
    from artifacts.settings import Settings

    result["seconds"]["total"] = round(time.time() - _process_started(), 3)
    return {**result, "store": str(Settings().store)}


@verb(show="scoring")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--weights", default="champion", show_default=True, help="A ref, champion, or NAME@champion.")
@click.option("--name", help="What the predictions are called; by default as the folder.")
@click.option("--invert", is_flag=True, help="For dark objects on a light background.")
@click.option("--calibrated", is_flag=True, help="Scale probabilities by the temperature of held-out images.")
@click.option("--limit", type=click.IntRange(1), help="Score only the first so many entries, for a trial.")
@click.option("--fresh", is_flag=True, help="Score everything anew, whatever was scored before.")
@share_option("--max-errors", 0.5, "Largest share of entries that are missing, unreadable or timed out.")
def score(folder: Path, **parameters: Any) -> Result:
    """Tell what is on every picture of a folder: one row a file, in Parquet.

    Only what is new since the last time is scored; a run that was interrupted goes on where it was. The rows are in the
    folder that is printed, a report for people beside them.

    \b
    Example:
      lookbook score pictures
      lookbook score pictures --invert --limit 1000
    """
    given = _as_root(folder)
    from flows.server import prefect_api

    with prefect_api() as api:
        from flows.score import score as flow

        api.wait()
        with _tagged():
            return flow(given, **parameters)


@verb(show="predictions")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("--weights", default="champion", show_default=True, help="A ref, champion, or NAME@champion.")
def predict(images: tuple[Path, ...], weights: str) -> Result:
    """Tell what is on a few pictures, by the champion.

    \b
    Example:
      lookbook predict shoe.png shirt.jpg
      lookbook predict shoe.png --weights shoes@champion
    """
    from tasks.shared import model

    settings, store = _store()
    ready = model.load(store, store.resolve(weights, "weights"))
    results = model.predict_files(ready, images, settings)
    return {"weights": str(ready.ref), "results": results, "failed": sum(bool(each["error"]) for each in results)}


@verb(show="artifacts", name="list")
@click.argument("kind", required=False, type=click.Choice(["datasets", "weights", "metrics", "predictions"]))
def list_artifacts(kind: str | None) -> Result:
    """List what the store holds.

    \b
    Example:
      lookbook list weights
    """
    _, store = _store()
    manifests = [(ref, store.open(ref).manifest) for ref in store.refs(kind)]
    return [
        {"ref": str(ref), "created": manifest["provenance"]["created"], "inputs": manifest["identity"]["inputs"]}
        for ref, manifest in sorted(manifests, key=lambda each: each[1]["provenance"]["created"])
    ]


@verb(show="artifact")
@click.argument("ref")
def show(ref: str) -> Result:
    """Show one artifact: what it holds, what it was made from, when and where.

    REF is kind/name@version, name@version, a version's first digits, or champion. Of metrics the essential numbers
    are shown, and where their report is.

    \b
    Example:
      lookbook show champion
      lookbook show metrics/fashion-mnist@3f9a
    """
    _, store = _store()
    artifact = store.open(store.resolve(ref))
    shown = {"ref": str(artifact.ref), "path": str(artifact.folder), **artifact.manifest}
    if artifact.ref.kind == "metrics":
        from artifacts import metrics

        shown["numbers"] = metrics.load(store, artifact.ref).numbers
    if artifact.ref.kind == "datasets":
        from artifacts import dataset

        shown["findings"] = dataset.load(store, artifact.ref).findings
    return shown


@verb(show="lineage")
@click.argument("ref")
def lineage(ref: str) -> Result:
    """Show what an artifact was made from, down to the files, and what was made from it.

    REF is kind/name@version, name@version, a version's first digits, champion, or predictions/NAME@latest.

    \b
    Example:
      lookbook lineage champion
      lookbook lineage predictions/pictures@latest
    """
    from artifacts.lineage import lineage as trace

    _, store = _store()
    return trace(store, store.resolve(ref))


@verb(show="history")
@click.argument("name", required=False)
def history(name: str | None) -> Result:
    """Tell who was champion when, and why: every decision, oldest first.

    \b
    Example:
      lookbook history fashion-mnist
    """
    from dataclasses import asdict

    from artifacts import aliases

    _, store = _store()
    names = [name] if name else aliases.names(store.disk, "weights", "champion")
    return [
        {"name": each, **asdict(event)}
        for each in names
        for event in aliases.history(store.disk, "weights", each, "champion")
    ]


@verb(show="decision")
@click.argument("ref")
@click.option(
    "--reason", required=True, callback=lambda context, option, value: _said(value), help="Why, for the history."
)
def promote(ref: str, reason: str) -> Result:
    """Make these weights champion, whatever the comparison said.

    \b
    Example:
      lookbook promote 3f9a1c20 --reason "better on the new shop's pictures"
    """
    from dataclasses import asdict

    from artifacts import aliases

    _, store = _store()
    weights = store.open(store.resolve(ref, "weights"))
    weights.check_files()
    return asdict(aliases.promote(store.disk, weights.ref, reason))


@verb(show="decision")
@click.argument("name", required=False)
@click.option("--reason", default="rolled back by hand", show_default=True, help="Why, for the history.")
def rollback(name: str | None, reason: str) -> Result:
    """Make the champion before the current one champion again; one that is gone or damaged is refused.

    \b
    Example:
      lookbook rollback fashion-mnist
    """
    from dataclasses import asdict

    from artifacts import aliases

    _, store = _store()
    champion = store.resolve(f"{name}@champion" if name else "champion")
    return asdict(aliases.rollback(store.disk, champion.name, reason, check=lambda ref: store.open(ref).check_files()))


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
def export(ref: str, file_format: Any, output: Path) -> Result:
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

    _, store = _store()
    return write(store, store.resolve(ref, "weights"), file_format, output).to_dict()


@verb(show="verification")
@click.argument("ref", required=False)
def verify(ref: str | None) -> Result:
    """Hash everything in the store, or one artifact, and compare with what was published.

    What artifacts were made from, and what champion and latest ever meant, must be there, too.

    \b
    Example:
      lookbook verify
      lookbook verify champion
    """
    from dataclasses import asdict

    _, store = _store()
    return asdict(store.verify(store.resolve(ref) if ref else None))


@verb(show="operation")
def up() -> Result:
    """Hold up a Prefect server, a worker for each of the work pools cpu and gpu, and the deployments, until Ctrl-C.

    Runs then start by schedule, or from the page at the address that is printed. A server that PREFECT_API_URL names,
    or one of yours that runs where Prefect starts one, is used. Ctrl-C ends the workers, then the server; a run that
    was at work goes on the next time.

    This is one machine for one person: the server listens on 127.0.0.1, answers its own page and your programs alone,
    and keeps its history in SQLite. Whoever reaches it can run code here. For more: PostgreSQL
    (PREFECT_API_DATABASE_CONNECTION_URL), a password (PREFECT_SERVER_API_AUTH_STRING, and PREFECT_API_AUTH_STRING for
    workers) whenever it listens elsewhere, its own origin alone (PREFECT_SERVER_CORS_ALLOWED_ORIGINS), workers on
    several machines (prefect worker start --pool gpu --limit 1) and a store that all of them share (LOOKBOOK_STORE).
    docs/operations.md walks through it.

    \b
    Example:
      lookbook up
      LOOKBOOK_IMAGE_ROOTS='{"photos": "/srv/photos"}' lookbook up
    """
    from flows.up import running

    with running(_tell) as (made, crew):
        yield {"url": made.url, "api": made.api, "logs": str(made.logs), "ours": made.ours}
        if made.ours:
            with suppress(KeyboardInterrupt):
                crew.hold()
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(each, signal.SIG_IGN)
            _tell("stopping: workers, then the server")


def main() -> NoReturn:
    """The `lookbook` command: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) != signal.SIG_IGN:  # nohup
            signal.signal(each, lambda *_: _interrupt())
    verbose = "--verbose" in sys.argv
    try:
        lookbook.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.UsageError as error:
        error.show()
        sys.exit(WRONG_USAGE)
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted; nothing half-done was published, run the command again to go on")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:
        if verbose:
            raise
        _say(_one_line(error))
        sys.exit(FAILED)
    sys.exit(0)


def _print(show: str, result: Result, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result))
        sys.stdout.flush()
    else:
        from tasks.reports import terminal

        getattr(terminal, show)(result)


def _as_root(folder: Path) -> str:
    """Make a folder that this machine's own user names a root for this process: `given:`."""
    from artifacts.settings import Settings

    roots = {**Settings().image_roots, "given": folder.expanduser().absolute()}
    os.environ["LOOKBOOK_IMAGE_ROOTS"] = json.dumps({name: str(root) for name, root in roots.items()})
    return "given:"


def _images_as_root(images: Path) -> str:
    """The same for a folder, or for a table of pictures in its folder."""
    from tasks.preparing.labelled import TABLES

    if images.name.lower().endswith(TABLES):
        return f"{_as_root(images.expanduser().absolute().parent)}{images.name}"
    return _as_root(images)


def _was_given(parameter: str) -> bool:
    return click.get_current_context().get_parameter_source(parameter) is not click.core.ParameterSource.DEFAULT


def _tagged() -> AbstractContextManager[Any]:
    """Runs of the command line are told from scheduled ones, and those that the UI started, by a tag."""
    from prefect import tags

    return tags("lookbook", "command-line")


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _finite(value: Any) -> Any:
    """FloatRange lets inf pass, and NaN, which is on neither side of any limit."""
    if isinstance(value, float) and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no finite number")
    return value


def _said(text: str) -> str:
    """A history without reasons tells nothing."""
    if not text.strip():
        raise click.BadParameter("expected a reason, found nothing")
    return text


def _one_line(error: Exception) -> str:
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from artifacts.errors import LookbookError
    from tasks.vision.errors import VisionError

    if isinstance(error, (LookbookError, VisionError)):
        return " ".join(str(error).split())
    if isinstance(error, SettingsError):
        return f'a setting can\'t be read: {error}; LOOKBOOK_IMAGE_ROOTS is JSON like {{"photos": "/srv/photos"}}'
    if isinstance(error, ValidationError) and error.title == "Settings":
        first = error.errors()[0]
        return f"the setting LOOKBOOK_{str(first['loc'][0]).upper()} can't be {first['input']!r}: {first['msg']}"
    return f"unexpected {type(error).__name__}: {error}; run it again with --verbose to see where".replace("\n", " ")


def _say(text: str) -> None:
    from tasks.reports.printable import printable

    click.echo(f"{click.style('lookbook:', fg='red')} {printable(text)}", err=True)


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def _set_up(verbose: bool) -> None:
    """Prefect's own lines stay off the console unless they are asked for; its UI has them in any case."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "CRITICAL")


def _store() -> tuple[Any, Any]:
    from artifacts.settings import Settings
    from artifacts.store import Store

    settings = Settings()
    return settings, Store(settings.store)


def _process_started() -> float:
    """When this process started, in seconds since the epoch."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
