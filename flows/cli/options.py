"""Command line options, made of the settings of a request."""

import math
from typing import Any

import click

from tasks.requests import FOLDERS
from tasks.vision.setting import REQUIRED, Limits, Setting, declared

FOR_SCHEDULED_RUNS = ("train_on", "because", "if_unchanged", "deadline_hours")
"""Settings that are no options: whoever types a command is there to end it."""


def options_of(request: type) -> list[click.Parameter]:
    """An option for each setting of `request`, but for FOR_SCHEDULED_RUNS."""
    return [_option(setting) for setting in declared(request) if setting.name not in FOR_SCHEDULED_RUNS]


def was_given(parameter: str) -> bool:
    """Whether somebody typed this option of the command that runs."""
    return click.get_current_context().get_parameter_source(parameter) is not click.core.ParameterSource.DEFAULT


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _option(setting: Setting) -> click.Option:
    if setting.kind is bool:
        return click.Option([flag_of(setting.name)], is_flag=True, help=setting.text, hidden=not setting.text)
    return click.Option(
        [flag_of(setting.name)],
        type=_type(setting),
        callback=lambda context, option, value: _finite(value),
        default=None if setting.default is REQUIRED else setting.default,
        required=setting.default is REQUIRED,
        show_default=setting.recipes or setting.default is not None,
        help=setting.text,
        metavar="FOLDER" if setting.name in FOLDERS else None,
    )


def _type(setting: Setting) -> Any:
    if setting.name in FOLDERS:
        return click.Path()
    if setting.choices:
        return click.Choice(setting.choices)
    if setting.kind is str:
        return click.STRING
    limits = setting.limits or Limits()
    low, high = (limits.gt if limits.ge is None else limits.ge), (limits.lt if limits.le is None else limits.le)
    number: Any = click.IntRange if setting.kind is int else click.FloatRange
    return number(low, high, min_open=limits.gt is not None, max_open=limits.lt is not None)


def _finite(value: Any) -> Any:
    """FloatRange lets inf pass, and NaN, which is on neither side of any limit."""
    if isinstance(value, float) and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no finite number")
    return value
