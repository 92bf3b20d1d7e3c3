"""pytest tests/test_decoding.py: real decoder processes, really killed, stopped and starved."""

import hashlib
import mmap
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.vision import decoder, decoding
from tasks.vision.decoding import CHUNK, DecoderError, DecoderPool, Files
from tasks.vision.images import ImageSpec, Limits, decode

SPEC = ImageSpec(height=8, width=8, channels=1)
LIMITS = Limits(bytes=64 << 20, pixels=50_000_000)


@pytest.fixture
def folder(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def pool(folder, limits=LIMITS, seconds=20.0, processes=2):
    return DecoderPool(folder, SPEC, limits, seconds, processes)


def files(top, names, **more):
    found = [os.stat(os.path.join(os.fsencode(top), name)) for name in names]
    return Files(names, [each.st_size for each in found], [each.st_mtime_ns for each in found], **more)


def draw(top, count, start=0):
    random = np.random.default_rng(start)
    names = [b"%05d.png" % index for index in range(start, start + count)]
    for name in names:
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(top / name.decode())
    return names


def children():
    """Decoder processes of this one."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "tasks.vision.decoder" in line]


def test_pixels_hashes_and_sizes_come_back_in_order(folder, tmp_path):
    names = draw(tmp_path, 700)
    requests = [files(tmp_path, names[start : start + CHUNK]) for start in range(0, 700, CHUNK)]
    with pool(folder) as decoders:
        results = list(decoders.decode(requests))
    assert [len(each.sha256) for each in results] == [256, 256, 188]
    everything = [pixels for each in results for pixels in each.pixels]
    for name, pixels, sha256 in zip(names, everything, (sha for each in results for sha in each.sha256), strict=True):
        content = (tmp_path / name.decode()).read_bytes()
        assert (decode(content, SPEC, LIMITS).pixels == pixels).all()
        assert hashlib.sha256(content).hexdigest() == sha256
    assert {width for each in results for width in each.width} == {8}
    assert children() == []


def test_bad_files_are_told_and_their_neighbours_decoded(folder, tmp_path, without_roots_rights):
    names = draw(tmp_path, 3)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((tmp_path / "00000.png").read_bytes()[:40])
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    (tmp_path / "big.bin").write_bytes(b"x" * 2000)
    wanted = [names[0], b"text.png", b"empty.jpg", names[1], b"cut.png", b"bomb.png", b"big.bin", names[2]]
    with pool(folder, Limits(bytes=15_000, pixels=1_000_000)) as decoders:
        [result] = decoders.decode([files(tmp_path, wanted)])
    assert {place: kind for place, (kind, _) in result.errors.items()} == {
        1: "unsupported", 2: "corrupt", 4: "corrupt", 5: "too_large", 6: "unsupported",
    }  # fmt: skip
    assert result.sha256[1] == hashlib.sha256(b"no picture").hexdigest()
    assert (result.width[0], result.width[1]) == (8, 0)


def test_what_changed_since_the_plan_is_told(folder, tmp_path):
    names = draw(tmp_path, 8)
    planned = files(tmp_path, names)
    (tmp_path / "00000.png").unlink()
    (tmp_path / "00001.png").write_bytes(b"other")
    os.utime(tmp_path / "00002.png")
    (tmp_path / "00003.png").unlink()
    (tmp_path / "00003.png").symlink_to("/etc/passwd")
    (tmp_path / "00004.png").unlink()
    os.mkfifo(tmp_path / "00004.png")
    (tmp_path / "00005.png").unlink()
    (tmp_path / "00005.png").mkdir()
    with pool(folder) as decoders:
        [result] = decoders.decode([planned])
    kinds = [result.errors.get(place, (None,))[0] for place in range(8)]
    assert kinds == ["missing", "changed", "changed", "changed", "changed", "changed", None, None]
    assert result.sha256[3] is None


def test_a_folder_that_became_a_link_is_not_followed(folder, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"x")
    planned = files(tmp_path, [b"in/a.png"])
    (tmp_path / "in").rename(tmp_path / "out")
    (tmp_path / "in").symlink_to(tmp_path / "out")
    with pool(folder) as decoders:
        [result] = decoders.decode([planned])
    assert result.errors[0][0] == "changed"


def test_any_name_that_a_disk_takes(folder, tmp_path):
    content = (tmp_path / draw(tmp_path, 1)[0].decode()).read_bytes()
    names = [
        b"new\nline.png",
        b"\xff\xfe.png",
        b"%41.png",
        "é.png".encode(),
        "e\u0301.png".encode(),
        b"x" * 251 + b".png",
    ]
    for name in names:
        (Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))).write_bytes(content)
    with pool(folder) as decoders:
        [result] = decoders.decode([files(tmp_path, names)])
    assert result.errors == {}
    assert len(set(result.sha256)) == 1


def test_content_that_is_known_is_not_decoded_again(folder, tmp_path):
    names = draw(tmp_path, 2)
    known = {
        place: hashlib.sha256((tmp_path / name.decode()).read_bytes()).hexdigest() for place, name in enumerate(names)
    }
    with pool(folder) as decoders:
        [result] = decoders.decode([files(tmp_path, names, known={0: known[0], 1: "0" * 64})])
    assert result.same == [0]
    assert result.width == [0, 8]


def slow_picture(top, name):
    """About a second of decoding."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (5000, 5000), dtype=np.uint8)).save(
        top / name, optimize=False
    )


@pytest.mark.parametrize(
    ("sent", "seconds", "kind", "detail"),
    [
        (signal.SIGKILL, 20.0, "crashed", "the decoder died of this picture"),
        (signal.SIGSEGV, 20.0, "crashed", "the decoder died of this picture"),
        (signal.SIGSTOP, 1.5, "timeout", "decoding took longer than 1.5 s"),
    ],
)
def test_a_child_that_dies_or_hangs_costs_one_row(folder, tmp_path, sent, seconds, kind, detail):
    names = [*draw(tmp_path, 5), b"slow.png", *draw(tmp_path, 300, start=5)]
    slow_picture(tmp_path, "slow.png")
    requests = [files(tmp_path, names[:CHUNK]), files(tmp_path, names[CHUNK:])]

    def strike(worker):
        while worker.progress.read()[0] != 5:
            time.sleep(0.005)
        time.sleep(0.1)
        os.kill(worker.process.pid, sent)

    with pool(folder, seconds=seconds, processes=1) as decoders:
        [first] = children()
        striker = threading.Thread(target=strike, args=decoders._workers)
        striker.start()
        results = list(decoders.decode(requests))
        striker.join()
        assert children() != [first]
    errors = [error for each in results for error in each.errors.items()]
    assert errors == [(5, (kind, detail))]
    assert None not in [sha for place, sha in enumerate(results[0].sha256) if place != 5]
    assert len(results[1].sha256) == 306 - CHUNK


def _open_files(pid):
    try:
        return [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []


def test_a_picture_that_takes_too_long_is_given_up(folder, tmp_path):
    slow_picture(tmp_path, "slow.png")
    names = [*draw(tmp_path, 3), b"slow.png"]
    with pool(folder, seconds=0.05, processes=1) as decoders:
        [result] = decoders.decode([files(tmp_path, names)])
    assert result.errors == {3: ("timeout", "decoding took longer than 0.05 s")}


def test_no_file_is_ever_blamed_for_the_time_between_files(folder, tmp_path):
    """The time of one file must never be read together with the number of another."""
    names = draw(tmp_path, 1)
    request = files(tmp_path, names)

    def with_pauses():
        for index in range(4000):
            if index % 1000 == 999:
                time.sleep(0.3)
            yield request

    with pool(folder, seconds=0.2) as decoders:
        assert not any(each.errors for each in decoders.decode(with_pauses()))


def test_children_that_never_start_are_an_error_not_a_loop(folder, tmp_path, monkeypatch):
    names = draw(tmp_path, 1)
    monkeypatch.setattr(decoding.sys, "executable", "/bin/false")
    with pytest.raises(DecoderError, match="decoder processes end at once"), pool(folder) as decoders:
        list(decoders.decode([files(tmp_path, names)]))


def test_children_end_when_their_parent_is_killed(tmp_path):
    program = (
        "import os, sys, time\n"
        "from tasks.vision.decoding import DecoderPool\n"
        "from tasks.vision.images import ImageSpec, Limits\n"
        "pool = DecoderPool(os.open(sys.argv[1], os.O_RDONLY), ImageSpec(8, 8, 1), Limits(1, 1), 1, 2)\n"
        "print(*[worker.process.pid for worker in pool._workers], flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([decoding.sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 10
    while any(_open_files(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(_open_files(pid) for pid in pids)


def test_no_file_is_blamed_for_a_parent_that_stood_still(folder, tmp_path, monkeypatch):
    """TensorFlow's import holds the interpreter for seconds at a time, between any two lines of the pool."""
    names = draw(tmp_path, 30)
    look = decoder.Progress.read

    def look_and_stand_still(progress):
        seen = look(progress)
        time.sleep(0.2)
        return seen

    monkeypatch.setattr(decoder.Progress, "read", look_and_stand_still)
    with pool(folder, seconds=0.1) as decoders:
        assert not any(each.errors for each in decoders.decode([files(tmp_path, [name]) for name in names]))


def test_what_lies_in_the_current_folder_is_not_executed(folder, tmp_path, monkeypatch):
    names = draw(tmp_path, 1)
    for module in ("json", "tasks", "numpy"):
        (tmp_path / f"{module}.py").write_text("open('executed', 'w')")
    monkeypatch.chdir(tmp_path)
    with pool(folder) as decoders:
        [result] = decoders.decode([files(tmp_path, names)])
    assert result.errors == {}
    assert not (tmp_path / "executed").exists()


def test_a_folder_that_vanished_costs_no_descriptors(folder, tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    names = [b"a/b/%d.png" % index for index in range(40)]
    for name in names:
        (tmp_path / name.decode()).write_bytes(b"x")
    planned = files(tmp_path, names)
    for path in (tmp_path / "a/b").iterdir():
        path.unlink()
    (tmp_path / "a/b").rmdir()
    with pool(folder, processes=1) as decoders:
        list(decoders.decode([files(tmp_path, draw(tmp_path, 1))]))
        [child] = children()
        before = len(_open_files(child))
        [result] = decoders.decode([planned])
        assert {kind for kind, _ in result.errors.values()} == {"missing"}
        assert len(_open_files(child)) <= before


def test_a_progress_is_never_read_half_written():
    """A struct's pack_into zeroes the place before it writes: a picture then looked as old as the machine."""
    shared = mmap.mmap(-1, decoder.PROGRESS_BYTES)
    started = time.monotonic()
    written = decoder.Progress(shared)
    written.clear()
    if not (child := os.fork()):
        while time.monotonic() < started + 2:
            for item in range(1, 1000):
                written.begin(item)
        os._exit(0)
    progress = decoder.Progress(shared)
    seen = set()
    while time.monotonic() < started + 2:
        item, began = progress.read()
        if item >= 0:
            seen.add(item)
            assert item, "an item that was never begun"
            assert started <= began <= time.monotonic()
    os.waitpid(child, 0)
    assert len(seen) > 100
