"""pytest tests/test_tutorial.py: the tutorial's code runs, prints what the page shows, and its names are there."""

import ast
import builtins
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from flows.cli import lookbook as group
from tasks.vision import recipes
from tasks.vision.device import tf

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/from-tensors-to-training.md"
END = "\0"  # printed at each block's end


class Wrong(Exception):
    """What is wrong with a page, and in which line."""


def fenced(page):
    """The page's fenced blocks: language, number of the line after the opening fence, lines."""
    blocks, inside = [], False
    for number, line in enumerate(page.splitlines(), start=1):
        if line.startswith("```"):
            inside = not inside
            if inside:
                blocks.append((line[3:], number + 1, []))
        elif inside:
            blocks[-1][2].append(line)
    if inside:
        raise Wrong(f"line {blocks[-1][1]}: a block without an end")
    return blocks


def script(page):
    """All Python of the page in one file, each line under its number on the page, so that tracebacks name it."""
    lines = [""] * len(page.splitlines())
    for language, start, code in fenced(page):
        if language == "python":
            lines[start - 1 : start - 1 + len(code)] = code
            lines[start - 1 + len(code)] = f"print(end={END!r})"
    return "\n".join(lines)


def shown(page):
    """What the page says that each of its Python blocks prints: (line number, text); `text` is the block behind it."""
    expected = []
    for language, start, lines in fenced(page):
        if language == "python":
            expected.append((start, ""))
        else:
            if language != "text" or not expected or expected[-1][1]:
                raise Wrong(f"line {start}: a block of {language!r} that is no code's output")
            expected[-1] = (expected[-1][0], "\n".join(lines))
    return expected


def run(page, folder):
    """Run the page as a reader does, in a process of its own, and compare; … stands for digits. Raises Wrong, also for
    warnings and whatever else is said on stderr."""
    file = folder / "page.py"
    file.write_text(script(page))
    ran = subprocess.run(
        [sys.executable, "-W", "error", file],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
    )
    if ran.returncode or ran.stderr:
        raise Wrong(ran.stderr)
    printed = ran.stdout.split(END)
    assert printed.pop() == ""
    for (line, text), found in zip(shown(page), printed, strict=True):
        pattern = re.escape(text).replace("…", r"\d+")
        if not re.fullmatch(pattern, found.rstrip("\n")):
            raise Wrong(f"line {line}: expected\n{text}\nfound\n{found}")


@pytest.mark.slow
def test_the_page_prints_what_it_shows(fashion_mnist, tmp_path):
    run(PAGE.read_text(), tmp_path)


SMALL = """Text
```python
total = 1 + 1
```
between
```python
print(total, 0.123)
print("done")
```

```text
2 0.1…
done
```
"""


def test_a_page_that_is_right_passes(tmp_path):
    run(SMALL, tmp_path)


@pytest.mark.parametrize(
    ("right", "wrong", "notice"),
    [
        ("1 + 1", "1 + 2", "line 7: expected\n2 0.1…\ndone\nfound\n3 0.123\ndone"),
        ("0.1…", "0.2…", "line 7: expected"),
        ("0.123", "0.1", "line 7: expected"),  # dots are one digit or more
        ("0.123", "'0.1x'", "line 7: expected"),  # and nothing else
        ("\ndone\n```", "\n```", "line 7: expected"),
        ("```text\n2 0.1…\ndone\n```\n", "", "line 7: expected"),
        ("total = 1 + 1", "total = print(1)", "line 3: expected\n\nfound\n1"),
        ("print(total", "print(totals", 'page.py", line 7, in <module>'),
        ("between", "```text\n2\n```", "line 3: expected\n2\nfound\n"),
        ("Text\n", "```text\n2\n```\n", "line 2: a block of 'text' that is no code's output"),
        ("2 0.1…\ndone\n```\n", "2 0.1…\n", "line 12: a block without an end"),
        ("```text", "```console", "line 12: a block of 'console' that is no code's output"),
        ("between", "```python\nimport warnings\nwarnings.warn('old', stacklevel=1)\n```", "UserWarning: old"),
    ],
)
def test_a_page_that_is_wrong_is_noticed(tmp_path, right, wrong, notice):
    assert SMALL.count(right) == 1
    with pytest.raises(Wrong) as noticed:
        run(SMALL.replace(right, wrong), tmp_path)
    assert notice in str(noticed.value)


def defined(tree):
    """Names that Python code gives to something: functions, classes, parameters, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def used(tree):
    """Names that Python code takes from elsewhere: when it runs, they are there."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.keyword(arg=name):
                yield name
            case ast.alias(name=name, asname=asname):
                yield asname or name


SOURCES = [ast.parse(path.read_text()) for path in (ROOT / "tasks/vision").glob("*.py")]
NAMES = {name for tree in SOURCES for name in defined(tree)}
CLASSES = {node.name: node for tree in SOURCES for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
WORDS = {
    word
    for kind in ("Architecture", "Schedule", "Optimizer", "Augmentation", "Execution", "Device")
    for word in get_args(getattr(recipes, kind))
}


def members(name):
    """What a class of tasks/vision defines, with what it inherits there."""
    bases = [base.id for base in CLASSES[name].bases if isinstance(base, ast.Name)]
    return set(defined(CLASSES[name])).union(*(members(base) for base in bases if base in CLASSES))


def is_there(quoted, ours):
    """Whether what the page quotes is a file, a command, or made of names that exist. `ours`: the page's own."""
    first, *others = quoted.split()
    if first in ("lookbook", "make"):
        return others[0] in group.commands if first == "lookbook" else f"\n{others[0]}:" in makefile()
    if "/" in quoted:
        return (ROOT / quoted).is_file()
    if quoted in WORDS:
        return True
    if quoted.startswith("import "):
        return bool(ast.parse(quoted))
    try:
        tree = ast.parse(f"f({quoted})", mode="eval")
    except SyntaxError:
        return False
    known = {"tf", "np", *ours, *dir(builtins), *NAMES}
    call = tree.body
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="tf" | "np" as module), attr=name):
                found = hasattr({"tf": tf, "np": np}[module], name)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in CLASSES:
                found = attribute in members(name)
            case ast.Attribute(attr=name) | ast.keyword(arg=name):
                found = name in known
            case ast.Name(id=name):
                found = node is call.func or name in known
            case ast.Constant(value=str(word)):
                found = word in WORDS
            case _:
                continue
        if not found:
            return False
    return True


def makefile():
    return (ROOT / "Makefile").read_text()


def missing(page):
    """What the page quotes in its text and is not there; and in a table's row that ends in a file, not in that file."""
    code = ast.parse("\n".join(line for language, _, lines in fenced(page) if language == "python" for line in lines))
    ours = {*defined(code), *used(code)}
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    absent = [quoted for quoted in re.findall(r"`([^`]+)`", prose) if not is_there(quoted, ours)]
    for what, file in re.findall(r"^\| (.*) \| `([^`]+\.py)` \|$", prose, re.MULTILINE):
        names = set(defined(ast.parse((ROOT / file).read_text()))) if (ROOT / file).is_file() else set()
        absent += [f"{quoted} in {file}" for quoted in re.findall(r"`([^`]+)`", what) if quoted not in names]
    return absent


def test_files_and_names_on_the_page_are_there():
    page = PAGE.read_text()
    assert missing(page) == []
    assert len(re.findall(r"^\| `.*\.py` \|$", page, re.MULTILINE)) > 5


@pytest.mark.parametrize(
    ("wrong", "notice"),
    [
        ("`tasks/vision/trainings.py`", "tasks/vision/trainings.py"),
        ("`shuffle_epochs`", "shuffle_epochs"),
        ("`shuffle_epoch` and `Conv.lane`", "Conv.lane"),
        ("`tf.while_loops`", "tf.while_loops"),
        ("`forwards(images, weights)`", "forwards(images, weights)"),
        ('`execution="lazy"`', 'execution="lazy"'),
        ("`plan.rate_of`", "plan.rate_of"),
        ("`lookbook train`", "lookbook train"),
        ("`make tutorial`", "make tutorial"),
        ("`two words`", "two words"),
        ("| `State`, `Trained` and others | `tasks/vision/trained.py` |", None),
        ("| `fit`, `Network` | `tasks/vision/training.py` |", "Network in tasks/vision/training.py"),
        ("| `Linear` | `tasks/vision/training.py` |", "Linear in tasks/vision/training.py"),
    ],
)
def test_a_name_that_is_not_there_is_noticed(wrong, notice):
    right = "`Conv.lanes`, `Dense.weights`, `tf.while_loop`, `plan`, `lookbook retrain`, `make setup`, `conv`"
    assert missing(f"{right}\n{wrong}\n\n```python\nplan = 1\n```\n") == [notice] * bool(notice)
