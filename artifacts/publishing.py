"""How a version gets into a store: data first, the manifest last. What is there already is compared; where it is
damaged, or was left unfinished, the same bytes take its place."""

import hashlib
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.disk import Disk, hash_file
from artifacts.documents import seal
from artifacts.errors import AlreadyExists, Corrupt, NotFound, StoreError
from artifacts.living import claim
from artifacts.provenance import provenance
from artifacts.refs import Ref

if TYPE_CHECKING:
    from artifacts.store import Artifact, Store

MANIFEST = "manifest.json"
_SHARED = "data/"  # files that several versions may have

Content = bytes | Path


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
    key = f"parts/{sha256}.parquet"
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


def adopt(store: "Store", artifact: "Artifact", places: MutableMapping[str, str]) -> int:
    """Commit a version of another store as it is. Returns the bytes that were written.

    places: SHA-256 (hex) -> key of files in this store that several versions have; what is written is added.

    Raises Corrupt for a file that isn't what was published.
    """
    disk, ref, written = store.disk, artifact.ref, 0
    shared: dict[str, str] = {}
    for file, described in artifact.files.items():
        key, sha256 = f"{ref.folder}/{file}", described["sha256"]
        is_shared = file.startswith(_SHARED)
        if is_shared and (known := _known(disk, places.get(sha256), described)):
            if disk.links:
                place(disk, key, disk.materialize(known, sha256).path, described)
            else:
                shared[file] = known
            continue
        path = artifact.path(file)
        if is_shared and not disk.links:
            key = shared[file] = create_part(disk, path, sha256)
        else:
            place(disk, key, path, described)
        written += described["bytes"]
        if is_shared:
            places[sha256] = key
    manifest = {name: value for name, value in artifact.manifest.items() if name != "at"}
    if shared:
        manifest["at"] = shared
    commit(store, ref, manifest)
    disk.protect(ref.folder)
    return written


def describe(content: Content | Shared) -> dict[str, Any]:
    """SHA-256 (hex) and bytes, as a manifest has them."""
    if isinstance(content, Shared):
        return {"sha256": content.sha256, "bytes": content.size}
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    sha256, size = hash_file(content)
    return {"sha256": sha256, "bytes": size}


def place(disk: Disk, key: str, content: Content, described: Mapping[str, Any]) -> None:
    """Let `key` hold `content`, as it is described; what an unfinished run left there may be damaged."""
    try:
        disk.create(key, content)
    except AlreadyExists:
        _mend(disk, key, content, described)


def _mend(disk: Disk, key: str, content: Content, described: Mapping[str, Any]) -> None:
    """The same where `key` should be there, and holds it or is damaged."""
    if not _is(disk, key, described):
        disk.replace(key, content)


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
    put: Callable[[Disk, str, Content, Mapping[str, Any]], None],
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


def _known(disk: Disk, key: str | None, described: Mapping[str, Any]) -> str | None:
    """The key, if there is one and what it holds is not damaged."""
    if key is None:
        return None
    if not disk.links:  # it was looked at when it was written
        return key
    with suppress(NotFound):
        if disk.materialize(key, described["sha256"])[1:] == (described["sha256"], described["bytes"]):
            return key
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
