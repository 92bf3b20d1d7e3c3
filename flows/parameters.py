"""Run forms: a flow's parameters, and their texts, are the settings of its request.

Prefect reads `inspect.signature` and the `Args` of `inspect.getdoc`, and nothing of a pydantic Field's description
(Prefect 3.8.8): both are made here.

What may be left empty is an empty field. Of pydantic's own schema, a choice between a number and null whose default is
null, Prefect's form makes two tabs and the words "Property is type None"; of a type alone it makes a field, and its
check lets null pass where the schema has no default.
"""

import textwrap
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from inspect import Parameter, Signature, getdoc
from typing import Annotated, Any, TypeVar

from prefect.context import TagsContext
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from artifacts.store import Artifact
from tasks.requests import FOLDERS
from tasks.vision.recipes import TrainingSettings, settings_for
from tasks.vision.setting import REQUIRED, Setting, declared, make

FIRST = ("folder", "images", "name", "architecture", "epochs", "labels", "new_classes", "train_on", "if_unchanged")
"""What people change most, at the top of a form."""

Request = TypeVar("Request")


def asks_for(
    request: type[Request], only: Collection[str] = ()
) -> Callable[[Callable[[Request], Any]], Callable[..., Any]]:
    """Turn the function of a flow, which takes a request, into one that takes its settings as flat parameters.

    only: the settings that are asked for, where the others keep their defaults; by default all of them.

    The function raises SettingsError for values that are not as declared: whoever starts a run can switch Prefect's own
    checks off.
    """
    settings = sorted(declared(request), key=lambda each: FIRST.index(each.name) if each.name in FIRST else len(FIRST))
    settings = [each for each in settings if not only or each.name in only]

    def decorate(function: Callable[[Request], Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(**parameters: Any) -> Any:
            with TagsContext(current_tags=set()):  # a task with tags asks the server for leave: 2 s where that is busy
                return function(make(request, parameters))

        summary, _, rest = (getdoc(function) or "").partition("\n\n")
        args = "\n".join(textwrap.indent(_explained(each), " " * 4) for each in settings if each.text)
        run.__doc__ = f"{summary}\n\nArgs:\n{args}\n\n{rest}"
        run.__signature__ = Signature([_parameter(each) for each in settings])  # type: ignore[attr-defined]
        return run

    return decorate


def _parameter(setting: Setting) -> Parameter:
    default = Parameter.empty if setting.default is REQUIRED else setting.default
    return Parameter(setting.name, Parameter.KEYWORD_ONLY, default=default, annotation=_annotation(setting))


def _annotation(setting: Setting) -> Any:
    """Of what is asked of nobody, a type without a field in the form."""
    if not setting.text:
        return SkipJsonSchema[setting.kind]  # type: ignore[misc, name-defined]
    limited = Annotated[setting.kind, Field(**setting.limits._asdict())] if setting.limits else setting.kind
    kind = limited | None if setting.optional else limited
    return Annotated[kind, _Field(setting)] if setting.optional or setting.choices else kind


class _Field:
    """The JSON schema of what may be left empty, and of a choice."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def __get_pydantic_json_schema__(self, core: Any, schema_of: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        if not self._setting.choices:  # the number or the text, without the null
            return _WithoutDefault(schema_of(core)["anyOf"][0])
        choice = {"type": "string", "enum": [*self._setting.choices]}  # of a single one pydantic makes no choice
        if not self._setting.optional:
            return choice
        # Prefect's check takes `enum` by the word, null or not; its form opens the first of two tabs.
        return _WithoutDefault(anyOf=[{**choice, "title": "choose"}, {"type": "null", "title": "recommended"}])


class _WithoutDefault(dict[str, Any]):
    """A JSON schema that stays without a default, which pydantic adds in the end."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key != "default":
            super().__setitem__(key, value)


def _explained(setting: Setting) -> str:
    """Name and text, with what a form does not show: the limits, and what an empty field stands for."""
    parts = [setting.text]
    if setting.name in FOLDERS:
        parts.append("Written as root:sub/path, where root is one of LOOKBOOK_IMAGE_ROOTS; `root:` is all of it.")
    if setting.limits:
        parts.append(f"{str(setting.limits).capitalize()}.")
    if setting.recipes:
        parts.append(f"Empty stands for {setting.recipes}.")
    return f"{setting.name}: {' '.join(parts)}"


def training_settings(given: Mapping[str, Any], dataset: Artifact | None = None) -> TrainingSettings:
    """What is `given` of the settings of a training, and the rest. None stands for the architecture's recipe, which
    fits the published `dataset` where that is there already.

    Raises SettingsError for what can't work on any data, before there is any work.
    """
    known: dict[str, Any] = {}
    if dataset:
        known["per_class"] = dataset.facts["counts"]["train"]["per_class"].values()
        spec = dataset.facts["image_spec"]
        known["pixels"] = spec["height"] * spec["width"]
        known["pictures"] = dataset.identity["settings"].get("source") == "pictures"
    settings = settings_for(**given, **known)
    settings.check()
    return settings
