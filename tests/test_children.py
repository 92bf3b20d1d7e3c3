"""pytest tests/test_children.py: whose code decoder processes run, what they are given, and what they may do."""

import ctypes
import functools
import io
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tasks.vision.decoding import DecoderPool
from tasks.vision.errors import ImageError
from tasks.vision.files import Files
from tasks.vision.images import ImageSpec, Limits, decode

ROOT = Path(__file__).parents[1]
SPEC = ImageSpec(height=8, width=8, channels=3)
LIMITS = Limits(bytes=64 << 20, pixels=50_000_000)
# Decodes an empty file, and prints what the decoder says of it.
PARENT = """
import os, sys
from pathlib import Path
from tasks.vision import decoding
from tasks.vision.images import ImageSpec, Limits
folder = Path(sys.argv[1])
(folder / "empty.png").write_bytes(b"")
if len(sys.argv) > 2:
    with open(sys.argv[2], "a") as file:
        file.write("# one more line")
found = os.stat(folder / "empty.png")
request = decoding.Files([b"empty.png"], [0], [found.st_mtime_ns])
spec, limits = ImageSpec(8, 8, 1), Limits(1 << 20, 1 << 20)
with decoding.DecoderPool(os.open(folder, os.O_RDONLY), spec, limits, 20, 1) as pool:
    [(_, result)] = pool.decode([("key", request)])
print(result.errors[0][1])
"""


@pytest.fixture
def folder(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """Another checkout, whose decoder speaks in words of its own."""
    copy = tmp_path / "another checkout é"
    for package in ("artifacts", "tasks"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    images = copy / "tasks/vision/images.py"
    words = images.read_text().replace("the file is empty", "the other checkout speaks")
    images.write_text(words)
    return copy


def parent(top, *more, python=sys.executable, paths=(), cwd=None):
    """Run PARENT, with the current folder and then `paths` before everything that is installed."""
    return subprocess.run(
        [python, "-c", PARENT, top, *more],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd or top,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
    )


def test_children_run_the_code_of_their_parent_and_not_what_is_installed(tmp_path, elsewhere):
    assert parent(tmp_path).stdout.strip() == "the file is empty"
    for said in (parent(tmp_path, paths=[elsewhere]), parent(tmp_path, cwd=elsewhere)):
        assert said.stdout.strip() == "the other checkout speaks", said.stderr


def test_children_need_no_installed_lookbook(tmp_path, elsewhere):
    """As after a git deployment's pull: the packages of the lock, and a checkout that is nowhere but on the path."""
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    packages = sysconfig.get_path("purelib")  # no .pth file is read there, so no editable install is known
    installed = subprocess.run(
        [base, "-c", "import tasks"], env={"PYTHONPATH": packages}, capture_output=True, cwd=tmp_path
    )
    assert b"No module named 'tasks'" in installed.stderr
    said = parent(tmp_path, python=base, paths=[packages], cwd=elsewhere)
    assert said.stdout.strip() == "the other checkout speaks", said.stderr


def test_code_that_changed_under_a_running_parent_is_told(tmp_path, elsewhere):
    said = parent(tmp_path, elsewhere / "tasks/vision/images.py", paths=[elsewhere])
    assert "DecoderError: expected decoder processes to run the code of this one" in said.stderr
    assert str(elsewhere / "tasks/vision") in said.stderr
    assert said.stdout == ""


def test_too_few_descriptors_are_told_and_leave_no_child(tmp_path):
    program = (
        "import os, resource, subprocess, sys\n"
        "from tasks.vision.decoding import DecoderPool\n"
        "from tasks.vision.errors import DecoderError\n"
        "from tasks.vision.images import ImageSpec, Limits\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "try:\n"
        "    DecoderPool(os.open(sys.argv[1], os.O_RDONLY), ImageSpec(8, 8, 1), Limits(1, 1), 1, 60)\n"
        "except DecoderError as error:\n"
        "    print(error)\n"
        "print(subprocess.run(['ps', '-o', 'comm=', '--ppid', str(os.getpid())], capture_output=True).stdout)\n"
    )
    said = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=60)
    assert "of 60 decoder processes started, then: Too many open files; LOOKBOOK_DECODERS sets" in said.stdout
    assert said.stdout.splitlines()[-1] == "b'ps\\n'", said.stdout


def one_child(decoders):
    [worker] = decoders._workers
    return worker.child.pid


def start(decoders):
    assert list(decoders.decode([("key", Files([], [], []))]))


def test_children_get_no_password_and_nothing_else_of_the_environment(folder, monkeypatch):
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:secret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    with DecoderPool(folder, SPEC, LIMITS, 20.0, 1) as decoders:
        start(decoders)
        environment = Path(f"/proc/{one_child(decoders)}/environ").read_bytes().split(b"\0")
    assert sorted(filter(None, environment)) == [
        b"LD_LIBRARY_PATH=/nowhere", b"OMP_NUM_THREADS=1", b"OPENBLAS_NUM_THREADS=1",
    ]  # fmt: skip


def test_children_are_confined_before_they_read_a_picture(folder):
    with DecoderPool(folder, SPEC, LIMITS, 20.0, 1) as decoders:
        start(decoders)
        process = Path(f"/proc/{one_child(decoders)}")
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        limits = (process / "limits").read_text()
    assert status["NoNewPrivs"] == "1"
    if platform.machine() in ("x86_64", "aarch64"):
        assert status["Seccomp"] == "2"
    for name, most in [("core file size", 0), ("file size", 0), ("open files", 16), ("processes", 0)]:
        assert f"Max {name} {most} {most}" in " ".join(limits.split()), name


# Prints what became of each attempt: the error's name, or None where it was allowed.
ATTEMPTS = """
import json, os, signal, socket, subprocess, sys, threading
from tasks.vision.confinement import confine
inside, outside = os.open(sys.argv[1], os.O_RDONLY), sys.argv[2]
existing = os.open("existing", os.O_RDONLY, dir_fd=inside)
parent = os.getppid()
attempts = {
    "read inside": lambda: os.read(os.open("existing", os.O_RDONLY, dir_fd=inside), 10),
    "read outside": lambda: os.open(outside, os.O_RDONLY),
    "read upwards": lambda: os.open("../outside", os.O_RDONLY, dir_fd=inside),
    "the parent's environment": lambda: os.open(f"/proc/{parent}/environ", os.O_RDONLY),
    "network": lambda: socket.socket(socket.AF_INET),
    "local socket": lambda: socket.socket(socket.AF_UNIX),
    "create": lambda: os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=inside),
    "create for reading": lambda: os.open("new", os.O_RDONLY | os.O_CREAT, dir_fd=inside),
    "write": lambda: os.open("existing", os.O_WRONLY, dir_fd=inside),
    "memory file": lambda: os.memfd_create("new"),
    "unlink": lambda: os.unlink("existing", dir_fd=inside),
    "rename": lambda: os.rename("existing", "new", src_dir_fd=inside, dst_dir_fd=inside),
    "link": lambda: os.link("existing", "new", src_dir_fd=inside, dst_dir_fd=inside),
    "folder": lambda: os.mkdir("new", dir_fd=inside),
    "mode": lambda: os.fchmod(existing, 0o777),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "program": lambda: subprocess.run(["/bin/true"]),
    "fork": lambda: os.fork(),
    "thread": lambda: threading.Thread(target=int).start(),
    "signal": lambda: os.kill(parent, signal.SIGCONT),
    "limit": lambda: __import__("resource").setrlimit(7, (100, 100)),
}
confine(4 << 30, [inside])
def outcome(attempt):
    try:
        attempt()
    except (OSError, RuntimeError) as error:
        return type(error).__name__
print(json.dumps({name: outcome(attempt) for name, attempt in attempts.items()}))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no filter of calls for this processor")
def test_what_a_confined_process_may_not_do(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "existing").write_text("as it was")
    (tmp_path / "outside").write_text("a secret")
    said = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, inside, tmp_path / "outside"],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    outcomes = json.loads(said.stdout)
    allowed = {"read inside"}
    if ctypes.CDLL(None).syscall(444, None, 0, 1) < 1:  # a kernel without Landlock
        allowed |= {"read outside", "read upwards", "the parent's environment"}
    assert {name for name, error in outcomes.items() if error is None} == allowed
    assert [path.name for path in inside.iterdir()] == ["existing"]
    assert (inside / "existing").read_text() == "as it was"


def encoded(picture, format, **options):
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


@functools.cache
def every_kind():
    """Files of all formats and modes, and damaged ones: name -> content."""
    random = np.random.default_rng(0)
    colour = Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    large = Image.fromarray(random.integers(0, 256, (1500, 1200, 3), dtype=np.uint8))
    deep = Image.fromarray(random.integers(0, 1 << 16, (40, 60), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {}
    pictures = {mode: colour.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV")}
    pictures |= {"La": pictures["LA"].convert("La"), "RGBa": pictures["RGBA"].convert("RGBa")}
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    pictures["LAB"] = ImageCms.profileToProfile(colour, srgb, lab, outputMode="LAB")
    for mode, picture in pictures.items():
        for format in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
            try:
                files[f"{mode}.{format}"] = encoded(picture, format)
            except (OSError, ValueError, KeyError):
                continue  # the format has no such mode
    assert "LAB.TIFF" in files
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"):
        files[f"{compression}.tif"] = encoded(colour, "TIFF", compression=compression)
    files["fax.tif"] = encoded(colour.convert("1"), "TIFF", compression="group4")
    files["deep.png"], files["deep.tif"] = encoded(deep, "PNG"), encoded(deep, "TIFF")
    files["exif.jpg"], files["exif.png"] = encoded(colour, "JPEG", exif=exif), encoded(colour, "PNG", exif=exif)
    files["exif.webp"], files["exif.tif"] = encoded(colour, "WEBP", exif=exif), encoded(colour, "TIFF", exif=exif)
    files["large.jpg"] = encoded(large, "JPEG", progressive=True, quality=95)
    files["large.webp"], files["lossless.webp"] = encoded(large, "WEBP"), encoded(colour, "WEBP", lossless=True)
    more = {"save_all": True, "append_images": [colour.transpose(Image.Transpose.ROTATE_180)]}
    for format in ("GIF", "WEBP", "TIFF", "PNG", "MPO"):
        files[f"several.{format}"] = encoded(colour, format, **more)
    files |= {"text": b"no picture", "empty": b"", "icon": encoded(colour, "ICO"), "ppm": encoded(colour, "PPM")}
    for name, content in list(files.items()):
        if len(content) > 100_000:
            continue
        files[f"{name} cut"] = content[: len(content) // 2]
        for number in range(4):
            damaged = bytearray(content)
            for index in random.integers(0, max(1, len(content)), 3 if content else 0):
                damaged[index] = random.integers(0, 256)
            files[f"{name} damaged {number}"] = bytes(damaged)
    return files


@pytest.mark.slow
@pytest.mark.parametrize("spec", [SPEC, ImageSpec(64, 48, 1, background=255)], ids=["colour", "grey"])
def test_a_confined_decoder_gives_the_pixels_and_errors_of_an_unconfined_one(tmp_path, folder, spec):
    content = dict(enumerate(every_kind().items()))
    for number, (_, each) in content.items():
        (tmp_path / str(number)).write_bytes(each)
    with DecoderPool(folder, spec, LIMITS, 60.0, 2) as decoders:
        found = decoders.decode((part, request(tmp_path, part)) for part in batched(content, 100))
        for part, decoded in found:
            for place, number in enumerate(part):
                name, each = content[number]
                try:
                    expected = decode(each, spec, LIMITS)
                except ImageError as error:
                    assert decoded.errors.get(place) == (error.kind, error.detail), name
                else:
                    assert place not in decoded.errors, (name, decoded.errors[place])
                    assert (decoded.pixels[place] == expected.pixels).all(), name
                    assert (decoded.width[place], decoded.height[place]) == expected[1:], name


def batched(numbers, size):
    iterator = iter(numbers)
    while part := list(itertools.islice(iterator, size)):
        yield part


def request(top, numbers):
    found = [os.stat(top / str(number)) for number in numbers]
    return Files(
        [str(number).encode() for number in numbers],
        [each.st_size for each in found],
        [each.st_mtime_ns for each in found],
    )
