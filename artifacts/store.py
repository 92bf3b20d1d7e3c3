"""The store: publish, resolve, open, verify. Data first, the manifest last: its existence is the commit."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts import naming, tombstones
from artifacts.disk import Disk, LocalFile, spread
from artifacts.disks import disk_at
from artifacts.documents import digest, seal, unseal
from artifacts.errors import AlreadyExists, Corrupt, NotFound, StoreError
from artifacts.living import claim, needing
from artifacts.publishing import MANIFEST, Content, Shared, describe, publish_version
from artifacts.refs import KINDS, VERSION_DIGITS, Ref, check_kind, check_name, refs_of
from artifacts.verification import Verification, verify

FORMAT = 1
_MARKER = "store.json"
_MEND = "restore it from a copy, or have its version removed (lookbook verify --repair --yes) and make it again"


@dataclass(frozen=True)
class Artifact:
    """A published version. `manifest` was checked when it was opened; files are checked when they are asked for."""

    ref: Ref
    manifest: dict[str, Any]
    disk: Disk

    @property
    def identity(self) -> dict[str, Any]:
        return dict(self.manifest["identity"])

    @property
    def facts(self) -> dict[str, Any]:
        return dict(self.identity["facts"])

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Every file of the version, `rendered` ones too: name -> {sha256, bytes}."""
        return {**self.identity["files"], **self.manifest["rendered"]}

    @property
    def folder(self) -> Path | str:
        """Where the version's files are: a path, or a URL."""
        return self.disk.place(self.ref.folder)

    def path(self, file: str) -> Path:
        """A local path of `file`, hashed by this process since it last changed. Raises NotFound (no such file in the
        manifest) and Corrupt."""
        expected = self.describe(file)
        found: LocalFile = self._missing_is_corrupt(
            file, lambda: self.disk.materialize(self.key(file), expected["sha256"])
        )
        self._compare(file, expected, found.sha256, found.size)
        return found.path

    def read(self, file: str) -> bytes:
        """The bytes of `file`, hashed as read. Raises NotFound and Corrupt."""
        expected = self.describe(file)
        content: bytes = self._missing_is_corrupt(file, lambda: self.disk.read(self.key(file)))
        self._compare(file, expected, hashlib.sha256(content).hexdigest(), len(content))
        return content

    def check(self, file: str, hash_key: Callable[[str], tuple[str, int]] | None = None) -> None:
        """Hash `file`. Raises Corrupt, naming it, when it is not what was published.

        `hash_key` gives the SHA-256 (hex) and the bytes of a key; whoever checks many versions may remember them.
        """
        expected, look = self.describe(file), hash_key or self.disk.hash
        sha256, size = self._missing_is_corrupt(file, lambda: look(self.key(file)))
        self._compare(file, expected, sha256, size)

    def check_files(self) -> None:
        """Hash all that the version consists of; pages and pictures for people are no part of it. Raises Corrupt."""
        for file in self.identity["files"]:
            self.check(file)

    def key(self, file: str) -> str:
        """Where `file` is in the store: below the version's folder, or where the manifest says that a shared one is."""
        return str(self.manifest.get("at", {}).get(file, f"{self.ref.folder}/{file}"))

    def describe(self, file: str) -> dict[str, Any]:
        """SHA-256 (hex) and bytes of `file`, as the manifest has them. Raises NotFound (no such file there)."""
        try:
            described: dict[str, Any] = self.manifest["identity"]["files"].get(file) or self.manifest["rendered"][file]
            return described  # not out of `files`, which takes as long as there are many
        except KeyError:
            raise NotFound(f"{self.ref} has no file {file}; it has {', '.join(sorted(self.files))}") from None

    def _missing_is_corrupt(self, file: str, look: Any) -> Any:
        try:
            return look()
        except NotFound:
            raise Corrupt(f"{self.key(file)} is missing from the store {self.disk.root}; {_MEND}") from None

    def _compare(self, file: str, expected: Mapping[str, Any], sha256: str, size: int) -> None:
        if (sha256, size) != (expected["sha256"], expected["bytes"]):
            raise Corrupt(
                f"{self.key(file)} is damaged: expected {expected['bytes']:,} bytes with SHA-256 "
                f"{expected['sha256'][:12]}…, found {size:,} bytes with {sha256[:12]}…; "
                f"{_MEND}"
            )


class Store:
    """Immutable, content-addressed artifacts below one root. Publishing twice is harmless."""

    def __init__(self, root: Path | str) -> None:
        """root: a folder, or a bucket's URL. Raises StoreError for a URL that can't be one."""
        self.disk = disk_at(root)

    def publish(
        self,
        kind: str,
        name: str,
        files: Mapping[str, Content | Shared],
        *,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Any],
        facts: Mapping[str, Any],
        rendered: Callable[[], Mapping[str, Content]] = dict,
        made: Mapping[str, Any] | None = None,
    ) -> Ref:
        """Commit a version and return its ref; the version that exists already when the identity is the same.

        `files` are part of the identity and must not differ between equal runs; `rendered` (pages, pictures) are
        only hashed, and only drawn for a version that is not there yet. `made` joins the provenance: device, threads,
        seconds. What is damaged of a version that exists, or was left unfinished, is replaced by what is published: the
        same bytes.

        Raises InvalidRef for a kind or a name that can't be one, StoreError when the store refuses, Removed when one of
        the inputs was removed.
        """
        self.prepare()
        described = {file: describe(content) for file, content in files.items()}
        identity = {
            "kind": check_kind(kind),
            "name": check_name(name),
            "files": described,
            "settings": dict(settings),
            "inputs": dict(inputs),
            "facts": dict(facts),
        }
        ref = Ref(kind, name, digest(identity)[:VERSION_DIGITS])
        made_from = list(refs_of(inputs.values()))
        with needing(self.disk, ref, *made_from):  # neither it nor what it is made from goes meanwhile
            for each in made_from:
                if not self.has(each) and (buried := tombstones.find(self.disk, each)):
                    raise buried.error()
            is_old = self.has(ref)
            publish_version(self, ref, identity, files, rendered, made or {})
            if is_old:
                claim(self.disk, ref)
            return ref

    def claim(self, ref: Ref) -> bool:
        """Whether a version is published; if so, nothing removes it for as long as new ones are kept."""
        if not self.has(ref):
            return False
        claim(self.disk, ref)
        return self.has(ref)

    def remember(self, ref: Ref) -> None:
        """Let this process read the files of a version that it has just published without hashing them again."""
        for file, described in self.open(ref).identity["files"].items():
            self.disk.remember(f"{ref.folder}/{file}", described["sha256"], described["bytes"])

    def has(self, ref: Ref) -> bool:
        """Whether the version is published."""
        return self.disk.exists(f"{ref.folder}/{MANIFEST}")

    def open(self, ref: Ref) -> Artifact:
        """The published version behind `ref`. Raises NotFound, and Corrupt when its manifest is damaged."""
        key = f"{ref.folder}/{MANIFEST}"
        try:
            content = self.disk.read(key)
        except NotFound:
            if buried := tombstones.find(self.disk, ref):
                raise buried.error() from None
            raise NotFound(f"{ref} is not in the store {self.disk.root}; `lookbook list` shows what is") from None
        manifest = unseal(content, key)
        if digest(manifest["identity"])[:VERSION_DIGITS] != ref.version:
            raise Corrupt(f"{key} is damaged: its identity belongs to another version; {_MEND}")
        return Artifact(ref, manifest, self.disk)

    def opened(self, kind: str | None = None, name: str | None = None) -> "Iterator[tuple[Ref, Artifact | Corrupt]]":
        """The versions that `refs` gives, opened; with what is wrong with it in place of one whose manifest is damaged.
        One that is removed meanwhile is left out."""

        def look(ref: Ref) -> "tuple[Ref, Artifact | Corrupt | None]":
            try:
                return ref, self.open(ref)
            except Corrupt as error:
                return ref, error
            except NotFound:
                return ref, None

        for ref, found in spread(self.disk.at_once, look, self.refs(kind, name)):
            if found is not None:
                yield ref, found

    def refs(self, kind: str | None = None, name: str | None = None) -> Iterator[Ref]:
        """Committed versions, by kind and name; those without a manifest are not there yet."""
        for each in (kind,) if kind else KINDS:
            for key in self.disk.list(f"{each}/{name}" if name else each):
                folder, _, file = key.rpartition("/")
                if file == MANIFEST and folder.count("/") == 2:
                    yield Ref(*folder.split("/"))

    def resolve(self, text: str, kind: str | None = None) -> Ref:
        """The ref that `text` means (artifacts/naming.py). Raises InvalidRef, NotFound and Ambiguous."""
        return naming.resolve(self, text, kind)

    def current(self, kind: str, text: str | None = None) -> Ref:
        """The champion of weights, the latest of predictions. Raises InvalidRef, NotFound and Ambiguous."""
        return naming.current(self, kind, text)

    def verify(self, ref: Ref | None = None) -> Verification:
        """Hash `ref`, or everything, and look whether what it refers to is there (artifacts/verification.py)."""
        return verify(self, ref)

    def prepare(self) -> None:
        """Make the store on first use, and refuse one whose second create of the same key succeeds. What processes that
        have ended left in its scratch is removed."""
        self.disk.prepare()
        if self.disk.exists(_MARKER):
            found = unseal(self.disk.read(_MARKER), _MARKER)["format"]
            if found != FORMAT:
                raise StoreError(
                    f"the store {self.disk.root} has format {found}, this Lookbook reads {FORMAT}; "
                    "use the Lookbook that made it, or point LOOKBOOK_STORE at another folder"
                )
            return
        marker = seal({"format": FORMAT})
        with suppress(AlreadyExists):
            self.disk.create(_MARKER, marker)
        try:
            self.disk.create(_MARKER, marker)
        except AlreadyExists:
            return
        raise StoreError(f"the store {self.disk.root} lets two writers create one file; point LOOKBOOK_STORE elsewhere")


def size_of(manifest: Mapping[str, Any]) -> int:
    """Bytes of the files that a manifest describes."""
    described = (*manifest["identity"]["files"].values(), *manifest["rendered"].values())
    return sum(each["bytes"] for each in described)
