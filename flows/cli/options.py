"""Command line options, made of the settings of a request."""

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click
from annotated_types import Ge, Gt, Le, Lt

from tasks.requests import FOLDERS
from tasks.vision.setting import Setting, declared

FOR_SCHEDULED_RUNS = ("train_on", "if_unchanged", "deadline_hours")
"""Settings that are no options: whoever types a command is there to end it."""


def options_of(request: type, without: Collection[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option for each setting of `request`, but for those `without` and FOR_SCHEDULED_RUNS."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for setting in reversed(declared(request)):
            if setting.name not in (*FOR_SCHEDULED_RUNS, *without):
                function = _option(setting)(function)
        return function

    return decorate


def was_given(parameter: str) -> bool:
    """Whether somebody typed this option of the command that runs."""
    return click.get_current_context().get_parameter_source(parameter) is not click.core.ParameterSource.DEFAULT


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def reason_option(**given: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Why a champion changes. A history without reasons tells nothing."""
    return click.option(
        "--reason", callback=lambda context, option, value: _said(value), help="Why, for the history.", **given
    )


def _option(setting: Setting) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    if setting.kind is bool:
        return click.option(flag_of(setting.name), is_flag=True, help=setting.text)
    return click.option(
        flag_of(setting.name),
        type=_type(setting),
        callback=lambda context, option, value: _finite(value),
        default=setting.default,
        show_default=setting.recipes or setting.default is not None,
        help=setting.text,
        metavar="FOLDER" if setting.name in FOLDERS else None,
    )


def _type(setting: Setting) -> Any:
    if setting.name in FOLDERS:
        return click.Path(path_type=Path)
    if setting.choices:
        return click.Choice(setting.choices)
    if setting.kind is str:
        return click.STRING
    bounds: dict[str, Any] = {}
    for limit in setting.limits:
        match limit:
            case Ge(ge=bound) | Gt(gt=bound):
                bounds |= {"min": bound, "min_open": isinstance(limit, Gt)}
            case Le(le=bound) | Lt(lt=bound):
                bounds |= {"max": bound, "max_open": isinstance(limit, Lt)}
    return (click.IntRange if setting.kind is int else click.FloatRange)(**bounds)


def _finite(value: Any) -> Any:
    """FloatRange lets inf pass, and NaN, which is on neither side of any limit."""
    if isinstance(value, float) and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no finite number")
    return value


def _said(text: str) -> str:
    if not text.strip():
        raise click.BadParameter("expected a reason, found nothing")
    return text
