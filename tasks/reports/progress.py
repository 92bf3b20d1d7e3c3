"""What a person sees while a stage works: bars on a terminal, plain lines elsewhere. All of it goes to stderr."""

import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

if TYPE_CHECKING:
    from tasks.vision import training


class DownloadProgress:
    """Bars for downloads, one a file, drawn when the first byte arrives."""

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


class TrainingProgress:
    """A bar an epoch, and a line a finished one; without a terminal, a line every call. Epochs are logged too."""

    def __init__(self, epochs: int, log: Callable[[str], None]) -> None:
        self._epochs = epochs
        self._log = log
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[seen]}"), console=self._console,
            transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("compiling the training loop", total=None, seen="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.stop()

    def on_progress(self, progress: "training.Progress") -> None:
        epoch = f"epoch {progress.epoch}/{self._epochs}"
        batch = f"batch {progress.batch}/{progress.batches}"
        seen = f"{batch}  {progress.items:,} items  loss {progress.loss:.4f}  accuracy {progress.accuracy:.2%}"
        if self._console.is_terminal:
            self._bar.update(self._task, description=epoch, completed=progress.batch, total=progress.batches, seen=seen)
        else:
            self._console.print(f"{epoch}  {seen}", highlight=False, soft_wrap=True)

    def on_epoch(self, epoch: dict[str, Any], seconds: float) -> None:
        line = f"epoch {epoch['epoch']}/{self._epochs}  loss {epoch['loss']:.4f}  accuracy {epoch['accuracy']:.2%}"
        line = f"{line}  {seconds:.2f} s"
        self._console.print(line, highlight=False, soft_wrap=True)
        self._log(line)


class ScoringProgress:
    """How far a table is: images, images a second, errors, time left, as a bar; without a terminal, a line now and
    then. Prefect's UI shows the share as a progress report under `key`."""

    _SECONDS = 5.0

    def __init__(self, rows: int, key: str) -> None:
        description = "Share of the folder's entries that are done"
        self._report = cast(UUID, create_progress_artifact(0.0, key=key, description=description))
        self._rows, self._done, self._errors, self._reused = rows, 0, 0, 0
        self._console = Console(stderr=True)
        self._started = self._told = time.monotonic()
        self._bar = Progress(
            TextColumn("scoring"), BarColumn(), TextColumn("{task.fields[seen]}"), TimeRemainingColumn(),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("scoring", total=rows, seen="")

    def __enter__(self) -> Callable[[int, int, int], None]:
        self._bar.start()
        return self._on_rows

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.stop()
        self._update_report()
        if kind is None:
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    def _on_rows(self, rows: int, errors: int, reused: int) -> None:
        self._done, self._errors, self._reused = self._done + rows, self._errors + errors, self._reused + reused
        self._bar.update(self._task, completed=self._done, seen=self._line())
        if time.monotonic() - self._told > self._SECONDS:
            self._told = time.monotonic()
            self._update_report()
            if not self._console.is_terminal:
                self._console.print(self._line(), highlight=False, soft_wrap=True)

    def _update_report(self) -> None:
        with suppress(Exception):  # a server that is restarted is no reason to end a night's work
            update_progress_artifact(self._report, progress=100 * self._done / self._rows)

    def _line(self) -> str:
        rate = (self._done - self._reused) / max(time.monotonic() - self._started, 1e-9)
        return f"{self._done:,} of {self._rows:,} entries  {rate:,.0f} images/s  {self._errors:,} errors"
