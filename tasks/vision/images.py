"""Bytes of a picture -> a uint8 array: one ImageSpec, for training and scoring alike."""

import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from tasks.vision.errors import ImageError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
_WHOLE_FILE = 1 << 20  # bytes that the JPEG decoder is given at once: 3 % faster than 64 KiB (2-core AMD EPYC)
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_MODES = {0: "L", 2: "RGB"}
_IHDR = struct.Struct(">IIBBBBB")
_CHUNK = struct.Struct(">I4s")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_PHOTOMETRIC = 262  # TIFF's tag: 0 where zero is white
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", *_SIXTEEN_BIT)


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes numbers.

    height, width: pixels of the array; channels: 1 (grey, ITU-R 601-2 luma) or 3 (RGB). The picture is turned upright
    by its EXIF orientation and stretched to the size with an antialiased bilinear filter. `invert` turns a dark object
    on a light background into a light one on black; transparent pixels become `background` (0-255) after that. With
    `fit` it keeps its shape, in the middle of as much `background` as the size has left: for people to look at.
    """

    height: int
    width: int
    channels: Literal[1, 3]
    resample: Literal["bilinear"] = "bilinear"
    background: int = 0
    invert: bool = False
    fit: bool = False

    def to_dict(self) -> dict[str, Any]:
        """With `fit` only where it is set: no model sees pictures so, and the rest is in the identities of versions."""
        return {name: value for name, value in asdict(self).items() if name != "fit" or value}

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

    JPEG, PNG, GIF, BMP, WebP and TIFF, by content, whatever the file is called; 16-bit grey keeps its upper 8 bits,
    and the one transparent value that it may have.
    Raises ImageError with kind unsupported (no picture of these formats, or of an odd mode), corrupt (broken or cut
    off) or too_large (by `limits`, before anything is decoded).
    """
    if len(content) > limits.bytes:
        raise ImageError("too_large", f"the file has {len(content):,} bytes, the limit is {limits.bytes:,}")
    if not content:
        raise ImageError("corrupt", "the file is empty")
    if plain := _plain_png(content, limits):
        return Decoded(_pixels(plain, spec), *plain.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = _open(content, limits)
        width, height = picture.size
        try:
            if picture.format in ("JPEG", "MPO"):
                _draft(picture, spec)
            picture.load()
            if content.rfind(_ENDS.get(picture.format or "", b"")) < 0:  # whole pixels, but Pillow forgives a lost tail
                raise ImageError("corrupt", f"the {picture.format} data breaks off before its end")
            upright = _upright(picture)
            if upright.mode in _SIXTEEN_BIT:
                upright = _to_eight_bits(upright, _zero_is_white(picture))
            return Decoded(_pixels(upright, spec), width, height)
        except (MemoryError, ImageError):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ImageError("too_large", f"the picture unfolds to more than {limits.pixels:,} pixels") from None
        except Exception as error:  # strangers' bytes: decoders raise OSError, SyntaxError, ValueError, struct.error...
            raise ImageError("corrupt", f"the {picture.format} data is damaged or cut off") from error


def _plain_png(content: bytes, limits: Limits) -> Image.Image | None:
    """A whole 8-bit grey or RGB PNG without ancillary chunks, by Pillow's C decoder but without its Python parser.

    None for every other file, however slightly odd: the way through `Image.open` judges that. The pixels are the same
    (tests/test_images.py), in 26 us instead of 41 us for 28x28 (2-core AMD EPYC).
    """
    if not content.startswith(_PNG_START) or len(content) < len(_PNG_START) + _IHDR.size:
        return None
    width, height, depth, colour, compression, filtering, interlace = _IHDR.unpack_from(content, len(_PNG_START))
    mode = _PNG_MODES.get(colour)
    if (
        (depth, compression, filtering, interlace) != (8, 0, 0, 0)
        or mode is None
        or not 0 < width * height <= limits.pixels
    ):
        return None
    data, position = [], 8
    while position + 12 <= len(content):
        length, kind = _CHUNK.unpack_from(content, position)
        end = position + 8 + length
        if zlib.crc32(content[position + 4 : end]) != int.from_bytes(content[end : end + 4]):
            return None
        if kind == b"IDAT":
            data.append(content[position + 8 : end])
        elif kind == b"IEND":
            break
        elif kind != b"IHDR" or position != 8:
            return None
        position = end + 4
    else:
        return None
    try:
        return Image.frombytes(mode, (width, height), b"".join(data), "zip", mode)
    except Exception:
        return None


def _draft(picture: ImageFile.ImageFile, spec: ImageSpec) -> None:
    """Let the JPEG decoder scale down by 2, 4 or 8, and leave colour out where grey is wanted.

    At least twice the wanted size stays, for the bilinear filter to work on; in a noisy 1024x1024 picture no pixel of
    28x28 then differs by more than 6 of 255 from a full decode (tests/test_images.py holds the bound).
    """
    picture.decodermaxblock = _WHOLE_FILE
    side = 2 * max(spec.height, spec.width)
    picture.draft("L" if spec.channels == 1 else "RGB", (side, side))


def _open(content: bytes, limits: Limits) -> ImageFile.ImageFile:
    Image.MAX_IMAGE_PIXELS = limits.pixels  # Pillow's own bomb check, for what grows after the header
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too_large", f"the picture claims more than {limits.pixels:,} pixels") from None
    except UnidentifiedImageError:
        if content.startswith(_SIGNATURES):
            raise ImageError(
                "corrupt", "the file begins as a picture and breaks off, or its header is damaged"
            ) from None
        raise ImageError("unsupported", f"expected a picture ({', '.join(FORMATS)}), found something else") from None
    except Exception as error:
        raise ImageError("corrupt", "the picture's header is damaged") from error
    width, height = picture.size
    if width * height > limits.pixels:
        raise ImageError("too_large", f"the picture has {width}x{height} pixels, the limit is {limits.pixels:,}")
    if picture.mode not in _MODES:
        raise ImageError("unsupported", f"expected 8-bit or 16-bit grey, palette or colour, found mode {picture.mode}")
    return picture


def _zero_is_white(picture: ImageFile.ImageFile) -> bool:
    """Whether this is a TIFF of 16-bit grey whose zero is white: Pillow turns only those of fewer bits round."""
    if picture.format != "TIFF" or picture.mode not in _SIXTEEN_BIT:
        return False
    from PIL import TiffImagePlugin

    assert isinstance(picture, TiffImagePlugin.TiffImageFile)
    return bool(picture.tag_v2.get(_PHOTOMETRIC, 0) == 0)


def _to_eight_bits(picture: Image.Image, zero_is_white: bool) -> Image.Image:
    """16-bit grey by its upper 8 bits, with alpha where one value is transparent: Pillow would look for that value
    among the 8-bit ones."""
    values = np.asarray(picture).astype(np.uint16)
    grey = Image.fromarray(((0xFFFF - values if zero_is_white else values) >> 8).astype(np.uint8))
    transparent = picture.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray((values != transparent).astype(np.uint8) * 255))
    return grey


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
