"""pytest tests/test_damaged_pictures.py: what a decoder would make up is an error, and what is only odd is read."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tasks.vision.errors import ImageError
from tasks.vision.images import ImageSpec, Limits, decode
from tasks.vision.jpeg import SPARE

RGB = ImageSpec(height=64, width=64, channels=3)
LIMITS = Limits(bytes=1 << 26, pixels=50_000_000)


def photograph(width=400, height=300, seed=0):
    """Soft shapes and some grain, as photographs have both."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return Image.fromarray(np.clip(soft + random.normal(0, 6, soft.shape), 0, 255).astype(np.uint8))


def encode(picture, format="JPEG", **options):
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def pixels(content, spec=RGB):
    return decode(content, spec, LIMITS).pixels


def refusal(content):
    with pytest.raises(ImageError) as caught:
        decode(content, RGB, LIMITS)
    return caught.value.kind, caught.value.detail


KINDS = {
    "baseline": {"quality": 90},
    "grey": {"quality": 90},
    "fine": {"quality": 97, "subsampling": 0, "optimize": True},
    "restarts": {"quality": 90, "restart_marker_rows": 1},
    "progressive": {"quality": 90, "progressive": True},
}


def jpeg(kind, seed=0):
    picture = photograph(seed=seed)
    return encode(picture.convert("L") if kind == "grey" else picture, **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_is_cut_and_has_its_end_marker_again(kind):
    content = jpeg(kind)
    pixels(content)
    for part in (0.2, 1 / 3, 0.5, 0.8):
        cut = content[: int(len(content) * part)] + b"\xff\xd9"
        if kind == "progressive" and len(cut) > content.rindex(b"\xff\xda"):
            lost = np.abs(pixels(cut).astype(int) - pixels(content))
            assert lost.max() <= 8, "the last scan has the last bits alone"
        else:
            found, detail = refusal(cut)
            assert found == "corrupt", part
            assert detail.startswith("the JPEG data is")


@pytest.mark.parametrize("kind", ["baseline", "grey", "fine", "restarts"])
def test_a_jpeg_without_its_middle(kind):
    content = jpeg(kind)
    third = len(content) // 3
    assert refusal(content[:third] + content[2 * third :])[0] == "corrupt"


@pytest.mark.parametrize("kind", ["baseline", "grey", "fine"])
def test_a_jpeg_with_zeros_in_its_middle(kind):
    content = jpeg(kind)
    third = len(content) // 3
    for hole in (2048, 4096, 8192):
        assert refusal(content[:third] + bytes(hole) + content[third + hole :])[0] == "corrupt", hole


def test_a_progressive_jpeg_lacks_a_scan():
    content = jpeg("progressive")
    last = content.rindex(b"\xff\xda")
    assert refusal(content[:last] + b"\xff\xd9") == (
        "corrupt",
        "the JPEG data is incomplete: parts of the picture are in none of its scans",
    )
    first, second = content.index(b"\xff\xda"), content.index(b"\xff\xda", content.index(b"\xff\xda") + 2)
    assert refusal(content[:first] + content[second:])[0] == "corrupt"


@pytest.mark.parametrize("bounds", [b"\0\0\0", b"\0\x3f\x01", b"\1\x3f\0", b"\x3f\0\0", b"\0\x40\0"])
def test_bounds_that_a_camera_wrote_into_a_scan_that_has_none_are_no_damage(bounds):
    content = jpeg("baseline")
    end = content.index(b"\xff\xda") + 2
    end += int.from_bytes(content[end : end + 2])
    np.testing.assert_array_equal(pixels(content[: end - 3] + bounds + content[end:]), pixels(content))


def test_components_that_have_one_number_are_no_damage():
    content = encode(photograph(), subsampling=2, restart_marker_rows=1)
    numbered = bytearray(content)
    for marker, first, apart in ((b"\xff\xc0", 10, 3), (b"\xff\xda", 5, 2)):
        for component in range(3):
            numbered[content.index(marker) + first + apart * component] = 1
    np.testing.assert_array_equal(pixels(bytes(numbered)), pixels(content))


def test_restarts_that_are_missing_or_out_of_order():
    content = jpeg("restarts")
    places = [content.index(bytes([0xFF, 0xD0 + number])) for number in range(4)]
    assert refusal(content[: places[1]] + content[places[2] :])[0] == "corrupt"
    last = content.rindex(b"\xff\xd0")
    ends = [place for number in range(8) if (place := content.rfind(bytes([0xFF, 0xD0 + number]))) >= last]
    assert refusal(content[: max(ends)] + b"\xff\xd9")[0] == "corrupt"


def test_the_thumbnail_inside_is_no_end():
    """A picture that breaks off behind the thumbnail in its EXIF data has an end marker: that of the thumbnail."""
    thumbnail = encode(photograph(40, 30))
    content = jpeg("baseline")
    inside = struct.pack(">HH", 0xFFE1, len(thumbnail) + 2) + thumbnail
    whole = content[:2] + inside + content[2:]
    assert (pixels(whole) == pixels(content)).all()
    assert refusal(whole[:-2]) == ("corrupt", "the JPEG data breaks off before its end")
    assert refusal(whole[: len(whole) // 2] + bytes(5000)) == ("corrupt", "the JPEG data breaks off before its end")


@pytest.mark.parametrize("quality", [1, 75, 100])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (17, 33), (130, 90)])
def test_whole_jpegs_have_the_pixels_that_pillow_gives(size, quality):
    """Each way to write one, with something behind the end, and with a few bytes too many before it."""
    plain = ImageSpec(size[1], size[0], 3)
    for options in (
        {}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2, "optimize": True},
        {"restart_marker_blocks": 1}, {"restart_marker_rows": 1, "progressive": True},
    ):  # fmt: skip
        for mode in ("RGB", "L", "CMYK"):
            content = encode(photograph(*size).convert(mode), quality=quality, **options)
            with Image.open(io.BytesIO(content)) as picture:
                expected = np.asarray(picture.convert("RGB"))
            assert (pixels(content, plain) == expected).all()
            assert (pixels(content + b"behind it" * 400 + b"\xff\xd9", plain) == expected).all()
            assert (pixels(content[:-2] + b"\xff\xff\xff\xff\xd9", plain) == expected).all()
            assert (pixels(content[:-2] + bytes(SPARE // 4) + b"\xff\xd9", plain) == expected).all()


def test_a_flat_jpeg_is_whole_though_its_grey_is_that_of_missing_data():
    for options in ({}, {"optimize": True}, {"progressive": True}, {"optimize": True, "restart_marker_rows": 1}):
        content = encode(Image.new("RGB", (640, 480), (128, 128, 128)), **options)
        assert (pixels(content) == 128).all()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ((b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "expected 8 bits a sample of a JPEG, found 12"),
        ((b"\xff\xc0", b"\xff\xc3"), "expected a baseline or progressive JPEG, found a lossless one"),
    ],
)  # fmt: skip
def test_a_jpeg_that_no_decoder_here_knows(change, expected):
    content = jpeg("baseline")
    assert change[0] in content
    assert refusal(content.replace(*change, 1)) == ("unsupported", expected)


def test_markers_without_end_take_no_time():
    for content in (b"\xff" * (1 << 22), b"\xff\xd8\xff" + b"\xff\xd0" * (1 << 20), b"\xff\xd8\xff\xda" * (1 << 18)):
        assert refusal(b"\xff\xd8\xff\xe0" + content)[0] == "corrupt"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG = encode(photograph(64, 64), "PNG")
TEXT = zlib.compress(b"<x/>" * (1 << 18) + b"more")  # a little more than 1 MiB
ODD = {
    "xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + TEXT),
    "text": chunk(b"zTXt", b"Comment\0\0" + TEXT),
    "long texts": chunk(b"tEXt", b"Comment\0" + b"x" * (1 << 20)) * 40 + chunk(b"tEXt", b"More\0" + b"y" * (40 << 20)),
    "profile": chunk(b"iCCP", b"p\0\0" + TEXT),
    "half a profile": chunk(b"iCCP", b"p\0"),
    "unknown compression": chunk(b"zTXt", b"Comment\0\7" + TEXT),
    "checksum": chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1))[:-1] + b"\0",
    "checksum of an orientation": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")[:-1] + b"\0",
    "short": chunk(b"pHYs", b"\0"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_a_png_carries_beside_its_pixels_is_no_damage(odd):
    end = len(PNG) - 12
    limits = Limits(bytes=1 << 27, pixels=50_000_000)
    for content in (PNG[:33] + ODD[odd] + PNG[33:], PNG[:end] + ODD[odd] + PNG[end:]):
        assert (decode(content, RGB, limits).pixels == pixels(PNG)).all()


def test_a_text_of_a_png_still_tells_the_orientation():
    upright = np.asarray(photograph(64, 64))
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    told = PngImagePlugin.PngInfo()
    told.add_itxt("XML:com.adobe.xmp", "<x tiff:Orientation='6' tiff:Orientation=\"6\"/>", zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    for content in (encode(turned, "PNG", pnginfo=told), encode(turned, "PNG", exif=exif, icc_profile=b"none of any")):
        assert (pixels(content) == upright).all()


@pytest.mark.parametrize("where", [b"IDAT", b"PLTE", b"IHDR"])
def test_a_wrong_checksum_of_what_pixels_are_made_of_is_damage(where):
    content = bytearray(encode(photograph(64, 64).quantize(64), "PNG", dpi=(72, 72)))
    place = content.index(where)
    length = int.from_bytes(content[place - 4 : place])
    content[place + 4 + length] ^= 1
    assert refusal(bytes(content)) == ("corrupt", "the PNG data is damaged: a checksum is wrong")


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "WEBP"])
def test_other_formats_without_their_middle(format):
    picture = photograph()
    content = encode(picture.quantize() if format == "GIF" else picture, format)
    third = len(content) // 3
    assert refusal(content[:third] + content[2 * third :])[0] == "corrupt"
    ends = {"PNG": content[-12:], "GIF": b"\0;"}
    assert refusal(content[:third] + ends.get(format, b""))[0] == "corrupt"


def tiff(values, bits, number, photometric=None):
    """A TIFF by hand, as TIFF 6.0 describes it. values: [height, width, samples]; number: 1 whole, 3 float."""
    height, width, samples = values.shape
    data = values.tobytes()
    photometric = photometric if photometric is not None else 2 if samples >= 3 else 1
    tags = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * samples), (259, 3, [1]), (262, 3, [photometric]),
        (273, 4, [8]), (277, 3, [samples]), (278, 4, [height]), (279, 4, [len(data)]), (339, 3, [number] * samples),
    ]  # fmt: skip
    behind = 8 + len(data) + 2 + 12 * len(tags) + 4
    entries, more = struct.pack("<H", len(tags)), b""
    for tag, kind, told in tags:
        raw = struct.pack(f"<{len(told)}{'H' if kind == 3 else 'I'}", *told)
        entries += struct.pack("<HHI", tag, kind, len(told))
        entries += raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", behind + len(more))
        more += raw if len(raw) > 4 else b""
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + entries + bytes(4) + more


VALUES = np.random.default_rng(0).integers(0, 200, (8, 8, 4))
UNUSUAL = {
    "a TIFF of grey with 64 bits of floating point a sample": tiff(VALUES[..., :1].astype("<f8"), 64, 3),
    "a TIFF of RGB with 32 bits of floating point a sample": tiff(VALUES[..., :3].astype("<f4"), 32, 3),
    "a TIFF of grey and 1 more channel with 16 bits a sample": tiff(VALUES[..., :2].astype("<u2"), 16, 1),
    "a TIFF of grey with 64 bits a sample": tiff(VALUES[..., :1].astype("<u8"), 64, 1),
    "the raw TIFF of a camera's sensor": tiff(VALUES[..., :1].astype("<u2"), 16, 1, photometric=32803),
}


@pytest.mark.parametrize("what", UNUSUAL)
def test_an_unusual_tiff_is_called_by_its_name(what):
    assert refusal(UNUSUAL[what]) == ("unsupported", f"expected 8-bit or 16-bit grey, palette or colour, found {what}")
    assert refusal(UNUSUAL[what][:-60])[0] == "corrupt"


def bmp(alpha):
    """A BMP of 32 bits with a mask for alpha, as Windows 5 has it. alpha: uint8 [8, 8]."""
    values = np.dstack([np.full((8, 8, 3), (30, 60, 90), np.uint8), alpha])[::-1, :, [2, 1, 0, 3]]
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 8, 8, 1, 32, 3, 256, 0, 0, 0, 0) + masks + b" niW".ljust(52, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + 108 + 256, 0, 0, 14 + 108) + header + values.tobytes()


def test_a_bmp_whose_alpha_is_zero_everywhere_is_opaque():
    spec = ImageSpec(8, 8, 3)
    assert (pixels(bmp(np.zeros((8, 8), np.uint8)), spec) == (30, 60, 90)).all()
    half = np.repeat(np.uint8([0, 255]), 32).reshape(8, 8)
    assert (pixels(bmp(half), spec)[:4] == 0).all(), "alpha that says something counts"
    clear = encode(Image.new("RGBA", (8, 8), (30, 60, 90, 0)), "PNG")
    assert (pixels(clear, spec) == 0).all(), "a PNG's alpha always does"


def test_sixteen_bits_are_stretched_where_the_spec_says_so():
    """What a 12-bit camera, a thermal one, and one of 8 bits leave in 16: the pixels of the 8-bit picture, whatever
    pictures lie beside it."""
    eight = np.asarray(photograph(32, 32).convert("L")).astype(int)
    eight = ((eight - eight.min()) * 255 // (eight.max() - eight.min())).astype(np.uint16)
    stretched, upper = ImageSpec(32, 32, 1, deep="range"), ImageSpec(32, 32, 1)
    for values in (eight, eight * 16, eight * 2 + 7300, eight * 257):
        for format in ("PNG", "TIFF"):
            content = encode(Image.fromarray(values), format)
            assert (pixels(content, stretched)[..., 0] == eight).all()
            assert (pixels(content, upper)[..., 0] == values >> 8).all(), "as it was for models that learned so"
    flat = encode(Image.fromarray(np.full((32, 32), 700, np.uint16)), "PNG")
    assert (pixels(flat, stretched) == 0).all()
    plain = encode(Image.fromarray(eight.astype(np.uint8)), "PNG")
    assert (pixels(plain, stretched) == pixels(plain, upper)).all()


def test_one_transparent_value_of_sixteen_bits_does_not_count_for_the_range():
    values = np.array([[0, 1000, 1500, 2000]], np.uint16)
    content = encode(Image.fromarray(values), "PNG", transparency=0)
    spec = ImageSpec(1, 4, 1, deep="range", background=7)
    assert pixels(content, spec)[..., 0].tolist() == [[7, 0, 128, 255]]


def test_a_spec_names_its_rule_only_where_it_is_another():
    assert "deep" not in RGB.to_dict()
    spec = ImageSpec(8, 8, 1, deep="range")
    assert spec.to_dict()["deep"] == "range"
    assert ImageSpec.from_dict(spec.to_dict()) == spec
