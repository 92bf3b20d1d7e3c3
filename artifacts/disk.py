"""What a store stands on: create (exclusive, whole or not at all), read, list, remove, materialize; a local disk."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from artifacts import owners
from artifacts.errors import AlreadyExists, NotFound, StoreError

SCRATCH = "staging/scratch"
_STRANGERS_SCRATCH_SECONDS = 7 * 24 * 3600.0
_SETTLED_SECONDS = 1.0
_TRIES = 3
_HASHED: dict[tuple[int, ...], tuple[str, int]] = {}
_Given = TypeVar("_Given")
_Found = TypeVar("_Found")
_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


class LocalFile(NamedTuple):
    """path: of a file on this machine; sha256 (hex), size (bytes): what was found there."""

    path: Path
    sha256: str
    size: int


class Stored(NamedTuple):
    """A file as a survey finds it.

    size: in bytes.
    written: when its content was written; named: when it got a name last, or its rights changed. Both in seconds since
    the epoch, by the disk's clock.
    file: what tells it from others, whatever its names are; names: how many it has.
    """

    key: str
    size: int
    written: float
    named: float
    file: tuple[Any, ...]
    names: int


class Disk(Protocol):
    """Keys are `/`-separated. A key, once it exists, holds its final bytes, but for what `replace` mends.

    Every method raises StoreError when the disk refuses.
    """

    @property
    def root(self) -> Path | str:
        """Where it is, for people: a folder, or a URL."""

    @property
    def links(self) -> bool:
        """Whether a file can have several names. Where it can't, a manifest tells the one name of a part."""

    @property
    def at_once(self) -> int:
        """How many reads to have under way, where there are many."""

    def prepare(self) -> None:
        """Remove what processes that have ended left behind. Raises StoreError for a disk that keeps no promises."""

    def create(self, key: str, content: bytes | Path) -> None:
        """Write `key` durably, or not at all. Raises AlreadyExists when somebody was first, and FileNotFoundError where
        the content is a file that is gone: that of a cache may be.

        A large file may be written twice by two at once: so its key must follow from its content.
        """

    def replace(self, key: str, content: bytes | Path) -> None:
        """Put these bytes in the place of others, at once. Only for what is damaged or missing, and for the manifest of
        pages that were drawn anew. Raises FileNotFoundError as `create` does."""

    def read(self, key: str) -> bytes:
        """All bytes of `key`. Raises NotFound."""

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below the folder `prefix`, sorted within each folder; a missing folder has none."""

    def survey(self, prefix: str) -> Iterator[Stored]:
        """What is below the folder `prefix`; a missing folder has nothing."""

    def now(self) -> float:
        """The time by the disk's clock, in seconds since the epoch."""

    def remove(self, key: str) -> None:
        """Remove `key`; harmless when it is gone."""

    def free(self, stored: Stored, *, durably: bool = False) -> int:
        """Remove a published file; `durably` before this returns. Returns the bytes that are free now: none while it
        has other names."""

    def materialize(self, key: str, sha256: str) -> LocalFile:
        """A local file of `key`, which should have this hash: for memory maps and Parquet. The caller compares; whoever
        opens it does so by `opening.use`, as it may be a cache's. Raises NotFound."""

    def hash(self, key: str) -> tuple[str, int]:
        """SHA-256 (hex) and size (bytes) of `key`, read anew. Raises NotFound."""

    def remember(self, key: str, sha256: str, size: int) -> None:
        """Let this process materialize what it has just written and hashed itself without hashing it again."""

    def know(self, key: str, sha256: str, size: int) -> None:
        """Remember, after it was written or hashed, what is under `key`: its SHA-256 (hex) and its bytes."""

    def is_known(self, key: str, sha256: str, size: int) -> bool:
        """Whether that is what this machine knows of `key`, and it has not changed since. Nothing is read."""

    def identity(self, key: str) -> tuple[Any, ...] | None:
        """What tells the file under `key` from others, whatever its names are; None when there is none."""

    def modified(self, key: str) -> float:
        """When `key` was written, by the disk's clock, in seconds since the epoch. Raises NotFound."""

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """A local folder of one's own, for files that will be published; removed at the end."""

    def protect(self, prefix: str) -> None:
        """Let nobody add or remove anything in the folder `prefix`, where the disk allows that."""

    def hold(self, key: str) -> contextlib.AbstractContextManager[bool]:
        """Hold the lock `key` while the context lasts, unless another one has it; whether it worked. It ends with this
        process, however that ends."""

    def place(self, key: str) -> Path | str:
        """Where `key` is, for people and other tools."""


class LocalDisk:
    """A disk that is a folder, `root`."""

    links = True
    at_once = 1

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    def create(self, key: str, content: bytes | Path) -> None:
        """Write `key` durably, or not at all; nobody may write to the file from then on.

        A Path inside the store is linked without a copy: it becomes read-only, and a `key` that is this file already
        counts as created. Raises AlreadyExists when somebody was first, FileNotFoundError for a Path that is gone, and
        StoreError when the disk refuses (full, read-only, fsync failed).
        """
        target = self.local_path(key)
        try:
            for _ in range(_TRIES):
                with contextlib.suppress(FileNotFoundError):  # `free` has just removed the folder, as it was empty
                    return self._create(target, key, content)
            return self._create(target, key, content)
        except OSError as error:
            _still_there(content)
            raise self._refused("write", key, error) from error

    def _create(self, target: Path, key: str, content: bytes | Path) -> None:
        """Raises AlreadyExists and OSError."""
        _make_folders(target.parent)
        if isinstance(content, Path) and content.is_relative_to(self.root):
            with _opened(content) as descriptor:
                _make_read_only(descriptor)
                os.fsync(descriptor)
            with contextlib.suppress(PermissionError):  # another user's file (protected_hardlinks): copied below
                return self._link(content, target, key)
        with self._temporary(content) as temporary:
            self._link(temporary, target, key)
        return None

    def replace(self, key: str, content: bytes | Path) -> None:
        """Under this name alone: others that the file has keep what is there. A Path inside the store is linked."""
        target = self.local_path(key)
        spare = f"{SCRATCH}/{owners.new_name()}.tmp"
        try:
            self.create(spare, content)
            _make_folders(target.parent)
            is_guarded = not os.access(target.parent, os.W_OK)
            _make_writable(target.parent)
            self.local_path(spare).replace(target)
            _sync(target.parent)
            if is_guarded:
                self.protect(key.rpartition("/")[0])
        except OSError as error:
            _still_there(content)
            raise self._refused("write", key, error) from error
        finally:
            self.remove(spare)  # where both were one file, a rename leaves both names

    def read(self, key: str) -> bytes:
        """All bytes of `key`. Raises NotFound."""
        try:
            return self.local_path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{key} is not in the store {self.root}") from None
        except OSError as error:
            raise self._refused("read", key, error) from error

    def exists(self, key: str) -> bool:
        with contextlib.suppress(NotFound):
            return self._looked(key, lambda: stat.S_ISREG(self.local_path(key).stat().st_mode))
        return False

    def materialize(self, key: str, sha256: str) -> LocalFile:  # noqa: ARG002
        """The file itself."""
        path = self.local_path(key)
        return LocalFile(path, *self._looked(key, lambda: hash_once(path)))

    def hash(self, key: str) -> tuple[str, int]:
        """Raises NotFound."""
        return self._looked(key, lambda: hash_file(self.local_path(key)))

    def remember(self, key: str, sha256: str, size: int) -> None:
        """Until the file's size or time change."""
        with contextlib.suppress(OSError):
            _HASHED[_identity(self.local_path(key).stat())] = (sha256, size)

    def know(self, key: str, sha256: str, size: int) -> None:
        """In this process, until the file's size or time change."""
        self.remember(key, sha256, size)

    def is_known(self, key: str, sha256: str, size: int) -> bool:
        with contextlib.suppress(OSError):
            return _HASHED.get(_identity(self.local_path(key).stat())) == (sha256, size)
        return False

    def identity(self, key: str) -> tuple[int, ...] | None:
        """The inode, and what changes with its content."""
        with contextlib.suppress(OSError):
            return _identity(self.local_path(key).stat())
        return None

    def modified(self, key: str) -> float:
        """Raises NotFound."""
        return self._looked(key, lambda: self.local_path(key).stat().st_mtime)

    def place(self, key: str) -> Path:
        """A path."""
        return self.local_path(key)

    @contextlib.contextmanager
    def hold(self, key: str) -> Iterator[bool]:
        """A lock on a file: it ends with its process. Prefect's concurrency limits live in the server, and can be lost
        or left behind when it restarts."""
        path = self.local_path(key)
        with contextlib.ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(open(path, "ab"))
                mine = lock_now(lock.fileno())
            except OSError as error:
                raise self._refused("lock", key, error) from error
            yield mine

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below the folder `prefix`, sorted within each folder; a missing folder has none."""
        top = self.local_path(prefix)
        for folder, folders, files in os.walk(top, onerror=self._unlistable):
            folders.sort()
            for file in sorted(files):
                yield (Path(folder) / file).relative_to(self.root).as_posix()

    def remove(self, key: str) -> None:
        """Remove `key`; harmless when it is gone."""
        try:
            self.local_path(key).unlink(missing_ok=True)
        except OSError as error:
            raise self._refused("remove", key, error) from error

    def survey(self, prefix: str) -> Iterator[Stored]:
        """Keys below the folder `prefix`, those of one folder together."""
        waiting = [self.local_path(prefix)]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(folder) as found:
                    entries = list(found)
            except OSError as error:
                self._unlistable(error)
                continue
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # a file on its way
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                        continue
                    status = entry.stat(follow_symlinks=False)
                    key = Path(entry.path).relative_to(self.root).as_posix()
                    yield Stored(
                        key,
                        status.st_size,
                        status.st_mtime,
                        max(status.st_mtime, status.st_ctime),
                        (status.st_dev, status.st_ino),
                        status.st_nlink,
                    )

    def now(self) -> float:
        """Other machines may share the disk, and have another clock."""
        folder = self.local_path(SCRATCH)
        try:
            _make_folders(folder)
            return _touched(folder)
        except OSError as error:
            raise self._refused("write", SCRATCH, error) from error

    def free(self, stored: Stored, *, durably: bool = False) -> int:
        """Folders of versions are read-only: the right to write is taken back first. Folders that are empty then go,
        too."""
        path = self.local_path(stored.key)
        try:
            _make_writable(path.parent)
            left = path.lstat().st_nlink - 1
            path.unlink()
            if durably:
                _sync(path.parent)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise self._refused("remove", stored.key, error) from error
        for folder in path.parents:
            if folder == self.root:
                break
            try:
                folder.rmdir()
            except OSError:
                break
        return 0 if left else stored.size

    def local_path(self, key: str) -> Path:
        """Where `key` is, or would be. Raises StoreError for a key that leads out of the store."""
        if not is_key(key):
            raise StoreError(f"{key!r} is no key of a store")
        return self.root.joinpath(*key.split("/"))

    def protect(self, prefix: str) -> None:
        """Let nobody add or remove anything in the folder `prefix` and below it, where the disk allows that.

        This guards against accidents alone: a folder whose mode can't be changed is left as it is.
        """
        for folder, _, _ in os.walk(self.local_path(prefix)):
            with contextlib.suppress(OSError), _opened(Path(folder)) as descriptor:
                _make_read_only(descriptor)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder of one's own on the store's disk, for files that will be published; removed at the end.

        What processes that have ended left there is removed first. An OSError inside is the store's disk refusing, and
        raised as StoreError.
        """
        folder = self.local_path(f"{SCRATCH}/{owners.new_name()}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.sweep()
            yield folder
        except OSError as error:
            raise self._refused("write", SCRATCH, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def prepare(self) -> None:
        """Sweep."""
        self.sweep()

    def sweep(self) -> None:
        """Remove the scratch of processes that have ended. What may be another machine's, or was written by a Lookbook
        that did not say whose it is, goes when nothing was written to it for a week."""
        folder = self.local_path(SCRATCH)
        with contextlib.suppress(OSError):  # no scratch at all, or somebody else's folder
            now = _touched(folder)
            for path in folder.iterdir():
                with contextlib.suppress(OSError):  # its owner, or another one who comes next, was quicker
                    ended = owners.has_ended(path.name)
                    if ended or (ended is None and now - _written(path) > _STRANGERS_SCRATCH_SECONDS):
                        _remove(path)

    @contextlib.contextmanager
    def _temporary(self, content: bytes | Path) -> Iterator[Path]:
        """A synced, final file that holds `content`, on the store's disk."""
        folder = self.local_path(SCRATCH)
        _make_folders(folder)
        temporary = folder / f"{owners.new_name()}.tmp"
        try:
            with open(temporary, "xb") as file:
                if isinstance(content, Path):
                    with open(content, "rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                else:
                    file.write(content)
                file.flush()
                _make_read_only(file.fileno())
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _link(self, file: Path, target: Path, key: str) -> None:
        """Give the final `file` the name `target`, durably. Raises AlreadyExists, and OSError."""
        try:
            os.link(file, target)
        except OSError as error:
            if not _are_one(file, target):  # otherwise it worked, and the answer was lost: NFS repeats what it asked
                if isinstance(error, FileExistsError):
                    raise AlreadyExists(f"{key} exists already in {self.root}") from None
                raise
        _sync(target.parent)

    def _refused(self, verb: str, key: str, error: OSError) -> StoreError:
        return StoreError(
            f"can't {verb} {key} in the store {self.root}: {error.strerror or error}; "
            "make room or mend the permissions, or point LOOKBOOK_STORE at another folder"
        )

    def _looked(self, key: str, look: Callable[[], _Found]) -> _Found:
        try:
            return look()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{key} is not in the store {self.root}") from None
        except OSError as error:
            raise StoreError(f"can't read {key} in {self.root}: {error.strerror}") from error

    def _unlistable(self, error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise self._refused("list", str(error.filename), error) from error


def is_key(text: str) -> bool:
    """Whether it may be a key: it leads nowhere out of a store."""
    parts = text.split("/")
    return all(parts) and ".." not in parts and "." not in parts and "\0" not in text


def spread(at_once: int, look: Callable[[_Given], _Found], items: Iterable[_Given]) -> Iterator[_Found]:
    """`map`, in order, with so many under way at once; of what comes after that nothing is asked for yet."""
    if at_once == 1:
        yield from map(look, items)
        return
    waiting: deque[Future[_Found]] = deque()
    with ThreadPoolExecutor(at_once) as threads:
        for each in items:
            waiting.append(threads.submit(look, each))
            if len(waiting) > 2 * at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 (64 hex digits) and size (bytes) of a file. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def hash_once(path: Path) -> tuple[str, int]:
    """The same, remembered for as long as this process lives and the file keeps its size and time. Raises OSError.

    Stages of one run read the same datasets. A file that was changed in the last seconds is hashed again, as its times
    may be too coarse to tell another change. What rots on the disk meanwhile is left to `verify`, which hashes all.
    """
    status = path.stat()
    file = _identity(status)
    if file not in _HASHED:
        hashed = hash_file(path)
        if time.time() - status.st_mtime < _SETTLED_SECONDS:
            return hashed
        _HASHED[file] = hashed
    return _HASHED[file]


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def lock_now(descriptor: int) -> bool:
    """Lock an open file for this process, unless another one has it; whether it worked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _touched(folder: Path) -> float:
    """The time by the clock of the disk, which other machines may share. Raises OSError."""
    os.utime(folder)
    return folder.stat().st_mtime


def _make_folders(folder: Path) -> None:
    """mkdir -p whose every new entry is synced, so that a crash can't lose the folder under a committed file."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    _sync(folder.parent)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    with _opened(path) as descriptor:
        os.fsync(descriptor)


def _make_read_only(descriptor: int) -> None:
    """Take the right to write from everybody, where the disk knows modes and the file is ours; nobody gets a right."""
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & _WRITE:
            os.fchmod(descriptor, mode & ~_WRITE)


def _make_writable(folder: Path) -> None:
    """Give its owner the right to write to a folder. Raises OSError."""
    if not os.access(folder, os.W_OK):
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IWUSR)


def _still_there(content: bytes | Path) -> None:
    """Raises FileNotFoundError for a file that is gone."""
    if isinstance(content, Path):
        content.stat()


def _are_one(file: Path, other: Path) -> bool:
    """Whether two names are one file's."""
    with contextlib.suppress(OSError):
        return file.samefile(other)
    return False


def _written(path: Path) -> float:
    """When the file, or anything in the folder, was last written, in seconds since 1970."""
    return max(each.lstat().st_mtime for each in (path, *path.rglob("*")))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
