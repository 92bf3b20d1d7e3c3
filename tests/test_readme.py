"""pytest tests/test_readme.py: README's first screen, as typed, in a fresh clone; and the pictures that it names."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import answer, run_inside
from PIL import Image

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "examples/pictures"
IS = {"bag": "Bag", "boot": "Ankle boot", "dress": "Dress", "sandal": "Sandal", "sneaker": "Sneaker",
      "top": "T-shirt/top", "trouser": "Trouser"}  # fmt: skip


def first_screen() -> list[list[str]]:
    """Its commands in order; of `make`, only the retraining (the others are this suite, and a server until Ctrl-C)."""
    screen = (ROOT / "README.md").read_text().partition("While `make up` is running")[0]
    typed = [
        shlex.split(line, comments=True)
        for line in re.findall(r"^    ((?:make|\.venv/bin/lookbook) .*)$", screen, re.M)
    ]
    return [command for command in typed if command[0] != "make" or command[1] == "retrain"]


@pytest.fixture
def clone(tmp_path):
    """A fresh clone that is set up: its .venv runs the clone's code with this environment's packages."""
    folder = tmp_path / "lookbook"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    packages = Path(np.__file__).parents[1]
    [own] = (folder / ".venv/lib").glob("python3*/site-packages")
    (own / "lookbook.pth").write_text(f"{folder}\n{packages}\n")
    for name in ("lookbook", "prefect"):
        script = Path(sys.executable).with_name(name).read_text().partition("\n")[2]
        (folder / ".venv/bin" / name).write_text(f"#!{folder}/.venv/bin/python\n{script}")
        (folder / ".venv/bin" / name).chmod(0o755)
    (folder / ".venv/ready").touch()
    return folder


@pytest.mark.server
@pytest.mark.slow
def test_the_first_screen_works_as_typed_in_a_fresh_clone(clone, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOOKBOOK_STORE")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect")}
    commands = first_screen()
    assert [command[:2] for command in commands][:2] == [["make", "retrain"], [".venv/bin/lookbook", "predict"]]
    assert len(commands) >= 12
    for command in commands:
        done = subprocess.run(command, cwd=clone, env=environment, text=True, capture_output=True, timeout=300)
        assert done.returncode == 0, (command, done.stderr)
        if command[1] == "predict":
            for picture in (word for word in command if word.startswith("examples/")):
                name = Path(picture).stem.partition("-")[0]
                said = name if "new-shoes" in picture else IS[name]
                assert re.search(rf"{picture} +{said} ", done.stdout), done.stdout
    assert (clone / "store/aliases/weights/shoes").is_dir()  # not in the checkout that this test is in
    assert (clone / "fashion-mnist").is_dir()


def test_the_model_names_every_drawn_picture_right(first, shared_environment):
    """`first` is what `make retrain` makes."""
    done = run_inside(
        ["predict", *sorted((PICTURES / "clothes").iterdir()), "--weights", "fashion-mnist@champion", "--json"],
        shared_environment,
    )
    for result in answer(done)["results"]:
        assert result["label"] == IS[Path(result["path"]).stem.partition("-")[0]], result


def test_the_script_draws_the_pictures_that_are_there(tmp_path):
    subprocess.run([sys.executable, ROOT / "examples/draw_pictures.py", tmp_path], check=True)
    drawn = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*.*"))
    assert drawn == sorted(file.relative_to(PICTURES) for file in PICTURES.rglob("*.*"))
    for name in drawn:
        new, there = (np.asarray(Image.open(folder / name), np.int16) for folder in (tmp_path, PICTURES))
        assert new.shape == there.shape
        assert np.abs(new - there).mean() < 2, name  # another Pillow may round otherwise
