"""pytest tests/test_streams.py: what can't be shown fails nobody, whoever shows it."""

import subprocess
import sys
from pathlib import Path

import pytest

SHOWING = r"""
import sys
from rich.console import Console
from tasks.reports.streams import lost_output, make_streams_forgiving

make_streams_forgiving()
make_streams_forgiving()  # whoever else wants them so
for stream in (sys.stdout, sys.stderr):
    print("ä" * 100_000, file=stream, flush=True)
for stderr in (False, True):
    Console(stderr=stderr).print("ä \U0001f97e \udcff")
lost = lost_output()
with open(sys.argv[1], "w") as file:
    file.write(f"done {lost and lost.strerror}")
"""
WORKING = r"""
import sys
from tasks.reports import progress

with progress.FolderProgress("scoring", 3, "key") as rows:
    progress.warn("ä \U0001f97e", lambda line: None)
    rows(3, 1, 0)
with progress.TrainingProgress(1, lambda line: None, "key") as told:
    told.tell("ä \U0001f97e")
open(sys.argv[1], "w").write("done")
"""
TO = {
    "a file": "> out 2> err",
    "a full disk": "> /dev/full 2> /dev/full",
    "nothing": ">&- 2>&-",
    "nobody": "<&- >&- 2>&-",
    "who has left": "2>&1 | true",
}


def run(program, to, place, **environment):
    """What `program` writes into the file that it is given, after all that it showed."""
    (place / "show.py").write_text(program)
    command = f'"{sys.executable}" show.py done {TO[to]}; exit ${{PIPESTATUS[0]}}'
    every = {"PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(place), **environment}
    said = subprocess.run(["bash", "-c", command], cwd=place, env=every, capture_output=True, text=True)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    return (place / "done").read_text()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("to", TO)
def test_whatever_becomes_of_streams_work_goes_on(tmp_path, to, unbuffered):
    why = "No space left on device" if to == "a full disk" else None
    assert run(SHOWING, to, tmp_path, PYTHONIOENCODING="ascii", PYTHONUNBUFFERED=unbuffered) == f"done {why}"


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("utf-8", "ä \U0001f97e \\udcff"), ("latin-1", "ä \\U0001f97e \\udcff"), ("ascii", "\\xe4 \\U0001f97e \\udcff")],
)
def test_what_an_encoding_lacks_is_written_by_its_number(tmp_path, encoding, told):
    assert run(SHOWING, "a file", tmp_path, PYTHONIOENCODING=f"{encoding}:strict") == "done None"
    for name in ("out", "err"):
        assert (tmp_path / name).read_text(encoding) == f"{told.partition(' ')[0] * 100_000}\n{told}\n"


@pytest.mark.slow
@pytest.mark.parametrize("to", ["a full disk", "who has left"])
def test_a_run_that_nobody_of_ours_started_goes_on(tmp_path, to):
    assert run(WORKING, to, tmp_path, PYTHONIOENCODING="ascii:strict") == "done"


def test_what_is_opened_later_is_no_standard_stream(tmp_path):
    """A decoder that was handed a folder's descriptor as its standard error did not start."""
    program = (
        "import os, sys\n"
        "from tasks.reports.streams import make_streams_forgiving\n"
        "make_streams_forgiving()\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    file.write(f'{file.fileno() > 2}')\n"
    )
    assert run(program, "nobody", tmp_path) == "True"


def test_a_stream_that_is_full_for_a_while_is_waited_for(tmp_path):
    """Whoever started this made the pipe non-blocking, as Node does, and reads late."""
    program = (
        "import os, sys\n"
        "from tasks.reports.streams import make_streams_forgiving\n"
        "os.set_blocking(1, False)\n"
        "make_streams_forgiving()\n"
        "sys.stdout.write('x' * 1_000_000)\n"
        "sys.stdout.flush()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout.read() == b"x" * 1_000_000
    assert process.returncode == 0
