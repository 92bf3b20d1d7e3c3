"""What is odd about a dataset before anything is trained on it: sentences for people, in the dataset and in reports.

What makes a training senseless stops a preparation; what is found here is only reported. On Fashion-MNIST nothing is
found but nine test images that are nearly training images (docs/your-own-pictures.md).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from artifacts.dataset import Dataset, Split
from artifacts.errors import LookbookError
from tasks.preparing.labelled import EMPTY
from tasks.preparing.sides import unseen
from tasks.reports.numbers import many
from tasks.shared.class_names import folded
from tasks.vision.duplicates import also_among, blank, near_duplicates
from tasks.vision.stability import MUCH, shift

IMBALANCE = 10  # times as many pictures of one class as of another
FEW_TO_TRAIN, FEW_TO_TEST = 20, 10  # of a class
FAINT = 32  # levels of 256: 12 bits in a 16-bit file leave 16; none of Fashion-MNIST's images has fewer than 254
SHRUNK = 0.5  # of the images that there were
_SHOWN = 10
_BINS = np.linspace(0, 256, 17)


class BlankPictures(LookbookError):
    """A dataset without anything to see."""


@dataclass(frozen=True)
class Finding:
    """check: which one; text: a sentence with the numbers; examples: some of the images or files it is about."""

    check: str
    text: str
    examples: list[str]


def check(
    train: Split,
    test: Split,
    classes: Sequence[str],
    *,
    bad: Mapping[str, str] | None = None,
    copies: int = 0,
    before: Dataset | None = None,
    labels: Iterable[tuple[str, list[str]]] = (),
    background: int = 0,
) -> list[dict[str, Any]]:
    """All findings, as dicts. `bad`: files that are left out; `copies`: files with the pixels of another one on their
    side; `before`: the version of the dataset that was there before; `labels`: what is odd about people's labels, each
    with examples; `background`: what transparent pixels became, 0-255.

    Raises BlankPictures when no image shows anything.
    """
    found = [
        *_left_out(bad or {}),
        *_names(classes),
        *_counts(train, test, classes),
        *_blank(train, test, background),
        *_faint(train, test),
        *_copies(copies),
        *_overlap(train, test),
        *(_changes(train, test, classes, before) if before else ()),
        *(_finding("labels", text, examples) for text, examples in labels),
    ]
    return [asdict(each) for each in found]


def sentence(finding: Mapping[str, Any]) -> str:
    """Its text, with an example where it names none."""
    text, examples = finding["text"], finding["examples"]
    return text if not examples or examples[0] in text else f"{text}, for example {examples[0]}"


def brightness(images: np.ndarray) -> np.ndarray:
    """How many images have which mean over all pixels and channels: 16 equal bins from 0 to 255."""
    means = [images[start : start + 4096].mean(axis=(1, 2, 3)) for start in range(0, len(images), 4096)]
    return np.histogram(np.concatenate(means), _BINS)[0]


def _left_out(bad: Mapping[str, str]) -> Iterator[Finding]:
    kinds: dict[str, list[str]] = defaultdict(list)
    for path, why in bad.items():
        kinds[why.partition(":")[0]].append(f"{path} ({why})")
    for kind, files in kinds.items():
        if kind == EMPTY:
            folders = [path.removesuffix("/") for path, why in bad.items() if why.startswith(f"{EMPTY}:")]
            text = f"{many(len(folders), 'folder')} without a picture, which made no class: {_listed(folders)}"
            yield _finding("empty folders", text, folders)
        else:
            yield _finding("bad files", f"{many(len(files), 'file')} left out: {kind}", files)


def _names(classes: Sequence[str]) -> Iterator[Finding]:
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[folded(name)].append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = " and ".join(repr(name) for name in names)
            yield _finding("class names", f"classes that differ only in case, spaces or encoding: {shown}", names)
    told = {name for names in alike.values() if len(names) > 1 for name in names}
    odd = [name for name in classes if name not in told and (name != name.strip() or not name.isprintable())]
    if odd:
        shown = ", ".join(map(repr, odd[:_SHOWN]))
        yield _finding("class names", f"names with spaces around them, or characters that nobody sees: {shown}", odd)


def _counts(train: Split, test: Split, classes: Sequence[str]) -> Iterator[Finding]:
    trained, tested = (np.bincount(split.labels, minlength=len(classes)) for split in (train, test))
    most, least = int(trained.argmax()), int(trained.argmin())
    if trained[most] >= IMBALANCE * trained[least]:
        yield _finding(
            "imbalance",
            f"{trained[most] / trained[least]:.0f} times as many images to train on of {classes[most]} "
            f"({trained[most]:,}) as of {classes[least]} ({trained[least]:,})",
        )
    for doing, counts, enough in (("train on", trained, FEW_TO_TRAIN), ("test with", tested, FEW_TO_TEST)):
        few = [f"{name} {count}" for name, count in zip(classes, counts, strict=True) if count < enough]
        if few:
            yield _finding("few images", f"fewer than {enough} images to {doing}: {_listed(few)}", few)


def _blank(train: Split, test: Split, background: int) -> Iterator[Finding]:
    found, drawn = [], 0
    for split in (train, test):
        places = np.flatnonzero(blank(split.images))
        found += [str(split.sources[place]) for place in places.tolist()]
        drawn += int((split.images[places, 0, 0] == background).all(axis=1).sum())
    advice = f", {drawn:,} of that of transparent pixels: {unseen(background)}" if drawn else ""
    if len(found) == len(train.labels) + len(test.labels):
        raise BlankPictures(
            f"expected pictures that show something, found {len(found):,} of a single colour each, as {found[0]}; "
            f"look at the files{advice}"
        )
    if found:
        yield _finding("blank images", f"{many(len(found), 'image')} of a single colour{advice}", found)


def _faint(train: Split, test: Split) -> Iterator[Finding]:
    """Images that are not blank, and have hardly more to learn from."""
    found: list[str] = []
    for split in (train, test):
        for start in range(0, len(split.images), 4096):
            images = split.images[start : start + 4096]
            levels = images.max(axis=(1, 2, 3)).astype(int) - images.min(axis=(1, 2, 3))
            found += map(str, np.asarray(split.sources)[start + np.flatnonzero((levels > 0) & (levels < FAINT))])
    if found:
        yield _finding(
            "faint images",
            f"{many(len(found), 'image')} with less than {FAINT} of 256 levels between the darkest and the lightest "
            "pixel: if the files are 16-bit grey and use a part of its range (12-bit and thermal cameras), "
            "--deep range stretches them",
            found,
        )


def _copies(copies: int) -> Iterator[Finding]:
    if copies:
        have = "1 file has" if copies == 1 else f"{copies:,} files have"
        yield _finding("copies", f"{have} the pixels of another one; they are on the same side")


def _overlap(train: Split, test: Split) -> Iterator[Finding]:
    pairs, apart = near_duplicates(test.images, train.images)
    for what, found in (("the same pixels", pairs[apart == 0]), ("nearly the same pixels", pairs[apart > 0])):
        if images := len(np.unique(found[:, 0])):
            shown = [f"{test.sources[ours]} ~ {train.sources[theirs]}" for ours, theirs in found[:_SHOWN].tolist()]
            of = f"{images / len(test.labels):.2%} of those to test with"
            yield _finding("overlap", f"{many(images, 'test image')} with {what} as one to train on ({of})", shown)


def _changes(train: Split, test: Split, classes: Sequence[str], before: Dataset) -> Iterator[Finding]:
    """Against the version before. What can't be compared is passed over: another image size, an older Lookbook's."""
    version = before.artifact.ref.version
    for what, names in (
        ("vanished", sorted(set(before.classes) - set(classes))),
        ("appeared", sorted(set(classes) - set(before.classes))),
    ):
        if names:
            yield _finding("classes", f"classes that {what} since {version}: {_listed(names)}", names)
    items, earlier = len(train.labels) + len(test.labels), len(before.train.labels) + len(before.test.labels)
    if items <= SHRUNK * earlier:
        yield _finding("shrunk", f"{items:,} images, where {version} has {earlier:,}")
    if list(classes) == before.classes:
        counts = [np.bincount(split.labels, minlength=len(classes)) for split in (before.train, train)]
        if (found := shift(*counts)).above(MUCH):
            shares = [each / each.sum() for each in counts]
            moved = int(np.abs(shares[1] - shares[0]).argmax())
            yield _finding(
                "class shares",
                f"the classes' shares differ much from {version} (population stability index {found.index:.2f}): "
                f"{classes[moved]} {shares[0][moved]:.1%} before, {shares[1][moved]:.1%} now",
            )
    if train.images.shape[1:] == before.train.images.shape[1:]:
        then, now = brightness(before.train.images), brightness(train.images)
        if (found := shift(then, now)).above(MUCH):
            means = [float(before.train.images.mean()), float(train.images.mean())]
            yield _finding(
                "pixels",
                f"the images' brightness differs much from {version} (population stability index {found.index:.2f}): "
                f"mean {means[0]:.0f} before, {means[1]:.0f} now, of 255",
            )
    if before.train.sha256 is not None and test.sha256 is not None:
        learned = set(map(str, before.train.sha256))
        known = also_among(test.images, before.train.images)
        files = zip(test.sources, map(str, test.sha256), known.tolist(), strict=True)
        if seen := [path for path, sha256, same in files if same or sha256 in learned]:
            text = f"{many(len(seen), 'image')} to test with that {version} trained on: its models have seen them"
            yield _finding("moved", text, map(str, seen))


def _finding(name: str, text: str, examples: Iterable[str] = ()) -> Finding:
    return Finding(name, text, list(examples)[:_SHOWN])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
