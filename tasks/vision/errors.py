"""What can go wrong with pictures and numbers. Messages say what was expected, what was found, and what to do."""

from artifacts.errors import LookbookError


class SourceError(LookbookError):
    """A data set's files can't be had, or are not what they should be."""


class ImageError(LookbookError):
    """A picture can't be decoded. `kind` is one of the predictions' error kinds: unsupported, corrupt, too_large..."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


class DecoderError(LookbookError):
    """Decoder processes don't start on this machine, don't answer, or run other code than their parent."""


class SettingsError(LookbookError):
    """Training settings that can't work on these data."""


class Diverged(LookbookError):
    """The loss stopped being a number."""


class WeightsError(LookbookError):
    """Tensors that don't fit the network they are meant for."""


class ExportError(LookbookError):
    """A graph can't be written, or gives other numbers than the network that it was made from."""


class DeviceError(LookbookError):
    """The device that was asked for isn't there."""


class CheckpointError(LookbookError):
    """A file of pretrained weights that can't be had, or is not of the network that is wanted."""
