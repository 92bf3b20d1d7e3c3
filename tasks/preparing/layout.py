"""What the folders at the top of labelled pictures are: classes, the two sides, or something to ask about."""

import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from artifacts.errors import LookbookError
from tasks.shared.listing import to_text
from tasks.shared.litter import is_no_picture

SideName = Literal["train", "test"]
SIDES: tuple[SideName, ...] = ("train", "test")
_SHOWN = 5

_BESIDE = r"(?:data|dataset|file|folder|image|img|photo|picture|sample|seg|set|split|x|y)s?"
_A_SIDE = re.compile(
    rf"(?:{_BESIDE})*"
    r"(?:(?:train|test)(?:ing)?|val(?:id|idate|idation)?|dev|eval(?:uate|uation)?|hold(?:ing|s)?out|heldout)+s?"
    rf"(?:{_BESIDE})*"
)


class LabelError(LookbookError):
    """Labels that can't be learned from: one class only, a table without its columns."""


def names_a_side(name: str) -> bool:
    """Whether a folder is called as people call a side of a data set: `val`, `Training`, `test_set`, `seg_train`,
    `Validation Images 2`. Case, plural, digits and what stands between words don't count."""
    letters = "".join(each for each in unicodedata.normalize("NFKC", name).casefold() if each.isalpha())
    return bool(_A_SIDE.fullmatch(letters))


def depth_of_classes(paths: Iterable[bytes], where: str) -> int:
    """How many folders are above those of the classes: none, or one, `train` and `test`.

    paths: of all files. where: the folder that they are in, for messages.

    Raises LabelError for folders that look like sides and are not just these two, and for folders that all have the
    same ones in them, as years or people with a folder for each class have.
    """
    inside: dict[str, set[str]] = {}
    at_once: set[str] = set()  # folders with pictures that are in no further folder
    for path in paths:
        first, *deeper = path.split(b"/", 2)
        if not first or not deeper:
            continue
        found = inside.setdefault(first.decode(errors="replace"), set())
        if len(deeper) > 1:
            found.add(to_text(deeper[0]))
        elif not is_no_picture(path):
            at_once.add(first.decode(errors="replace"))
    sides = sorted(filter(names_a_side, inside))
    if sides:
        return _below_sides(inside, sides, where)
    shared = set.intersection(*inside.values()) if len(inside) > 1 and not at_once else set()
    classes = sorted(name for name in shared if any(each.isalpha() for each in name))  # others are days and numbers
    if len(classes) > 1:
        top = sorted(inside)
        raise LabelError(
            f"expected a folder for each class in {where}, found {_listed(top)}, which all have the same folders in "
            f"them ({_listed(classes)}), as if those were the classes; if they are, put the pictures of each class "
            f"into one folder, or learn from one of these folders ({_images(where, top[0])}); if not, give a table of "
            "paths and labels"
        )
    return 0


def _below_sides(inside: dict[str, set[str]], sides: Sequence[str], where: str) -> int:
    lower = sorted(name.casefold() for name in inside)
    has_classes = any(inside.values())
    if has_classes and lower == sorted(SIDES):
        return 1
    if has_classes and (len(sides) == len(inside) or set(lower) >= set(SIDES)):
        raise LabelError(
            f"expected train and test in {where}, found {', '.join(sorted(inside))}; call the two sides train and "
            "test, put what else is to be learned from into train (--validation holds out a share of it), and move "
            "what has no class elsewhere"
        )
    named = f"{_listed(sides)}, which {'is' if len(sides) == 1 else 'are'} called like a side of a data set"
    if len(sides) == len(inside):
        raise LabelError(
            f"expected a folder for each class in {where}, found {named} and not like a class; make a folder for each "
            "class in train and in test, or give a table of paths and labels (a column split may say train or test)"
        )
    beside = next(name for name in sorted(inside) if name not in sides)
    raise LabelError(
        f"expected a folder for each class in {where}, found {named}, beside {beside}; put its pictures into the "
        "folders of their classes, or elsewhere. If it is a class, give its folder another name, or give a table of "
        "paths and labels"
    )


def _images(where: str, name: str) -> str:
    return f"--images {shlex.quote(f'{where}/{name}')}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
