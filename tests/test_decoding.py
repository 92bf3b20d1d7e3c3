"""pytest tests/test_decoding.py: real decoder processes, really killed, stopped and starved.

How they are started, and what they may do: tests/test_children.py.
"""

import hashlib
import io
import itertools
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sweeper import wait_for_end

from tasks.vision import children as processes
from tasks.vision import decoder, decoding
from tasks.vision.decoding import DecoderPool, default_processes
from tasks.vision.errors import DecoderError
from tasks.vision.files import CHUNK, Files, cut, files_a_request
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


def decoded(decoders, requests):
    """What became of requests, in order; each comes back under its own key."""
    asked = []

    def with_keys():
        for request in requests:
            asked.append(request)
            yield ("key", len(asked)), request

    for place, (key, found) in enumerate(decoders.decode(with_keys()), start=1):
        assert key == ("key", place)
        assert len(found.sha256) == len(asked[place - 1])
        yield found


def draw(top, count, start=0):
    random = np.random.default_rng(start)
    names = [b"%05d.png" % index for index in range(start, start + count)]
    for name in names:
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(top / name.decode())
    return names


def children():
    """Decoder processes of this one."""
    listed = " ".join((task / "children").read_text() for task in Path("/proc/self/task").iterdir()).split()
    return [int(pid) for pid in listed if b"tasks.vision.decoder" in Path(f"/proc/{pid}/cmdline").read_bytes()]


class Clock:
    """The pool's clock, which a test puts forward instead of waiting. Decoders go by the machine's."""

    def __init__(self):
        self.ahead = lambda: 0.0

    def monotonic(self):
        return time.monotonic() + self.ahead()

    def put_forward(self, seconds):
        before = self.ahead()
        self.ahead = lambda: before + seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    for module in (decoding, processes):
        monkeypatch.setattr(module, "time", made)
    return made


FOREVER = 1e9  # no file takes too long on a clock that was put forward
LATER = 1.2 * decoding._SILENT_SECONDS


def test_pixels_hashes_and_sizes_come_back_in_order(folder, tmp_path):
    names = draw(tmp_path, 700)
    requests = [files(tmp_path, names[start : start + CHUNK]) for start in range(0, 700, CHUNK)]
    with pool(folder) as decoders:
        results = list(decoded(decoders, requests))
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
        [result] = decoded(decoders, [files(tmp_path, wanted)])
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
        [result] = decoded(decoders, [planned])
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
        [result] = decoded(decoders, [planned])
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
        [result] = decoded(decoders, [files(tmp_path, names)])
    assert result.errors == {}
    assert len(set(result.sha256)) == 1


def test_content_that_is_known_is_not_decoded_again(folder, tmp_path):
    names = draw(tmp_path, 2)
    known = {
        place: hashlib.sha256((tmp_path / name.decode()).read_bytes()).hexdigest() for place, name in enumerate(names)
    }
    with pool(folder) as decoders:
        [result] = decoded(decoders, [files(tmp_path, names, known={0: known[0], 1: "0" * 64})])
    assert result.same == [0]
    assert result.width == [0, 8]


def slow_picture(scans=2_000):
    """A progressive JPEG that tells the same of all its pixels again and again: ten seconds of decoding."""
    file = io.BytesIO()
    Image.new("L", (2000, 2000), 128).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


def wait_for_item(worker, item):
    """Until the decoder has this item in hand, which shared memory tells."""
    until = time.monotonic() + 60
    while worker.in_hand.read()[0] != item:
        assert time.monotonic() < until, f"no decoder took item {item} in hand"
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("sent", "kind", "detail"),
    [
        (signal.SIGKILL, "crashed", "the decoder died of this picture"),
        (signal.SIGSEGV, "crashed", "the decoder died of this picture"),
        (signal.SIGSTOP, "timeout", "decoding took longer than 20 s"),
    ],
)
def test_a_child_that_dies_or_hangs_costs_one_row(folder, tmp_path, clock, sent, kind, detail):
    names = [*draw(tmp_path, 5), b"slow.jpg", *draw(tmp_path, 300, start=5)]
    (tmp_path / "slow.jpg").write_bytes(slow_picture())
    requests = [files(tmp_path, names[:CHUNK]), files(tmp_path, names[CHUNK:])]

    def strike(worker):
        wait_for_item(worker, 5)
        os.kill(worker.child.pid, sent)
        if sent == signal.SIGSTOP:
            clock.ahead = lambda: LATER if worker.child.pid == first else 0.0

    with pool(folder, processes=1) as decoders:
        [worker] = decoders._workers
        first = worker.child.pid
        striker = threading.Thread(target=strike, args=[worker])
        striker.start()
        results = list(decoded(decoders, requests))
        striker.join()
        assert children() != [first]
    errors = [error for each in results for error in each.errors.items()]
    assert errors == [(5, (kind, detail))]
    assert None not in [sha for place, sha in enumerate(results[0].sha256) if place != 5]
    assert len(results[1].sha256) == 306 - CHUNK


def _open_files(pid):
    return [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]


def test_a_picture_that_takes_too_long_is_given_up(folder, tmp_path, clock):
    (tmp_path / "slow.jpg").write_bytes(slow_picture())
    names = [*draw(tmp_path, 3), b"slow.jpg"]
    with pool(folder, processes=1) as decoders:
        [worker] = decoders._workers
        clock.ahead = lambda: LATER if worker.in_hand.read()[0] == 3 else 0.0
        [result] = decoded(decoders, [files(tmp_path, names)])
    assert result.errors == {3: ("timeout", "decoding took longer than 20 s")}


def test_no_file_is_ever_blamed_for_the_time_between_files(folder, tmp_path):
    """The time of one file must never be read together with the number of another."""
    request = files(tmp_path, draw(tmp_path, 1))
    with pool(folder) as decoders:
        for _ in range(10):
            for worker in decoders._workers:
                worker.in_hand._began[0] = 0.0  # as if the last file had been begun when the machine was
            assert not any(each.errors for each in decoded(decoders, [request] * 40))


def test_children_that_never_start_are_an_error_not_a_loop(folder, tmp_path, monkeypatch):
    names = draw(tmp_path, 1)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DecoderError, match="decoder processes in a row ended before"), pool(folder) as decoders:
        list(decoded(decoders, [files(tmp_path, names)]))


@pytest.mark.kill
def test_children_end_when_their_parent_is_killed(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from tasks.vision.decoding import DecoderPool\n"
        "from tasks.vision.images import ImageSpec, Limits\n"
        "pool = DecoderPool(os.open(sys.argv[1], os.O_RDONLY), ImageSpec(8, 8, 1), Limits(1, 1), 1, 2)\n"
        "print(*[worker.child.pid for worker in pool._workers], flush=True); signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.communicate()
    assert all(wait_for_end(pid, 60) for pid in pids)


def test_no_file_is_blamed_for_a_parent_that_stood_still(folder, tmp_path, clock, monkeypatch):
    """TensorFlow's import holds the interpreter for seconds at a time, between any two lines of the pool: as long as it
    takes here to look at the file in hand. Its decoder is done with it by then, or would be."""
    (tmp_path / "rather slow.jpg").write_bytes(slow_picture(scans=10))
    request = files(tmp_path, [b"rather slow.jpg"])
    monkeypatch.setattr(decoding, "_POLL_SECONDS", 0.005)
    look = decoder.FileInHand.read

    def look_and_stand_still(in_hand):
        item, began = look(in_hand)
        began += clock.ahead()
        if item >= 0:
            clock.put_forward(30)
        return item, began

    monkeypatch.setattr(decoder.FileInHand, "read", look_and_stand_still)
    with pool(folder, processes=1) as decoders:
        assert not any(each.errors for each in decoded(decoders, [request] * 10))
    assert clock.ahead()


def test_what_lies_in_the_current_folder_is_not_executed(folder, tmp_path, monkeypatch):
    names = draw(tmp_path, 1)
    for module in ("json", "tasks", "numpy"):
        (tmp_path / f"{module}.py").write_text("open('executed', 'w')")
    monkeypatch.chdir(tmp_path)
    with pool(folder) as decoders:
        [result] = decoded(decoders, [files(tmp_path, names)])
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
        list(decoded(decoders, [files(tmp_path, draw(tmp_path, 1))]))
        [child] = children()
        before = len(_open_files(child))
        [result] = decoded(decoders, [planned])
        assert {kind for kind, _ in result.errors.values()} == {"missing"}
        assert len(_open_files(child)) <= before


def test_the_file_in_hand_is_never_read_half_written(monkeypatch):
    """Nor with the time of an earlier one: here each file is begun at the time of its number. A struct's pack_into
    zeroes the place before it writes: a picture then looked as old as the machine."""
    shared = mmap.mmap(-1, decoder.IN_HAND_BYTES)
    written = decoder.FileInHand(shared)
    written.clear()
    if not (child := os.fork()):
        now = 0
        monkeypatch.setattr(decoder, "time", SimpleNamespace(monotonic=lambda: now))
        for now in itertools.count(1):
            written.begin(now)
    in_hand, seen, looks = decoder.FileInHand(shared), set(), 0
    until = time.monotonic() + 60
    try:
        while len(seen) < 200 or looks < 400_000:
            assert time.monotonic() < until
            looks += 1
            item, began = in_hand.read()
            if item >= 0:
                seen.add(item)
                assert item, "an item that was never begun"
                assert began >= item
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# First it uses up what a user without root's rights may have of pipes: every later one holds 8 KiB, not 64.
MANY_DECODERS = """
import fcntl, os, sys
from contextlib import suppress
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import Files
from tasks.vision.images import ImageSpec, Limits
hoard = [os.pipe()]
while (size := fcntl.fcntl(hoard[-1][0], fcntl.F_GETPIPE_SZ)) > 8192 and len(hoard) < 200:
    with suppress(PermissionError):
        fcntl.fcntl(hoard[-1][0], fcntl.F_SETPIPE_SZ, 1 << 20)
    hoard.append(os.pipe())
print(size)
top = sys.argv[1]
names = [b"/".join([b"x" * 120, b"y" * 120, name]) for name in sorted(os.listdir(os.fsencode(f"{top}/{'x' * 120}/{'y' * 120}")))]
found = [os.stat(os.path.join(os.fsencode(top), name)) for name in names]
request = Files(names, [each.st_size for each in found], [each.st_mtime_ns for each in found])
with DecoderPool(os.open(top, os.O_RDONLY), ImageSpec(8, 8, 1), Limits(1 << 20, 1 << 20), 60, 8) as pool:
    print(sum(len(each.sha256) - len(each.errors) for _, each in pool.decode(enumerate([request] * 48))))
"""  # noqa: E501


@pytest.mark.kill
def test_many_decoders_with_small_pipes_and_long_paths_never_wait_for_each_other(tmp_path):
    inner = tmp_path / ("x" * 120) / ("y" * 120)
    inner.mkdir(parents=True)
    draw(inner, CHUNK)
    ordinary = ["setpriv", "--bounding-set=-sys_resource,-sys_admin", "--inh-caps=-sys_resource,-sys_admin"]
    command = [*(ordinary if os.geteuid() == 0 else ()), sys.executable, "-c", MANY_DECODERS, tmp_path]
    said = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert said.stdout.split() == ["8192", str(48 * CHUNK)], said.stderr


def long_request(top):
    """More than any pipe of an ordinary user holds."""
    inner = top / ("x" * 200) / ("y" * 200)
    inner.mkdir(parents=True)
    name = Path(os.fsdecode(draw(inner, 1)[0]))
    path = os.fsencode((inner / name).relative_to(top))
    return files(top, [path] * CHUNK)


def test_a_child_that_neither_reads_nor_answers_is_an_error_in_time(folder, tmp_path, monkeypatch):
    deaf = tmp_path / "deaf"
    deaf.write_text("#!/bin/sh\nexec sleep 100\n")
    deaf.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(deaf))
    monkeypatch.setattr(decoding, "_SILENT_SECONDS", 0.01)
    with pytest.raises(DecoderError, match="said nothing for 0.01 s"), pool(folder) as decoders:
        list(decoded(decoders, [long_request(tmp_path)] * 4))


def test_a_child_that_was_stopped_between_files_is_replaced_and_no_file_blamed(folder, tmp_path, clock):
    request = long_request(tmp_path)
    with pool(folder, seconds=FOREVER, processes=1) as decoders:
        list(decoded(decoders, [request]))
        [first] = children()
        os.kill(first, signal.SIGSTOP)
        [worker] = decoders._workers
        looks = itertools.count()  # each takes 20 s as long as the first child is there
        clock.ahead = lambda: 20.0 * next(looks) if worker.child.pid == first else 20.0 * 1000
        results = list(decoded(decoders, [request] * 3))
        assert children() != [first]
    assert [each.errors for each in results] == [{}, {}, {}]


def test_a_parent_that_was_away_blames_nobody(folder, tmp_path, clock):
    """The consumer of the results may take its time: the children did their work, or wait for room in the pipe, or are
    between two files."""
    request = long_request(tmp_path)
    with pool(folder, seconds=FOREVER, processes=1) as decoders:
        list(decoded(decoders, [request]))  # it has started
        [first] = children()
        for number, _ in enumerate(decoded(decoders, [request] * 8)):
            if number % 2 == 0 and decoders._workers[0].pending:  # not both of its answers were read at once
                assert decoders._selector.select(60), "it has answered, or there is room in its pipe"
            clock.put_forward(LATER)
        assert children() == [first]


def test_requests_that_take_their_time_blame_nobody(folder, tmp_path, clock):
    """Files may have to be fetched first."""
    request = long_request(tmp_path)

    def fetched():
        for number in range(8):
            if number % 2 and any(worker.pending for worker in decoders._workers):
                assert decoders._selector.select(60), "one has answered, or there is room in its pipe"
            clock.put_forward(LATER)
            yield request

    with pool(folder, seconds=FOREVER, processes=2) as decoders:
        list(decoded(decoders, [request]))
        before = children()
        assert [each.errors for each in decoded(decoders, fetched())] == [{}] * 8
        assert children() == before


def test_leaving_the_pool_waits_for_no_child(folder, tmp_path):
    with pool(folder, processes=2) as decoders:
        decoding_now = decoded(decoders, [long_request(tmp_path)] * 8)
        next(decoding_now)
        for pid in children():
            os.kill(pid, signal.SIGSTOP)
    assert children() == []


def test_requests_of_large_pictures_have_fewer_files():
    sizes = {28: 256, 224: 64, 256: 64, 512: 16, 1024: 4, 4096: 1}
    assert {side: files_a_request(ImageSpec(side, side, 3)) for side in sizes} == sizes
    items, all_sizes = np.arange(100), np.full(100, 10)
    assert [len(each) for each in cut(items, all_sizes, ImageSpec(512, 512, 3))] == [16] * 6 + [4]
    assert [len(each) for each in cut(items, all_sizes)] == [100]


def test_a_request_of_more_pixels_than_a_decoder_shares_comes_back_in_one_piece(folder, tmp_path):
    spec = ImageSpec(512, 512, 3)
    names = draw(tmp_path, 40)
    (tmp_path / "00020.png").write_text("no picture")
    sha256 = hashlib.sha256((tmp_path / "00037.png").read_bytes()).hexdigest()
    requests = [files(tmp_path, names, known={37: sha256}), files(tmp_path, names[:3]), files(tmp_path, [])]
    with DecoderPool(folder, spec, LIMITS, 20.0, 2) as decoders:
        whole, small, empty = decoded(decoders, requests)
    assert whole.pixels.shape == (40, 512, 512, 3)
    assert (list(whole.errors), whole.same) == ([20], [37])
    assert len(whole.sha256) == len(whole.width) == len(whole.height) == 40
    for place in (0, 15, 16, 39):
        content = (tmp_path / names[place].decode()).read_bytes()
        assert (whole.pixels[place] == decode(content, spec, LIMITS).pixels).all()
    assert (len(small.pixels), len(empty.pixels)) == (3, 0)


def test_results_that_wait_are_bounded_by_their_pixels(folder, tmp_path, monkeypatch):
    spec = ImageSpec(512, 512, 3)
    monkeypatch.setattr(decoding, "AHEAD_BYTES", 5 * 16 * 512 * 512 * 3)
    request = files(tmp_path, draw(tmp_path, 16))
    asked = 0

    def requests():
        nonlocal asked
        for _ in range(20):
            asked += 1
            yield request

    with DecoderPool(folder, spec, LIMITS, 20.0, 2) as decoders:
        for taken, _ in enumerate(decoded(decoders, requests())):
            assert asked <= taken + 1 + 5
    assert asked == 20


def test_as_many_decoders_as_processors_that_this_process_may_use():
    program = (
        "import os; from tasks.vision.decoding import default_processes\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(default_processes())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "1"
    assert 1 <= default_processes() <= 32
