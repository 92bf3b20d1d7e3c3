"""pytest tests/test_decoding.py: real decoder processes, really killed, stopped and starved.

How they are started, and what they may do: tests/test_children.py.
"""

import hashlib
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "tasks.vision.decoder" in line]


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
        while worker.in_hand.read()[0] != 5:
            time.sleep(0.005)
        time.sleep(0.1)
        os.kill(worker.child.pid, sent)

    with pool(folder, seconds=seconds, processes=1) as decoders:
        [first] = children()
        striker = threading.Thread(target=strike, args=decoders._workers)
        striker.start()
        results = list(decoded(decoders, requests))
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
        [result] = decoded(decoders, [files(tmp_path, names)])
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
        assert not any(each.errors for each in decoded(decoders, with_pauses()))


def test_children_that_never_start_are_an_error_not_a_loop(folder, tmp_path, monkeypatch):
    names = draw(tmp_path, 1)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DecoderError, match="decoder processes in a row ended before"), pool(folder) as decoders:
        list(decoded(decoders, [files(tmp_path, names)]))


@pytest.mark.kill
def test_children_end_when_their_parent_is_killed(tmp_path):
    program = (
        "import os, sys, time\n"
        "from tasks.vision.decoding import DecoderPool\n"
        "from tasks.vision.images import ImageSpec, Limits\n"
        "pool = DecoderPool(os.open(sys.argv[1], os.O_RDONLY), ImageSpec(8, 8, 1), Limits(1, 1), 1, 2)\n"
        "print(*[worker.child.pid for worker in pool._workers], flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 60
    while any(_open_files(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(_open_files(pid) for pid in pids)


@pytest.mark.kill
def test_no_file_is_blamed_for_a_parent_that_stood_still(folder, tmp_path, monkeypatch):
    """TensorFlow's import holds the interpreter for seconds at a time, between any two lines of the pool."""
    names = draw(tmp_path, 30)
    look = decoder.FileInHand.read

    def look_and_stand_still(in_hand):
        seen = look(in_hand)
        time.sleep(0.2)
        return seen

    monkeypatch.setattr(decoder.FileInHand, "read", look_and_stand_still)
    with pool(folder, seconds=0.1) as decoders:
        assert not any(each.errors for each in decoded(decoders, [files(tmp_path, [name]) for name in names]))


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


def test_the_file_in_hand_is_never_read_half_written():
    """A struct's pack_into zeroes the place before it writes: a picture then looked as old as the machine."""
    shared = mmap.mmap(-1, decoder.IN_HAND_BYTES)
    started = time.monotonic()
    written = decoder.FileInHand(shared)
    written.clear()
    if not (child := os.fork()):
        while time.monotonic() < started + 60:
            for item in range(1, 1000):
                written.begin(item)
        os._exit(0)
    in_hand = decoder.FileInHand(shared)
    seen = set()
    while time.monotonic() < started + (1 if len(seen) > 100 else 60):
        item, began = in_hand.read()
        if item >= 0:
            seen.add(item)
            assert item, "an item that was never begun"
            assert started <= began <= time.monotonic()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(seen) > 100


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
with DecoderPool(os.open(top, os.O_RDONLY), ImageSpec(8, 8, 1), Limits(1 << 20, 1 << 20), 60, 64) as pool:
    print(sum(len(each.sha256) - len(each.errors) for _, each in pool.decode(enumerate([request] * 192))))
"""  # noqa: E501


@pytest.mark.kill
def test_many_decoders_with_small_pipes_and_long_paths_never_wait_for_each_other(tmp_path):
    inner = tmp_path / ("x" * 120) / ("y" * 120)
    inner.mkdir(parents=True)
    draw(inner, CHUNK)
    ordinary = ["setpriv", "--bounding-set=-sys_resource,-sys_admin", "--inh-caps=-sys_resource,-sys_admin"]
    command = [*(ordinary if os.geteuid() == 0 else ()), sys.executable, "-c", MANY_DECODERS, tmp_path]
    said = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert said.stdout.split() == ["8192", str(192 * CHUNK)], said.stderr


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
    monkeypatch.setattr(decoding, "_SILENT_SECONDS", 0.3)
    with pytest.raises(DecoderError, match="said nothing for 0.3 s"), pool(folder) as decoders:
        list(decoded(decoders, [long_request(tmp_path)] * 4))


def test_a_child_that_was_stopped_between_files_is_replaced_and_no_file_blamed(folder, tmp_path, monkeypatch):
    request = long_request(tmp_path)
    with pool(folder, processes=1) as decoders:
        list(decoded(decoders, [request]))
        [first] = children()
        os.kill(first, signal.SIGSTOP)
        monkeypatch.setattr(decoding, "_SILENT_SECONDS", 2.0)
        results = list(decoded(decoders, [request] * 3))
        assert children() != [first]
    assert [each.errors for each in results] == [{}, {}, {}]


@pytest.mark.kill
def test_a_parent_that_was_away_blames_nobody(folder, tmp_path, monkeypatch):
    """The consumer of the results may take its time: the children did their work, or wait for room in the pipe."""
    monkeypatch.setattr(decoding, "_SILENT_SECONDS", 1.0)
    request = long_request(tmp_path)
    with pool(folder, processes=1) as decoders:
        list(decoded(decoders, [request]))  # it has started
        [first] = children()
        for _ in decoded(decoders, [request] * 6):
            time.sleep(1.2)
        assert children() == [first]


@pytest.mark.kill
def test_requests_that_take_their_time_blame_nobody(folder, tmp_path, monkeypatch):
    """Files may have to be fetched first."""
    monkeypatch.setattr(decoding, "_SILENT_SECONDS", 1.0)
    request = long_request(tmp_path)

    def fetched():
        for _ in range(6):
            time.sleep(1.2)
            yield request

    with pool(folder, processes=2) as decoders:
        list(decoded(decoders, [request]))
        before = children()
        assert [each.errors for each in decoded(decoders, fetched())] == [{}] * 6
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
