"""Paths as people and other tools write them, found among those that there are."""

import os
import unicodedata
from collections.abc import Container, Iterable, Sequence

from artifacts.errors import LookbookError
from tasks.shared.listing import to_bytes, to_text


class SeveralPaths(LookbookError):
    """A path that is none as it stands, and nearly several."""


def addresses(*places: str) -> list[str]:
    """What absolute paths may begin with, of a folder that is at these places: as they are, and as text that is
    percent-encoded (`real_path`) says."""
    return list(dict.fromkeys(each for place in places for each in (place, _decoded(place))))


def spellings(written: Iterable[str], tops: Sequence[str], *, as_column: bool) -> list[str]:
    """What a path may be in the `path` column of a table of predictions (`to_text`), the likeliest first: as it stands,
    without white space around it, without `./` or the folder's address before it.

    written: it, with and without an apostrophe that may be an escape, the likelier first.
    tops: the folder's addresses.
    as_column: whether it rather is as that column has it than as its file is called.
    """
    different = dict.fromkeys(each for text in written for each in (text, text.strip()))  # mostly one
    texts = [_below(each.removeprefix("./"), tops) for each in different]
    encoded = [to_text(os.fsencode(each)) for each in texts]
    return list(dict.fromkeys([*texts, *encoded] if as_column else [*encoded, *texts]))


class Near:
    """Paths that differ from those that are written in what other machines change: `\\` for `/`, the folder before
    them, the form of Unicode, the case of letters."""

    def __init__(
        self, tops: Iterable[str], known: Iterable[str], wanted: Iterable[Sequence[str]], written: Container[str]
    ) -> None:
        """tops: the folder's addresses; known: the paths that there are; wanted: the `spellings` of those that are
        looked for; written: the known ones that stand exactly so beside those. Whoever wrote them tells cases apart:
        another case is another file, which is not there."""
        self._tops, self._written = list(map(_same, tops)), written
        keys = {self._key(each) for texts in wanted for each in texts}
        self._known: dict[str, list[str]] = {}
        for path in known if keys else ():
            if (key := _folded(_decoded(path))) in keys:
                self._known.setdefault(key, []).append(path)

    def find(self, texts: Sequence[str]) -> str | None:
        """The one that is meant by these spellings of a path; None where there is none. Raises SeveralPaths."""
        for each in texts:
            wanted = _below(_slashed(_decoded(each)), self._tops)
            found = self._known.get(self._key(each), [])
            for alike in (_slashed, _same):  # where several are left by the case, or by the form of Unicode
                found = [path for path in found if alike(_decoded(path)) == alike(wanted)] or found
            if len(found) > 1:
                raise SeveralPaths(f"ambiguous: it may be {' or '.join(map(repr, found))}; write one of them")
            if found and (found[0] not in self._written or _same(_decoded(found[0])) == _same(wanted)):
                return found[0]
        return None

    def _key(self, text: str) -> str:
        return _folded(_below(_same(_decoded(text)), self._tops))


def exact(texts: Sequence[str], known: Container[str]) -> str | None:
    """The first spelling that is known."""
    return next((each for each in texts if each in known), None)


def _below(path: str, tops: Iterable[str]) -> str:
    """Without the folder's address before it."""
    before = (f"{top.rstrip('/')}/" for top in tops)
    return next((path.removeprefix(top) for top in before if path.startswith(top)), path)


def _decoded(text: str) -> str:
    return os.fsdecode(to_bytes(text))


def _slashed(text: str) -> str:
    return text.replace("\\", "/").removeprefix("./")


def _same(text: str) -> str:
    return unicodedata.normalize("NFC", _slashed(text))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", _same(text).casefold())
