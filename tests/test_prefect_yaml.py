"""pytest tests/test_prefect_yaml.py: what prefect.yaml says is what Prefect reads, and what the flows take.

`prefect deploy` passes over keys that it doesn't know, and deploys parameters that no flow has.
"""

import importlib
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from jsonschema import Draft202012Validator
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, RawScheduleConfig, WorkPoolConfig
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.automations import FLOWS
from flows.deployments import NIGHTLY, NIGHTLY_ROOT
from flows.renamed import RENAMED
from flows.workers import pools

ROOT = Path(__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = CONFIG["deployments"]


def flow_of(deployment):
    return load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"]), use_placeholder_flow=False)


def test_every_key_is_one_that_prefect_reads():
    assert set(CONFIG) <= {*PrefectYamlModel.model_fields, "definitions"}
    for deployment in DEPLOYMENTS:
        assert set(deployment) <= set(DeploymentConfig.model_fields), deployment["name"]
        assert set(deployment["work_pool"]) <= set(WorkPoolConfig.model_fields)
        for schedule in deployment.get("schedules", []):
            RawScheduleConfig.model_validate(schedule)  # forbids what it doesn't know


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda each: each["name"])
def test_entrypoints_parameters_and_schedules_fit_the_flows(deployment):
    flow = flow_of(deployment)
    schema = flow.parameters.model_dump()
    assert set(deployment.get("parameters", {})) <= set(schema["properties"])
    given = {"required": [], "properties": schema["properties"], "$defs": schema.get("definitions", {})}
    Draft202012Validator(given).validate(deployment.get("parameters", {}))
    assert deployment["work_pool"]["name"] in pools()
    assert "lookbook" in deployment["tags"]
    for schedule in deployment.get("schedules", []):
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        ZoneInfo(schedule["timezone"])


def test_the_deployments_are_those_of_the_house():
    names = {f"{flow_of(each).name}/{each['name']}": each for each in DEPLOYMENTS}
    by_hand = {"retrain/by-hand", "score/by-hand"}
    others = {"retrain/weekly", "train/for-a-retraining", "group/for-a-scoring", "collect/sundays", NIGHTLY}
    assert set(names) == by_hand | others
    assert not set(names) & set(RENAMED)
    assert set(RENAMED.values()) <= set(names)
    assert {name.partition("/")[0] for name in names} == set(FLOWS)
    assert names["train/for-a-retraining"]["work_pool"]["name"] == "gpu"
    for asleep in (NIGHTLY, "collect/sundays"):
        [schedule] = names[asleep]["schedules"]
        assert not schedule["active"]
    assert names[NIGHTLY]["parameters"]["folder"] == f"{NIGHTLY_ROOT}:"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda each: each["name"])
def test_every_field_of_the_form_is_explained_and_flat(deployment):
    flow = flow_of(deployment)
    assert flow.description
    assert "Args:" not in flow.description
    for name, field in flow.parameters.properties.items():
        assert len(field.get("description", "")) > 15, name
        kinds = {each.get("type") for each in field.get("anyOf", [field])} - {"null"}
        assert kinds <= {"string", "integer", "number", "boolean"}, name
        if kinds & {"integer", "number"}:
            numbers = field.get("anyOf", [field])[0]
            assert {"minimum", "exclusiveMinimum"} & set(numbers), name


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda each: each["name"])
def test_what_may_be_empty_is_a_field_and_null_is_still_taken_for_it(deployment):
    """Of a null among the defaults Prefect's form makes "Property is type None"; scripts give null all the same."""
    schema = parameter_schema(flow_of(deployment)).model_dump_for_openapi()
    empty = {name for name, field in schema["properties"].items() if "default" not in field}
    assert not [name for name, field in schema["properties"].items() if field.get("default", "") is None]
    for name in empty:
        field = schema["properties"][name]
        assert "type" in field or "enum" in field["anyOf"][0], "the first of its tabs is the one that is open"
    optional = empty - set(schema.get("required", []))
    required = dict.fromkeys(schema.get("required", []), "datasets/fashion-mnist@42ca")
    if deployment["entrypoint"] != "flows/group.py:group":  # which has numbers among what it needs
        validate({**required, **dict.fromkeys(optional)}, schema, raise_on_error=True)
        validate(required, schema, raise_on_error=True)


def test_the_short_form_asks_for_what_people_change_most():
    flows = {each["name"]: flow_of(each) for each in DEPLOYMENTS if each["entrypoint"].startswith("flows/retrain.py")}
    short, whole = (set(flows[name].parameters.properties) for name in ("by-hand", "weekly"))
    assert {"images", "architecture", "epochs", "labels"} <= short < whole
    assert len(short) <= 10


def test_a_parameter_that_the_check_refuses_is_refused_as_ever():
    weekly = parameter_schema(flow_of(next(each for each in DEPLOYMENTS if each["name"] == "weekly")))
    for name, value in {"epochs": 0, "architecture": "bogus", "learning_rate": 0, "validation": 0.6}.items():
        with pytest.raises(ValidationError, match=name):
            validate({name: value}, weekly.model_dump_for_openapi(), raise_on_error=True)


@pytest.mark.parametrize("name", FLOWS)
def test_flows_keep_no_results_and_retry_nothing_as_a_whole(name):
    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    assert flow.persist_result is False
    assert not flow.retries
