"""What a person sees while a stage works.

Bars on a terminal, plain lines elsewhere, both on stderr; and in Prefect's UI a progress report with the share done.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.runtime import flow_run
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from artifacts.printable import many, printable
from tasks.reports.logs import make_logs_printable
from tasks.reports.streams import make_streams_forgiving

if TYPE_CHECKING:
    from tasks.vision import training
    from tasks.vision.trained import Tried

# Here, as whatever tells of work imports this: a worker starts no code of ours.
make_logs_printable()
make_streams_forgiving()


class DownloadProgress:
    """Shows downloads: a bar for each file, from the first byte on."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._files: dict[str, Any] = {}

    def __enter__(self) -> Callable[[str, int, int | None], None]:
        return self._on_bytes

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._bars.stop()

    def _on_bytes(self, file: str, done: int, total: int | None) -> None:
        if not self._files:
            self._bars.start()
        if file not in self._files:
            self._files[file] = self._bars.add_task(file, total=total)
            if not self._console.is_terminal:
                self._console.print(f"downloading {file}", highlight=False)
        self._bars.update(self._files[file], completed=done, total=total)


def warn(text: str, log: Callable[[str], None]) -> None:
    """Print a warning on stderr, and log it."""
    Console(stderr=True).print(Text.assemble(("warning: ", "yellow"), printable(text)), highlight=False, soft_wrap=True)
    log(text)


def report_key(*words: str) -> str:
    """The key of a report in Prefect's UI: a-z, 0-9 and dashes.

    The same words give the same key, so that history builds up. Words with other characters end in a digest, so that
    `a.b`, `a-b` and `a_b` have histories of their own.
    """
    return "-".join(_key_part(word) for word in words)


def _key_part(word: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")
    return plain if plain == word else f"{plain}-{hashlib.sha256(word.encode()).hexdigest()[:8]}".strip("-")


class _ShareReport:
    """A progress report in Prefect's UI, written every five seconds at most.

    A thread writes it, so that a server which is slow or restarting holds nothing up.
    """

    SECONDS = 5.0
    _LAST_SECONDS = 10.0

    def __init__(self, key: str, description: str) -> None:
        self._key, self._description = key, description
        self._report: UUID | None = None
        self._writer = ThreadPoolExecutor(1)
        self._writing = self._write(0.0)
        self._written_at = time.monotonic()

    def update(self, share: float, description: str | None = None) -> None:
        """Write `share` (0-1), if it is time, with another description where one is given."""
        if time.monotonic() - self._written_at > self.SECONDS and self._writing.done():
            self._written_at = time.monotonic()
            self._description = description or self._description
            self._writing = self._write(share)

    def close(self, share: float) -> None:
        """Write `share` (0-1) a last time, and wait for that some seconds at most."""
        with suppress(TimeoutError):
            self._write(share).result(self._LAST_SECONDS)
        self._writer.shutdown(wait=False, cancel_futures=True)

    def _write(self, share: float) -> "Future[None]":
        return self._writer.submit(copy_context().run, self._write_now, round(100 * share, 2))

    def _write_now(self, percent: float) -> None:
        with suppress(Exception):  # a report is no reason to end a night's work
            if self._report is None:
                made = create_progress_artifact(percent, key=self._key, description=self._description)
                self._report = cast(UUID, made)
            else:
                update_progress_artifact(self._report, progress=percent, description=self._description)


def _share_report(key: str, description: str) -> _ShareReport | None:
    """A report of the run that this is; None outside of a run, where no page could show it."""
    return _ShareReport(key, description) if flow_run.id else None


class TrainingProgress:
    """Shows a training: a bar for each epoch, and a line when it is done; without a terminal, a line for every call.

    epochs: how many there will be at most.
    log: takes the lines of finished epochs, too.
    key: of the progress report in Prefect's UI.
    """

    def __init__(self, epochs: int, log: Callable[[str], None], key: str) -> None:
        self._epochs = epochs
        self._log = log
        self._report = _share_report(key, "Share of the training's epochs that are done")
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[seen]}"), console=self._console,
            transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("compiling the training loop", total=None, seen="")
        self._share = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.stop()
        if self._report:
            self._report.close(self._share if kind else 1.0)  # done is done, however early

    def on_progress(self, progress: "training.EpochProgress") -> None:
        """Show how far the epoch is; `fit` calls this."""
        epoch = f"epoch {progress.epoch}/{self._epochs}"
        batch = f"batch {progress.batch}/{progress.batches}"
        seen = f"{batch}  {progress.items:,} items  loss {progress.loss:.4f}  accuracy {progress.accuracy:.2%}"
        self._share = (progress.epoch - 1 + progress.batch / progress.batches) / self._epochs
        if self._report:
            self._report.update(self._share)
        if self._console.is_terminal:
            self._bar.update(self._task, description=epoch, completed=progress.batch, total=progress.batches, seen=seen)
        else:
            self._console.print(f"{epoch}  {seen}", highlight=False, soft_wrap=True)

    def on_tried(self, tried: "Tried") -> None:
        """Show what a penalty came to; who solves a head calls this."""
        self._bar.update(self._task, description="solving the last layer")
        self.tell(f"penalty {tried.penalty:g}  held out: loss {tried.loss:.4f}  accuracy {tried.accuracy:.2%}")

    def on_epoch(self, result: "training.EpochResult", seconds: float) -> None:
        """Show a finished epoch; `fit` calls this."""
        line = f"epoch {result.epoch}/{self._epochs}  loss {result.loss:.4f}  accuracy {result.accuracy:.2%}"
        if result.validation_loss is not None:
            line += f"  validation loss {result.validation_loss:.4f}  accuracy {result.validation_accuracy:.2%}"
        self.tell(f"{line}  {seconds:.2f} s")

    def tell(self, line: str) -> None:
        """Print a line above the bar, and log it."""
        self._console.print(Text(printable(line)), highlight=False, soft_wrap=True)
        self._log(line)


def tell(text: str, log: Callable[[str], None]) -> None:
    """Print a line on stderr, and log it."""
    Console(stderr=True).print(Text(printable(text)), highlight=False, soft_wrap=True)
    log(text)


class FolderProgress:
    """Shows how far a folder is, as a bar; without a terminal, as a line every five seconds.

    Both tell the entries that are done, images a second and errors. Called with the number of rows that are new, and
    how many of these are errors and taken over.

    doing: the work's name: `reading`, `embedding` or `scoring`.
    rows: how many entries there are.
    key: of the progress report in Prefect's UI.
    entries: what they are called.
    """

    _SECONDS = 5.0

    def __init__(self, doing: str, rows: int, key: str, entries: str = "entries") -> None:
        self._report = _share_report(key, f"Share of the {entries} that are done")
        self._entries = entries
        self._rows, self._done, self._errors, self._reused = rows, 0, 0, 0
        self._rates = ""
        self._console = Console(stderr=True)
        self._started = self._shown_at = time.monotonic()
        self._bar = Progress(
            TextColumn(doing), BarColumn(), TextColumn("{task.fields[seen]}"), TimeRemainingColumn(),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(doing, total=rows, seen="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.stop()
        if self._report:
            self._report.close(self._done / self._rows)
        if kind is None:
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    def on_rates(self, rates: Mapping[str, float]) -> None:
        """Show images a second by node of a cluster, from now on."""
        self._rates = "  ".join(f"{printable(node)} {rate:,.0f}/s" for node, rate in sorted(rates.items()))

    def __call__(self, rows: int, errors: int, reused: int) -> None:
        self._done, self._errors, self._reused = self._done + rows, self._errors + errors, self._reused + reused
        self._bar.update(self._task, completed=self._done, seen=f"{self._line()}  {self._rates}".rstrip())
        if time.monotonic() - self._shown_at > self._SECONDS:
            self._shown_at = time.monotonic()
            if self._report:
                self._report.update(
                    self._done / self._rows, f"{self._line()}\n\n{self._rates}" if self._rates else None
                )
            if not self._console.is_terminal:
                self._console.print(f"{self._line()}  {self._rates}".rstrip(), highlight=False, soft_wrap=True)

    def _line(self) -> str:
        rate = (self._done - self._reused) / max(time.monotonic() - self._started, 1e-9)
        reused = f"  {self._reused:,} taken over" if self._reused else ""
        done = f"{self._done:,} of {self._rows:,} {self._entries}  {rate:,.0f} images/s"
        return f"{done}  {many(self._errors, 'error')}{reused}"
