"""What can go wrong: the root of all errors of Lookbook's own, and those of artifacts. Every message says what was
expected, what was found, and what to do. docs/design.md has the whole tree."""

from artifacts.printable import printable


class LookbookError(Exception):
    """A failure that a user can act on: its text is shown as one line, without a traceback."""

    def __str__(self) -> str:
        """The message without what a terminal would obey: it holds names of files and classes, and goes to terminals,
        logs, tracebacks and the states of runs."""
        return printable(super().__str__())


class InvalidRef(LookbookError):
    """The text is no ref, and no short form of one."""


class NotFound(LookbookError):
    """Nothing in the store fits."""


class Removed(NotFound):
    """It was in the store, and was removed; the message tells when, by whom and why."""


class Ambiguous(LookbookError):
    """Several things in the store fit; the message lists them."""


class AlreadyExists(LookbookError):
    """Somebody else created this key first; nothing was written."""


class Corrupt(LookbookError):
    """Bytes in the store are not the bytes that were published; the message names the file."""


class StoreError(LookbookError):
    """The store can't be read or written, or doesn't keep its promises."""


class StoreAway(StoreError):
    """The service that a store is kept by, or the network to it, fails: the next try may not meet that."""


class SourceUnreadable(StoreError):
    """The store that is copied can't be read, or a file of it; the copy can be written."""


class NotPromotable(LookbookError):
    """Weights that must not become champion, when there is no champion to keep."""
