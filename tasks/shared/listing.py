"""Folders of pictures: named by a configured root, opened by descriptors, so that nothing leads out."""

import errno
import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from artifacts.errors import InvalidRef, LookbookError
from artifacts.refs import check_name
from artifacts.settings import Settings
from tasks.vision.times import held

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FolderError(LookbookError):
    """A folder that may not or can not be read."""


class FolderLost(FolderError):
    """A folder that was there when it was listed, and whose files can't be read any more: it may come back."""


class Entry(NamedTuple):
    """An entry that is no folder: path relative to the top, `/`-separated; size in bytes; modification time in ns, as
    an int64 holds it (`held`)."""

    path: bytes
    size: int
    mtime_ns: int
    regular: bool


_LETTERS = str.maketrans(  # that Unicode does not take apart
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ħ": "h", "ŋ": "ng"}
)
_ALLOWED: dict[str, Path | str] = {}


def is_url(folder: Path | str) -> bool:
    """Whether it is a bucket's, `s3://bucket/prefix`."""
    return "://" in str(folder)


def allow_folder(folder: Path | str) -> str:
    """Let this process read a folder, or one in a bucket, that its own user has named. Returns the text by which flows
    know it: its path or URL, where all others are `root:sub/path`."""
    if is_url(folder):
        text = str(folder).rstrip("/")
        _ALLOWED[text] = text
        return text
    path = Path(folder).expanduser().absolute()
    text = os.fsencode(path).decode(errors="replace")
    _ALLOWED[text] = path
    return text


def allow_place(where: str) -> str:
    """The same for a folder that is on record, a `real_path`."""
    return allow_folder(where if is_url(where) else Path(os.fsdecode(to_bytes(where))))


def on_record(settings: Settings, where: str) -> str:
    """The text for `opened` of a folder that is on record, a `real_path`, where this process may read it: it is below a
    root, or was allowed. Raises FolderError."""
    text = where if is_url(where) else to_bytes(where).decode(errors="replace")  # as `allow_folder` has it
    if text in _ALLOWED:
        return text
    for name, root in settings.image_roots.items():
        top = str(root).rstrip("/") if is_url(root) else to_text(os.fsencode(os.path.realpath(Path(root).expanduser())))
        if where == top or where.startswith(f"{top.rstrip('/')}/"):
            below = where[len(top.rstrip("/")) + 1 :]
            return f"{name}:{below if is_url(where) else os.fsdecode(to_bytes(below))}"  # a URL is as it is
    raise FolderError(
        f"expected a folder below one of LOOKBOOK_IMAGE_ROOTS, found {where}, where pictures were labelled; make it a "
        "root, or a folder above it"
    )


def folder_place(settings: Settings, text: str) -> str:
    """Where `root:sub/path` is, root one of LOOKBOOK_IMAGE_ROOTS; or what `allow_folder` was given: a path or a URL.

    No `..`, no other absolute path and no other scheme. For people; `opened` is the way in. Raises FolderError.
    """
    root, parts = _parse(settings, text)
    if is_url(root):
        return "/".join([str(root).rstrip("/"), *parts])
    return str(Path(root).expanduser().absolute().joinpath(*parts))


def digest_entries(entries: Iterable[Entry]) -> str:
    """SHA-256 over paths, sizes and times, in the order given: equal for a folder in which nothing was touched."""
    sha256 = hashlib.sha256()
    for entry in entries:
        sha256.update(b"%b\0%d\0%d\0%d\n" % entry)
    return sha256.hexdigest()


def default_name(settings: Settings, folder: str) -> str:
    """The name for what is made of `root:sub/path`: the folder's own, in Latin letters without accents.

    Raises FolderError, and InvalidRef where that makes no name, or letters would be lost.
    """
    last = Path(folder_place(settings, folder)).name
    latin = _in_latin(last)
    name = re.sub(r"[^a-z0-9._-]+", "-", latin).strip("-._")[:100]
    try:
        if any(each.isalnum() and not each.isascii() for each in latin):
            raise InvalidRef(last)
        return check_name(name)
    except InvalidRef:
        raise InvalidRef(
            f"the folder {last!r} gives no name of a-z, 0-9, '.', '_' and '-'; give one with --name, as --name "
            f"{name or 'pictures'}"
        ) from None


def _in_latin(text: str) -> str:
    """In lower case, without accents, and ß as ss, æ as ae."""
    decomposed = unicodedata.normalize("NFKD", text).lower()
    return "".join(each for each in decomposed if not unicodedata.combining(each)).translate(_LETTERS)


def open_folder(settings: Settings, text: str) -> int:
    """A descriptor of `root:sub/path`, with no symlink on the way below the root. Raises FolderError."""
    root, parts = _parse(settings, text)
    descriptor = -1
    try:
        descriptor = os.open(Path(root).expanduser(), OPEN_FOLDER)
        for part in parts:
            inner = os.open(part, OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
    except (OSError, ValueError) as error:
        if descriptor >= 0:
            os.close(descriptor)
        reason = error.strerror if isinstance(error, OSError) else error
        raise FolderError(f"expected a folder of pictures at {folder_place(settings, text)}, found: {reason}") from None
    return descriptor


def read_file(folder: int, name: str, where: str) -> bytes:
    """The content of a regular file in an open folder, no link. Raises FolderError, which tells `where`."""
    try:
        with open(os.open(name, _FILE, dir_fd=folder), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FolderError(f"expected a file at {where}, found a folder, a pipe or a device")
            return file.read()
    except OSError as error:
        raise FolderError(f"expected a file at {where}, found: {error.strerror}") from None


def real_path(settings: Settings, text: str) -> str:
    """Where `root:sub/path` is now, with links followed, as text like `to_text`'s. Raises FolderError."""
    place = folder_place(settings, text)
    return place if is_url(place) else to_text(os.fsencode(os.path.realpath(place)))


def is_at(folder: int, where: str) -> bool:
    """Whether the open folder is the one at `where`, a `real_path`: a link on the way may have been moved."""
    try:
        return os.path.samestat(os.fstat(folder), Path(os.fsdecode(to_bytes(where))).stat())
    except OSError:
        return False


def why_unreadable(settings: Settings, text: str, path: bytes) -> OSError | None:
    """Why the file `path` in the folder `root:sub/path` can't be read now; None when it can."""
    try:
        top = open_folder(settings, text)
    except FolderError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    try:
        with _folder_of(top, path) as (folder, name), open(os.open(name, _FILE, dir_fd=folder), "rb") as file:
            file.read(1)
    except OSError as error:
        return error
    finally:
        os.close(top)
    return None


def entry(top: int, path: bytes) -> Entry | None:
    """The entry `path` below an open folder, as it is now; None where there is none."""
    try:
        with _folder_of(top, path) as (folder, name):
            return entry_of(path, os.stat(name, dir_fd=folder, follow_symlinks=False))
    except OSError:
        return None


@contextmanager
def _folder_of(top: int, path: bytes) -> Iterator[tuple[int, bytes]]:
    """A descriptor of the folder that `path` is in, and its name there. Raises OSError."""
    *folders, name = path.split(b"/")
    descriptor = os.dup(top)
    try:
        for folder in folders:
            inner = os.open(folder, OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor, name
    finally:
        os.close(descriptor)


def entry_of(path: bytes, found: os.stat_result) -> Entry:
    """The entry `path` by its status."""
    return Entry(path, found.st_size, held(found.st_mtime_ns), stat.S_ISREG(found.st_mode))


def _parse(settings: Settings, text: str) -> tuple[Path | str, list[str]]:
    """The root's folder, and the folders below it."""
    name, colon, path = text.partition(":")
    root: Path | str | None = settings.image_roots.get(name) if colon else None
    for allowed, folder in _ALLOWED.items():
        if text == allowed or text.startswith(f"{allowed.rstrip('/')}/"):
            root, path = folder, text[len(allowed.rstrip("/")) + 1 :]
    parts = path.split("/") if path else []
    if root is None or any(part in ("", ".", "..") or "\0" in part for part in parts):
        known = ", ".join(f"{name}:" for name in sorted(settings.image_roots)) or "none is configured"
        raise FolderError(
            f"expected a folder as root:sub/path below one of LOOKBOOK_IMAGE_ROOTS ({known}), found {text!r}"
        )
    return root, parts


def to_text(path: bytes) -> str:
    """A path as the `path` column has it: bytes that are no UTF-8, and `%`, percent-encoded."""
    if path.isascii() and b"%" not in path:
        return path.decode()
    text = path.replace(b"%", b"%25").decode("utf-8", "surrogateescape")
    return "".join(f"%{ord(each) - 0xDC00:02X}" if 0xDC80 <= ord(each) <= 0xDCFF else each for each in text)


def to_bytes(text: str) -> bytes:
    """The inverse of `to_text`."""
    return unquote_to_bytes(text)
