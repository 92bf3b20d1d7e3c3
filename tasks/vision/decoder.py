"""A decoder process, started by `tasks.vision.children`; its parent may kill it any time.

It reads requests from standard input until that ends: paths below a folder it was handed as a descriptor, never a path
of its own. Pixels go back through shared memory; errors, which are few, as JSON. It gives up all other rights first.
"""

import errno
import hashlib
import importlib
import json
import mmap
import os
import platform
import stat
import struct
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL

from tasks.vision.confinement import confine
from tasks.vision.errors import ImageError
from tasks.vision.images import ImageSpec, Limits, decode
from tasks.vision.times import held

FRAME = struct.Struct("<II")  # length of the JSON, length of the paths behind it
IN_HAND_BYTES = 16
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_REST_OF_THE_PROCESS = 2 << 30  # address space of Python, NumPy and Pillow, before any picture
_CODE = (
    "confinement.py", "decoder.py", "errors.py", "images.py", "jpeg.py", "png.py", "signatures.py", "tiff.py",
    "times.py",
)  # fmt: skip
# Pillow imports these when a picture first asks for them, too late for a process that may not open files any more.
_FORMATS = ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Ppm", "Tiff", "WebP")
_MODULES = ("ImageCms", "ImageColor", "ImageFilter", "ImagePalette", *(f"{each}ImagePlugin" for each in _FORMATS))


def _identity() -> dict[str, str]:
    """What pixels depend on, as it was when this module was imported: a parent compares its own with its children's."""
    content = hashlib.sha256()
    for name in _CODE:
        content.update(hashlib.sha256(Path(__file__).with_name(name).read_bytes()).digest())
    versions = {"python": platform.python_version(), "numpy": np.__version__, "pillow": PIL.__version__}
    return {"folder": str(Path(__file__).parent), "code": content.hexdigest(), **versions}


IDENTITY = _identity()


class FileInHand:
    """Which item of its chunk a decoder has in hand, in the first IN_HAND_BYTES of the shared memory.

    Written through views, whose elements are stored by one instruction: `struct.pack_into` zeroes the place first, and
    a reader that looked just then took the picture for one begun when the machine was.
    """

    def __init__(self, shared: mmap.mmap) -> None:
        view = memoryview(shared)
        self._began, self._item = view[:8].cast("d"), view[8:16].cast("q")

    def begin(self, item: int) -> None:
        """The item is in hand from now on. The time is written before the item and read after it: a reader never sees
        an item with an earlier one's time."""
        self._began[0] = time.monotonic()
        self._item[0] = item

    def clear(self) -> None:
        """No file is in hand."""
        self._item[0] = -1

    def read(self) -> tuple[int, float]:
        """The item in hand, or -1, and when it was begun (CLOCK_MONOTONIC, s)."""
        item = self._item[0]
        return item, self._began[0]


class Folder:
    """Opens files below a folder by descriptors, so that no symlink on the way leads elsewhere."""

    def __init__(self, descriptor: int) -> None:
        self._top = descriptor
        self._path, self._open = b"", descriptor

    def read(self, path: bytes, size: int, mtime_ns: int) -> bytes:
        """The content of a regular file that is as it was planned. Raises ImageError."""
        parent, _, name = path.rpartition(b"/")
        try:
            if parent != self._path:
                self._enter(parent)
            descriptor = os.open(name, _OPEN, dir_fd=self._open)
        except OSError as error:
            raise _explained(error) from None
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or (found.st_size, held(found.st_mtime_ns)) != (size, mtime_ns):
                raise _CHANGED
            content = os.read(descriptor, size + 1)
            while len(content) < size and (more := os.read(descriptor, size + 1 - len(content))):
                content += more
        except OSError as error:
            raise _explained(error) from None
        finally:
            os.close(descriptor)
        if len(content) != size:
            raise _CHANGED
        return content

    def _enter(self, path: bytes) -> None:
        if self._open != self._top:
            os.close(self._open)
        self._path, self._open = b"", self._top
        descriptor = self._top
        for part in path.split(b"/") if path else ():
            try:
                inner = os.open(part, _FOLDER, dir_fd=descriptor)
            finally:
                if descriptor != self._top:
                    os.close(descriptor)
            descriptor = inner
        self._path, self._open = path, descriptor


_CHANGED = ImageError("changed", "the file is not the one that was planned: its size, time or kind changed")


def _explained(error: OSError) -> ImageError:
    if error.errno == errno.ENOENT:
        return ImageError("missing", "the file was there when the folder was listed, and is gone")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return _CHANGED
    return ImageError("unreadable", f"the file can't be read: {os.strerror(error.errno or 0)}")


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Say who this is, then answer requests in order until they end.

    A request is a frame: JSON {slot, sizes, mtimes, skip, known} and the paths, NUL between them. The answer is a frame
    of JSON {slot, sha256, width, height, errors, same}; the pixels are in the slot of the shared memory by then.
    """
    settings = json.loads(requests.readline())
    spec, limits = ImageSpec.from_dict(settings["spec"]), Limits(**settings["limits"])
    for name in _MODULES:
        importlib.import_module(f"PIL.{name}")
    folder = Folder(settings["folder"])
    shared = mmap.mmap(settings["memory"], 0)
    os.close(settings["memory"])
    in_hand = FileInHand(shared)
    places = [Path(module.__file__).parent for module in (os, np, PIL) if module.__file__]
    libraries = [os.open(place, os.O_PATH | os.O_CLOEXEC) for place in places]
    confine(_REST_OF_THE_PROCESS + limits.bytes + 16 * limits.pixels, [settings["folder"], *libraries])
    for descriptor in libraries:
        os.close(descriptor)
    _answer(answers, IDENTITY)
    size = spec.height * spec.width * spec.channels
    while header := requests.read(FRAME.size):
        lengths = FRAME.unpack(header)
        request = json.loads(requests.read(lengths[0]))
        paths = requests.read(lengths[1]).split(b"\0") if lengths[1] else []
        start = IN_HAND_BYTES + request["slot"] * settings["files"] * size
        _answer(answers, _decode_chunk(request, paths, folder, spec, limits, shared, in_hand, start))


def _answer(answers: BinaryIO, answer: dict[str, Any]) -> None:
    content = json.dumps(answer).encode()
    answers.write(FRAME.pack(len(content), 0) + content)
    answers.flush()


def _decode_chunk(
    request: dict[str, Any],
    paths: list[bytes],
    folder: Folder,
    spec: ImageSpec,
    limits: Limits,
    shared: mmap.mmap,
    in_hand: FileInHand,
    at: int,
) -> dict[str, Any]:
    size = spec.height * spec.width * spec.channels
    skip, known = set(request["skip"]), request["known"]
    sha256: list[str | None] = []
    widths: list[int] = []
    heights: list[int] = []
    errors: dict[int, tuple[str, str]] = {}
    same: list[int] = []
    for index, path in enumerate(paths):
        in_hand.begin(index)
        digest, width, height = None, 0, 0
        try:
            if index not in skip:
                planned = request["sizes"][index]
                if planned > limits.bytes:
                    raise ImageError("too_large", f"the file has {planned:,} bytes, the limit is {limits.bytes:,}")
                content = folder.read(path, planned, request["mtimes"][index])
                digest = hashlib.sha256(content).hexdigest()
                if known and known.get(str(index)) == digest:
                    same.append(index)
                else:
                    picture = decode(content, spec, limits)
                    width, height = picture.width, picture.height
                    shared[at : at + size] = picture.pixels.data
        except ImageError as error:
            errors[index] = (error.kind, error.detail)
        except MemoryError:
            errors[index] = ("too_large", "decoding the picture takes more memory than one may")
        sha256.append(digest)
        widths.append(width)
        heights.append(height)
        at += size
    in_hand.clear()
    return {
        "slot": request["slot"], "sha256": sha256, "width": widths, "height": heights, "errors": errors, "same": same
    }  # fmt: skip


def main() -> None:
    serve(sys.stdin.buffer, sys.stdout.buffer)
