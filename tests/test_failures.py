"""pytest tests/test_failures.py: what a command says that failed, to people and to programs."""

import json
import re

import pytest
from commands import answer, complaint
from prefect.settings.models.api import APISettings
from prefect.settings.sources import PrefectTomlConfigSettingsSource
from published import damage
from pydantic_settings import SettingsError

from artifacts import aliases
from artifacts.aliases import Choice
from artifacts.errors import Ambiguous, InvalidRef
from flows.cli import store as verbs_of_store
from flows.cli.failures import one_line

OFFERED = re.compile(r"(?:datasets|weights|metrics|predictions|backbones)/[a-z0-9._-]+@[0-9a-f]{16}")

REFUSED = re.compile("fits|alias|expected (a ref|a name|one of|a kind)|nothing in the store")


def publish(store, kind, name, content):
    return store.publish(kind, name, {"a.bin": content}, settings={}, inputs={}, facts={})


@pytest.fixture
def several(store):
    """Two names, each with two champions one after the other, two datasets, and a latest table."""
    for name in ("fabrics", "shoes"):
        for content in (b"1", b"2"):
            publish(store, "datasets", name, content)
            aliases.promote(store.disk, publish(store, "weights", name, content), "better")
        table = str(publish(store, "predictions", name, b"1"))
        choose = Choice("promote", table, table, "scored")
        aliases.decide(store.disk, "predictions", name, "latest", lambda events, choice=choose: choice)
    return store


def said(run):
    """The object of a command that failed."""
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["exit"] == run.returncode, run.stderr
    assert found["error"] in " ".join(run.stderr.split())
    return found


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        *(("show REF", given) for given in ("champion", "latest", "datasets/shoes@latest", "weights/shoes@latest")),
        *(("lineage REF", given) for given in ("champion", "latest", "datasets/shoes@latest", "shoes@beef")),
        ("verify REF", "champion"),
        ("promote REF --reason x", "champion"),
        ("promote REF --reason x", "weights/shoes@latest"),
        ("rollback REF", ""),
        ("history REF", "predictions/shoes@champion"),
        ("pin REF --reason x", "champion"),
        ("pin REF --reason x", "predictions/shoes@champion"),
        ("unpin REF", "latest"),
        ("predict black.png --weights REF", "champion"),
        ("export REF --format tflite --output .", "champion"),
        ("export REF --format tflite --output .", "weights/shoes@latest"),
    ],
)
def test_each_ref_that_an_error_offers_is_taken_by_the_same_verb(lookbook, several, tmp_path, monkeypatch, verb, given):
    monkeypatch.chdir(tmp_path)
    run = lookbook(*verb.replace("REF", given).split(), "--json")
    assert run.returncode == 1
    offered = OFFERED.findall(said(run)["error"])
    if "beef" not in given and not verb.startswith("history"):
        assert offered
    for ref in offered:
        again = lookbook(*verb.replace("REF", ref).split(), "--json")
        error = said(again)["error"] if again.returncode else ""
        assert not REFUSED.search(error), error


def test_a_rollback_takes_a_name_and_the_ref_of_a_champion(lookbook, several):
    told = complaint(lookbook("rollback"))
    assert "'champion' fits 2 artifacts, name one" in told
    fabrics, shoes = OFFERED.findall(told)
    assert answer(lookbook("rollback", fabrics, "--json"))["challenger"] == fabrics
    assert answer(lookbook("rollback", "weights/shoes", "--json"))["challenger"] == shoes
    told = complaint(lookbook("rollback", shoes))
    assert f"expected the champion of shoes, which is weights/shoes@{told.split('@')[1][:16]}, found {shoes}" in told
    told = complaint(lookbook("rollback", "fabrics"))
    assert "every other champion of fabrics was withdrawn" in told
    [offered] = set(OFFERED.findall(told))
    assert f"lookbook promote {offered} --reason" in told
    assert answer(lookbook("promote", offered, "--reason", "x", "--json"))["ref"] == offered == fabrics


def test_names_of_tables_are_taken_as_refs(lookbook, several):
    with pytest.raises(Ambiguous) as raised:
        several.current("predictions")
    for ref in OFFERED.findall(str(raised.value)):
        assert str(several.current("predictions", ref)) == ref
    with pytest.raises(InvalidRef, match="expected a name of predictions, found 'weights/shoes'"):
        several.current("predictions", "weights/shoes")
    ref = several.resolve("shoes@latest")
    assert "labels of shoes" in complaint(lookbook("labels", "history", ref, "a"))
    assert [each["name"] for each in answer(lookbook("history", "weights/shoes", "--json"))] == ["shoes"] * 2


def test_an_alias_of_another_kind_offers_the_newest_version(several, lookbook):
    told = complaint(lookbook("show", "datasets/fabrics@latest"))
    newest = answer(lookbook("list", "datasets", "--json"))
    made = max(each["created"] for each in newest if "/fabrics@" in each["ref"])
    assert re.search(
        f"latest is an alias of predictions, not of datasets; the newest of datasets/fabrics is .*, made {made}", told
    )
    assert "`lookbook list datasets` shows what there is" in complaint(lookbook("show", "datasets/none@latest"))


@pytest.mark.parametrize(
    ("arguments", "kind", "status"),
    [
        (["show", "nonsense"], "InvalidRef", 1),
        (["show", "weights/x@0123456789abcdef"], "NotFound", 1),
        (["predict"], "WrongUsage", 2),
        (["retrain", "--epochs", "0"], "WrongUsage", 2),
        (["nothing"], "WrongUsage", 2),
        (["verify", "--yes"], "WrongUsage", 2),
    ],
)
def test_what_fails_is_an_object_with_json(lookbook, arguments, kind, status):
    run = lookbook(*arguments, "--json")
    assert (said(run)["kind"], run.returncode) == (kind, status)
    assert lookbook(*arguments).stdout == ""


def test_a_setting_that_can_not_be_is_an_object_with_json(lookbook):
    assert said(lookbook("list", "--json", LOOKBOOK_CACHE_BYTES="many"))["kind"] == "SettingsError"
    found = said(lookbook("list", "--json", LOOKBOOK_STORE_OPTIONS="{endpoint}"))
    assert found["error"].startswith("the setting LOOKBOOK_STORE_OPTIONS can't be read: expected JSON like {")
    found = said(lookbook("list", "--json", LOOKBOOK_STORE_OPTIONS='{"secret_access_key": ["hunter2"]}'))
    assert "LOOKBOOK_STORE_OPTIONS can't have this value of 'secret_access_key'" in found["error"]
    assert "hunter2" not in found["error"]
    found = said(lookbook("list", "--json", LOOKBOOK_STORE_OPTIONS='"hunter2"'))
    assert found["error"].startswith("the setting LOOKBOOK_STORE_OPTIONS can't be read: expected JSON like {")


def test_a_setting_of_prefects_is_no_setting_of_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.toml").write_text("[api")
    with pytest.raises(SettingsError) as raised:
        PrefectTomlConfigSettingsSource(APISettings)
    told = one_line(raised.value)
    assert told.startswith("a setting can't be read: Failed to load Prefect settings from prefect.toml: invalid TOML")


@pytest.mark.parametrize(
    ("raised", "kind", "status"), [(KeyError("x"), "Unexpected", 1), (KeyboardInterrupt(), "Interrupted", 130)]
)
def test_what_nobody_expected_and_ctrl_c_are_objects_with_json(lookbook, monkeypatch, raised, kind, status):
    def fail():
        raise raised

    monkeypatch.setattr(verbs_of_store, "open_store", fail)
    assert (said(lookbook("list", "--json"))["kind"], lookbook("list").returncode) == (kind, status)
    assert lookbook("list").stdout == ""


def test_what_is_both_a_result_and_a_failure_says_so(lookbook, several, tmp_path):
    file = several.open(several.resolve("weights/shoes@champion")).path("a.bin")
    damage(file, b"3")
    found = json.loads(lookbook("verify", "--json").stdout)
    assert (found["kind"], found["exit"], found["error"]) == ("Corrupt", 1, found["corrupt"][0])
