"""Pictures that people labelled and that a folder has not: read where they were seen, or taken over from before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from artifacts.dataset import LABELLED
from artifacts.decoded import Decoded, Place
from artifacts.labels import Statement
from artifacts.preparations import Read
from artifacts.settings import Settings
from tasks.preparing.labelled import Labelled
from tasks.preparing.pictures import FilesRead, contents_in, read_files
from tasks.shared.folders import opened
from tasks.shared.listing import FolderError, on_record, to_bytes
from tasks.shared.watching import OnRows
from tasks.vision.images import ImageSpec


@dataclass(frozen=True)
class ReadElsewhere:
    """What was read of labelled pictures.

    files: SHA-256 (hex) -> the file, or why it could not be read, of each picture.
    places, contents: as in FilesRead.
    decoded: how many were decoded.
    kept: what keeps them; to be removed when the dataset is published.
    """

    files: dict[str, Read]
    places: dict[str, Place]
    contents: dict[str, bytes]
    decoded: int
    kept: list[Decoded]


def source_of(name: str, statement: Statement) -> str:
    """What a dataset calls a picture that people labelled in a table called `name`. Two pictures may be called the
    same: a file may be overwritten, and a name scored over two folders."""
    return f"{LABELLED}{name}/{statement.path or statement.sha256[:12]}"


def read_elsewhere(
    settings: Settings,
    statements: Sequence[Statement],
    known: Mapping[str, Place],
    spec: ImageSpec,
    decoded_of: Callable[[str], Decoded],
    on_rows: OnRows,
) -> ReadElsewhere:
    """Read the pictures that statements are about, whatever they say: one that shows no class may be a copy.

    known: SHA-256 -> pixels that are there already.
    decoded_of: where to keep what is decoded of a folder.
    """
    files: dict[str, Read] = {}
    places = {each.sha256: known[each.sha256] for each in statements if each.sha256 in known}
    contents = contents_in(places)
    count, kept = 0, []
    of_folder: dict[str | None, list[Statement]] = {}
    for each in statements:
        if each.sha256 in known:  # an earlier version of the dataset has its pixels
            files[each.sha256] = Read(b"", 0, 0, each.sha256, None)
        else:
            of_folder.setdefault(each.folder, []).append(each)
    for where, theirs in of_folder.items():
        if where is None:
            unread = "unknown: nobody has seen a picture with this content"
        else:
            try:
                decoded = decoded_of(where)
                found, read = _read(settings, on_record(settings, where), theirs, spec, decoded, on_rows)
            except FolderError as error:
                unread = f"unreadable: {error}"
            else:
                files |= found
                places |= read.places
                contents |= read.contents
                count += read.decoded
                kept.append(decoded)
                continue
        files |= {each.sha256: _unread(each, unread) for each in theirs}
    return ReadElsewhere(files, places, contents, count, kept)


def _read(
    settings: Settings, text: str, statements: Sequence[Statement], spec: ImageSpec, decoded: Decoded, on_rows: OnRows
) -> tuple[dict[str, Read], FilesRead]:
    """What the files of a folder are now, by the SHA-256 that was labelled; and all that was read. Raises
    FolderError."""
    with opened(settings, text) as folder:
        there = [folder.entry(to_bytes(str(each.path))) for each in statements]
    entries = sorted({each.path: each for each in there if each}.values())
    nothing = Labelled(entries, [""] * len(entries), [None] * len(entries), {}, "")
    read = read_files(settings, text, nothing, spec, [], None, decoded, on_rows)
    by_path = {each.path: each for each in read.files}
    found = {}
    for statement, entry in zip(statements, there, strict=True):
        file = by_path[entry.path] if entry else None
        if file is None:
            file = _unread(statement, "missing: the picture is not in its folder any more")
        elif not file.bad and file.sha256 != statement.sha256:
            file = _unread(statement, "changed: the picture is another one than was labelled")
        found[statement.sha256] = file
    return found, read


def _unread(statement: Statement, why: str) -> Read:
    return Read(b"", 0, 0, statement.sha256, why)
