"""A folder's own labels and what people said, brought together; and what became of each word."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from artifacts.decoded import Decoded, Place
from artifacts.labels import Word
from artifacts.printable import many
from artifacts.settings import Settings
from tasks.preparing.elsewhere import read_elsewhere, source_of
from tasks.preparing.labelled import Labelled
from tasks.preparing.layout import SideName
from tasks.preparing.pictures import FilesRead
from tasks.preparing.said import Picture, Words, name_of, pictures_of
from tasks.shared.listing import Entry, to_bytes, to_text
from tasks.shared.watching import OnRows
from tasks.vision.images import ImageSpec

LEFT_OUT = "labelled"  # what begins the reason why a person's word keeps a picture out: it is no bad file
_WHY = {"none": "none of the classes", "bad": "a bad picture", "class": "a class that the folder has not"}


@dataclass(frozen=True)
class Told:
    """A word, the picture that it is of, and the file.

    source: what the dataset calls the file.
    folder_label: the folder's own; None where the folder has not this file.
    why: why it can't be learned from: of the picture, or of this file.
    """

    word: Word
    picture: Picture
    source: str
    folder_label: str | None
    why: str | None

    def why_unused(self, placed: Set[str], bad: Mapping[str, str]) -> str | None:
        """None where it was used, or where the picture leaves. See `Taught.outcome`."""
        if self.picture.leaves:
            return None
        if self.why or self.word.statement.sha256 not in placed:
            return self.why or bad[self.source]
        label = self.picture.newest.statement.label
        if self.word.statement.label != label:
            return f"superseded: a newer label, of a file with the same pixels, is {label}"
        return None

    @property
    def use(self) -> str:
        """What became of it, if it was used."""
        if self.picture.leaves:
            return "left out"
        if self.folder_label is None:
            return "added"
        return "confirmed" if self.folder_label == self.word.statement.label else "corrected"


@dataclass(frozen=True)
class Outcome:
    """What became of people's words.

    rows: of each: sha256, source, verdict, label, folder_label (the folder's own), predicted, confidence, chosen, use:
    confirmed, corrected, added, superseded (the file is learned from, or tested with, under a newer label of its
    picture), left out, or in a word why it could not be used. None where no labels were asked for.
    findings: sentences, each with examples: what was corrected, and which words could not be used.
    """

    rows: list[dict[str, Any]] | None
    findings: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Taught:
    """A folder's pictures, and those that people labelled elsewhere, with the labels that count.

    corrected: path of a file of the folder -> what its label was, and what it is.
    decoded: what was read beside the folder; to be removed when the dataset is published.
    """

    labelled: Labelled
    read: FilesRead
    corrected: dict[str, tuple[str, str]]
    decoded: list[Decoded]
    name: str
    told: list[Told]

    def outcome(self, placed: Set[str], bad: Mapping[str, str]) -> Outcome:
        """What became of the words, now that it is known what is on a side.

        placed: SHA-256 (hex) of the files that are; bad: path -> why a file of the folder is on none.
        """
        rows = []
        unused: dict[str, list[tuple[Told, str]]] = {}
        for each in self.told:
            if why := each.why_unused(placed, bad):
                unused.setdefault(_kind(why), []).append((each, why))
            rows.append(_row(each, _kind(why) if why else each.use))
        findings = []
        corrected = {path: labels for path, labels in self.corrected.items() if path not in bad}
        if corrected:
            examples = [f"{path}: {before} -> {label}" for path, (before, label) in corrected.items()]
            text = f"{many(len(corrected), 'label')} of the folder corrected by what people said as {self.name}"
            findings.append((text, examples))
        for _, words in sorted(unused.items()):
            examples = [f"{each.source} ({each.word.statement.label})" for each, _ in words]
            findings.append((f"{many(len(words), 'label')} of {self.name} not used: {words[0][1]}", examples))
        return Outcome(rows, findings)


def teach(
    settings: Settings,
    said: Words,
    labelled: Labelled,
    read: FilesRead,
    spec: ImageSpec,
    new_classes: bool,
    known: Mapping[str, Place],
    sides_before: Mapping[str | bytes, SideName],
    decoded_of: Callable[[str], Decoded],
    on_rows: OnRows,
) -> Taught:
    """Let people's words count: they beat the folder's labels, and bring in files that the folder has not.

    Files that show the same are one picture: of all that was said of them the newest counts for each of them.

    What was shown because the model was unsure is only trained on, as it would bend the measure: to test with are the
    folder's own pictures, also when their files are gone, and of those from elsewhere the ones that were drawn at
    random (an audit), and those of classes that the folder has not. What the folder has, too, goes where that is.

    known: SHA-256 -> pixels that are there already.
    sides_before: the SHA-256 of a file, or of its pixels -> the side on which an earlier version has it.
    decoded_of: where to keep what is decoded of another folder.
    """
    classes, own = labelled.classes, {str(file.sha256) for file in read.files}
    statements = [word.statement for sha256, word in said.words.items() if sha256 not in own]
    found = read_elsewhere(settings, statements, known, spec, decoded_of, on_rows)
    contents = {**found.contents, **read.contents}
    pictures = pictures_of(said, contents, classes, new_classes)
    labels, files = list(labelled.labels), list(read.files)
    told: list[Told] = []
    corrected: dict[str, tuple[str, str]] = {}
    in_folder: set[Picture] = set()
    for item, (entry, file) in enumerate(zip(labelled.entries, read.files, strict=True)):
        if not (picture := pictures.get(name_of(str(file.sha256), contents))):
            continue
        path, before, label = to_text(entry.path), labels[item], picture.newest.statement.label
        if word := said.words.get(str(file.sha256)):
            told.append(Told(word, picture, path, before, picture.why or file.bad))
        if picture.leaves or picture.why:
            files[item] = file._replace(bad=f"{LEFT_OUT}: {_WHY[picture.newest.statement.verdict]}")
        elif not file.bad:
            in_folder.add(picture)
            if label != before:
                labels[item] = str(label)
                corrected[path] = (before, labels[item])
    more: list[Told] = []
    for statement in statements:
        picture, file = pictures[name_of(statement.sha256, contents)], found.files[statement.sha256]
        no_class = picture.leaves and statement.verdict != "class"
        source = str(statement.path) if no_class else source_of(said.name, statement)
        more.append(Told(said.words[statement.sha256], picture, source, None, picture.why or file.bad))
    more.sort(key=_place)  # not by what happened to be known before
    added = [each for each in more if not each.why and not each.picture.leaves]
    together = replace(
        labelled,
        entries=labelled.entries + [Entry(to_bytes(each.source), 0, 0, True) for each in added],
        labels=labels + [str(each.picture.newest.statement.label) for each in added],
        sides=labelled.sides
        + [None if each.picture in in_folder else _side(each.picture, classes, sides_before) for each in added],
        elsewhere=len(added),
    )
    files += [found.files[each.word.statement.sha256] for each in added]
    read = FilesRead(files, {**known, **found.places}, contents, read.decoded + found.decoded)
    return Taught(together, read, corrected, found.kept, said.name, sorted([*told, *more], key=_place))


def _side(picture: Picture, classes: Sequence[str], before: Mapping[str | bytes, SideName]) -> SideName | None:
    """Of a picture that the folder has not; None where its content decides."""
    if picture.newest.statement.label not in classes:
        return None
    if known := {before[name] for name in picture.names if name in before}:
        return "test" if "test" in known else "train"
    return None if picture.chosen == "audit" else "train"


def _place(told: Told) -> tuple[str, str]:
    """Where it stands among the others."""
    return told.source, told.word.statement.sha256


def _kind(why: str) -> str:
    """One word or two of a reason: what holds paths of this machine is no part of a version."""
    return why.partition(":")[0]


def _row(told: Told, use: str) -> dict[str, Any]:
    statement = told.word.statement
    return {
        "sha256": statement.sha256,
        "source": told.source,
        "verdict": statement.verdict,
        "label": statement.label,
        "folder_label": told.folder_label,
        "predicted": statement.predicted,
        "confidence": statement.confidence,
        "chosen": told.word.first.chosen,
        "use": use,
    }
