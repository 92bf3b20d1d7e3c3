"""What can go wrong with pictures and numbers. Messages say what was expected, what was found, and what to do."""


class VisionError(Exception):
    """A failure that a user can act on: its text is shown as one line, without a traceback."""

    def __str__(self) -> str:
        """The message without what a terminal would obey: it holds names of files and classes, and goes to terminals,
        logs, tracebacks and the states of runs."""
        message = super().__str__()
        return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in message)


class SourceError(VisionError):
    """A data set's files can't be had, or are not what they should be."""


class ImageError(VisionError):
    """A picture can't be decoded. `kind` is one of the predictions' error kinds: unsupported, corrupt, too_large..."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


class DecoderError(VisionError):
    """Decoder processes don't start on this machine, don't answer, or run other code than their parent."""


class SettingsError(VisionError):
    """Training settings that can't work on these data."""


class Diverged(VisionError):
    """The loss stopped being a number."""


class WeightsError(VisionError):
    """Tensors that don't fit the network they are meant for."""


class ExportError(VisionError):
    """A graph can't be written, or gives other numbers than the network that it was made from."""


class DeviceError(VisionError):
    """The device that was asked for isn't there."""
