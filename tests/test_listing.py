"""pytest tests/test_listing.py: folders of strangers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from environment import WITHOUT_ROOTS_RIGHTS
from hypothesis import given
from hypothesis import strategies as st

from artifacts.settings import Settings
from tasks.shared import walking
from tasks.shared.listing import (
    Entry,
    FolderError,
    FolderLost,
    allow_folder,
    digest_entries,
    folder_place,
    on_record,
    open_folder,
    to_bytes,
    to_text,
)
from tasks.shared.walking import walk


@pytest.fixture
def settings(tmp_path):
    return Settings(image_roots={"photos": tmp_path})


@pytest.fixture
def top(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def fill(folder, names):
    for name in names:
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_paths_come_in_the_order_of_their_bytes(top, tmp_path):
    names = [
        b"a/b",
        b"a-b",
        b"a.png",
        b"a/b.c/d",
        b"a/b-c",
        b"Z",
        b"\xff",
        "é".encode(),
        b"a0",
        b"b",
        b"new\nline",
        b"x" * 255,
    ]
    fill(tmp_path, [name for name in names if name != b"a/b"] + [b"a/b"])
    assert [entry.path for entry in walk(top)] == sorted(names)


def test_every_entry_is_told_and_links_are_not_followed(top, tmp_path):
    fill(tmp_path, [b"in/file"])
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = {entry.path: entry.regular for entry in walk(top)}
    assert found == {b"broken": False, b"in/file": True, b"loop": False, b"passwd": False, b"pipe": False}
    [file] = [entry for entry in walk(top) if entry.regular]
    assert (file.size, file.mtime_ns) == (1, (tmp_path / "in/file").stat().st_mtime_ns)


def test_a_folder_that_can_not_be_listed_fails_loudly(tmp_path):
    """In a process without root's rights."""
    fill(tmp_path, [b"open/a", b"shut/b"])
    (tmp_path / "shut").chmod(0o000)
    program = "import os, sys\nfrom tasks.shared.walking import walk\nlist(walk(os.open(sys.argv[1], os.O_RDONLY)))"
    run = subprocess.run(
        [*WITHOUT_ROOTS_RIGHTS, sys.executable, "-c", program, tmp_path], capture_output=True, text=True
    )
    (tmp_path / "shut").chmod(0o755)
    assert "FolderError: can't list the folder shut/: Permission denied; mend its permissions" in run.stderr


WALK = """
import os, sys
from tasks.shared.walking import walk
for entry in walk(os.open(sys.argv[1], os.O_RDONLY)):
    print(os.fsdecode(entry.path))
    for folder in sys.argv[2:]:
        os.chmod(folder, 0o444)
"""


def test_an_empty_folder_that_may_be_listed_alone_is_passed_over(tmp_path):
    """`..` can't be opened in it: nobody may go into it."""
    fill(tmp_path, [b"a/before", b"a/z", b"b"])
    for empty in ("a/locked", "locked"):
        (tmp_path / empty).mkdir()
        (tmp_path / empty).chmod(0o444)
    run = subprocess.run([*WITHOUT_ROOTS_RIGHTS, sys.executable, "-c", WALK, tmp_path], capture_output=True, text=True)
    assert run.stdout.split() == ["a/before", "a/z", "b"], run.stderr


def test_a_folder_that_is_shut_meanwhile_is_named(tmp_path):
    fill(tmp_path, [b"a/b/c", b"d"])
    shut = tmp_path / "a/b"
    command = [*WITHOUT_ROOTS_RIGHTS, sys.executable, "-c", WALK, tmp_path, shut]
    run = subprocess.run(command, capture_output=True, text=True)
    shut.chmod(0o755)
    assert run.stdout.split() == ["a/b/c"]
    assert "FolderError: can't list the folder a/b/: Permission denied; mend its permissions" in run.stderr


DEEP = """
import os, resource, sys
from tasks.shared.walking import walk
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), 4096))
for entry in walk(os.open(sys.argv[1], os.O_RDONLY)):
    print(len(entry.path), entry.regular)
"""


def test_folders_may_be_nested_deeper_than_descriptors_are_allowed(tmp_path):
    levels = [tmp_path / "/".join("d" * depth) for depth in range(1, 1101)]
    for level in levels:
        level.mkdir()
        (level / "z").touch()
    try:
        for allowed in ("1024", "32"):
            run = subprocess.run([sys.executable, "-c", DEEP, tmp_path, allowed], capture_output=True, text=True)
            assert run.stdout.split("\n")[:-1] == [f"{2 * depth + 1} True" for depth in range(1100, 0, -1)], run.stderr
    finally:
        for level in reversed(levels):
            (level / "z").unlink()
            level.rmdir()


SHORT = """
import os, resource, sys
from tasks.shared.walking import walk
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 4096))
top, taken = os.open(sys.argv[1], os.O_RDONLY), []
entries = walk(top)
try:
    while True:
        taken.append(os.dup(top))
except OSError:
    os.close(taken.pop())
list(entries)
"""


def test_where_descriptors_are_short_the_advice_is_not_about_permissions(tmp_path):
    fill(tmp_path, [b"a/b"])
    run = subprocess.run([sys.executable, "-c", SHORT, tmp_path], capture_output=True, text=True)
    assert "FolderError: can't list the folder" in run.stderr
    assert "Too many open files; let the process open more files (ulimit -n)" in run.stderr


@pytest.mark.parametrize("becomes", ["nothing", "a link", "another folder"])
def test_a_folder_that_is_moved_with_the_one_that_is_listed_is_listed_to_its_end(top, tmp_path, becomes):
    fill(tmp_path, [b"a/b/1", b"a/b/2", b"a/c", b"a/d/1", b"z"])
    entries = walk(top)
    assert next(entries).path == b"a/b/1"
    (tmp_path / "a").rename(tmp_path / "moved")
    if becomes == "a link":
        (tmp_path / "a").symlink_to("/etc")
    elif becomes == "another folder":
        fill(tmp_path, [b"a/e"])
    assert [entry.path for entry in entries] == [b"a/b/2", b"a/c", b"a/d/1", b"z"]


def test_a_folder_that_is_removed_with_the_one_that_is_listed_ends_there(top, tmp_path):
    fill(tmp_path, [b"a/b/1", b"a/b/2", b"a/c", b"a/d/1", b"z"])
    entries = walk(top)
    assert next(entries).path == b"a/b/1"
    shutil.rmtree(tmp_path / "a")
    assert [entry.path for entry in entries] == [b"z"]


def test_a_folder_that_is_moved_out_leads_nowhere(tmp_path):
    fill(tmp_path, [b"in/a/b/1", b"in/a/c", b"out/secret"])
    top = os.open(tmp_path / "in", os.O_RDONLY)
    entries = walk(top)
    assert next(entries).path == b"a/b/1"
    (tmp_path / "in/a/b").rename(tmp_path / "out/b")
    with pytest.raises(FolderLost, match="a folder in a/ was moved while it was listed; run it again"):
        list(entries)
    os.close(top)


def test_no_descriptor_is_left_open(top, tmp_path):
    fill(tmp_path, [b"a/b/c/d", b"e/f"])
    before = len(os.listdir("/proc/self/fd"))
    list(walk(top))
    entries = walk(top)
    next(entries)
    entries.close()
    assert len(os.listdir("/proc/self/fd")) == before


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_any_path_survives_the_path_column(path):
    text = to_text(path)
    text.encode()
    assert to_bytes(text) == path


def test_what_the_path_column_says():
    assert to_text("häuser/a b.png".encode()) == "häuser/a b.png"
    assert to_text(b"100%.png") == "100%25.png"
    assert to_text(b"\xff\xfe.png") == "%FF%FE.png"


def test_a_folder_below_a_root_is_opened(settings, tmp_path):
    fill(tmp_path, [b"shoes/new/a"])
    for text in ("photos:", "photos:shoes", "photos:shoes/new"):
        os.close(open_folder(settings, text))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "photos",
            "/etc",
            "photos:/etc",
            "photos:..",
            "photos:shoes/../..",
            "photos:shoes//new",
            "photos:./shoes",
        ),
        *("file:///etc", "file:etc", "other:shoes", "photos:shoes\0", "../photos:", "photos:shoes/"),
    ],
)
def test_anything_else_is_refused(settings, tmp_path, text):
    fill(tmp_path, [b"shoes/new/a"])
    with pytest.raises(FolderError, match=r"expected a folder as root:sub/path below one of LOOKBOOK_IMAGE_ROOTS"):
        open_folder(settings, text)
    with pytest.raises(FolderError, match="below one of LOOKBOOK_IMAGE_ROOTS"):
        folder_place(settings, text)


@pytest.mark.parametrize("text", ["photos:out", "photos:in/out", "photos:file", "photos:missing", "photos:pipe"])
def test_links_files_and_what_is_missing_are_refused(settings, tmp_path, text):
    fill(tmp_path, [b"file", b"in/x"])
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "in/out").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FolderError, match="expected a folder of pictures at"):
        open_folder(settings, text)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_that_a_command_names_is_known_by_its_own_path(settings, tmp_path, monkeypatch):
    folder = tmp_path / "of: 100%" / "shoes"
    (folder / "boot").mkdir(parents=True)
    with pytest.raises(FolderError, match="expected a folder as root:sub/path"):
        folder_place(settings, str(folder))
    monkeypatch.chdir(folder.parent)
    assert allow_folder(Path("shoes")) == str(folder)
    assert folder_place(settings, str(folder)) == str(folder)
    assert folder_place(settings, f"{folder}/boot") == str(folder / "boot")
    os.close(open_folder(settings, str(folder)))


@pytest.mark.parametrize("beside", ["", "/..", "/../other", "/boot/..", "-2"])
def test_allowing_a_folder_allows_nothing_beside_it(settings, tmp_path, beside):
    for name in ("shoes/boot", "shoes-2", "other"):
        (tmp_path / "allowed" / name).mkdir(parents=True)
    allowed = allow_folder(tmp_path / "allowed/shoes")
    refused = f"{allowed}{beside}" if beside else str(tmp_path / "allowed")
    with pytest.raises(FolderError, match="expected a folder as root:sub/path"):
        open_folder(settings, refused)


def test_links_below_an_allowed_folder_lead_nowhere(settings, tmp_path):
    (tmp_path / "shoes").mkdir()
    (tmp_path / "shoes/out").symlink_to("/etc")
    with pytest.raises(FolderError, match="expected a folder of pictures"):
        open_folder(settings, f"{allow_folder(tmp_path / 'shoes')}/out")


def test_a_folder_of_many_names_is_listed_in_the_order_of_their_bytes(top, tmp_path, monkeypatch):
    """Beyond SORTED_AT_ONCE names, sorted runs are laid by and merged."""
    random = Random(0)
    names = [b"a/b", b"a-b", b"a.png", b"new\nline", b"\xff", "é".encode(), b"x" * 255]
    names += [str(random.random()).encode() for _ in range(60)]
    fill(tmp_path, names)
    expected = [entry.path for entry in walk(top)]
    assert expected == sorted(names)
    monkeypatch.setattr(walking, "TOGETHER", 3)
    for at_once in (1, 2, 7, len(names) - 1, len(names), len(names) + 1):
        monkeypatch.setattr(walking, "SORTED_AT_ONCE", at_once)
        assert [entry.path for entry in walk(top)] == expected


PLAN = """
import sys, tracemalloc
from pathlib import Path
import pandas  # which pyarrow imports where it is there
import pyarrow as pa
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks import plan
from tasks.requests import ScoreRequest
from tasks.scoring.job import Job
from tasks.shared import walking
from tasks.shared.plans import load_plan
from tasks.vision.images import ImageSpec, Limits
plan.SHARD_FILES, plan.SHARD_FILES_AT_MOST, walking.SORTED_AT_ONCE, walking.TOGETHER = 60, 250, 250, 50
store = Store(Path(sys.argv[1]))
weights = Ref.parse("weights/shapes@0123456789abcdef")
tracemalloc.start()
for folder in sys.argv[2:]:
    job = Job(ScoreRequest("given:"), folder, "many", weights, "", (), ImageSpec(28, 28, 1), Limits(1, 1), None, None)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    key = plan.plan_folder(store, Settings(image_roots={"given": folder}), job)
    peak = tracemalloc.get_traced_memory()[1] - before + pa.default_memory_pool().max_memory()
    print(load_plan(store.disk, key).rows, peak)
"""


@pytest.mark.slow
def test_planning_ten_times_as_many_files_takes_no_more_memory(tmp_path):
    """What Python and Arrow hold at most: 15,000 names of 150 bytes in a list are 3 MB."""
    sources = [tmp_path / str(index) for index in range(3)]
    for source in sources:
        source.write_bytes(b"x")
    folders = []
    for a_folder in (250, 15_000):
        for files in (1_500, 15_000):
            folders.append(tmp_path / f"{files}-{a_folder}")
            for index in range(files):
                inner = folders[-1] / f"{index // a_folder:03d}"
                if index % a_folder == 0:
                    inner.mkdir(parents=True)
                os.link(sources[index % len(sources)], f"{inner}/{index:0150d}")
    command = [sys.executable, "-c", PLAN, str(tmp_path / "store"), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert not done.returncode, done.stderr
    rows, peaks = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert rows == (1_500, 15_000) * 2
    assert max(peaks) < min(peaks) + (1 << 20), peaks


@pytest.mark.parametrize("changed", [{"path": b"b.png"}, {"size": 2}, {"mtime_ns": 2}, {"regular": False}])
def test_whatever_was_touched_gives_other_entries(changed):
    entry = Entry(b"a.png", 1, 1, True)
    assert digest_entries([entry]) == digest_entries([entry._replace()])
    assert digest_entries([entry]) != digest_entries([entry._replace(**changed)])


def test_a_folder_on_record_is_found_below_its_root_and_not_beside_it(settings, tmp_path):
    where = os.path.realpath(tmp_path)
    assert on_record(settings, where) == "photos:"
    assert on_record(settings, f"{where}/shoes") == "photos:shoes"
    for beside in (f"{where}-private", f"{where}x/shoes", os.path.dirname(where)):
        with pytest.raises(FolderError, match="expected a folder below one of LOOKBOOK_IMAGE_ROOTS"):
            on_record(settings, beside)
