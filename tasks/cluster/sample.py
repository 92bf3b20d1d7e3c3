"""Some files of a folder, as one machine sees them: another one that sees others must not read it."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from artifacts.predictions import PASSING_ERRORS
from tasks.cluster.errors import ClusterError
from tasks.shared.folders import Folder
from tasks.shared.listing import Entry, to_bytes, to_text
from tasks.shared.plans import Plan
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import CHUNK, Files

_FILES = 64
_MOST_BYTES = 16 << 20  # of a file: a sample takes no time

Sample = list[dict[str, Any]]
"""For each file: path (text), size (bytes), mtime_ns, and what it became: the SHA-256 of its bytes and pixels, or the
kind of its error."""


def take_sample(folder: Folder, pool: DecoderPool, plan: Plan) -> Sample:
    """Files from all over the plan, as they are here, but for those that can't be read for a reason that may pass."""
    ends = np.cumsum(plan.shard_rows)
    rows: dict[int, list[int]] = {}
    for row in np.unique(np.linspace(0, plan.rows - 1, _FILES).astype(np.int64)):
        shard = int(np.searchsorted(ends, row, side="right"))
        rows.setdefault(shard, []).append(int(row - (ends[shard] - plan.shard_rows[shard])))
    entries = (
        Entry(*each.values()) for shard, places in rows.items() for each in plan.entries(shard).take(places).to_pylist()
    )
    chosen = [each for each in entries if each.regular and each.size <= _MOST_BYTES]
    seen = _seen(folder, pool, chosen)
    return [
        {"path": to_text(each.path), "size": each.size, "mtime_ns": each.mtime_ns, "is": what}
        for each, what in zip(chosen, seen, strict=True)
        if what[0] not in PASSING_ERRORS
    ]


def check_sample(folder: Folder, pool: DecoderPool, sample: Sequence[Mapping[str, Any]]) -> bool:
    """Whether this machine has the files of a sample with their times; if not, it has them with others.

    Raises ClusterError when it has other files, or makes other pixels of them.
    """
    planned = [Entry(to_bytes(each["path"]), each["size"], each["mtime_ns"], True) for each in sample]
    seen = _seen(folder, pool, planned)
    same_times = True
    for entry, what, expected in zip(planned, seen, sample, strict=True):
        if what[0] == "changed":
            same_times = False
            found = folder.entry(entry.path)
            what = _seen(folder, pool, [found])[0] if found and found.size == entry.size else what
        if what != expected["is"]:
            raise ClusterError(
                f"expected {expected['path']} as the machine that listed the folder has it, found {_told(what)}: mount "
                "the same folder there, or put the pictures into a bucket"
            )
    return same_times


def _seen(folder: Folder, pool: DecoderPool, entries: Sequence[Entry]) -> list[list[str]]:
    """For each entry [SHA-256 of the bytes, SHA-256 of the pixels], [kind of error], or where that may pass [kind of
    error, nothing, detail]."""
    starts = range(0, len(entries), CHUNK)
    requests = (
        (
            start,
            Files(
                [each.path for each in entries[start : start + CHUNK]],
                [each.size for each in entries[start : start + CHUNK]],
                [each.mtime_ns for each in entries[start : start + CHUNK]],
            ),
        )
        for start in starts
    )
    seen: list[list[str]] = []
    for _, decoded in folder.decode(pool, requests):
        for place, sha256 in enumerate(decoded.sha256):
            if place in decoded.errors:
                kind, detail = decoded.errors[place]
                seen.append([kind, "", detail] if kind in PASSING_ERRORS else [kind])
            else:
                seen.append([str(sha256), hashlib.sha256(decoded.pixels[place].tobytes()).hexdigest()])
    return seen


def _told(what: Sequence[str]) -> str:
    if len(what) != 2:
        plain = {"missing": "no such file", "changed": "a file of another size"}
        return plain.get(what[0]) or ": ".join(filter(None, (what[0], *what[1:])))
    return "another content, or other pixels of it"
