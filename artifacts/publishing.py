"""How a version gets into a store: data first, the manifest last. What is there already is compared; where it is
damaged, or was left unfinished, the same bytes take its place."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.disk import Disk, hash_file
from artifacts.documents import seal
from artifacts.errors import AlreadyExists, Corrupt, NotFound, SourceUnreadable, StoreError
from artifacts.living import claim
from artifacts.opening import use
from artifacts.provenance import provenance
from artifacts.refs import Ref

if TYPE_CHECKING:
    from artifacts.store import Artifact, Store

MANIFEST = "manifest.json"

Content = bytes | Path
_Put = Callable[[Disk, str, Content, Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Shared:
    """A file that is in the store already, under `key`, and that several versions may have: its SHA-256 (hex) and size
    (bytes), as the caller has just found them."""

    key: str
    sha256: str
    size: int


def create_part(disk: Disk, path: Path, sha256: str) -> str:
    """Write a file that several versions may have to a disk without links. Returns its one key, by its SHA-256 (hex).

    One that is there is taken, and one that is damaged replaced: otherwise nobody could make it again.
    """
    key = _part_key(sha256)
    if disk.exists(key):
        claim(disk, key)
        _mend(disk, key, path, {"sha256": sha256, "bytes": path.stat().st_size})
        return key
    with suppress(AlreadyExists):
        disk.create(key, path)
    return key


def publish_version(
    store: "Store",
    ref: Ref,
    identity: Mapping[str, Any],
    files: Mapping[str, Content | Shared],
    rendered: Callable[[], Mapping[str, Content]],
    made: Mapping[str, Any],
) -> None:
    """Commit the version `ref`, or see that the one that is there is whole, and mend it where it is not. As
    `Store.publish` says; only for whoever needs the version and what it is made from."""
    disk, is_there = store.disk, store.has(ref)
    published = _readable(store, ref) if is_there else None
    if published is None:
        pages = rendered()
        try:
            manifest = _write(disk, ref, identity, files, pages, made, _mend if is_there else place)
            published = commit(store, ref, manifest)
        except StoreError:
            published = None if is_there else _readable(store, ref)
            if published is None:
                raise  # otherwise an identical run was first; its folder takes no other pages any more
    if published:
        _check(published, identity, files, rendered)
    disk.protect(ref.folder)  # of what was there, too: a kill may have come between the manifest and this


def commit(store: "Store", ref: Ref, manifest: Mapping[str, Any]) -> "Artifact | None":
    """Let a version have its manifest, the last of its files. Returns what is published instead where one is there that
    can be read: whoever was first has committed that, and it stays. One that can't is replaced."""
    key, content = f"{ref.folder}/{MANIFEST}", seal(dict(manifest))
    try:
        store.disk.create(key, content)
    except AlreadyExists:
        if published := _readable(store, ref):
            return published
        store.disk.replace(key, content)
    return None


def is_shared(file: str) -> bool:
    """Whether several versions may have the file, by its name: all that a version of another store tells of that."""
    return file.startswith("data/")


def adopt(store: "Store", artifact: "Artifact", places: MutableMapping[str, str]) -> int:
    """Commit a version of another store as it is. Returns the bytes that were written.

    places: SHA-256 (hex) -> key of files in this store that several versions have, and that are whole; what is written
    is added.

    Raises Corrupt for a file that isn't what was published, and SourceUnreadable where the other store can't be read.
    """
    disk, ref, written = store.disk, artifact.ref, 0
    shared: dict[str, str] = {}
    put = _mend if store.has(ref) else place
    for file, described in artifact.files.items():
        if is_shared(file) and not disk.links:
            key = shared[file] = _part_key(described["sha256"])
            written += _take(disk, key, artifact, file, places, _mend)
        else:
            written += _take(disk, f"{ref.folder}/{file}", artifact, file, places, put)
    manifest = {name: value for name, value in artifact.manifest.items() if name != "at"}
    if shared:
        manifest["at"] = shared
    commit(store, ref, manifest)
    disk.protect(ref.folder)
    return written


def restore(published: "Artifact", file: str, artifact: "Artifact", places: MutableMapping[str, str]) -> int:
    """Put a file of a version of another store in the place of this one's, which is damaged. Returns the bytes that
    were written. Raises what `adopt` does, and NotFound where the other version has no such file.

    A page may have come out otherwise there: then the manifest describes that one.
    """
    disk, described, pages = published.disk, artifact.describe(file), published.manifest["rendered"]
    written = _take(disk, published.key(file), artifact, file, places, _mend)
    if file in pages and pages[file] != described:
        manifest = {**published.manifest, "rendered": {**pages, file: described}}
        disk.replace(f"{published.ref.folder}/{MANIFEST}", seal(manifest))
    disk.protect(published.ref.folder)
    return written


@contextmanager
def reading_source() -> Iterator[None]:
    """What is read of another store: where that can't be, it is no failure of the one that is written."""
    try:
        yield
    except StoreError as error:
        raise SourceUnreadable(str(error)) from error


def _take(disk: Disk, key: str, artifact: "Artifact", file: str, places: MutableMapping[str, str], put: _Put) -> int:
    """Let `key` hold a file of another store's version, as that describes it. Returns the bytes that were written."""
    described = artifact.describe(file)
    sha256 = described["sha256"]
    known = places.get(sha256) if is_shared(file) else None
    if known and (known == key or disk.exists(known)):
        if known != key:
            put(disk, key, disk.materialize(known, sha256).path, described)
        return 0

    def find() -> Path:
        with reading_source():
            return artifact.path(file)

    is_written = use(find, lambda path: put(disk, key, path, described))
    if is_shared(file):
        places[sha256] = key
    return described["bytes"] if is_written else 0


def _part_key(sha256: str) -> str:
    return f"parts/{sha256}.parquet"


def describe(content: Content | Shared) -> dict[str, Any]:
    """SHA-256 (hex) and bytes, as a manifest has them."""
    if isinstance(content, Shared):
        return {"sha256": content.sha256, "bytes": content.size}
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    sha256, size = hash_file(content)
    return {"sha256": sha256, "bytes": size}


def place(disk: Disk, key: str, content: Content, described: Mapping[str, Any]) -> bool:
    """Let `key` hold `content`, as it is described; what an unfinished run left there may be damaged. Whether it was
    written: otherwise it was there."""
    try:
        disk.create(key, content)
    except AlreadyExists:
        return _mend(disk, key, content, described)
    return True


def _mend(disk: Disk, key: str, content: Content, described: Mapping[str, Any]) -> bool:
    """The same where `key` should be there, and holds it or is damaged."""
    if _is(disk, key, described):
        return False
    disk.replace(key, content)
    return True


def _check(
    published: "Artifact",
    identity: Mapping[str, Any],
    files: Mapping[str, Content | Shared],
    rendered: Callable[[], Mapping[str, Content]],
) -> None:
    """See that a version is what is published again, and mend it. Raises Corrupt when it is something else."""
    disk = published.disk
    if published.identity != identity:
        raise Corrupt(
            f"{published.ref.folder}/{MANIFEST} describes something else under the same version; restore it from a copy"
        )
    for file, content in files.items():
        key = published.key(file)
        same = isinstance(content, Shared) and disk.identity(content.key)
        if not same or same != disk.identity(key):  # what is one and the same file was hashed just now
            _mend(disk, key, _bytes_of(disk, content), identity["files"][file])
    _redraw(published, rendered)


def _write(
    disk: Disk,
    ref: Ref,
    identity: Mapping[str, Any],
    files: Mapping[str, Content | Shared],
    pages: Mapping[str, Content],
    made: Mapping[str, Any],
    put: _Put,
) -> dict[str, Any]:
    """Write all but the manifest. Returns that."""
    shared = {file: content.key for file, content in files.items() if isinstance(content, Shared)}
    for file, content in files.items():
        if disk.links or file not in shared:
            put(disk, f"{ref.folder}/{file}", _bytes_of(disk, content), identity["files"][file])
    drawn = {}
    for file, page in pages.items():
        if put is _mend:
            disk.replace(f"{ref.folder}/{file}", page)
        with suppress(AlreadyExists):  # an identical run drew it first: the manifest describes what is there
            disk.create(f"{ref.folder}/{file}", page)
        sha256, size = disk.hash(f"{ref.folder}/{file}")
        drawn[file] = {"sha256": sha256, "bytes": size}
    manifest = {"identity": identity, "rendered": drawn, "provenance": provenance(**made)}
    return {**manifest, "at": shared} if shared and not disk.links else manifest


def _redraw(published: "Artifact", rendered: Callable[[], Mapping[str, Content]]) -> None:
    """Pages for people that are damaged are drawn anew, as far as this run draws them: they may come out otherwise."""
    disk, folder, described = published.disk, published.ref.folder, published.manifest["rendered"]
    damaged = [file for file, expected in described.items() if not _is(disk, f"{folder}/{file}", expected)]
    drawn = {file: page for file, page in rendered().items() if file in damaged} if damaged else {}
    if drawn:
        for file, page in drawn.items():
            disk.replace(f"{folder}/{file}", page)
        now = {**described, **{file: describe(page) for file, page in drawn.items()}}
        disk.replace(f"{folder}/{MANIFEST}", seal({**published.manifest, "rendered": now}))


def _readable(store: "Store", ref: Ref) -> "Artifact | None":
    """The version, where it is there and its manifest is not damaged."""
    with suppress(Corrupt, NotFound):
        return store.open(ref)
    return None


def _bytes_of(disk: Disk, content: Content | Shared) -> Content:
    return disk.materialize(content.key, content.sha256).path if isinstance(content, Shared) else content


def _is(disk: Disk, key: str, described: Mapping[str, Any]) -> bool:
    """Whether `key` holds what is described, read anew."""
    try:
        sha256, size = disk.hash(key)
    except NotFound:
        return False
    return {"sha256": sha256, "bytes": size} == {name: described[name] for name in ("sha256", "bytes")}
