"""Files to prepare on a cluster: what the stage hands out, and what one of the machines does. What is decoded is in the
store's staging area then, where the stage takes it over."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from artifacts.decoded import Decoded
from artifacts.living import Needs
from artifacts.preparations import Read
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.cluster.actor import Receipt
from tasks.cluster.conducting import carry_out
from tasks.cluster.sample import Sample, check_sample, take_sample
from tasks.cluster.sharing import shared_plan
from tasks.preparing.labelled import split_table
from tasks.shared.folders import opened
from tasks.shared.listing import Entry, allow_folder, folder_place
from tasks.shared.plans import Plan, load_plan, remove_plan, save_plan
from tasks.shared.watching import OnRows, Watch
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import CHUNK, Files
from tasks.vision.images import ImageSpec, Limits

_FILES, _BYTES = 1024, 256 << 20  # of a stretch at most: some seconds of a processor


def read_on_cluster(
    settings: Settings,
    store: Store,
    images: str,
    entries: Sequence[Entry],
    spec: ImageSpec,
    decided_by: Mapping[str, Any],
    watch: Watch,
) -> int:
    """Have files decoded by the nodes of a cluster. Returns how many were. Raises what `carry_out` does.

    decided_by: all that decides what a file becomes, by which `Decoded` keeps it.
    """
    folder = split_table(images)[0]
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    key = save_plan(store.disk, _stretches(entries), folder_place(settings, folder))
    if key is None:
        return 0
    plan = load_plan(store.disk, key)
    with Needs(store.disk) as needs:
        needs.add(key)
        work = {
            "kind": "read",
            "folder": folder_place(settings, folder),
            "spec": spec.to_dict(),
            "decided_by": decided_by,
            "plan": key,
            "sample": [] if settings.cluster == "local" else _sample(settings, folder, spec, limits, plan),
        }
        numbers = range(len(plan.shard_rows))
        try:
            return sum(told.receipt["rows"] for told in carry_out(settings, work, numbers, "stretch", watch))
        finally:
            remove_plan(store.disk, key)


def _stretches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    stretch: list[Entry] = []
    size = 0
    for entry in entries:
        stretch.append(entry)
        size += entry.size
        if len(stretch) == _FILES or size >= _BYTES:
            yield stretch
            stretch, size = [], 0
    if stretch:
        yield stretch


def _sample(settings: Settings, folder: str, spec: ImageSpec, limits: Limits, plan: Plan) -> Sample:
    with (
        opened(settings, folder) as top,
        DecoderPool(top.descriptor, spec, limits, settings.max_image_seconds, 1) as pool,
    ):
        return take_sample(top, pool, plan)


class Stretches:
    """Stretches of a folder's files on one machine of a cluster: decoders are started once."""

    def __init__(self, task: Mapping[str, Any], processors: int) -> None:
        """task: as `read_on_cluster` makes it. Raises what says that this machine can't do it."""
        settings = Settings()
        self._disk = Store(settings.store).disk
        self._decided_by, self._spec = task["decided_by"], ImageSpec.from_dict(task["spec"])
        self._plan = shared_plan(self._disk, task["plan"])
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
        with ExitStack() as stack:
            self._folder = stack.enter_context(opened(settings, allow_folder(task["folder"])))
            processes = settings.decoders or processors
            self._pool = stack.enter_context(
                DecoderPool(self._folder.descriptor, self._spec, limits, settings.max_image_seconds, processes)
            )
            self._folder.by_size = not check_sample(self._folder, self._pool, task["sample"])
            self._stack = stack.pop_all()  # open until the process ends

    def do(self, numbers: list[int], on_rows: OnRows) -> Iterator[tuple[int, Receipt]]:
        """A receipt tells no more than how much there was."""
        for number in numbers:
            yield number, self._read([Entry(*row.values()) for row in self._plan.entries(number).to_pylist()], on_rows)

    def _read(self, entries: Sequence[Entry], on_rows: OnRows) -> Receipt:
        parts = [entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK)]
        requests = (
            (place, Files([each.path for each in part], [each.size for each in part], [each.mtime_ns for each in part]))
            for place, part in enumerate(parts)
        )
        errors = 0
        image = (self._spec.height, self._spec.width, self._spec.channels)
        with Decoded(self._disk, self._decided_by, image, earlier=False) as decoded:
            for place, found in self._folder.decode(self._pool, requests):
                bad = {item: ": ".join(error) for item, error in found.errors.items()}
                files = [
                    Read(entry.path, entry.size, entry.mtime_ns, found.sha256[item], bad.get(item))
                    for item, entry in enumerate(parts[place])
                ]
                decoded.add_files(files, found.pixels)
                errors += len(found.errors)
                on_rows(len(files), len(found.errors), 0)
        return {"rows": len(entries), "errors": errors, "reused": 0}
