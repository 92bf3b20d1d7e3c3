"""How often a test split has made decisions: one that decides often stops being a test."""

import hashlib
import heapq
from collections.abc import Iterable, Sequence

from artifacts.aliases import Event
from artifacts.dataset import Split


def sample_of(test: Split) -> list[str]:
    """Some contents of a test split, always the same: by how many of them two splits share one sees how much of the
    splits is the same, whatever the files are called and however large they are looked at (Broder, "On the resemblance
    and containment of documents", 1997)."""
    contents: Iterable[bytes] = (image.tobytes() for image in test.images)
    if test.sha256 is not None:
        contents = (str(each).encode() for each in test.sha256)
    digests = (
        hashlib.sha256(content + int(label).to_bytes(4)).hexdigest()[:12]
        for content, label in zip(contents, test.labels, strict=True)
    )
    return heapq.nsmallest(_SAMPLED, set(digests))


_SAMPLED = 32


def decisions_by(sample: Sequence[str], events: Sequence[Event]) -> int:
    """How many decisions were made so far by a test split of which half the images at least are in this one; to keep
    what came out again, or what can't be compared, is none."""
    used = (event for event in events if event.action == "promote" or "p_value" in event.numbers)
    return sum(2 * len({*event.numbers.get("test_split", ())} & {*sample}) >= len(sample) for event in used)
