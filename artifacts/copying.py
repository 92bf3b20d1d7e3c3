"""One store into another: versions as they are, and what was written down about them (artifacts/registry.py).

What is there already is compared, not copied: so a copy that was interrupted goes on, and one that is repeated brings
what is new. Every file is hashed on its way. What is only kept to save work (features, staging) stays behind.

Work that goes on beside it does no harm. What names something is listed before what it names: so all that is named is
met, and what comes later is for the next copy. One thing that can't be copied keeps nothing else back.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from artifacts.documents import unseal
from artifacts.errors import AlreadyExists, Corrupt, NotFound, StoreError
from artifacts.living import EVERYTHING, RENEW_SECONDS, Needs, needing
from artifacts.publishing import adopt
from artifacts.refs import KINDS, Ref
from artifacts.registry import FOLDERS
from artifacts.store import Store
from artifacts.tombstones import FOLDER as REMOVED


@dataclass
class Copied:
    """copied: versions, events and runs' records that were written; present: those that were there; bytes: of the files
    of versions that were written, parts that tables share once."""

    copied: int = 0
    present: int = 0
    bytes: int = 0


def copy(source: Store, target: Store, on_version: Callable[[Ref], None] = lambda _: None) -> Copied:
    """Copy all that is published.

    on_version: called with each version before it is copied.

    Raises, after all else was copied, Corrupt for what is damaged, and StoreError where the target has another history:
    then it is no copy.
    """
    target.prepare()
    with needing(target.disk, EVERYTHING) as needs:
        copying = _Copying(source, target, on_version, needs)
        copying.copy_all()
    copying.complain()
    return copying.found


class _Copying:
    def __init__(self, source: Store, target: Store, on_version: Callable[[Ref], None], needs: Needs) -> None:
        self.found = Copied()
        self._needs, self._renewed = needs, time.monotonic()
        self._source, self._target, self._on_version = source, target, on_version
        self._places: dict[str, str] = {}  # SHA-256 of a shared file -> its key in the target
        self._damaged: list[str] = []
        self._others: list[str] = []  # keys that the target has with another content
        self._ended: set[str] = set()  # folders of histories that can't be copied to their end

    def copy_all(self) -> None:
        """Copy what can be copied."""
        documents = {folder: self._keys(folder) for folder in FOLDERS if folder != REMOVED}
        versions = {kind: list(self._source.refs(kind)) for kind in reversed(KINDS)}
        for kind in KINDS:
            there = set(self._target.refs(kind))
            for ref in filter(there.__contains__, versions[kind]):  # first: their parts are taken over
                self.found.present += 1
                self._look_at(ref)
            for ref in versions[kind]:
                if ref not in there:
                    self._copy_version(ref)
        documents[REMOVED] = self._keys(REMOVED)  # of what was removed meanwhile, too
        for folder, keys in documents.items():
            for key in keys:
                self._copy_document(folder, key)

    def complain(self) -> None:
        """Raises Corrupt or StoreError when there is something that could not be copied."""
        others = (
            f"expected {self._target.disk.root} to be a copy of {self._source.disk.root}, found another "
            f"{', '.join(self._others)} in it: these histories stay there as they are; copy into an empty store"
        )
        if self._damaged:
            raise Corrupt("; ".join([*self._damaged, *([others] if self._others else [])]))
        if self._others:
            raise StoreError(others)

    def _keys(self, folder: str) -> list[str]:
        """The documents of a folder that is copied, without those of other folders that are below it."""
        if FOLDERS[folder].copied is None:
            return []
        below = tuple(f"{each}/" for each in FOLDERS if each.startswith(f"{folder}/"))
        return [key for key in self._source.disk.list(folder) if not key.startswith(below)]

    def _look_at(self, ref: Ref) -> None:
        """Remember where the files of a version are in the target. In a bucket a part has one key anyway."""
        if self._target.disk.links:
            with suppress(NotFound, Corrupt):
                files = self._source.open(ref).files
                self._places |= {each["sha256"]: f"{ref.folder}/{file}" for file, each in files.items()}

    def _copy_version(self, ref: Ref) -> None:
        if time.monotonic() - self._renewed > RENEW_SECONDS:
            self._needs.add()
            self._renewed = time.monotonic()
        try:
            artifact = self._source.open(ref)
            self._on_version(ref)
            written = adopt(self._target, artifact, self._places)
        except Corrupt as error:
            if self._source.has(ref):
                self._damaged.append(str(error))
        except NotFound:  # it was removed meanwhile
            pass
        else:
            self.found.copied += 1
            self.found.bytes += written

    def _copy_document(self, folder: str, key: str) -> None:
        """One document. Of a history that is damaged, or went another way in the target, nothing later is copied."""
        is_history, history = FOLDERS[folder].copied == "history", key.rpartition("/")[0]
        if is_history and history in self._ended:
            return
        content = self._source.disk.read(key)
        if problem := _problem(content, key):
            self._damaged.append(problem)
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
        elif there != content and is_history:
            self._others.append(key)
            self._ended.add(history)
            return
        self.found.present += 1


def _problem(content: bytes, key: str) -> str | None:
    """What is wrong with a document. Other files are somebody's, and as they are."""
    try:
        if key.endswith(".json"):
            unseal(content, key)
    except Corrupt as error:
        return str(error)
    return None
