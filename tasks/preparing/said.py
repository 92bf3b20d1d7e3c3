"""What people said of pictures (`lookbook review`), brought together with a folder's own labels, by content."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from artifacts import aliases
from artifacts.dataset import LABELLED, Dataset, Split
from artifacts.decoded import Decoded, Place
from artifacts.documents import digest
from artifacts.errors import NotFound
from artifacts.labels import Labels, Word, label_names
from artifacts.preparations import Read
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.preparing.labelled import Labelled, SideName
from tasks.preparing.pictures import FilesRead, read_files
from tasks.shared.class_names import ClassNameError, UnknownClass, known_class
from tasks.shared.folders import opened
from tasks.shared.listing import Entry, FolderError, on_record, to_bytes, to_text
from tasks.shared.watching import OnRows
from tasks.vision.images import ImageSpec

LEFT_OUT = "labelled"  # what begins the reason why a person's word keeps a picture out: it is no bad file
_WHY = {"none": "none of the classes", "bad": "a bad picture", "class": "a class that the folder has not"}


@dataclass(frozen=True)
class Words:
    """What counts of each content. name: of the log; digest: of all that decides what becomes of it."""

    name: str
    words: Mapping[str, Word]
    digest: str


@dataclass(frozen=True)
class Taught:
    """A folder's pictures, and those that people labelled elsewhere, with the labels that count.

    rows: what became of each word: sha256, source, verdict, label, folder_label (the folder's own), predicted,
    confidence, chosen, use: confirmed, corrected, added, left out, or in a word why it could not be used.
    reasons: SHA-256 -> why, in a sentence.
    decoded: what was read beside the folder; to be removed when the dataset is published.
    """

    labelled: Labelled
    read: FilesRead
    rows: list[dict[str, Any]]
    reasons: dict[str, str]
    decoded: list[Decoded]


def words_of(store: Store, name: str, new_classes: bool) -> Words:
    """What people said of the tables called `name`. Raises NotFound where there is no table and no label of that name,
    and Corrupt."""
    words = Labels(store.disk, name).words()
    if not words and aliases.current(store.disk, "predictions", name, "latest") is None:
        known = ", ".join(sorted({*label_names(store.disk), *aliases.names(store.disk, "predictions", "latest")}))
        raise NotFound(
            f"expected labels, or a table of predictions, called {name}; found neither (there are: {known or 'none'})"
        )
    counts = sorted([sha256, asdict(word.statement), word.first.chosen] for sha256, word in words.items())
    return Words(name, words, digest({"words": counts, "new_classes": new_classes}))


def teach(
    settings: Settings,
    said: Words,
    labelled: Labelled,
    read: FilesRead,
    spec: ImageSpec,
    new_classes: bool,
    known: Mapping[str, Place],
    sides_before: Mapping[str, SideName],
    decoded_of: Callable[[str], Decoded],
    on_rows: OnRows,
) -> Taught:
    """Let people's words count: they beat the folder's labels, and bring in pictures that the folder has not.

    What was shown because the model was unsure is only trained on, as it would bend the measure: to test with are the
    folder's own pictures, also when their files are gone, and of those from elsewhere the ones that were drawn at
    random (an audit), and those of classes that the folder has not.

    known: SHA-256 -> pixels that are there already.
    sides_before: SHA-256 -> the side on which an earlier version has it.
    decoded_of: where to keep what is decoded of another folder.
    """
    classes, rows = labelled.classes, []
    labels, files = list(labelled.labels), list(read.files)
    paths = [each.path for each in labelled.entries]
    met: set[str] = set()
    usable = {sha256: _usable(word, classes, new_classes) for sha256, word in said.words.items()}
    for item, file in enumerate(files):
        word = said.words.get(str(file.sha256))
        if word is None:
            continue
        met.add(str(file.sha256))
        before, verdict, why = labels[item], word.statement.verdict, usable[str(file.sha256)]
        use = _kind(why) if why else ("left out" if verdict != "class" else "confirmed")
        if verdict != "class" or why:
            files[item] = file._replace(bad=f"{LEFT_OUT}: {_WHY[verdict]}")
        elif word.statement.label != before:
            labels[item], use = str(word.statement.label), "corrected"
        rows.append(_row(word, to_text(paths[item]), before, use))
    more, places, decoded, count = _elsewhere(settings, said, met, usable, known, spec, decoded_of, on_rows)
    more.sort(key=lambda each: (each[1], each[0].statement.sha256))  # not by what happened to be known before
    for word, source, file in more:
        rows.append(_row(word, source, None, _kind(file.bad) if file.bad else "added"))
    added = [(word, source, file) for word, source, file in more if not file.bad]
    sides = [_side(word, classes, sides_before) for word, _, _ in added]
    together = replace(
        labelled,
        entries=labelled.entries + [Entry(to_bytes(source), 0, 0, True) for _, source, _ in added],
        labels=labels + [str(word.statement.label) for word, _, _ in added],
        sides=[*labelled.sides, *sides],
    )
    files += [file for _, _, file in added]
    rows += [
        _row(word, str(word.statement.path), None, "left out")
        for sha256, word in said.words.items()
        if sha256 not in met and word.statement.verdict != "class"
    ]
    rows.sort(key=lambda row: (row["source"], row["sha256"]))
    reasons = {sha256: why for sha256, why in usable.items() if why}
    reasons |= {word.statement.sha256: file.bad for word, _, file in more if file.bad}
    return Taught(together, FilesRead(files, {**known, **places}, read.decoded + count), rows, reasons, decoded)


def _side(word: Word, classes: Sequence[str], before: Mapping[str, SideName]) -> SideName | None:
    """Of a picture that the folder has not; None where its content decides."""
    if word.statement.label not in classes:
        return None
    return before.get(word.statement.sha256) or (None if word.first.chosen == "audit" else "train")


def sides_in(dataset: Dataset | None, seed: int) -> dict[str, SideName]:
    """SHA-256 (hex) of a file -> the side on which a version has it; nothing where another seed has drawn it."""
    if dataset is None or dataset.artifact.identity["settings"].get("split_seed") != seed:
        return {}
    sides: tuple[tuple[SideName, Split], ...] = (("train", dataset.train), ("test", dataset.test))
    return {str(sha256): name for name, side in sides for sha256 in side.sha256 or ()}


def source_of(name: str, path: str) -> str:
    """What a dataset calls a picture that people labelled in a table called `name`."""
    return f"{LABELLED}{name}/{path}"


def findings(
    said: Words, rows: Sequence[Mapping[str, Any]], reasons: Mapping[str, str]
) -> Iterator[tuple[str, list[str]]]:
    """Sentences, each with examples: what was corrected, and which words could not be used."""
    uses = Counter(str(row["use"]) for row in rows)
    corrected = [row for row in rows if row["use"] == "corrected"]
    if corrected:
        examples = [f"{row['source']}: {row['folder_label']} -> {row['label']}" for row in corrected]
        yield f"{len(corrected):,} labels of the folder corrected by what people said as {said.name}", examples
    for use in sorted(set(uses) - {"added", "confirmed", "corrected", "left out"}):
        unused = [row for row in rows if row["use"] == use]
        examples = [f"{row['source']} ({row['label']})" for row in unused]
        yield f"{uses[use]:,} labels of {said.name} not used: {reasons[unused[0]['sha256']]}", examples


def _usable(word: Word, classes: Sequence[str], new_classes: bool) -> str | None:
    """None, or why a label can't be learned from."""
    try:
        if word.statement.verdict == "class":
            known_class(str(word.statement.label), classes, new=new_classes)
    except UnknownClass as error:
        return f"no class: {error}; --new-classes takes it"
    except ClassNameError as error:
        return f"no class: {error}"
    return None


def _kind(why: str) -> str:
    """One word or two of a reason: what holds paths of this machine is no part of a version."""
    return why.partition(":")[0]


def _elsewhere(
    settings: Settings,
    said: Words,
    met: set[str],
    usable: Mapping[str, str | None],
    known: Mapping[str, Place],
    spec: ImageSpec,
    decoded_of: Callable[[str], Decoded],
    on_rows: OnRows,
) -> tuple[list[tuple[Word, str, Read]], dict[str, Place], list[Decoded], int]:
    """The labelled pictures that are not in the folder: what was read of each, or why it could not be; where the pixels
    are; what keeps them; and how many were decoded."""
    found: list[tuple[Word, str, Read]] = []
    of_folder: dict[str | None, list[Word]] = {}
    for sha256, word in said.words.items():
        if sha256 in met or word.statement.verdict != "class":
            continue
        source = source_of(said.name, word.statement.path or sha256[:12])
        if sha256 in known or usable[sha256]:  # an earlier version of the dataset has its pixels
            found.append((word, source, Read(to_bytes(source), 0, 0, sha256, usable[sha256])))
        else:
            of_folder.setdefault(word.statement.folder, []).append(word)
    places: dict[str, Place] = {}
    used: list[Decoded] = []
    count = 0
    for where, words in of_folder.items():
        if where is None:
            why = "unknown: nobody has seen a picture with this content"
            read = [_unread(word, why) for word in words]
        else:
            try:
                text = on_record(settings, where)
                decoded = decoded_of(where)
                read, theirs = _read(settings, text, words, spec, decoded, on_rows)
                places |= theirs.places
                count += theirs.decoded
                used.append(decoded)
            except FolderError as error:
                read = [_unread(word, f"unreadable: {error}") for word in words]
        found += [
            (word, source_of(said.name, word.statement.path or word.statement.sha256[:12]), file)
            for word, file in zip(words, read, strict=True)
        ]
    return found, places, used, count


def _read(
    settings: Settings, text: str, words: Sequence[Word], spec: ImageSpec, decoded: Decoded, on_rows: OnRows
) -> tuple[list[Read], FilesRead]:
    """What the files of a folder are now, of each word; and all that was read. Raises FolderError."""
    with opened(settings, text) as folder:
        there = [folder.entry(to_bytes(str(word.statement.path))) for word in words]
    entries = sorted({each.path: each for each in there if each}.values())
    nothing = Labelled(entries, [""] * len(entries), [None] * len(entries), {}, "")
    read = read_files(settings, text, nothing, spec, [], None, decoded, on_rows)
    by_path = {each.path: each for each in read.files}
    found = []
    for word, entry in zip(words, there, strict=True):
        file = by_path[entry.path] if entry else None
        if file is None:
            found.append(_unread(word, "missing: the picture is not in its folder any more"))
        elif not file.bad and file.sha256 != word.statement.sha256:
            found.append(_unread(word, "changed: the picture is another one than was labelled"))
        else:
            found.append(file)
    return found, read


def _unread(word: Word, why: str) -> Read:
    return Read(to_bytes(str(word.statement.path)), 0, 0, word.statement.sha256, why)


def _row(word: Word, source: str, folder_label: str | None, use: str) -> dict[str, Any]:
    statement = word.statement
    return {
        "sha256": statement.sha256,
        "source": source,
        "verdict": statement.verdict,
        "label": statement.label,
        "folder_label": folder_label,
        "predicted": statement.predicted,
        "confidence": statement.confidence,
        "chosen": word.first.chosen,
        "use": use,
    }
