"""pytest tests/test_diagnosis.py: why a Prefect server isn't there."""

import os
import sqlite3
import subprocess

import pytest
from commands import COMMAND, complaint, run_process
from PIL import Image

from flows.crew import Crew
from flows.diagnosis import cause_in, how_to_unset

NOISE = """
ERROR:    Application startup failed. Exiting.
Fatal Python error: _enter_buffered_busy: could not acquire lock for <_io.BufferedReader name='<stdin>'> at interpreter
Python runtime state: finalizing (tstate=0x00007f055c576ef8)

Current thread 0x00007f055c630b80 (most recent call first):
  <no Python frame>
"""


def of_a_newer_prefect(file):
    with sqlite3.connect(file) as database:
        database.execute("create table alembic_version (version_num varchar(32) not null)")
        database.execute("insert into alembic_version values ('ffffffffffff')")
    database.close()


def damaged(file):
    file.write_bytes(b"no database" * 1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            of_a_newer_prefect,
            "{} was made by a newer Prefect than 3.8.8; use that one, or another database (PREFECT_HOME",
        ),
        (damaged, "{} is damaged; move it away, and the history of runs begins anew, or put a copy of it there"),
    ],
)
def test_a_database_that_a_server_can_not_use_is_named(lookbook, tmp_path, make, told):
    (tmp_path / "home").mkdir()
    make(database := tmp_path / "home/prefect.db")
    run = lookbook("score", tmp_path, PREFECT_HOME=str(tmp_path / "home"), PREFECT_API_URL="")
    cause = told.format(f"Prefect's database {database}")
    assert f"the temporary Prefect server did not start: {cause}" in complaint(run)


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("sqlite3.OperationalError: attempt to write a readonly database", "mend its permissions"),
        ("sqlite3.OperationalError: unable to open database file", "mend its permissions"),
        ("sqlite3.OperationalError: database or disk is full", "is full; make room"),
        ("OSError: [Errno 28] No space left on device", "is full; make room"),
        ("sqlite3.OperationalError: database is locked", "another program keeps"),
        (
            "    here = os.getcwd()\nFileNotFoundError: [Errno 2] No such file or directory",
            "the current folder was removed",
        ),
        (
            "Traceback:\n  File\nModuleNotFoundError: No module named 'x'\n\nE: no\n",
            "ModuleNotFoundError: No module named 'x'",
        ),
        ("asyncpg.exceptions.InvalidPasswordError: refused postgresql://ann:hunter2@db/x", "postgresql://ann:...@db/x"),
        ("it was this", "ERROR:    Application startup failed. Exiting."),
        ("", "ERROR:    Application startup failed. Exiting."),
    ],
)
def test_the_cause_is_told_and_not_the_end_of_the_interpreter(log, cause):
    told = cause_in(log + NOISE)
    assert cause in told
    assert "hunter2" not in told
    assert "\n" not in told
    assert cause_in("") == "it said nothing"


def test_a_process_of_up_tells_the_cause_of_its_last_start(tmp_path):
    (tmp_path / "server.log").write_text("ValueError: of yesterday\n")
    crew = Crew(tmp_path, print)
    with crew.member("server", ["python", "-c", "raise KeyError('today')"], dict(os.environ)) as server:
        server._process.wait(30)
        assert server.last_words() == f"KeyError: 'today'; its log is {tmp_path}/server.log"


FILES = [
    (".env", "PREFECT_API_URL=http://127.0.0.1:9/api\n", "take PREFECT_API_URL out of {}"),
    ("prefect.toml", '[api]\nurl = "http://127.0.0.1:9/api"\n', "take `url` out of [api] in {}"),
    ("pyproject.toml", '[tool.prefect.api]\nurl = "x"\n', "take `url` out of [tool.prefect.api] in {}"),
]


@pytest.mark.parametrize(("name", "content", "told"), FILES)
def test_what_names_a_server_is_named(tmp_path, monkeypatch, name, content, told):
    monkeypatch.chdir(tmp_path)
    for other, text, _ in FILES[[each for each, *_ in FILES].index(name) :]:  # what Prefect asks later
        (tmp_path / other).write_text(text)
    (tmp_path / name).write_text(content)
    assert how_to_unset() == told.format(tmp_path / name)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert how_to_unset() == "unset PREFECT_API_URL"


@pytest.mark.slow
@pytest.mark.parametrize("verb", [["score", "."], ["up"]])
def test_a_profile_that_names_a_server_is_named(lookbook_environment, tmp_path, verb):
    profile = 'active = "far"\n[profiles.far]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'
    (tmp_path / "profiles.toml").write_text(profile)
    environment = {**lookbook_environment, "PREFECT_HOME": str(tmp_path)}
    del environment["PREFECT_API_URL"]  # set to nothing it would name none
    told = complaint(run_process(verb, environment))
    assert "expected a Prefect server at PREFECT_API_URL http://127.0.0.1:9/api, found" in told
    assert f"take PREFECT_API_URL out of the profile far in {tmp_path}/profiles.toml, or use another profile: " in told


@pytest.mark.kill
def test_a_current_folder_that_was_removed_is_named(lookbook_environment, tmp_path):
    (tmp_path / "gone").mkdir()
    command = ["bash", "-c", 'cd "$1"; rmdir "$1"; shift; exec "$@"', "-", tmp_path / "gone", *COMMAND, "score", "x"]
    run = subprocess.run(command, capture_output=True, text=True, env=lookbook_environment)
    assert complaint(run) == ("lookbook: expected a current folder, found that it was removed; cd to one that is there")


@pytest.mark.slow
def test_a_full_folder_for_temporary_files_keeps_no_server_from_its_work(lookbook, tmp_path):
    """SQLite wrote there, and so did the server's log: it did not start, or refused the logs of a run."""
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    (full := tmp_path / "full").mkdir()
    mount = 'mount -t tmpfs -o size=64k none "$1" && head -c 60k /dev/zero > "$1/fill" && shift && exec "$@"'
    behind = ["unshare", "--mount", "bash", "-c", mount, "-", str(full)]
    home = {"TMPDIR": str(full), "PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": ""}
    run = lookbook("score", tmp_path, behind=behind, **home)
    assert "nothing in the store" in complaint(run)
    assert "Error logging to API" not in run.stderr
