"""Labelled images out of a folder a class: which side a picture is on, and what could not be read."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from artifacts.errors import LookbookError
from artifacts.settings import Settings
from tasks.listing import Entry, FolderError, folder_path, open_folder, to_text, walk
from tasks.vision.decoding import CHUNK, DecoderPool, Files
from tasks.vision.images import ImageSpec, Limits
from tasks.vision.sources import LabelledImages

TEST_SHARE = 1 / 7  # as Fashion-MNIST's
BAD_SHARE = 0.01  # of all files; more of them look like a mistake


class TooFewPictures(LookbookError):
    """A folder whose readable pictures are not enough to train on and to test with."""


@dataclass(frozen=True)
class Labelled:
    """Both sides of a folder. contents: SHA-256 over paths and contents; bad: path -> why it can't be learned from."""

    train: LabelledImages
    test: LabelledImages
    classes: list[str]
    contents: str
    bad: dict[str, str]


def entries_of(settings: Settings, folder: str) -> list[Entry]:
    """Every entry of `root:sub/path` but the hidden ones. Raises FolderError, also where there are not two folders that
    hold something, and for a link in a class's place: links are not followed."""
    top = open_folder(settings, folder)
    try:
        entries = [each for each in walk(top) if not any(part.startswith(b".") for part in each.path.split(b"/"))]
    finally:
        os.close(top)
    if links := [to_text(each.path) for each in entries if b"/" not in each.path and not each.regular]:
        raise FolderError(
            f"expected folders in {folder_path(settings, folder)}, found {links[0]}, a link or a device, which is not "
            "followed; put the folder itself there"
        )
    classes = _classes(entries)
    if len(classes) < 2:
        raise FolderError(
            f"expected a folder a class in {folder_path(settings, folder)}, two of them at least, "
            f"found {', '.join(classes) or 'none'}"
        )
    return entries


def gather(
    settings: Settings, folder: str, entries: Sequence[Entry], spec: ImageSpec, on_rows: Callable[[int, int, int], None]
) -> Labelled:
    """Decode the listed pictures. A picture's content alone decides its side, and it stays there when others arrive:
    equal pictures are never on both.

    Raises FolderError when more than BAD_SHARE of the files can't be learned from, and TooFewPictures.
    """
    classes = _classes(entries)
    bad = {to_text(each.path): "in no class's folder" for each in entries if b"/" not in each.path}
    files = [each for each in entries if b"/" in each.path]
    images = np.zeros((len(files), spec.height, spec.width, spec.channels), np.uint8)
    sha256 = [""] * len(files)
    top = open_folder(settings, folder)
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    starts = range(0, len(files), CHUNK)
    requests = (
        Files([each.path for each in cut], [each.size for each in cut], [each.mtime_ns for each in cut])
        for cut in (files[start : start + CHUNK] for start in starts)
    )
    try:
        processes = settings.decoders or os.cpu_count() or 1
        with DecoderPool(top, spec, limits, settings.max_image_seconds, processes) as pool:
            for start, pictures in zip(starts, pool.decode(requests), strict=True):
                images[start : start + len(pictures.sha256)] = pictures.pixels
                sha256[start : start + len(pictures.sha256)] = [each or "" for each in pictures.sha256]
                for place, (kind, detail) in pictures.errors.items():
                    bad[to_text(files[start + place].path)] = f"{kind}: {detail}"
                on_rows(len(pictures.sha256), len(pictures.errors), 0)
    finally:
        os.close(top)
    if len(bad) > BAD_SHARE * len(entries):
        shown = "; ".join(f"{path} ({why})" for path, why in list(bad.items())[:3])
        raise FolderError(
            f"expected at most {BAD_SHARE:.0%} of the files in {folder_path(settings, folder)} not to be pictures, "
            f"found {len(bad):,} of {len(entries):,}: {shown}{', ...' if len(bad) > 3 else ''}; mend or remove them"
        )
    return _sides(files, images, sha256, classes, bad)


def _sides(
    files: Sequence[Entry], images: np.ndarray, sha256: Sequence[str], classes: list[str], bad: dict[str, str]
) -> Labelled:
    paths = [to_text(each.path) for each in files]
    labels = np.array([classes.index(_class_of(each)) for each in files], np.int32)
    good = np.array([path not in bad for path in paths])
    tested = np.array([bool(each) and int(each[:8], 16) < TEST_SHARE * 2**32 for each in sha256])
    sides = []
    for side, chosen in (("train on", good & ~tested), ("test with", good & tested)):
        items = np.flatnonzero(chosen)
        missing = [name for index, name in enumerate(classes) if index not in labels[items]]
        if missing:
            raise TooFewPictures(
                f"expected pictures of every class to {side}, none of {', '.join(missing)} found among {len(items):,}; "
                f"about one picture in {round(1 / TEST_SHARE)}, by its content, is for testing: add more of them"
            )
        sides.append(LabelledImages(images[items], labels[items], [paths[item] for item in items]))
    contents = hashlib.sha256()
    for path, digest in zip(paths, sha256, strict=True):
        if path not in bad:
            contents.update(f"{path}\0{digest}\n".encode())
    return Labelled(sides[0], sides[1], classes, contents.hexdigest(), bad)


def _classes(entries: Sequence[Entry]) -> list[str]:
    return sorted({_class_of(each) for each in entries if b"/" in each.path})


def _class_of(entry: Entry) -> str:
    return to_text(entry.path.partition(b"/")[0])
