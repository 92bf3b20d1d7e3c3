"""What people said of pictures (`lookbook review`), whatever files show them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from artifacts import aliases
from artifacts.documents import digest
from artifacts.errors import NotFound
from artifacts.labels import Labels, Word, label_names
from artifacts.store import Store
from tasks.shared.class_names import ClassNameError, UnknownClass, known_class


@dataclass(frozen=True)
class Words:
    """What counts of each file's content.

    name: of the log.
    words: SHA-256 (hex) -> what counts, in the order in which the files were first spoken of.
    by_age: the same SHA-256, that of the newest statement last.
    digest: of all that decides what becomes of it.
    """

    name: str
    words: Mapping[str, Word]
    by_age: Sequence[str]
    digest: str


@dataclass(frozen=True, eq=False)
class Picture:
    """What people said of the files that show one picture.

    names: the SHA-256 of these files, and of their pixels.
    newest: the word that counts, of whichever file.
    chosen: why the first of them was shown at first.
    why: why it can't be learned from, a word or two before a colon; None where nothing speaks against it.
    """

    names: frozenset[str | bytes]
    newest: Word
    chosen: str
    why: str | None

    @property
    def leaves(self) -> bool:
        """Whether it shows no class."""
        return self.newest.statement.verdict != "class"


def words_of(store: Store, name: str, new_classes: bool) -> Words:
    """What people said of the tables called `name`. Raises NotFound where there is no table and no label of that name,
    and Corrupt."""
    log = Labels(store.disk, name)
    words = log.words()
    if not words and aliases.current(store.disk, "predictions", name, "latest") is None:
        known = ", ".join(sorted({*label_names(store.disk), *aliases.names(store.disk, "predictions", "latest")}))
        raise NotFound(
            f"expected labels, or a table of predictions, called {name}; found neither (there are: {known or 'none'})"
        )
    newest: dict[str, None] = {}
    for event in log.standing():
        for statement in event.statements:
            newest.pop(statement.sha256, None)
            newest[statement.sha256] = None
    counts = [[sha256, asdict(words[sha256].statement), words[sha256].first.chosen] for sha256 in newest]
    first = list(words)  # both orders decide
    return Words(name, words, list(newest), digest({"words": counts, "first": first, "new_classes": new_classes}))


def name_of(sha256: str, contents: Mapping[str, bytes]) -> str | bytes:
    """Of the picture that a file shows. What can't be read shows what nothing else does."""
    return contents.get(sha256, sha256)


def pictures_of(
    said: Words, contents: Mapping[str, bytes], classes: Sequence[str], new_classes: bool
) -> dict[str | bytes, Picture]:
    """All pictures that people labelled, by their names."""
    names: dict[str | bytes, set[str | bytes]] = {}
    chosen: dict[str | bytes, str] = {}
    for sha256, word in said.words.items():
        name = name_of(sha256, contents)
        names.setdefault(name, {name}).add(sha256)
        chosen.setdefault(name, word.first.chosen)
    newest = {name_of(sha256, contents): said.words[sha256] for sha256 in said.by_age}
    return {
        name: Picture(frozenset(names[name]), word, chosen[name], _unusable(word, classes, new_classes))
        for name, word in newest.items()
    }


def _unusable(word: Word, classes: Sequence[str], new_classes: bool) -> str | None:
    """None, or why a label can't be learned from."""
    try:
        if word.statement.verdict == "class":
            known_class(str(word.statement.label), classes, new=new_classes)
    except UnknownClass as error:
        return f"no class: {error}; --new-classes takes it"
    except ClassNameError as error:
        return f"no class: {error}"
    return None
