"""pytest tests/test_docs.py: what the pages say is so."""

import re
import shlex
from pathlib import Path

import pytest

from artifacts.settings import Settings
from flows.cli import lookbook

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def commands(page):
    """Indented lines that start a command of ours, without the comment behind it."""
    for line in page.read_text().splitlines():
        if line.startswith("    ") and re.match(r"(\.venv/bin/)?(lookbook|make) ", line.strip()):
            yield shlex.split(line, comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_pages_show_exist_with_these_arguments(page):
    makefile = (ROOT / "Makefile").read_text()
    for program, verb, *arguments in commands(page):
        if program == "make":
            assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb
        else:
            lookbook.commands[verb].make_context(verb, arguments)


def test_yaml_in_pages_is_what_prefect_reads():
    import yaml
    from prefect.cli.deploy._models import PrefectYamlModel

    found = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    assert len(found) == 2
    for each in found:
        [step] = PrefectYamlModel.model_validate(yaml.safe_load(each)).pull
        module, _, name = next(iter(step)).rpartition(".")
        assert callable(getattr(__import__(module, fromlist=[name]), name))


def test_pictures_that_pages_show_are_there():
    for page in PAGES:
        for name in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page.read_text()):
            assert (page.parent / name).stat().st_size > 10_000, name


def test_the_readme_names_every_verb_or_help_does():
    assert {verb for _, verb, *_ in commands(ROOT / "README.md")} >= {"retrain", "predict", "list", "history", "verify"}


def test_one_test_a_verb_starts_the_real_command():
    table = re.findall(
        r"^\| ([a-z, ]+) \| `(test_\w+\.py)::(test_\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M
    )
    assert sorted(verb for verbs, *_ in table for verb in verbs.split(", ")) == sorted(lookbook.commands)
    for _, file, test in table:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text()


def test_every_setting_is_in_the_readme_with_its_default():
    readme = (ROOT / "README.md").read_text()
    for name, field in Settings.model_fields.items():
        [row] = [line for line in readme.splitlines() if line.startswith(f"| `LOOKBOOK_{name.upper()}` ")]
        if isinstance(field.default, int):
            assert f"| {field.default} |" in row


def test_the_house_is_as_described():
    described = (ROOT / "docs/design.md").read_text().partition("## The house")[2].partition("Imports run one way")[0]
    for package in ("flows", "tasks", "artifacts"):
        for module in (ROOT / package).rglob("*.py"):
            if module.name not in ("__init__.py", "errors.py"):
                assert module.name in described, module


def test_pages_name_no_path_of_this_machine_and_no_registry():
    for page in [*PAGES, *ROOT.glob("requirements.*"), ROOT / "pyproject.toml", ROOT / "Makefile"]:
        text = page.read_text()
        for word in ("pypi.org", "pythonhosted", "deb.debian", "/root/", "/work/"):
            assert word not in text, (page.name, word)
