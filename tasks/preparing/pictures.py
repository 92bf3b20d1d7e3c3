"""Labelled files -> pictures: decoded by the scoring path's pool, or taken over from before."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from artifacts.dataset import Dataset
from artifacts.decoded import Decoded, Place
from artifacts.errors import LookbookError
from artifacts.predictions import PASSING_ERRORS
from artifacts.preparations import Read
from artifacts.settings import Settings
from tasks.preparing.labelled import Labelled, split_table
from tasks.shared.folders import opened
from tasks.shared.listing import Entry, folder_place
from tasks.shared.watching import OnRows
from tasks.vision.decoding import DecoderPool, default_processes
from tasks.vision.duplicates import contents_of
from tasks.vision.files import Files, cut
from tasks.vision.images import ImageSpec, Limits

_SHOWN = 5
_NO_FILE = "unsupported: the entry is no regular file but a link, a pipe or a device"


class TooManyBad(LookbookError):
    """A folder with more files that can't be learned from than are tolerated."""


@dataclass(frozen=True)
class FilesRead:
    """What was read of a folder's files.

    files: one for each, in order.
    places: SHA-256 (hex) -> where the image is, of each file that is not bad.
    contents: SHA-256 (hex) -> what the picture is (`contents_in`), of each file that is not bad.
    decoded: how many were decoded, and not taken over.
    """

    files: list[Read]
    places: Mapping[str, Place]
    contents: Mapping[str, bytes]
    decoded: int


def read_files(
    settings: Settings,
    images: str,
    labelled: Labelled,
    spec: ImageSpec,
    before: Sequence[Read],
    dataset: Dataset | None,
    decoded: Decoded,
    on_rows: OnRows,
    elsewhere: Callable[[list[Entry]], int] | None = None,
) -> FilesRead:
    """Decode the files, but for those that were read `before` and whose pixels are in `dataset`, or were `decoded` and
    not published; what is new is added there.

    A file of the same path, size and time is known; where only the time differs, its content decides.

    elsewhere: has files decoded by other machines, and told; returns how many. What these could not read for a reason
    that may pass is read here, too.
    """
    entries = labelled.entries
    known = _Known(before, dataset, decoded)
    files = known.all_files(entries)
    wanted = np.array([item for item, file in enumerate(files) if file is None], np.int64)
    on_rows(len(entries) - len(wanted), sum(bool(file and file.bad) for file in files), len(entries) - len(wanted))
    count = 0
    if elsewhere and len(wanted):
        count += elsewhere([entries[item] for item in wanted])
        decoded.take_over_all()
        known = _Known(before, dataset, decoded)
        files = known.all_files(entries)
        wanted = np.array([item for item, file in enumerate(files) if file is None], np.int64)

    def requests() -> Iterator[tuple[list[int], Files]]:
        for items in cut(wanted, np.array([each.size for each in entries], np.int64), spec):
            chosen = [entries[item] for item in items]
            contents = [known.content(each.path, each.size) for each in chosen]
            yield (
                items.tolist(),
                Files(
                    [each.path for each in chosen],
                    [each.size for each in chosen],
                    [each.mtime_ns for each in chosen],
                    {place: sha256 for place, sha256 in enumerate(contents) if sha256},
                ),
            )

    if len(wanted):
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
        processes = settings.decoders or default_processes()
        with (
            opened(settings, split_table(images)[0]) as top,
            decoded,
            DecoderPool(top.descriptor, spec, limits, settings.max_image_seconds, processes) as pool,
        ):
            for items, found in top.decode(pool, requests()):
                new, places, same = [], [], set(found.same)
                for place, item in enumerate(items):
                    entry = entries[item]
                    bad = ": ".join(found.errors[place]) if place in found.errors else None
                    files[item] = file = Read(entry.path, entry.size, entry.mtime_ns, found.sha256[place], bad)
                    if place not in same:
                        new.append(file)
                        places.append(place)
                decoded.add_files(new, found.pixels[places])
                if elsewhere:
                    on_rows(0, 0, 0)
                else:
                    count += len(new)
                    on_rows(len(items), len(found.errors), len(same))
    there = {**known.places, **decoded.places}
    good = dict.fromkeys(str(file.sha256) for file in files if file and not file.bad)
    contents = contents_in({sha256: there[sha256] for sha256 in good})
    return FilesRead([file for file in files if file], there, contents, count)


def contents_in(places: Mapping[str, Place]) -> dict[str, bytes]:
    """SHA-256 (hex) of a file -> the SHA-256 of its pixels, as the network sees them: files with the same are one
    picture, whatever their bytes are. For all that asks which pictures are equal while a dataset is made."""
    return dict(zip(places, contents_of([images[place] for images, place in places.values()]), strict=True))


def places_in(dataset: Dataset) -> dict[str, Place]:
    """SHA-256 (hex) of a file -> where its image is."""
    return {
        sha256: (side.images, place)
        for side in (dataset.train, dataset.test)
        if side.sha256 is not None
        for place, sha256 in enumerate(map(str, side.sha256))
    }


class _Known:
    """What was read before, as far as the pixels of it are there. places: SHA-256 -> where."""

    def __init__(self, before: Sequence[Read], dataset: Dataset | None, decoded: Decoded) -> None:
        self.places = (places_in(dataset) if dataset else {}) | decoded.places
        self._files = {
            each.path: each
            for each in (*before, *decoded.files)
            if (each.bad and each.bad.partition(":")[0] not in PASSING_ERRORS) or each.sha256 in self.places
        }

    def all_files(self, entries: Sequence[Entry]) -> list[Read | None]:
        """What is known of each entry."""
        return [
            self._file(each) if each.regular else Read(each.path, each.size, each.mtime_ns, None, _NO_FILE)
            for each in entries
        ]

    def _file(self, entry: Entry) -> Read | None:
        found = self._files.get(entry.path)
        return found if found and found[1:3] == (entry.size, entry.mtime_ns) else None

    def content(self, path: bytes, size: int) -> str | None:
        """The SHA-256 that the file had, when it may still have it."""
        found = self._files.get(path)
        return found.sha256 if found and found.size == size and not found.bad else None


def check_bad(settings: Settings, images: str, bad: Mapping[str, str], items: int, most: float) -> None:
    """Raises TooManyBad when more than the share `most` of the files can't be learned from; `items`: how many can."""
    files = len(bad) + items
    if len(bad) > most * files:
        shown = "; ".join(f"{path} ({why})" for path, why in list(bad.items())[:_SHOWN])
        raise TooManyBad(
            f"expected at most {100 * most:.3g}% of the files in {folder_place(settings, images)} not to be learned "
            f"from (max_bad), found {len(bad):,} of {files:,}: {shown}{'; ...' if len(bad) > _SHOWN else ''}; mend or "
            "remove them, or let more pass (--max-bad)"
        )
