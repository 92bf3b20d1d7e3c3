"""pytest tests/test_layers.py: imports run one way (pyproject.toml has the contracts), and cost what they must."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from artifacts.errors import LookbookError

ROOT = Path(__file__).parents[1]
PACKAGES = ("artifacts", "tasks", "flows")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
)
WITH_TENSORFLOW = [
    f"tasks.vision.{name}"
    for name in (
        "attending", "backbone", "batches", "convolving", "cross_validation", "device", "exporting", "heads",
        "inference", "initializers", "layering", "logistic", "network", "optimizers", "schedules", "steps", "training",
        "transfer",
    )
]  # fmt: skip


def test_imports_keep_the_contracts():
    """In a process of its own: the linter takes the streams of the one that it runs in."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert said.returncode == 0, said.stdout + said.stderr


def test_tasks_init_stays_empty():
    assert (ROOT / "tasks/__init__.py").read_text() == ""


# Prints what each group of modules loads, in a fork of its own, and what a process says when TensorFlow is imported.
LOADED = """
import json, os, sys
for modules in json.loads(sys.argv[1]):
    if not os.fork():
        for name in modules:
            __import__(name)
        print(json.dumps(sorted(sys.modules)), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{modules} can't be imported")
"""
ABSENT = {
    "artifacts": ("artifacts.store", "numpy", "pyarrow", "pydantic"),
    "flows.cli": ("prefect", "tensorflow", "numpy", "pyarrow", "pydantic", "rich"),
    "tasks.vision.sources tasks.vision.images tasks.vision.metrics tasks.vision.duplicates": (
        "prefect", "tensorflow", "artifacts.store", "artifacts.settings",
    ),
    "tasks.vision.decoder": ("prefect", "tensorflow", "artifacts.store", "pyarrow", "pydantic"),
    "artifacts.lineage": ("prefect", "tensorflow", "pyarrow", "numpy"),
    "artifacts.dataset artifacts.weights artifacts.metrics tasks.shared.model tasks.predict tasks.export "
    "tasks.preparing.labelled tasks.preparing.pictures tasks.preparing.sides "
    "tasks.preparing.checks": ("prefect", "tensorflow"),
    "tasks.reports.evaluation tasks.reports.decision": ("prefect", "tensorflow", "matplotlib"),
    "artifacts.dataset artifacts.weights": ("tasks",),
    " ".join(each for each in MODULES if each not in WITH_TENSORFLOW): ("tensorflow",),
}  # fmt: skip


def test_what_an_import_loads():
    groups = json.dumps([modules.split() for modules in ABSENT])
    said = subprocess.run([sys.executable, "-c", LOADED, groups], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    for (modules, absent), loaded in zip(ABSENT.items(), said.stdout.splitlines(), strict=True):
        assert not set(absent) & set(json.loads(loaded)), modules


def test_tensorflow_is_imported_alone_without_a_word_and_without_changing_the_environment():
    """As TensorFlow leaves it: what it sets itself is there for good, what we set for its import is taken back."""
    program = (
        "import os, sys, tasks.vision.training, tasks.vision.inference, tasks.vision.exporting\n"
        "unwanted = {'prefect', 'artifacts.store', 'artifacts.settings', 'pyarrow', 'keras'} & set(sys.modules)\n"
        "assert not unwanted, unwanted\n"
        "from tasks.vision.device import tf\n"
        "tf.ones(2) + 1; assert not {'TF_CPP_MIN_LOG_LEVEL', 'TF_USE_LEGACY_KERAS'} & set(os.environ)\n"
        "after = dict(os.environ); import tensorflow; assert dict(os.environ) == after; os.write(2, b'still heard')"
    )
    ours = ("TF_CPP_MIN_LOG_LEVEL", "TF_USE_LEGACY_KERAS")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert (said.stdout, said.stderr) == ("", "still heard")


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all tests")
def test_tests_of_a_group_stay_on_one_worker(request):
    """pytest-xdist reads the group from a test's id; where it isn't there, each worker starts servers of its own."""
    assert request.node.nodeid.endswith("@test_layers")


def subclasses(kind):
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


def test_every_error_is_in_the_tree_of_the_design():
    for name in MODULES:
        importlib.import_module(name)
    tree = (ROOT / "docs/design.md").read_text().partition("## Errors")[2].partition("\n## ")[0]
    ours = {each.__name__ for each in subclasses(LookbookError) if each.__module__.startswith(PACKAGES)}
    assert len(ours) > 20
    assert ours == set(re.findall(r"^ +([A-Z][A-Za-z]+)  ", tree, re.MULTILINE))
