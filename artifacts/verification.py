"""`verify`: hash what was published, and look whether all that manifests, events and runs refer to is there."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from artifacts import aliases, audits, labels, living, tombstones
from artifacts.disk import Disk, is_key, spread
from artifacts.documents import unseal
from artifacts.errors import Corrupt, InvalidRef, LookbookError, StoreError
from artifacts.refs import Ref

if TYPE_CHECKING:
    from artifacts.store import Artifact, Store

_File = tuple[Any, ...]
_Record = TypeVar("_Record")
_NAMED = 5  # of those that refer to what is missing; a file that several versions share is reported with all of them


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    checked: files of versions, alias events and runs' records that were looked at.
    corrupt: a sentence for each file that is not what was published, or can't be read, and for all that is missing
    though something refers to it.
    damaged: the versions that have a file which is not what was published, or whose manifest is one, each with its
    sentence. What can't be read may be whole: it damages none.
    """

    checked: int
    corrupt: list[str]
    damaged: dict[str, str] = field(default_factory=dict)


def verify(store: "Store", ref: Ref | None) -> Verification:
    """Verify the version `ref` and that its inputs are there; without `ref` everything published, every alias event,
    every run's record and every label.

    Raises NotFound for a `ref` that is not there, and StoreError where it can't be known what is there: a folder that
    can't be listed, a manifest that can't be read.
    """
    verifier = _Verifier(store)
    if ref is None:
        verifier.check_versions()
        verifier.check_events()
        verifier.check_runs()
        verifier.check_retention()
        verifier.check_labels()
    else:
        verifier.check_version(ref)
        verifier.find_sharing(ref)
    verifier.check_wanted()
    sentences = [problem.sentence() for problem in verifier.problems]
    damaged = {each: problem.sentence() for problem in verifier.problems for each in (*problem.refs, *problem.also)}
    return Verification(verifier.checked, sentences, damaged)


class Hashes:
    """SHA-256 (hex) and bytes of keys: each file of a disk is hashed once, whatever its names are. Raises what
    `Disk.hash` does."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._known: dict[_File, tuple[str, int]] = {}

    def __call__(self, key: str) -> tuple[str, int]:
        file = self._disk.identity(key)
        if file is None:
            return self._disk.hash(key)
        if file not in self._known:
            self._known[file] = self._disk.hash(key)
        return self._known[file]


@dataclass
class _Problem:
    """text: what is wrong; refs: the version in which that is; also: the others that hold the same damaged file."""

    text: str
    refs: tuple[str, ...] = ()
    also: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        return f"{self.text}; the same file is also in {', '.join(self.also)}" if self.also else self.text


class _Verifier:
    """Versions share files: each file is hashed once, and a damaged one is reported once for all."""

    def __init__(self, store: "Store") -> None:
        self.checked = 0
        self.problems: list[_Problem] = []
        self._store = store
        self._hash = Hashes(store.disk)
        self._damaged: dict[_File | None, _Problem] = {}
        self._wanted: dict[str, list[str]] = defaultdict(list)  # a ref or a key -> what refers to it

    def check_versions(self) -> None:
        """Hash the files of all versions."""

        def hashed(found: "tuple[Ref, Artifact | Corrupt]") -> "tuple[Ref, Artifact | Corrupt]":
            if not isinstance(found[1], Corrupt):
                for file in found[1].files:
                    with suppress(LookbookError):  # told below
                        self._hash(found[1].key(file))
            return found

        for ref, found in spread(self._store.disk.at_once, hashed, self._store.opened()):
            self.checked += 1
            if isinstance(found, Corrupt):
                self.problems.append(_Problem(str(found), (str(ref),)))
            else:
                self._check_files(found)

    def check_version(self, ref: Ref) -> None:
        """Hash the files of the version `ref`. Raises NotFound, and StoreError where its manifest can't be read."""
        self.checked += 1
        try:
            artifact = self._store.open(ref)
        except Corrupt as error:
            self.problems.append(_Problem(str(error), (str(ref),)))
        else:
            self._check_files(artifact)

    def _check_files(self, artifact: "Artifact") -> None:
        ref = artifact.ref
        for file in artifact.files:
            self.checked += 1
            try:
                artifact.check(file, self._hash)
            except StoreError as error:
                self.problems.append(_Problem(f"{error}; whether it is damaged is not known"))
            except Corrupt as error:
                if not self._store.has(ref):  # it was removed meanwhile
                    return
                self._tell(artifact, file, str(error))
        self._want_refs(artifact.identity["inputs"].values(), str(ref))

    def find_sharing(self, ref: Ref) -> None:
        """Name the versions, beside `ref`, that hold one of its damaged files."""
        for other in self._store.refs() if self._damaged else ():
            with suppress(LookbookError):
                artifact = self._store.open(other)
                for file in artifact.files if other != ref else ():
                    if (found := self._file(artifact, file)) in self._damaged:
                        self._damaged[found].also.append(str(other))

    def check_events(self) -> None:
        """Read every alias event. What it makes the alias mean must be there, and so must all events before it. Weights
        that were judged and kept back may be gone."""
        numbers: dict[str, set[int]] = defaultdict(set)
        for key, event in self._read("aliases", lambda key: aliases.read_event(self._store.disk, key)):
            if event:
                challenger = None if event.action == "keep" else event.challenger
                self._want_refs((event.ref, event.previous, challenger), key)
            folder, _, name = key.rpartition("/")
            if name.removesuffix(".json").isdecimal():
                numbers[folder].add(int(name.removesuffix(".json")))
        self._want_numbers(numbers)

    def _want_numbers(self, numbers: dict[str, set[int]]) -> None:
        """All before the newest of each folder."""
        for folder, found in numbers.items():
            for number in sorted({*range(1, max(found))} - found):
                self._wanted[f"{folder}/{number:08d}.json"].append(f"{folder}/{max(found):08d}.json")

    def check_runs(self) -> None:
        """Read every run's record. The decision that a run says it made must be in the alias's history."""
        for key, run in self._read("runs", lambda key: unseal(self._store.disk.read(key), key), besides=living.FOLDER):
            if run and isinstance(decision := run.get("decision"), str):
                self._wanted[decision].append(key)

    def check_retention(self) -> None:
        """Read every pin, and what was written down of every version that was removed."""
        for folder in ("pins", tombstones.FOLDER):
            for _ in self._read(folder, lambda key: unseal(self._store.disk.read(key), key)):
                pass

    def check_labels(self) -> None:
        """Read all that people said of pictures, with none missing before the newest, and every audit."""
        numbers: dict[str, set[int]] = defaultdict(set)
        for key, event in self._read(labels.FOLDER, lambda key: labels.read_label_event(self._store.disk, key)):
            if event:
                numbers[key.rpartition("/")[0]].add(event.number)
        self._want_numbers(numbers)
        for _ in self._read(audits.FOLDER, lambda key: audits.read_audit(self._store.disk, key)):
            pass

    def check_wanted(self) -> None:
        """Look whether all is there that something refers to."""
        there = spread(self._store.disk.at_once, self._is_there, self._wanted)
        for (wanted, by), is_there in zip(self._wanted.items(), there, strict=True):
            if not is_there:
                more = f" and {len(by) - _NAMED:,} more" if len(by) > _NAMED else ""
                self.problems.append(
                    _Problem(
                        f"{wanted} is missing from the store {self._store.disk.root}, but is referred to by "
                        f"{', '.join(by[:_NAMED])}{more}; restore it from a copy"
                    )
                )

    def _read(
        self, folder: str, read: Callable[[str], _Record], besides: str = ""
    ) -> Iterator[tuple[str, _Record | None]]:
        """The keys below `folder`, but not below `besides`, with what is read there; None for what is damaged, which is
        a problem."""

        def look(key: str) -> "tuple[str, _Record | LookbookError]":
            try:
                return key, read(key)
            except LookbookError as error:
                return key, error

        keys = (key for key in self._store.disk.list(folder) if not besides or not key.startswith(f"{besides}/"))
        for key, found in spread(self._store.disk.at_once, look, keys):
            self.checked += 1
            if isinstance(found, LookbookError):
                self.problems.append(_Problem(str(found)))
                yield key, None
            else:
                yield key, found

    def _want_refs(self, values: Iterable[Any], by: str) -> None:
        """Remember which of the values are refs: others are digests of what is no artifact."""
        for value in dict.fromkeys(values):
            with suppress(InvalidRef):
                if isinstance(value, str):
                    self._wanted[str(Ref.parse(value))].append(by)

    def _is_there(self, wanted: str) -> bool:
        with suppress(InvalidRef):
            ref = Ref.parse(wanted)
            return self._store.has(ref) or tombstones.find(self._store.disk, ref) is not None
        return is_key(wanted) and self._store.disk.exists(wanted)

    def _file(self, artifact: "Artifact", file: str) -> _File | None:
        return self._store.disk.identity(artifact.key(file))

    def _tell(self, artifact: "Artifact", file: str, text: str) -> None:
        damaged = self._file(artifact, file)
        if damaged in self._damaged:
            self._damaged[damaged].also.append(str(artifact.ref))
            return
        self.problems.append(_Problem(text, (str(artifact.ref),)))
        if damaged is not None:
            self._damaged[damaged] = self.problems[-1]
