"""A setting is declared once: a field of a frozen dataclass with its type, its limits and its text.

    epochs: Annotated[int, Limits(ge=1, le=10_000), "How often every training image is seen."] = 20

Checks, command line options and run forms are made of what `declared` reads there. Neither pydantic nor annotated-types
(9 ms) here: a `--help` pays for every import.
"""

import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from tasks.vision.errors import SettingsError

REQUIRED = MISSING

Declared = TypeVar("Declared")


class Limits(NamedTuple):
    """Of a number: ge is the least, le the largest; it is above gt and below lt. None is no limit."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __str__(self) -> str:
        """In words: `0 to below 1`."""
        low = f"{self.ge:,}" if self.gt is None else f"above {self.gt:,}"
        if self.le is None and self.lt is None:
            return low if self.ge is None else f"{low} or more"
        return f"{low} to " + (f"{self.le:,}" if self.lt is None else f"below {self.lt:,}")

    def hold(self, value: float) -> bool:
        """Whether a number is within them; NaN and infinity never are."""
        return (
            math.isfinite(value)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )


@dataclass(frozen=True)
class Setting:
    """One setting.

    name: of the field.
    kind: str, bool, int, float, or a Literal of strings.
    optional: whether None is a value.
    limits: of a number; None for all else.
    text: what it means, in full sentences; empty for what is asked of nobody: it follows from something else, or only
        runs of an earlier Lookbook say it.
    default: the value unless another one is given, or REQUIRED.
    recipes: what None stands for, in words, where that is not the same for each architecture.
    """

    name: str
    kind: Any
    optional: bool
    limits: Limits | None
    text: str
    default: Any
    recipes: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a Literal; empty for all else."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    def take(self, values: Mapping[str, Any]) -> Any:
        """The value among `values`, or the default. Raises SettingsError when it is not as declared, or missing."""
        value = values.get(self.name, self.default)
        if value is REQUIRED:
            raise SettingsError(f"expected a value for {self.name}, found none")
        self.check(value)
        return value

    def check(self, value: Any) -> None:
        """Raises SettingsError for a value outside the limits, of another type, or that is none of the choices."""
        if value is None and self.optional:
            return
        if self.choices:
            if value not in self.choices:
                raise SettingsError(f"expected {self.name} to be one of {', '.join(self.choices)}, found {value!r}")
        elif not isinstance(value, (int, float) if self.kind is float else self.kind) or (
            isinstance(value, bool) and self.kind is not bool
        ):
            raise SettingsError(f"expected {self.name} to be {_TYPES[self.kind]}, found {value!r}")
        elif self.limits and not self.limits.hold(value):
            raise SettingsError(f"expected {self.name} to be {self.limits}, found {value}")


_TYPES = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def declared(kind: type) -> list[Setting]:
    """The settings of a dataclass, flat and in order: a field that is such a dataclass, or a mapping annotated with a
    tuple of settings, gives those of its own in its place."""
    return [
        setting for name, hint, metadata, default in _fields(kind) for setting in _of(name, hint, metadata, default)
    ]


def make(kind: type[Declared], values: Mapping[str, Any]) -> Declared:
    """A dataclass of settings out of flat values; a setting that is not among them has its default.

    Raises SettingsError for a value that is not as declared, and for one that is required and missing.
    """
    given: dict[str, Any] = {}
    for name, hint, metadata, default in _fields(kind):
        settings = _of(name, hint, metadata, default)
        if is_dataclass(hint) and isinstance(hint, type):
            given[name] = make(hint, values)
        elif _inner(metadata):
            given[name] = {setting.name: setting.take(values) for setting in settings}
        else:
            given[name] = settings[0].take(values)
    return kind(**given)


def check(settings: Any) -> None:
    """Raises SettingsError for the first value of a flat dataclass of settings that is not as declared."""
    for setting in declared(type(settings)):
        setting.check(getattr(settings, setting.name))


def _fields(kind: type) -> Iterator[tuple[str, Any, tuple[Any, ...], Any]]:
    """Name, type, annotations and default of each field."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint = hints[field.name]
        hint, *metadata = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        yield field.name, hint, tuple(metadata), field.default


def _of(name: str, hint: Any, metadata: tuple[Any, ...], default: Any) -> tuple[Setting, ...]:
    """The settings of one field."""
    if is_dataclass(hint) and isinstance(hint, type):
        return tuple(declared(hint))
    if inner := _inner(metadata):
        return inner
    optional = get_origin(hint) in (Union, types.UnionType)
    kind = next(each for each in get_args(hint) if each is not types.NoneType) if optional else hint
    limits = next((each for each in metadata if isinstance(each, Limits)), None)
    return (
        Setting(name, kind, optional, limits, "".join(each for each in metadata if isinstance(each, str)), default),
    )


def _inner(metadata: tuple[Any, ...]) -> tuple[Setting, ...]:
    """The settings of a mapping; none for a field that is a setting itself."""
    return next((each for each in metadata if type(each) is tuple), ())
