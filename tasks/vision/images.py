"""Bytes of a picture -> a uint8 array: one ImageSpec, for training and scoring alike."""

import io
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from tasks.vision import jpeg, png
from tasks.vision.errors import ImageError
from tasks.vision.signatures import described
from tasks.vision.tiff import TIFF_STARTS, tiff_kind

DECODING = 2  # raise it when the same bytes give other pixels or another error: pictures are then decoded anew
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
_STARTS = (b"\x89PNG", jpeg.START, b"GIF8", *TIFF_STARTS)
_WHOLE_FILE = 1 << 20  # bytes that the JPEG decoder is given at once: 3 % faster than 64 KiB (2-core AMD EPYC)
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_PHOTOMETRIC = 262  # TIFF's tag: 0 where zero is white
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", *_SIXTEEN_BIT)


Deep = Literal["upper", "range"]


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes numbers.

    height, width: pixels of the array; channels: 1 (grey, ITU-R 601-2 luma) or 3 (RGB). The picture is turned upright
    by its EXIF orientation and stretched to the size with an antialiased bilinear filter. `invert` turns a dark object
    on a light background into a light one on black; transparent pixels become `background` (0-255) after that. With
    `fit` it keeps its shape, in the middle of as much `background` as the size has left: for people to look at.

    deep: how 16-bit grey becomes 8 bits: by its upper 8 (`upper`), or so that the darkest and the lightest pixel of
    the picture are 0 and 255 (`range`).
    """

    height: int
    width: int
    channels: Literal[1, 3]
    resample: Literal["bilinear"] = "bilinear"
    background: int = 0
    invert: bool = False
    fit: bool = False
    deep: Deep = "upper"

    def to_dict(self) -> dict[str, Any]:
        """With `fit` and `deep` only where they are set: the rest is in the identities of versions since the first."""
        defaults = {"fit": False, "deep": "upper"}
        return {
            name: value for name, value in asdict(self).items() if defaults.get(name) != value or name not in defaults
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ImageSpec":
        return cls(**fields)


@dataclass(frozen=True)
class Limits:
    """What a source picture may take: bytes of the file, pixels of its canvas."""

    bytes: int
    pixels: int


class Decoded(NamedTuple):
    """pixels: uint8 [height, width, channels], 0-255; width, height: of the source, as stored."""

    pixels: np.ndarray
    width: int
    height: int


def decode(content: bytes, spec: ImageSpec, limits: Limits) -> Decoded:
    """The first frame of a picture, as the spec wants it.

    JPEG, PNG, GIF, BMP, WebP and TIFF, by content, whatever the file is called; 16-bit grey becomes 8 bits as the spec
    says, with the one transparent value that it may have.
    Raises ImageError with kind unsupported (no picture of these formats, or of an odd mode), corrupt (broken, cut off,
    or with a hole) or too_large (by `limits`, before anything is decoded).
    """
    if len(content) > limits.bytes:
        raise ImageError("too_large", f"the file has {len(content):,} bytes, the limit is {limits.bytes:,}")
    if not content:
        raise ImageError("corrupt", "the file is empty")
    end = None
    if content.startswith(png.START):
        chunks = png.essential(content)
        if plain := png.plain(chunks, content, limits.pixels):
            return Decoded(_pixels(plain, spec), *plain.size)
        content = png.joined(chunks, content)
    elif content.startswith(jpeg.START):
        end = jpeg.end_of_data(content)
        content = content if end is None else content[:end] + jpeg.READ_AHEAD
    source = io.BytesIO(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = _open(source, content, limits)
        width, height = picture.size
        try:
            if picture.format in ("JPEG", "MPO"):
                _draft(picture, spec)
            if end is None:
                picture.load()
            else:
                _load_all(picture, source, end)
            upright = _upright(picture)
            if upright.mode in _SIXTEEN_BIT:
                upright = _to_eight_bits(upright, _zero_is_white(picture), spec.deep)
            return Decoded(_pixels(_opaque(upright, picture), spec), width, height)
        except (MemoryError, ImageError):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ImageError("too_large", f"the picture unfolds to more than {limits.pixels:,} pixels") from None
        except Exception as error:  # strangers' bytes: decoders raise OSError, SyntaxError, ValueError, struct.error...
            raise ImageError("corrupt", f"the {picture.format} data is damaged or cut off") from error


def _load_all(picture: ImageFile.ImageFile, source: io.BytesIO, end: int) -> None:
    """Load a JPEG whose data ends at byte `end`. The decoder gets the last bytes by themselves: what it does without
    is no part of this picture."""
    needed = end - jpeg.SPARE
    picture.decodermaxblock = needed if needed > 0 else len(source.getbuffer())
    picture.load()
    if 0 < needed == source.tell():
        raise ImageError("corrupt", "the JPEG data is damaged: it has more than the picture needs")


def _draft(picture: ImageFile.ImageFile, spec: ImageSpec) -> None:
    """Let the JPEG decoder scale down by 2, 4 or 8, and leave colour out where grey is wanted.

    At least twice the wanted size stays, for the bilinear filter to work on; in a noisy 1024x1024 picture no pixel of
    28x28 then differs by more than 6 of 255 from a full decode (tests/test_images.py holds the bound).
    """
    picture.decodermaxblock = _WHOLE_FILE
    side = 2 * max(spec.height, spec.width)
    picture.draft("L" if spec.channels == 1 else "RGB", (side, side))


def _open(source: io.BytesIO, content: bytes, limits: Limits) -> ImageFile.ImageFile:
    Image.MAX_IMAGE_PIXELS = limits.pixels  # Pillow's own bomb check, for what grows after the header
    try:
        picture = Image.open(source, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too_large", f"the picture claims more than {limits.pixels:,} pixels") from None
    except UnidentifiedImageError:
        raise _unknown(content) from None
    except Exception as error:
        raise ImageError("corrupt", "the picture's header is damaged") from error
    width, height = picture.size
    if width * height > limits.pixels:
        raise ImageError("too_large", f"the picture has {width}x{height} pixels, the limit is {limits.pixels:,}")
    if picture.mode not in _MODES:
        raise ImageError("unsupported", f"expected 8-bit or 16-bit grey, palette or colour, found mode {picture.mode}")
    return picture


def _unknown(content: bytes) -> ImageError:
    """What to say of a file that Pillow does not know."""
    if content[:4] in TIFF_STARTS and (kind := tiff_kind(content)):
        return ImageError("unsupported", f"expected 8-bit or 16-bit grey, palette or colour, found {kind}")
    if content.startswith(_STARTS) or (content[:4] == b"RIFF" and content[8:12] in (b"WEBP", b"")):
        return ImageError("corrupt", "the file begins as a picture and breaks off, or its header is damaged")
    return ImageError("unsupported", f"expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, found {described(content)}")


def _zero_is_white(picture: ImageFile.ImageFile) -> bool:
    """Whether this is a TIFF of 16-bit grey whose zero is white: Pillow turns only those of fewer bits round."""
    if picture.format != "TIFF" or picture.mode not in _SIXTEEN_BIT:
        return False
    from PIL import TiffImagePlugin

    assert isinstance(picture, TiffImagePlugin.TiffImageFile)
    return bool(picture.tag_v2.get(_PHOTOMETRIC, 0) == 0)


def _to_eight_bits(picture: Image.Image, zero_is_white: bool, rule: Deep) -> Image.Image:
    """16-bit grey as 8 bits, with alpha where one value is transparent: Pillow would look for that value among the
    8-bit ones."""
    values = np.asarray(picture).astype(np.uint16)
    seen = values != picture.info.get("transparency", -1)
    light = 0xFFFF - values if zero_is_white else values
    if rule == "upper":
        grey = Image.fromarray((light >> 8).astype(np.uint8))
    else:
        lowest, highest = (int(light[seen].min()), int(light[seen].max())) if seen.any() else (0, 0)
        parts = (np.clip(light, lowest, highest) - lowest).astype(np.float32) / max(highest - lowest, 1)
        grey = Image.fromarray((parts * 255 + 0.5).astype(np.uint8))
    if not seen.all():
        grey.putalpha(Image.fromarray(seen.astype(np.uint8) * 255))
    return grey


def _opaque(picture: Image.Image, source: ImageFile.ImageFile) -> Image.Image:
    """Without the alpha of a BMP where all of that is zero: programs that write 32 bits and mean 24 leave it so."""
    if source.format == "BMP" and picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (0, 0):
        return picture.convert("RGB")
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    """Turned by its EXIF orientation; as it lies where the EXIF data is junk."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture


def _pixels(picture: Image.Image, spec: ImageSpec) -> np.ndarray:
    """A loaded, upright picture as an array."""
    mode = "L" if spec.channels == 1 else "RGB"
    ground = spec.background if mode == "L" else (spec.background,) * 3
    alpha = None
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
    picture = picture.convert("RGB").convert(mode) if picture.mode != mode else picture
    if spec.invert:
        picture = ImageOps.invert(picture)
    if alpha is not None:
        picture = Image.composite(picture, Image.new(mode, picture.size, ground), alpha)
    size = (spec.width, spec.height)
    if spec.fit:
        picture = ImageOps.pad(picture, size, Image.Resampling.BILINEAR, color=ground)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(spec.height, spec.width, spec.channels)
