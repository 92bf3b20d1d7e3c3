"""What `make setup` installs, on each Python that it allows: .venv/bin/pytest tests/test_lock.py"""

import importlib.metadata
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Debian 12 has 3.11.2; redis needs async-timeout below 3.11.3, and prefect needs whenever from 3.13 on.
PYTHONS = ["3.11.0", "3.11.2", "3.11.9", "3.12.0", "3.12.9", "3.13.0", "3.13.9"]


def machine(python: str) -> dict[str, str]:
    """What a requirement's marker is asked of, on Linux with this Python."""
    return {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "sys_platform": "linux",
        "os_name": "posix",
        "extra": "",
    }


def locked(file: str, python: str) -> dict[str, str]:
    """The versions that a lock gives a Python, by canonical name."""
    found = {}
    for line in (ROOT / file).read_text().splitlines():
        if re.match(r"[a-z0-9]", line):
            pin = Requirement(line.removesuffix(" \\"))
            if pin.marker is None or pin.marker.evaluate(machine(python)):
                found[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    return found


def asked(requirements: list[str], python: str, extras: set[str]) -> list[Requirement]:
    """Those of the requirements that hold for this Python with any of the extras."""
    return [
        wanted
        for wanted in map(Requirement, requirements)
        if wanted.marker is None
        or any(wanted.marker.evaluate(machine(python) | {"extra": extra}) for extra in extras | {""})
    ]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_all_that_a_python_needs(python):
    pins = locked("requirements.lock", python)
    waiting = asked(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"], python, set())
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        assert name in pins, f"Python {python} needs {wanted}, which requirements.lock does not have: make lock"
        assert wanted.specifier.contains(pins[name], prereleases=True), (python, str(wanted), pins[name])
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another Python than the one that runs this
        if installed == pins[name]:  # of another version, as `make test-lowest` has them, the needs are others
            waiting += asked(importlib.metadata.requires(name) or [], python, set(wanted.extras))
    assert {"tensorflow", "prefect", "pytest"} <= {name for name, _ in seen}


def test_each_direct_dependency_is_tried_at_its_lowest_version():
    lowest = locked("requirements.lowest", "3.11.2")
    for wanted in asked(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"], "3.11.2", set()):
        floor = next((str(part.version) for part in wanted.specifier if part.operator in (">=", "==")), None)
        assert floor is not None, f"{wanted}: expected a lowest version (>=)"
        pinned = lowest[canonicalize_name(wanted.name)]
        # A floor 3.10 is met by 3.10.0, and by 3.10.1 where 3.10.0 was never released.
        assert f"{pinned}.".startswith(f"{floor}."), f"{wanted}: requirements.lowest has {pinned}: make lock"


def test_the_project_allows_the_pythons_that_the_lock_is_for():
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert all(python in allowed for python in PYTHONS)
    assert "3.10.18" not in allowed
    assert "3.14.0" not in allowed


@pytest.mark.parametrize("version", ["3.10.13", "3.14.0"])
def test_set_up_refuses_another_python_before_it_begins(version, tmp_path):
    """The interpreter is a script that says it is another one, and runs nothing but that."""
    python = tmp_path / "python"
    major, minor, _ = version.split(".")
    python.write_text(
        f"""#!/bin/sh
case "$1" in
--version) echo "Python {version}" ;;
-c) exec python3 -c "import sys; sys.version_info = ({major}, {minor}, 0); exec(sys.argv[1])" "$2" ;;
*) echo "was run: $*" >&2; exit 3 ;;
esac
"""
    )
    python.chmod(0o755)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["make", "setup", f"PYTHON={python}"], cwd=tmp_path, env={**os.environ}, text=True, capture_output=True
    )
    assert done.returncode != 0
    assert f"expected Python 3.11, 3.12 or 3.13, found Python {version}" in done.stdout
    assert "was run" not in done.stderr
    assert not (tmp_path / ".venv").exists()
