"""The `lookbook` command: its verbs, and how it ends."""

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

import click

from artifacts.proxies import reach_loopback_directly
from flows.cli import backbone, model, retention, review, runs, store
from flows.cli.failures import (
    FAILED,
    INTERRUPTED,
    WRONG_USAGE,
    complain,
    kind_of,
    one_line,
    tell_as_json,
    was_interrupted,
)
from tasks.reports.streams import make_streams_forgiving


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


for each in (
    runs.retrain,
    runs.score,
    model.predict,
    store.list_artifacts,
    store.show,
    store.lineage,
    store.history,
    store.promote,
    store.rollback,
    review.review,
    review.labels,
    model.export,
    backbone.backbone,
    store.verify,
    store.copy_store,
    retention.collect,
    retention.pin,
    retention.unpin,
    runs.up,
    runs.deploy,
):
    lookbook.add_command(each)


def command() -> NoReturn:
    """`lookbook` as a process: `main`, and its end. When all that ends with a process has ended, it is gone at once:
    Python would take another 0.4 to 0.9 s to take TensorFlow and Prefect apart, object by object."""
    status: Any = FAILED  # that of an exception which nobody caught

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody is left to be told
                stream.flush()
        os._exit(status)

    make_streams_forgiving()
    atexit.register(leave)  # whatever registers later is called before
    try:
        main()
    except SystemExit as end:
        status = end.code
        raise
    except KeyboardInterrupt:  # a second one, while the first was told
        status = INTERRUPTED
        sys.exit(status)


def main() -> NoReturn:
    """Run the command. It ends with 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) != signal.SIG_IGN:  # nohup
            signal.signal(each, lambda *_: _interrupt())
    reach_loopback_directly()
    verbose = "--verbose" in sys.argv
    try:
        lookbook.main(standalone_mode=False)
    except click.exceptions.UsageError as error:
        tell_as_json(error.format_message(), "WrongUsage", WRONG_USAGE)
        error.show()
        sys.exit(WRONG_USAGE)
    except (KeyboardInterrupt, click.Abort):
        _end_interrupted()
    except Exception as error:
        if was_interrupted(error):
            _end_interrupted()
        text = one_line(error)
        tell_as_json(text, kind_of(error), FAILED)
        if verbose:
            raise
        complain(text)
        sys.exit(FAILED)
    sys.exit(0)


def _end_interrupted() -> NoReturn:
    text = "interrupted; nothing half-done was published, run the command again to go on"
    tell_as_json(text, "Interrupted", INTERRUPTED)
    complain(text)
    sys.exit(INTERRUPTED)


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt
