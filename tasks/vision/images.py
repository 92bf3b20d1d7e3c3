"""Bytes of a picture -> a uint8 array: one ImageSpec, for training and scoring alike."""

import io
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.vision.errors import ImageError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", *_SIXTEEN_BIT)


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes numbers.

    height, width: pixels of the array; channels: 1 (grey, ITU-R 601-2 luma) or 3 (RGB). The picture is turned upright
    by its EXIF orientation and stretched to the size with an antialiased bilinear filter. `invert` turns a dark object
    on a light background into a light one on black; transparent pixels become `background` (0-255) after that.
    """

    height: int
    width: int
    channels: Literal[1, 3]
    resample: Literal["bilinear"] = "bilinear"
    background: int = 0
    invert: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ImageSpec":
        return cls(**fields)


@dataclass(frozen=True)
class Limits:
    """What a source picture may take: bytes of the file, pixels of its canvas."""

    bytes: int
    pixels: int


def decode(content: bytes, spec: ImageSpec, limits: Limits) -> np.ndarray:
    """The first frame as uint8 [height, width, channels], 0-255.

    JPEG, PNG, GIF, BMP, WebP and TIFF, by content, whatever the file is called; 16-bit grey keeps its upper 8 bits.
    Raises ImageError with kind unsupported (no picture of these formats, or of an odd mode), corrupt (broken or cut
    off) or too_large (by `limits`, before anything is decoded).
    """
    if len(content) > limits.bytes:
        raise ImageError("too_large", f"the file has {len(content):,} bytes, the limit is {limits.bytes:,}")
    if not content:
        raise ImageError("corrupt", "the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = _open(content, limits)
        try:
            pixels = _pixels(picture, spec)
        except ImageError:
            raise
        except Exception as error:  # strangers' bytes: decoders raise OSError, SyntaxError, ValueError, struct.error...
            raise ImageError("corrupt", f"the {picture.format} data is damaged or cut off") from error
    return pixels


def _open(content: bytes, limits: Limits) -> Image.Image:
    Image.MAX_IMAGE_PIXELS = limits.pixels  # Pillow's own bomb check, for what grows after the header
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too_large", f"the picture claims more than {limits.pixels:,} pixels") from None
    except UnidentifiedImageError:
        raise ImageError("unsupported", f"expected a picture ({', '.join(FORMATS)}), found something else") from None
    except Exception as error:
        raise ImageError("corrupt", "the picture's header is damaged") from error
    width, height = picture.size
    if width * height > limits.pixels:
        raise ImageError("too_large", f"the picture has {width}x{height} pixels, the limit is {limits.pixels:,}")
    if picture.mode not in _MODES:
        raise ImageError("unsupported", f"expected 8-bit or 16-bit grey, palette or colour, found mode {picture.mode}")
    return picture


def _pixels(picture: Image.Image, spec: ImageSpec) -> np.ndarray:
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in _SIXTEEN_BIT:
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    mode = "L" if spec.channels == 1 else "RGB"
    alpha = None
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
    picture = picture.convert("RGB").convert(mode) if picture.mode != mode else picture
    if spec.invert:
        picture = ImageOps.invert(picture)
    if alpha is not None:
        ground = Image.new(mode, picture.size, spec.background if mode == "L" else (spec.background,) * 3)
        picture = Image.composite(picture, ground, alpha)
    if picture.size != (spec.width, spec.height):
        picture = picture.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(spec.height, spec.width, spec.channels)
