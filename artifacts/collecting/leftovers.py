"""What of a store's staging goes: lists, records, parts and states that nobody needs any more."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from artifacts import living, preparations
from artifacts.collecting.inventory import Version
from artifacts.collecting.retention import Staying
from artifacts.decoded import KEPT_SECONDS
from artifacts.disk import Stored
from artifacts.documents import unseal
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref
from artifacts.shards import part_of, record_digest
from artifacts.store import Store

_PLANS, _RECORDS, _PARTS = "staging/plans", "staging/shards", "staging/parts"
_IN_BUCKET = "parts"
_BY_AGE = {
    "staging/fresh": "marks of fresh scorings",
    "staging/training": "states of trainings",
    "staging/probe": "tries of the bucket",
}


@dataclass
class Leftover:
    """Files of one kind that go. why: as the end of a sentence."""

    what: str
    why: str
    files: list[Stored] = field(default_factory=list)


class Leftovers:
    """What goes of a store's staging, after it is known which versions stay.

    since: what was written after this is kept, in seconds since the epoch, by the disk's clock.
    """

    def __init__(
        self,
        store: Store,
        versions: Mapping[Ref, Version],
        stay: Staying,
        needs: set[str],
        over: list[str],
        since: float,
    ) -> None:
        """needs, over: what is needed by what goes on, and the keys of what is over, of `living.needed`."""
        self._store, self._disk = store, store.disk
        self._versions, self._stay, self._needs, self._over, self._since = versions, stay, needs, over, since

    def find(self) -> Iterator[Leftover]:
        """In the order in which they have to be removed: what names a file goes before it. Raises Corrupt."""
        if living.EVERYTHING in self._needs:
            return
        plans, wanted = self._plans()
        records, parts = self._records(wanted)
        yield Leftover("plans", "of scorings that are over", plans)
        yield Leftover("records of shards", "of no table that stays", records)
        yield Leftover("parts", "of no table that stays", parts)
        for folder, what in _BY_AGE.items():
            yield Leftover(what, "nobody went on with them", self._old(folder))
        yield Leftover("preparations", "their dataset goes, or is gone", self._preparations())
        yield Leftover("decoded pictures", "no dataset was made of them", self._old("staging/decoded", KEPT_SECONDS))
        over = set(self._over)
        named = [each for each in self._disk.survey(living.FOLDER) if each.key in over]
        yield Leftover("needs", "of runs that are over", named)

    def _old(self, folder: str, seconds: float = 0.0) -> list[Stored]:
        return [each for each in self._disk.survey(folder) if self._goes(each, seconds)]

    def _goes(self, stored: Stored, seconds: float = 0.0) -> bool:
        return stored.written < self._since - seconds and stored.key not in self._needs

    def _plans(self) -> tuple[list[Stored], set[str]]:
        """The files of plans that go, and the digests of the records that others name."""
        found = {each.key: each for each in self._disk.survey(_PLANS)}
        kept = [key for key, stored in found.items() if key.endswith(".json") and not self._goes(stored)]
        wanted: set[str] = set()
        while kept:
            key = kept.pop()
            with suppress(NotFound):  # its work is done
                plan = _plan(self._disk.read(key), key)
                wanted.update(plan.get("records") or ())
                entries = f"{_PLANS}/{plan.get('entries')}.arrow"  # as an earlier Lookbook named them
                for named in (key, f"{key.removesuffix('.json')}.arrow", entries):
                    found.pop(named, None)
                if plan.get("plan") in found:  # of a scoring that several runs share
                    kept.append(plan["plan"])
        going = [each for each in found.values() if self._goes(each)]
        return sorted(going, key=lambda each: not each.key.endswith(".json")), wanted

    def _records(self, wanted: set[str]) -> tuple[list[Stored], list[Stored]]:
        """Records of shards, and parts, that go. A shard's records stay or go together: numbers are never used twice
        while one of them is there."""
        parts = {each.key: each for folder in (_PARTS, _IN_BUCKET) for each in self._disk.survey(folder)}
        for key in [key for key, stored in parts.items() if not self._goes(stored)]:
            del parts[key]
        for ref in self._stay.why:
            if ref.kind == "predictions" and ref in self._versions and self._versions[ref].published:
                wanted |= self._named(ref, parts)
        going: list[Stored] = []
        for digest, records in self._shards():
            if digest in wanted or any(not self._goes(each) for each in records):
                for each in records:
                    with suppress(NotFound, Corrupt):
                        parts.pop(part_of(unseal(self._disk.read(each.key), each.key)).key, None)
            else:
                going += records
        return going, list(parts.values())

    def _shards(self) -> Iterator[tuple[str, list[Stored]]]:
        """The digest of each shard that has records, with these."""
        digest, records = "", list[Stored]()
        for stored in self._disk.survey(_RECORDS):
            now = stored.key.split("/")[2]
            if now != digest and records:
                yield digest, records
                records = []
            digest = now
            records.append(stored)
        if records:
            yield digest, records

    def _named(self, ref: Ref, parts: dict[str, Stored]) -> set[str]:
        """The digests of the records that the parts of a table are under; its shared files are taken out of `parts`."""
        try:
            artifact = self._store.open(ref)
        except NotFound:
            return set()
        except Corrupt:  # which parts it has is not known
            parts.clear()
            return set()
        for file in artifact.manifest.get("at", ()):
            parts.pop(artifact.key(file), None)
        folder = artifact.manifest["provenance"].get("folder")
        return {record_digest(part["digest"], folder) for part in artifact.facts.get("parts", ())}

    def _preparations(self) -> list[Stored]:
        going: list[Stored] = []
        for stored in self._disk.survey("staging/prepared"):
            if self._goes(stored):
                dataset = preparations.dataset_of(self._disk, stored.key)
                if dataset is None or dataset not in self._stay.why:
                    going.append(stored)
        return going


def _plan(content: bytes, key: str) -> dict[str, Any]:
    """Raises Corrupt. Pictures to embed, as an earlier Lookbook handed them to a cluster, have no checksum; they name
    nothing else."""
    with suppress(ValueError):
        found = json.loads(content)
        if isinstance(found, dict) and found.keys() == {"batches"}:
            return found
    return unseal(content, key)
