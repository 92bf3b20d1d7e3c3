"""The folder of a job, opened again after it was listed, and whether it is still there while its files are read."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from artifacts.settings import Settings
from tasks.scoring.job import Job
from tasks.shared.folders import Folder, opened
from tasks.shared.listing import FolderError, FolderLost, to_text
from tasks.vision.files import DecodedFiles

_LOST_IN_A_ROW = 100  # files: one after another, they are no longer failures of their own


def moved(job: Job, where: str) -> FolderError:
    """The error of a folder that was at `where` when it was listed, and is another one now."""
    return FolderError(
        f"expected {job.request.folder} to be {where}, as when it was listed, found another folder: a link on the way "
        "was moved; run it again"
    )


@contextmanager
def reopened(settings: Settings, job: Job) -> Iterator[Folder]:
    """The folder, which was listed before.

    Raises FolderLost when it is not there any more, and FolderError when another one is.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(opened(settings, job.request.folder))
        except FolderError as error:
            raise FolderLost(f"{error}; it was there when it was listed") from None
        if not folder.is_at(job.where):
            raise moved(job, job.where)
        yield folder


class Losses:
    """Tells a folder that went away (a mount that vanished, a server that is gone) from files that did: by a number of
    files in a row that can't be read, for a reason that may pass."""

    def __init__(self, folder: Folder, text: str) -> None:
        """text: by which the folder is known."""
        self._folder, self._text = folder, text
        self._in_a_row = 0

    def look(self, paths: Sequence[bytes], decoded: DecodedFiles) -> None:
        """Look at what became of some files, in order. Raises FolderLost."""
        for place, path in enumerate(paths):
            lost = decoded.errors.get(place, ("", ""))[0] in ("missing", "unreadable")
            self._in_a_row = self._in_a_row + 1 if lost else 0
            if self._in_a_row < _LOST_IN_A_ROW:
                continue
            self._in_a_row = 0
            reason = self._folder.why_unreadable(path)
            if not isinstance(reason, PermissionError):  # permissions are a matter of each file, and don't pass
                raise FolderLost(
                    f"expected the files of {self._text} as they were listed, found {_LOST_IN_A_ROW} in a row that "
                    f"can't be read, the last one {to_text(path)} ({reason.strerror if reason else 'it can now'}): the "
                    "disk or its mount went away; run it again when it is back, what is finished stays"
                ) from reason
