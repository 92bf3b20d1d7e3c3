"""Logs without escape sequences of strangers. What is data (JSON, tables) stays as it is."""

import logging
from typing import Any

from artifacts.printable import printable


def make_logs_printable() -> None:
    """From now on every log record of this process, whoever makes it, holds printable text alone, its traceback too.

    Records are made in one place and handled in many: on consoles, in files, in Prefect's database, by workers that
    pass on what their runs print.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "printable", False):
        return

    def made_printable(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that don't fit: logging itself complains of them
            return record
        if message != printable(message):
            record.msg, record.args = printable(message), None
        if record.exc_info and record.exc_info[1]:
            record.exc_text = printable(logging.Formatter().formatException(record.exc_info))
        return record

    made_printable.printable = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(made_printable)
