"""pytest tests/test_decoded.py: what was decoded survives whatever ends a preparation, and gives the same version."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from artifacts import dataset
from artifacts import segments as committed
from artifacts.errors import StoreError
from artifacts.settings import Settings
from artifacts.store import Store
from tasks import prepare as stage
from tasks.prepare import prepare_folder
from tasks.preparing.pictures import TooManyBad
from tasks.requests import PictureSettings
from tasks.shared.deadline import Deadline, DeadlineExceeded
from tasks.vision.files import CHUNK

FILES = 2 * CHUNK + 40  # three requests to the decoders, and with little memory for them as many segments


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    top = tmp_path_factory.mktemp("drawn")
    random = np.random.default_rng(0)
    for name, level in (("dark", 20), ("light", 180)):
        (top / name).mkdir()
        for index in range(FILES // 2):
            pixels = random.integers(level, level + 60, (12, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(top / name / f"{index:03d}.png")
    return top


@pytest.fixture(scope="module")
def undisturbed(drawn, tmp_path_factory):
    """The version that comes of an undisturbed preparation."""
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    ref = prepare(store, drawn)
    assert decoded_by(store, ref) == FILES
    assert segments(store) == []
    return ref


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(committed, "_BYTES", 0)


def prepare(store, folder, deadline=None, **how):
    settings = Settings(image_roots={"root": folder}, decoders=1)
    pictures = PictureSettings(image_size=8, color="grey", **how)
    return prepare_folder(store, settings, "root:", pictures, "pictures", deadline or Deadline.after(1))


def segments(store):
    return [store.disk.local_path(key) for key in store.disk.list("staging/decoded")]


def rows(store):
    return sum(pa.ipc.open_file(str(path)).read_all().num_rows for path in segments(store))


def decoded_by(store, ref):
    return store.open(ref).manifest["provenance"]["decoded"]


class EndsAfter:
    """A deadline that is over when it was looked at so many times."""

    def __init__(self, looks, error):
        self.looks, self.error = looks, error

    def check(self, doing):
        self.looks -= 1
        if self.looks < 0:
            raise self.error


@pytest.mark.parametrize("error", [DeadlineExceeded("over"), KeyboardInterrupt()], ids=["deadline", "Ctrl-C"])
def test_what_was_decoded_when_the_reading_ended_is_taken_over(store, drawn, undisturbed, error, capfd):
    """Whatever is still in memory is committed, too."""
    with pytest.raises(type(error)):
        prepare(store, drawn, EndsAfter(2, error))
    assert rows(store) == 2 * CHUNK
    assert len(segments(store)) == 1
    assert list(store.refs()) == []
    ref = prepare(store, drawn)
    assert ref == undisturbed
    assert decoded_by(store, ref) == 40
    assert segments(store) == [], "it is in the dataset now"
    assert f"{FILES} of {FILES} entries" in (said := capfd.readouterr().err)
    assert f"{2 * CHUNK} taken over" in said
    assert store.verify().corrupt == []


def test_a_disk_that_is_full_when_the_dataset_is_written(store, drawn, undisturbed, monkeypatch):
    """The limit of a file's size is one that any user can set; Python gets its signal as an OSError."""
    save = stage.datasets.save

    def save_on_a_full_disk(*given, **named):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, before[1]))
        try:
            return save(*given, **named)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(stage.datasets, "save", save_on_a_full_disk)
    with pytest.raises(StoreError, match="File too large; make room"):
        prepare(store, drawn)
    assert list(store.disk.list("staging/scratch")) == []
    assert rows(store) == FILES
    monkeypatch.setattr(stage.datasets, "save", save)
    ref = prepare(store, drawn)
    assert (ref, decoded_by(store, ref), segments(store)) == (undisturbed, 0, [])


def test_a_disk_that_is_full_while_reading(store, drawn, undisturbed, monkeypatch, small_segments):
    """The segments before stay, and the next one goes on from there."""
    create = type(store.disk).create

    def full(disk, key, content):
        if key.startswith("staging/decoded") and len(segments(store)) == 2:
            raise StoreError("No space left on device; make room")
        create(disk, key, content)

    monkeypatch.setattr(type(store.disk), "create", full)
    with pytest.raises(StoreError, match="make room"):
        prepare(store, drawn)
    monkeypatch.setattr(type(store.disk), "create", create)
    assert rows(store) == 2 * CHUNK
    ref = prepare(store, drawn)
    assert (ref, decoded_by(store, ref), segments(store)) == (undisturbed, 40, [])


def test_what_checks_refuse_is_decoded_once(store, drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "pictures")
    for index in range(20):
        (folder / f"dark/{index:03d}.png").write_text("no picture")
    with pytest.raises(TooManyBad):
        prepare(store, folder)
    assert rows(store) == FILES, "what is bad is known, too"
    for index in range(10):
        (folder / f"dark/{index:03d}.png").unlink()
    ref = prepare(store, folder, max_bad=0.1)
    assert decoded_by(store, ref) == 0
    assert len(dataset.load(store, ref).bad) == 10
    assert segments(store) == []


def test_a_damaged_segment_is_decoded_again(store, drawn, undisturbed, small_segments):
    with pytest.raises(DeadlineExceeded):
        prepare(store, drawn, EndsAfter(3, DeadlineExceeded("over")))
    assert len(segments(store)) == 3
    damaged, cut = segments(store)[:2]
    lost = sum(pa.ipc.open_file(str(path)).read_all().num_rows for path in (damaged, cut))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    for path, kept in ((damaged, bytes(content)), (cut, cut.read_bytes()[:-9])):
        path.unlink()
        path.write_bytes(kept)
    ref = prepare(store, drawn)
    assert (ref, decoded_by(store, ref), segments(store)) == (undisturbed, lost, [])


def test_what_changed_meanwhile_is_decoded_and_what_was_only_touched_is_not(store, drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "pictures")
    with pytest.raises(DeadlineExceeded):
        prepare(store, folder, EndsAfter(3, DeadlineExceeded("over")))
    os.utime(folder / "dark/001.png", (1, 1))
    Image.fromarray(np.random.default_rng(9).integers(0, 60, (12, 12), np.uint8)).save(folder / "dark/002.png")
    (folder / "light/003.png").rename(folder / "light/renamed.png")
    (folder / "light/004.png").unlink()
    ref = prepare(store, folder)
    assert decoded_by(store, ref) == 2, "what has another content, and what has another path"
    other = Store(tmp_path / "other")
    assert prepare(other, folder) == ref


def test_segments_that_nobody_takes_over_are_removed_after_a_week(store, drawn, tmp_path):
    with pytest.raises(DeadlineExceeded):
        prepare(store, drawn, EndsAfter(1, DeadlineExceeded("over")))
    [left] = segments(store)
    prepare(store, shutil.copytree(drawn, tmp_path / "other"))
    assert segments(store) == [left]
    os.utime(left, (1, 1))
    prepare(store, shutil.copytree(drawn, tmp_path / "another"))
    assert segments(store) == []


def test_segments_are_as_old_as_the_disk_says_whatever_the_clock_of_this_machine_says(
    store, drawn, tmp_path, monkeypatch
):
    with pytest.raises(DeadlineExceeded):
        prepare(store, drawn, EndsAfter(1, DeadlineExceeded("over")))
    left, now = segments(store), time.time
    monkeypatch.setattr(time, "time", lambda: now() + 365 * 86400)
    prepare(store, shutil.copytree(drawn, tmp_path / "other"))
    assert segments(store) == left


DRIVER = """
import json, os, signal, sys
from pathlib import Path
from artifacts import segments
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.shared.deadline import Deadline
from tasks.prepare import prepare_folder
from tasks.requests import PictureSettings

segments._BYTES = 0
link = os.link

def prepare(store, folder, left, when):
    def link_or_die(*given):
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            link(*given)
        finally:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    os.link = link_or_die
    settings = Settings(image_roots={"root": folder}, decoders=1)
    pictures = PictureSettings(image_size=8, color="grey")
    prepare_folder(Store(Path(store)), settings, "root:", pictures, "pictures", Deadline.after(1))

for line in sys.stdin:
    asked = json.loads(line)
    if isinstance(asked, int):
        print(os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]), flush=True)
    elif pid := os.fork():
        print(pid, flush=True)
    else:
        status = 1
        try:
            prepare(*asked)
            status = 0
        finally:
            os._exit(status)
"""


class Driver:
    """Preparations that are forks of a process which has everything imported."""

    def __init__(self, process):
        self._process = process

    def start(self, store, folder, kill_at=0, when=""):
        """Start one that kills itself at a commit. Returns its process id."""
        return self._ask([str(store.disk.root), str(folder), kill_at, when])

    def wait(self, pid):
        """Its exit status, when it has ended."""
        return self._ask(pid)

    def _ask(self, what):
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def driver():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", DRIVER], text=True, **pipes) as process:
        yield Driver(process)
        process.stdin.close()


@pytest.mark.long
@pytest.mark.kill
def test_killed_at_any_commit_it_goes_on_and_gives_the_same_version(drawn, undisturbed, tmp_path, driver):
    """A process kills itself at its first commit, at its second, and so on, before or after it."""
    decoded_again = []
    for number in range(1, 30):
        store = Store(tmp_path / str(number))
        status = driver.wait(driver.start(store, drawn, number, ("before", "before", "after", "after")[number % 4]))
        if status == 0:
            break
        assert status == -signal.SIGKILL
        survived = rows(store)
        published = list(store.refs())
        assert published in ([], [undisturbed]), "a whole dataset or none"
        ref = prepare(store, drawn)
        assert ref == undisturbed
        assert store.verify().corrupt == []
        assert segments(store) == []
        if not published:
            assert decoded_by(store, ref) == FILES - survived
            decoded_again.append(decoded_by(store, ref))
    assert status == 0, "there are fewer commits"
    assert decoded_again == sorted(decoded_again, reverse=True)
    assert {decoded_again[0], decoded_again[-1]} == {FILES, 0}
    assert len(set(decoded_again)) == 4, "nothing, one, two or all three segments were there"


@pytest.mark.kill
def test_two_at_once_and_one_of_them_killed(store, drawn, undisturbed, driver):
    both = [driver.start(store, drawn, *dies) for dies in ((0, ""), (5, "after"), (0, ""))]
    codes = [driver.wait(pid) for pid in both]
    assert codes[0] == codes[2] == 0
    assert list(store.refs()) == [undisturbed]
    assert store.verify().corrupt == []
    assert prepare(store, drawn) == undisturbed
