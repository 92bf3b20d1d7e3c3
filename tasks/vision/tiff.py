"""What a TIFF is that Pillow does not read, by its first directory (TIFF 6.0, and what programs added)."""

import io

from PIL.TiffImagePlugin import ImageFileDirectory_v2

TIFF_STARTS = (b"II*\0", b"MM\0*")
_BITS, _PHOTOMETRIC, _SAMPLES, _FORMAT = 258, 262, 277, 339
_PLACES = ((273, 279), (324, 325))  # where strips, and tiles, begin, and how many bytes they have
_COLOURS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab"}
_NUMBERS = {1: "bits", 2: "signed bits", 3: "bits of floating point", 5: "bits, complex", 6: "bits of complex floats"}
_SENSOR = (32803, 34892)  # a colour filter's mosaic, and what was made of one (DNG)


def tiff_kind(content: bytes) -> str | None:
    """What the picture is, with its article; None where it is damaged or cut off."""
    try:
        directory = ImageFileDirectory_v2(content[:8])
        source = io.BytesIO(content)
        source.seek(directory.next)
        directory.load(source)
        begins, sizes = next((directory[at], directory[of]) for at, of in _PLACES if at in directory)
        ends = [begin + size for begin, size in zip(begins, sizes, strict=True)]
        bits, number = directory.get(_BITS, (1,)), directory.get(_FORMAT, (1,))
        colour, samples = int(directory.get(_PHOTOMETRIC, 1)), int(directory.get(_SAMPLES, 1))
    except Exception:  # strangers' bytes
        return None
    if not (bits and number and ends) or max(ends) > len(content):
        return None
    if colour in _SENSOR:
        return "the raw TIFF of a camera's sensor"
    each = "/".join(map(str, sorted({int(each) for each in bits})))
    extra = samples - {2: 3, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}.get(colour, 1)
    more = f" and {extra} more {'channel' if extra == 1 else 'channels'}" if extra > 0 else ""
    size = f"{each} {_NUMBERS.get(int(number[0]), 'bits')} a sample"
    return f"a TIFF of {_COLOURS.get(colour, 'unusual colours')}{more} with {size}"
