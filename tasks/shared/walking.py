"""A folder listed by descriptors, however deep and however full it is."""

import errno
import heapq
import os
import zlib
from collections.abc import Callable, Iterator, Set
from itertools import chain
from typing import NamedTuple

from tasks.shared.listing import OPEN_FOLDER, Entry, FolderError, FolderLost, entry_of, to_text
from tasks.shared.litter import is_litter

SORTED_AT_ONCE, TOGETHER = 100_000, 1_000  # names of a folder that are sorted as a list, and that are unpacked together
_ADVICE = {
    errno.EACCES: "mend its permissions, or name another folder",
    errno.EMFILE: "let the process open more files (ulimit -n)",
    errno.ENFILE: "let the machine open more files (fs.file-max)",
}


class _Level(NamedTuple):
    """A folder that is being listed.

    path: ends with `/`, unless it is empty.
    file: the device and the inode.
    names: that are still to come.
    """

    path: bytes
    file: tuple[int, int]
    names: Iterator[bytes]


def walk(
    top: int, never: Set[tuple[int, int]] = frozenset(), on_folder: Callable[[bytes], object] | None = None
) -> Iterator[Entry]:
    """Every entry below the open folder `top` that is no folder itself, sorted by the bytes of its path.

    Symlinks are entries, and are not followed. What vanishes meanwhile is passed over, and so is a folder that may not
    be read and that no person made. A folder is open at a time, and the next one until something is found in it,
    however deep they are.

    never: device and inode of folders that are not entered.
    on_folder: hears the path of each folder.

    Raises FolderError for a folder that can't be listed, FolderLost for one that was moved.
    """
    folder = os.dup(top)
    try:
        levels = [_level(folder, b"")]
        while levels:
            path, _, names = levels[-1]
            name = next(names, None)
            if name is None:
                levels.pop()
                if levels:
                    left, folder = folder, _outer(folder, path, levels[-1])
                    os.close(left)
            elif name.endswith(b"/"):
                if entered := _enter(folder, path, name, never, on_folder):
                    left, (folder, level) = folder, entered
                    os.close(left)
                    levels.append(level)
            else:
                try:
                    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise _unlistable(path, error) from None
                yield entry_of(path + name, found)
    finally:
        os.close(folder)


def _level(folder: int, path: bytes) -> _Level:
    return _Level(path, _file(folder), _names(folder, path))


def _enter(
    folder: int,
    path: bytes,
    name: bytes,
    never: Set[tuple[int, int]],
    on_folder: Callable[[bytes], object] | None,
) -> tuple[int, _Level] | None:
    """A descriptor of the folder `name` in an open one, and what is in it; None where it is gone, empty or passed over.

    An empty one may be listed and not entered: then no `..` leads back. Raises FolderError.
    """
    try:
        inner = os.open(name[:-1], OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if isinstance(error, PermissionError) and is_litter(path + name[:-1]):  # root's lost+found, another's trash
            return None
        raise _unlistable(path + name, error) from None
    first = None
    try:
        level = _level(inner, path + name)
        if level.file in never:
            return None
        if on_folder:
            on_folder(path + name[:-1])
        first = next(level.names, None)
        return (inner, level._replace(names=chain([first], level.names))) if first else None
    finally:
        if first is None:
            os.close(inner)


def _outer(folder: int, path: bytes, level: _Level) -> int:
    """A descriptor of the folder that an open one, `path`, was found in. Raises FolderError and FolderLost."""
    try:
        outer = os.open(b"..", OPEN_FOLDER, dir_fd=folder)
    except OSError as error:
        raise _unlistable(path, error) from None
    if _file(outer) != level.file:  # it leads out of what is listed
        os.close(outer)
        raise FolderLost(f"a folder in {to_text(level.path) or '.'} was moved while it was listed; run it again")
    return outer


def _file(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino


def _names(folder: int, path: bytes) -> Iterator[bytes]:
    """Names in an open folder, folders with a `/` behind: sorted so, a walk meets paths in the order of their bytes.

    Runs of SORTED_AT_ONCE names are laid by compressed, and merged: so a name like `00000000.png` takes 3 to 6 bytes,
    and in a list 59.
    """
    runs: list[list[bytes]] = []
    names: list[bytes] = []
    try:
        with os.scandir(folder) as entries:
            for each in entries:
                names.append(os.fsencode(each.name) + (b"/" if each.is_dir(follow_symlinks=False) else b""))
                if len(names) == SORTED_AT_ONCE:
                    names.sort()
                    runs.append(_packed(names))
                    names.clear()
    except OSError as error:
        raise _unlistable(path, error) from None
    names.sort()
    return heapq.merge(*map(_unpacked, runs), names) if runs else iter(names)


def _packed(names: list[bytes]) -> list[bytes]:
    """In blocks, so that few names of a run are unpacked at a time."""
    blocks = (names[start : start + TOGETHER] for start in range(0, len(names), TOGETHER))
    return [zlib.compress(b"\0".join(block), 1) for block in blocks]


def _unpacked(blocks: list[bytes]) -> Iterator[bytes]:
    for block in blocks:
        yield from zlib.decompress(block).split(b"\0")


def _unlistable(path: bytes, error: OSError) -> FolderError:
    advice = _ADVICE.get(error.errno or 0, "look whether its disk is well, and run it again")
    return FolderError(f"can't list the folder {to_text(path) or '.'}: {error.strerror}; {advice}")
