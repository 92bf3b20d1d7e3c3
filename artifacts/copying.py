"""One store into another: versions as they are, and what was written down about them (artifacts/registry.py).

What is there already is hashed, and not copied again unless it is damaged: so a copy that was interrupted goes on, one
that is repeated brings what is new, and one into a damaged store mends it. Every file is hashed on its way. What only
saves work (features, staging) stays behind.

Work that goes on beside it does no harm. What names something is listed before what it names: so all that is named is
met, and what comes later is for the next copy. One thing that can't be copied keeps nothing else back.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from artifacts.disk import spread
from artifacts.documents import unseal
from artifacts.errors import AlreadyExists, Corrupt, NotFound, SourceUnreadable, StoreAway, StoreError
from artifacts.living import EVERYTHING, RENEW_SECONDS, Needs, needing
from artifacts.publishing import MANIFEST, adopt, is_shared, reading_source, restore
from artifacts.refs import KINDS, Ref
from artifacts.registry import FOLDERS
from artifacts.store import Artifact, Store
from artifacts.tombstones import FOLDER as REMOVED
from artifacts.verification import Hashes

_Listed = TypeVar("_Listed")
_NAMED = 10  # of what could not be copied
_AWAY = 3  # answers that are lost one after the other: then the source is away


@dataclass
class Copied:
    """copied: versions, events and runs' records that were written.
    present: those that were there.
    mended: those of them that were damaged, and are whole now.
    bytes: of the files of versions that were written, parts that tables share once.
    """

    copied: int = 0
    present: int = 0
    mended: int = 0
    bytes: int = 0


def copy(source: Store, target: Store, on_version: Callable[[Ref], None] = lambda _: None) -> Copied:
    """Copy all that is published.

    on_version: called with each version before it is copied, or mended.

    Raises, after all else was copied, Corrupt for what is damaged, SourceUnreadable for what can't be read, and
    StoreError where the target has another history: then it is no copy. Raises at once StoreError where the target
    can't be read or written, and SourceUnreadable where the source does not answer any more.
    """
    target.prepare()
    with needing(target.disk, EVERYTHING) as needs:
        copying = _Copying(source, target, on_version, needs)
        copying.copy_all()
    copying.complain()
    return copying.found


@dataclass
class _There:
    """A version as the target has it.

    artifact: None where its manifest is damaged.
    damaged: its damaged files, each with what is wrong, or the manifest.
    """

    ref: Ref
    artifact: Artifact | None
    damaged: dict[str, str]


class _Copying:
    def __init__(self, source: Store, target: Store, on_version: Callable[[Ref], None], needs: Needs) -> None:
        self.found = Copied()
        self._needs, self._renewed = needs, time.monotonic()
        self._source, self._target, self._on_version = source, target, on_version
        self._hash = Hashes(target.disk)
        self._places: dict[str, str] = {}  # SHA-256 of a shared file -> its key in the target
        self._damaged: list[str] = []
        self._unreadable: list[str] = []  # of the source
        self._away = 0  # answers of the source that were lost, one after the other
        self._others: list[str] = []  # keys that the target has with another content
        self._ended: set[str] = set()  # folders of histories that can't be copied to their end

    def copy_all(self) -> None:
        """Copy what can be copied."""
        documents = {folder: self._keys(folder) for folder in FOLDERS if folder != REMOVED}
        versions = {kind: self._listed(self._source.refs(kind)) for kind in reversed(KINDS)}
        for kind in KINDS:
            there = set(self._target.refs(kind))
            found = spread(self._target.disk.at_once, self._look_at, filter(there.__contains__, versions[kind]))
            for each in found:  # first: their parts are taken over
                self.found.present += 1
                self._sign_of_life()
                self._know_parts(each)
                if each.damaged:
                    self._mend(each)
            for ref in versions[kind]:
                if ref not in there:
                    self._sign_of_life()
                    self._copy_version(ref)
        documents[REMOVED] = self._keys(REMOVED)  # of what was removed meanwhile, too
        for folder, keys in documents.items():
            for key in keys:
                self._copy_document(folder, key)

    def complain(self) -> None:
        """Raises Corrupt or StoreError when there is something that could not be copied."""
        told = [_listing(each) for each in (self._damaged, self._unreadable) if each]
        if self._others:
            told.append(
                f"expected {self._target.disk.root} to be a copy of {self._source.disk.root}, found another "
                f"{', '.join(self._others)} in it: these histories stay there as they are; copy into an empty store"
            )
        if told:
            kind = Corrupt if self._damaged else SourceUnreadable if self._unreadable else StoreError
            raise kind("; ".join(told))

    def _sign_of_life(self) -> None:
        if time.monotonic() - self._renewed > RENEW_SECONDS:
            self._needs.add()
            self._renewed = time.monotonic()

    def _keys(self, folder: str) -> list[str]:
        """The documents of a folder that is copied, without those of other folders that are below it."""
        if FOLDERS[folder].copied is None:
            return []
        below = tuple(f"{each}/" for each in FOLDERS if each.startswith(f"{folder}/"))
        return [key for key in self._listed(self._source.disk.list(folder)) if not key.startswith(below)]

    def _listed(self, found: Iterable[_Listed]) -> list[_Listed]:
        """What the source lists; nothing where it can't."""
        try:
            with reading_source():
                return list(found)
        except SourceUnreadable as error:
            self._note(error)
            return []

    def _note(self, error: SourceUnreadable) -> None:
        """Tell later what can't be read. Raises it where nothing can be any more."""
        self._away = self._away + 1 if isinstance(error.__cause__, StoreAway) else 0
        if self._away == _AWAY:
            raise error
        self._unreadable.append(str(error))

    def _look_at(self, ref: Ref) -> _There:
        """What is damaged of a version in the target."""
        try:
            artifact = self._target.open(ref)
        except (Corrupt, NotFound) as error:
            return _There(ref, None, {MANIFEST: str(error)})
        damaged: dict[str, str] = {}
        for file, described in artifact.files.items():
            what = artifact.key(file), described["sha256"], described["bytes"]
            if self._target.disk.is_known(*what):
                continue
            try:
                artifact.check(file, self._hash)
            except Corrupt as error:
                damaged[file] = str(error)
            else:
                self._target.disk.know(*what)
        return _There(ref, artifact, damaged)

    def _know_parts(self, there: _There) -> None:
        """Remember where the whole files of a version are that others may have."""
        if there.artifact is None:
            return
        for file, described in there.artifact.files.items():
            if is_shared(file) and file not in there.damaged:
                self._places[described["sha256"]] = there.artifact.key(file)

    def _mend(self, there: _There) -> None:
        """Put what the source has in the place of what is damaged."""
        self._on_version(there.ref)
        left = []
        for file, problem in there.damaged.items():

            def mended(source: Artifact, file: str = file) -> int:
                if there.artifact is None:
                    return adopt(self._target, source, self._places)
                return restore(self._target.open(there.ref), file, source, self._places)

            if not self._write(there.ref, mended):
                left.append(f"{problem} (this is of {self._target.disk.root})")
        self._damaged += left
        if not left:
            self.found.mended += 1

    def _copy_version(self, ref: Ref) -> None:
        self._on_version(ref)
        if self._write(ref, lambda source: adopt(self._target, source, self._places)):
            self.found.copied += 1
            there = self._target.open(ref)
            for file, described in there.files.items():  # a copy that is repeated need not read it
                self._target.disk.know(there.key(file), described["sha256"], described["bytes"])

    def _write(self, ref: Ref, put: Callable[[Artifact], int]) -> bool:
        """Whether `put` could write what it takes of a version of the source; it tells how many bytes that was."""
        try:
            with reading_source():
                artifact = self._source.open(ref)
            self.found.bytes += put(artifact)
        except (Corrupt, NotFound) as error:
            self._away = 0
            if isinstance(error, Corrupt) and self._is_there(ref):  # otherwise it was removed meanwhile
                self._damaged.append(str(error))
            return False
        except SourceUnreadable as error:
            self._note(error)
            return False
        self._away = 0
        return True

    def _is_there(self, ref: Ref) -> bool:
        """Whether the source has the version; so it is, too, where that can't be known."""
        try:
            with reading_source():
                return self._source.has(ref)
        except SourceUnreadable as error:
            self._note(error)
            return True

    def _copy_document(self, folder: str, key: str) -> None:
        """One document. Of a history that can't be read, or went another way in the target, nothing later is copied."""
        is_history, history = FOLDERS[folder].copied == "history", key.rpartition("/")[0]
        if is_history and history in self._ended:
            return
        content = self._read(key)
        if content is None:
            self._ended.add(history)
            return
        disk = self._target.disk
        try:
            disk.create(key, content)
            self.found.copied += 1
            return
        except AlreadyExists:
            there = disk.read(key)
        if there != content and _problem(there, key):  # it is damaged there
            disk.replace(key, content)
            self.found.mended += 1
        elif there != content and is_history:
            self._others.append(key)
            self._ended.add(history)
            return
        self.found.present += 1

    def _read(self, key: str) -> bytes | None:
        """A document of the source; None where it can't be read, or is damaged."""
        try:
            with reading_source():
                content = self._source.disk.read(key)
        except SourceUnreadable as error:
            self._note(error)
            return None
        except NotFound as error:  # somebody removes by hand: nothing else does
            self._damaged.append(str(error))
            return None
        self._away = 0
        if problem := _problem(content, key):
            self._damaged.append(problem)
            return None
        return content


def _listing(sentences: list[str]) -> str:
    more = len(sentences) - _NAMED
    return "; ".join(sentences[:_NAMED]) + (f"; and {more:,} more like these" if more > 0 else "")


def _problem(content: bytes, key: str) -> str | None:
    """What is wrong with a document. Other files are somebody's, and as they are."""
    try:
        if key.endswith(".json"):
            unseal(content, key)
    except Corrupt as error:
        return str(error)
    return None
