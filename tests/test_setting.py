"""pytest tests/test_setting.py: a setting is declared once; checks, options and forms are made of that."""

import inspect
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import click
import pytest
from click.testing import CliRunner
from prefect import flow
from prefect.utilities.schema_tools.validation import validate

from flows.cli.options import options_of
from flows.parameters import asks_for
from tasks.requests import RetrainRequest
from tasks.vision.errors import SettingsError
from tasks.vision.recipes import RECIPES, STEPS, TrainingSettings
from tasks.vision.setting import Limits, check, declared, make


@dataclass(frozen=True)
class Oven:
    degrees: Annotated[int, Limits(ge=20, le=300), "How hot it becomes."] = 180
    fan: Annotated[bool, "Move the air."] = False


@dataclass(frozen=True)
class Baking:
    oven: Oven
    dough: Annotated[Literal["rye", "wheat"], "What is baked."]
    hours: Annotated[float | None, Limits(gt=0, lt=10), "How long it is baked."] = None


def settings():
    return {each.name: each for each in declared(Baking)}


def test_settings_are_flat_and_in_order():
    assert list(settings()) == ["degrees", "fan", "dough", "hours"]
    assert str(settings()["degrees"].limits) == "20 to 300"
    assert str(settings()["hours"].limits) == "above 0 to below 10"
    assert settings()["hours"].text == "How long it is baked."
    assert settings()["dough"].choices == ("rye", "wheat")


def test_a_request_is_made_of_flat_values_and_defaults():
    assert make(Baking, {"dough": "rye", "degrees": 200}) == Baking(Oven(200), "rye")
    with pytest.raises(SettingsError, match="expected a value for dough, found none"):
        make(Baking, {})


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"degrees": 301}, "expected degrees to be 20 to 300, found 301"),
        ({"degrees": "200"}, "expected degrees to be a whole number, found '200'"),
        ({"degrees": True}, "expected degrees to be a whole number, found True"),
        ({"degrees": None}, "expected degrees to be a whole number, found None"),
        ({"hours": 0.0}, "expected hours to be above 0 to below 10, found 0.0"),
        ({"hours": 10}, "expected hours to be above 0 to below 10, found 10"),
        ({"hours": math.nan}, "expected hours to be above 0 to below 10, found nan"),
        ({"dough": "oats"}, "expected dough to be one of rye, wheat, found 'oats'"),
        ({"fan": 1}, "expected fan to be true or false, found 1"),
    ],
)
def test_values_that_are_not_as_declared_are_refused(values, complaint):
    with pytest.raises(SettingsError, match=complaint):
        make(Baking, {"dough": "rye", **values})


def test_options_are_made_of_the_settings():
    given = {}

    bake = click.Command("bake", callback=given.update, params=options_of(Baking))

    def run(*arguments):
        return CliRunner().invoke(bake, arguments)

    assert run("--dough", "rye", "--degrees", "200", "--fan").exit_code == 0
    assert given == {"dough": "rye", "degrees": 200, "fan": True, "hours": None}
    assert "'oats' is not one of 'rye', 'wheat'" in run("--dough", "oats").output
    assert "301 is not in the range 20<=x<=300" in run("--degrees", "301").output
    assert "nan is no finite number" in run("--hours", "nan").output
    said = " ".join(run("--help").output.split())
    assert "How hot it becomes. [default: 180; 20<=x<=300]" in said
    assert "How long it is baked. [0<x<10]" in said


def test_a_form_is_made_of_the_settings():
    @flow
    @asks_for(Baking)
    def bake(request: Baking):
        """Bake.

        Returns what was baked.
        """
        return request

    form = bake.parameters.model_dump()
    assert form["required"] == ["dough"]
    degrees, hours = (form["properties"][name] for name in ("degrees", "hours"))
    assert (degrees["minimum"], degrees["maximum"], degrees["default"]) == (20, 300, 180)
    assert degrees["description"] == "How hot it becomes. 20 to 300."
    assert hours.items() >= {"exclusiveMinimum": 0, "exclusiveMaximum": 10, "type": "number"}.items()
    assert form["properties"]["dough"]["enum"] == ["rye", "wheat"]
    assert inspect.getdoc(bake.fn).endswith("Returns what was baked.")
    assert bake.fn(dough="rye", fan=True) == Baking(Oven(fan=True), "rye")
    with pytest.raises(SettingsError, match="expected degrees to be 20 to 300, found 1"):
        bake.fn(dough="rye", degrees=1)


def test_what_only_runs_of_an_earlier_lookbook_say_is_accepted_and_asked_of_nobody():
    @dataclass(frozen=True)
    class Bread:
        """Asked for today: the dough."""

        dough: Annotated[str, "What it is made of."]
        sliced: Annotated[bool, ""] = False

    @flow(name="bread")
    @asks_for(Bread)
    def bread(request):
        """Bake bread."""
        return request

    assert bread.parameters.properties.keys() == {"dough"}
    assert "sliced" not in inspect.getdoc(bread.fn)
    of_before = {"dough": "rye", "sliced": True}
    validate(of_before, bread.parameters.model_dump(), raise_on_error=True)
    assert bread.fn(**bread.validate_parameters(of_before)) == Bread("rye", True)
    shown = {option.name: option for option in options_of(Bread)}
    assert [shown[name].hidden for name in ("dough", "sliced")] == [False, True]


def test_what_architectures_differ_in_is_none_until_somebody_says_it():
    asked = {each.name: each for each in declared(RetrainRequest)}
    for setting in declared(TrainingSettings):
        values = {
            architecture: getattr(recipe, setting.name)
            for architecture, recipe in RECIPES.items()
            if architecture != "transfer" or setting.name not in STEPS  # they change nothing for it
        }
        if setting.name == "architecture":
            assert asked["architecture"].default is None
        elif setting.name == "validation":
            assert asked["validation"].default is None
            assert asked["validation"].recipes.startswith("none for transfer and of fewer than 500 images")
        elif not setting.text:
            assert setting.name not in asked
        elif len({*values.values()}) > 1:
            assert asked[setting.name].default is None
            assert asked[setting.name].recipes == ", ".join(
                f"{architecture} {value}" for architecture, value in values.items() if value is not None
            )
        else:
            assert {asked[setting.name].default} == {*values.values()}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes_are_as_declared(recipe):
    check(recipe)
    recipe.check()
