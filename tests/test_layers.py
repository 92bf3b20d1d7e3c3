"""pytest tests/test_layers.py: imports run one way (docs/design.md has the table)."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from artifacts.errors import LookbookError

ROOT = Path(__file__).parents[1]
PACKAGES = ("artifacts", "tasks", "flows")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ROOT_OF_ERRORS = "artifacts.errors."  # one root for all errors: plain text, it knows no store
WITHOUT_TENSORFLOW = (
    "sources",
    "downloads",
    "images",
    "files",
    "decoding",
    "decoder",
    "children",
    "confinement",
    "metrics",
    "duplicates",
    "auditing",
    "teaching",
    "training_data",
    "stability",
    "recipes",
    "setting",
    "errors",
    "trained",
    "lite0",
    "checkpoints",
    "processor",
    "imports",
)


def imported(path, everywhere=True):
    """Full names that a module imports, at module level or anywhere; TYPE_CHECKING blocks cost nothing and may."""
    found = []

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            found.extend(f"{node.module}.{alias.name}" for alias in node.names)
        if everywhere or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            for child in ast.iter_child_nodes(node):
                visit(child)

    visit(ast.parse(path.read_text()))
    return found


def forbidden(path):
    package, relative = path.relative_to(ROOT).parts[0], path.relative_to(ROOT).as_posix()
    if package == "artifacts":
        return ("tensorflow", "prefect", "tasks", "flows")
    if relative.startswith("tasks/vision/"):
        return ("prefect", "artifacts", "flows", "tasks.reports")
    return ("flows",) if package == "tasks" else ()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path):
    for name in imported(path):
        if name.startswith(ROOT_OF_ERRORS):
            continue
        assert not name.startswith(tuple(f"{prefix}." for prefix in forbidden(path))), name
        assert name not in forbidden(path), name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_outside_vision_imports_tensorflow_at_module_level(path):
    relative = path.relative_to(ROOT)
    heavy = [
        "tensorflow",
        *(
            f"tasks.vision.{name}"
            for name in (
                "device",
                "network",
                "training",
                "batches",
                "steps",
                "inference",
                "optimizers",
                "schedules",
                "exporting",
                "backbone",
                "transfer",
            )
        ),
    ]
    if relative.parts[:2] == ("tasks", "vision") and path.stem not in WITHOUT_TENSORFLOW:
        return
    for name in imported(path, everywhere=relative.parts[:2] == ("tasks", "vision")):
        assert not any(name == each or name.startswith(f"{each}.") for each in heavy), name


STAGES = [f"tasks.{each}" for each in ("prepare", "embed", "train", "evaluate", "promote", "plan", "score", "commit")]


def modules_of(path):
    """What a module imports, each as itself and as the module it may be a name of."""
    return {each for name in imported(path) for each in (name, name.rpartition(".")[0])}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_stages_do_not_import_stages_and_nothing_below_them_does(path):
    if path.relative_to(ROOT).parts[0] == "tasks":
        assert not modules_of(path) & set(STAGES)


@pytest.mark.parametrize("path", sorted((ROOT / "tasks/reports").glob("*.py")), ids=lambda path: path.name)
def test_reports_do_not_open_decoders(path):
    assert not modules_of(path) & {f"tasks.vision.{each}" for each in ("decoding", "children", "decoder")}


def test_tasks_init_stays_empty():
    assert (ROOT / "tasks/__init__.py").read_text() == ""


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("artifacts", ("artifacts.store", "numpy", "pyarrow", "pydantic")),
        ("flows.cli", ("prefect", "tensorflow", "numpy", "pyarrow", "pydantic", "rich")),
        ("flows.retrain", ("tensorflow",)),
        (
            "tasks.vision.training, tasks.vision.inference, tasks.vision.exporting",
            ("prefect", "artifacts.store", "artifacts.settings", "pyarrow", "keras"),
        ),
        (
            "tasks.vision.sources, tasks.vision.images, tasks.vision.metrics, tasks.vision.duplicates",
            ("prefect", "tensorflow", "artifacts.store", "artifacts.settings"),
        ),
        ("tasks.vision.decoder", ("prefect", "tensorflow", "artifacts.store", "pyarrow", "pydantic")),
        ("flows.score", ("tensorflow",)),
        ("artifacts.dataset, artifacts.weights, artifacts.metrics", ("prefect", "tensorflow", "tasks")),
        ("tasks.shared.model, tasks.predict", ("prefect", "tensorflow")),
        ("tasks.export", ("prefect", "tensorflow")),
        ("tasks.preparing.labelled, tasks.preparing.pictures, tasks.preparing.checks", ("prefect", "tensorflow")),
        ("tasks.reports.evaluation, tasks.reports.decision", ("prefect", "tensorflow", "matplotlib")),
        ("artifacts.lineage", ("prefect", "tensorflow", "pyarrow", "numpy")),
    ],
)
def test_what_an_import_loads(modules, absent):
    program = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not set(absent) & set(loaded)


def test_tensorflow_is_imported_without_a_word_and_without_changing_the_environment():
    """As TensorFlow leaves it: what it sets itself is there for good, what we set for its import is taken back."""
    program = (
        "import os; from tasks.vision.device import tf\n"
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
    for path in MODULES:
        if "class " in path.read_text() and path.stem != "__main__":
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    tree = (ROOT / "docs/design.md").read_text().partition("## Errors")[2].partition("\n## ")[0]
    ours = {each.__name__ for each in subclasses(LookbookError) if each.__module__.startswith(PACKAGES)}
    assert len(ours) > 20
    assert ours == set(re.findall(r"^ +([A-Z][A-Za-z]+)  ", tree, re.MULTILINE))
