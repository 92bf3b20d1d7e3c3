"""pytest tests/test_images.py"""

import gzip
import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tasks.vision.errors import ImageError
from tasks.vision.images import ImageSpec, Limits, decode
from tasks.vision.png import essential, plain

ROOT = Path(__file__).parents[1]
GREY = ImageSpec(height=4, width=4, channels=1)
RGB = ImageSpec(height=4, width=4, channels=3)
LIMITS = Limits(bytes=1 << 20, pixels=1 << 20)
RAMP = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)


def encode(picture, format="PNG", **options):
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(picture)
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def grey(content, **spec):
    return decode(content, ImageSpec(height=4, width=4, channels=1, **spec), LIMITS).pixels[..., 0]


def filled(mode, colour, size=(4, 4)):
    return Image.new(mode, size, colour)


def test_grey_pixels_are_taken_as_they_are():
    pixels = decode(encode(RAMP), GREY, LIMITS).pixels
    assert (pixels.shape, pixels.dtype) == ((4, 4, 1), np.uint8)
    assert (pixels[..., 0] == RAMP).all()
    assert (decode(encode(RAMP), RGB, LIMITS).pixels == RAMP[..., None]).all()


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG"])
def test_formats_are_known_by_content(format):
    content = encode(filled("RGB", (200, 200, 200)), format, **({"lossless": True} if format == "WEBP" else {}))
    assert np.abs(grey(content).astype(int) - 200).max() <= 1


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (filled("RGB", (255, 0, 0)), 76),  # ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B
        (filled("RGB", (0, 255, 0)), 150),
        (filled("RGB", (0, 0, 255)), 29),
        (filled("1", 1), 255),
        (filled("LA", (200, 0)), 0),
        (filled("LA", (200, 255)), 200),
        (filled("RGBA", (200, 200, 200, 51)), 40),
        (filled("RGB", (10, 20, 30)).quantize(4), 18),
        (Image.fromarray(np.full((4, 4), 0xABCD, np.uint16)), 0xAB),
    ],
    ids=["red", "green", "blue", "bilevel", "transparent", "opaque", "half", "palette", "16-bit"],
)
def test_every_mode_has_defined_pixels(picture, expected):
    assert (grey(encode(picture)) == expected).all()


DEEP = np.array([[0x0000, 0x1234, 0x8000, 0xFFFF]] * 3 + [[0x12FF, 0x8001, 0x80FF, 0xFF00]], np.uint16)


def tiff(pixels, bits, photometric, order="<", compression=1, orientation=1):
    """A TIFF of grey pixels by hand, as TIFF 6.0 describes it; photometric: 0 where zero is white; compression: 1 for
    none, 8 for deflate."""
    height, width = pixels.shape
    data = pixels.astype(f"{order}u{bits // 8}").tobytes()
    data = zlib.compress(data) if compression == 8 else data
    tags = {256: width, 257: height, 258: bits, 259: compression, 262: photometric, 273: 8 + 2 + 10 * 12 + 4}
    tags |= {274: orientation, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return start + entries + bytes(4) + data


def png(pixels, bits, colour_type, transparent=None):
    """A PNG by hand, as its specification describes it; pixels: one row of values after the other."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, len(pixels), bits, colour_type, 0, 0, 0))
    key = chunk(b"tRNS", struct.pack(">H", transparent)) if transparent is not None else b""
    return b"\x89PNG\r\n\x1a\n" + header + key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("compression", [1, 8])
def test_a_tiff_whose_zero_is_white(compression):
    for bits, pixels in [(8, RAMP), (16, DEEP)]:
        expected = pixels >> (bits - 8)
        assert (grey(tiff(pixels, bits, 1, compression=compression)) == expected).all()
        assert (grey(tiff(pixels, bits, 0, compression=compression)) == 255 - expected).all()
    assert (grey(tiff(DEEP, 16, 1, ">", compression)) == DEEP >> 8).all()
    assert (grey(tiff(DEEP, 16, 0, compression=compression), invert=True) == DEEP >> 8).all()


@pytest.mark.parametrize("photometric", [0, 1])
def test_a_sixteen_bit_tiff_is_turned_upright(photometric):
    expected = grey(tiff(DEEP, 16, photometric))
    assert (grey(tiff(DEEP[::-1, ::-1], 16, photometric, orientation=3)) == expected).all()


def test_sixteen_bit_grey_with_a_transparent_value():
    assert (grey(png(DEEP, 16, 0)) == DEEP >> 8).all()
    content = png(DEEP, 16, 0, transparent=0x8000)
    there = DEEP != 0x8000  # but 0x8001 and 0x80FF are, whose upper 8 bits are the same
    assert (grey(content) == np.where(there, DEEP >> 8, 0)).all()
    assert (grey(content, background=255) == np.where(there, DEEP >> 8, 255)).all()
    assert (grey(content, invert=True, background=7) == np.where(there, 255 - (DEEP >> 8), 7)).all()
    assert (decode(content, RGB, LIMITS).pixels == np.where(there, DEEP >> 8, 0)[..., None]).all()
    assert (grey(png(DEEP, 16, 0, transparent=0x80)) == DEEP >> 8).all(), "no pixel has that value"
    assert (grey(png(RAMP, 8, 0, transparent=0x80), background=255) == np.where(RAMP == 0x80, 255, RAMP)).all()


def test_sixteen_bit_grey_with_alpha():
    alpha = np.array([[0, 0xFFFF, 0xFFFF, 0x33FF]] * 4)
    content = png(np.dstack([DEEP, alpha]).reshape(4, 8), 16, 4)
    expected = Image.fromarray((DEEP >> 8).astype(np.uint8))
    expected.putalpha(Image.fromarray((alpha >> 8).astype(np.uint8)))
    assert (grey(content, background=255) == grey(encode(expected), background=255)).all()
    assert grey(content)[0].tolist() == [0, 0x12, 0x80, 0x33]


def test_cmyk():
    content = encode(filled("CMYK", (0, 0, 0, 55)), "TIFF")
    assert (decode(content, RGB, LIMITS).pixels == 200).all()


def test_a_transparent_palette_entry_becomes_background():
    picture = Image.fromarray(np.array([[0, 1]] * 4, np.uint8).repeat(2, 1)).convert("P")
    picture.putpalette([255, 255, 255, 90, 90, 90] + [0] * 762)
    assert grey(encode(picture, transparency=0)).tolist() == [[0, 0, 90, 90]] * 4


def test_invert_and_background():
    assert (grey(encode(RAMP), invert=True) == 255 - RAMP).all()
    transparent = encode(filled("RGBA", (10, 10, 10, 0)))
    assert (grey(transparent, invert=True) == 0).all(), "what isn't there is background, whichever way round"
    assert (grey(transparent, background=255) == 255).all()


def test_every_exif_orientation_gives_the_upright_picture():
    turned = {1: RAMP, 2: RAMP[:, ::-1], 3: RAMP[::-1, ::-1], 4: RAMP[::-1]}
    turned |= {5: RAMP.T, 6: RAMP.T[::-1], 7: RAMP.T[::-1, ::-1], 8: RAMP.T[:, ::-1]}
    for orientation, stored in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert (grey(encode(np.ascontiguousarray(stored), exif=exif)) == RAMP).all(), orientation


def test_the_first_frame_of_an_animation():
    frames = [filled("L", 100), filled("L", 200)]
    assert (grey(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])) == 100).all()


def test_other_sizes_are_stretched_with_antialiasing():
    checkers = (np.indices((64, 32)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(grey(encode(checkers)).astype(int) - 127).max() <= 1


def refusal(content, limits=LIMITS):
    with pytest.raises(ImageError) as caught:
        decode(content, GREY, limits)
    return caught.value.kind, caught.value.detail


def archive(open_archive):
    file = io.BytesIO()
    open_archive(file)
    return file.getvalue()


def zipped(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("shoe.jpg", b"x")


def tarred(file):
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("shoe.jpg"))


OTHERS = {
    "text": [b"hello", "Schöne Schuhe. ".encode() * 100, b"a,b\r\n1,2\r\n", b"BMW, a car"],
    "text (UTF-16)": ["hello".encode("utf-16")],
    "an SVG drawing": [b"<svg xmlns='x'/>", b"<?xml version='1.0'?>\n<!-- x -->\n<!DOCTYPE svg PUBLIC '-'>\n<svg/>"],
    "an HTML page": [b"<!DOCTYPE html><title>Log in</title>", b"\n <HTML lang=en>", b"\xef\xbb\xbf<!doctype HTML>"],
    "an XML document": [b"<?xml version='1.0'?><error><code>AccessDenied</code></error>"],
    "a JSON document": [b'{"error": "not found"}'],
    "a PDF document": [b"%PDF-1.7\n%\xe2\xe3"],
    "a zip archive": [archive(zipped)],
    "a tar archive": [archive(tarred)],
    "a gzip archive": [gzip.compress(b"x")],
    "a HEIC picture": [
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\0\0\0\x1cftypmif1\0\0\0\0miafheicmif1",
        b"\0\0\0\x18ftypmif1\0\0\0\0mif1mif1",
    ],
    "an AVIF picture": [b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", b"\0\0\0\x20ftypmif1\0\0\0\0mif1avifmiafMA1B"],
    "a video (mp4)": [b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", b"\0\0\0\x18ftypmp42"],
    "a video (QuickTime)": [b"\0\0\0\x14ftypqt  \0\0\0\0qt  "],
    "a video (AVI)": [b"RIFF\x24\0\0\0AVI LIST"],
    "a video (Matroska or WebM)": [b"\x1aE\xdf\xa3\x9fB\x86\x81\1"],
    "a JPEG XL picture": [b"\xff\x0a\xfa\x1f", b"\0\0\0\x0cJXL \r\n\x87\n"],
    "a raw file of a camera": [b"FUJIFILMCCD-RAW 0201", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"],
    "a Photoshop document": [b"8BPS\0\1"],
    "an icon (ICO)": [encode(RAMP, "ICO")],
    "a file of Microsoft Office, or Thumbs.db of Windows": [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"],
    "a pointer of Git LFS: its content was not fetched": [b"version https://git-lfs.github.com/spec/v1\noid"],
    "zeros alone": [bytes(100)],
    "something else": [encode(RAMP, "PPM"), b"\1\2\3\xfe\xfd" * 40, b"\x80abc"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "content"),
    [
        # Named, as archives hold the time: the workers of a session must call a test the same.
        pytest.param(what, each, id=f"{what}, {number}")
        for what, contents in OTHERS.items()
        for number, each in enumerate(contents)
    ],
)
def test_what_is_no_picture_of_ours_says_what_it_is(what, content):
    assert refusal(content) == ("unsupported", f"expected JPEG, PNG, GIF, BMP, WEBP or TIFF, found {what}")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_cut_off_pictures_are_corrupt_at_any_length(format):
    content = encode(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8), format)
    lost = {"TIFF": len(content) // 4, "GIF": 2}.get(format, 1)  # a TIFF's tail may be padding, a GIF's is a mark
    for length in range(26, len(content) - lost):
        assert refusal(content[:length])[0] == "corrupt", length
    for length in range(1, 26):
        assert refusal(content[:length])[0] in ("corrupt", "unsupported"), length


def test_an_empty_file_is_corrupt():
    assert refusal(b"") == ("corrupt", "the file is empty")


def test_limits():
    assert refusal(encode(RAMP), Limits(bytes=10, pixels=100)) == (
        "too_large",
        f"the file has {len(encode(RAMP))} bytes, the limit is 10",
    )
    kind, detail = refusal(encode(filled("L", 0, (100, 50))), Limits(bytes=1 << 20, pixels=4999))
    assert kind == "too_large"
    assert "4,999" in detail


def test_a_bomb_is_refused_before_its_pixels_exist():
    import tracemalloc

    bomb = encode(filled("1", 0, (20_000, 20_000)))
    assert len(bomb) < 100_000
    tracemalloc.start()
    assert refusal(bomb)[0] == "too_large"
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_odd_modes_are_unsupported():
    kind, detail = refusal(encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))
    assert (kind, "found mode F" in detail) == ("unsupported", True)


def test_flipped_bytes_never_escape_as_another_error():
    random = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        content = bytearray(encode(random.integers(0, 256, (16, 16, 3), dtype=np.uint8), format))
        for _ in range(150):
            damaged = content.copy()
            for index in random.integers(0, len(content), 3):
                damaged[index] = random.integers(0, 256)
            try:
                assert decode(bytes(damaged), RGB, LIMITS).pixels.shape == (4, 4, 3)
            except ImageError as error:
                assert error.kind in ("corrupt", "unsupported", "too_large")


def test_a_spec_survives_the_manifest():
    spec = ImageSpec(height=64, width=32, channels=3, background=255, invert=True)
    assert ImageSpec.from_dict(spec.to_dict()) == spec


def slowly(content, spec=GREY):
    """The pixels by Pillow's own way through the file, without our shortcut for plain PNG."""
    with Image.open(io.BytesIO(content)) as picture:
        mode = "L" if spec.channels == 1 else "RGB"
        return np.asarray(picture.convert(mode)).reshape(picture.height, picture.width, spec.channels)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_shortcut_for_plain_png_gives_pillows_pixels(mode, channels):
    random = np.random.default_rng(0)
    for height, width in [(1, 1), (1, 17), (28, 28), (37, 5), (64, 64)]:
        for options in ({}, {"compress_level": 0}, {"compress_level": 9}, {"optimize": True}):
            shape = (height, width, 3) if mode == "RGB" else (height, width)
            for pixels in (random.integers(0, 256, shape, dtype=np.uint8), np.full(shape, 7, np.uint8)):
                content = encode(pixels, **options)
                spec = ImageSpec(height=height, width=width, channels=channels)
                assert plain(essential(content), content, LIMITS.pixels) is not None
                assert (decode(content, spec, LIMITS).pixels == slowly(content, spec)).all()


def test_the_shortcut_leaves_everything_odd_to_pillow():
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x")
    whole = encode(RAMP)
    odd = [
        encode(RAMP, exif=exif), encode(RAMP, pnginfo=text), encode(RAMP, transparency=0), encode(filled("P", 1)),
        encode(filled("LA", (1, 2))), encode(filled("1", 1)), encode(Image.fromarray(RAMP.astype(np.uint16))),
    ]  # fmt: skip
    for content in odd:
        assert plain(essential(content), content, LIMITS.pixels) is None
    assert plain(essential(whole), whole, 15) is None
    for content in (whole[:-1], whole[:-12], whole[:50] + bytes([whole[50] ^ 1]) + whole[51:], whole[:8]):
        with pytest.raises(ImageError):
            essential(content)


def test_scaled_jpeg_decoding_stays_within_the_bound_that_its_docstring_tells():
    random = np.random.default_rng(0)
    boot = np.clip(np.add.outer(np.linspace(0, 200, 1024), np.sin(np.linspace(0, 9, 1024)) * 50), 0, 255)
    for noise in (0, 6, 12):
        pixels = (boot[..., None] + random.normal(0, noise, (1024, 1024, 3))).clip(0, 255).astype(np.uint8)
        content = encode(pixels, "JPEG", quality=88)
        for channels in (1, 3):
            spec = ImageSpec(height=28, width=28, channels=channels)
            full = Image.open(io.BytesIO(content)).convert("L" if channels == 1 else "RGB")
            expected = np.asarray(full.resize((28, 28), Image.Resampling.BILINEAR)).reshape(28, 28, channels)
            found = decode(content, spec, LIMITS)
            assert (found.width, found.height) == (1024, 1024)
            difference = np.abs(found.pixels.astype(int) - expected)
            assert difference.max() <= 6
            assert difference.mean() < 1


@pytest.mark.parametrize("spec", [ImageSpec(28, 28, 1), ImageSpec(224, 160, 3)], ids=["28x28 grey", "160x224 colour"])
@pytest.mark.parametrize(
    "kind", ["JPEG", "turned JPEG", "grey JPEG", "CMYK JPEG", "PNG", "grey PNG", "palette", "WEBP"]
)
def test_the_pages_pixels_are_ours(tmp_path, monkeypatch, spec, kind):
    """The Pillow of docs/exporting.md, for those who have a graph and no Lookbook: the same pixels, to the last one."""
    noise = np.random.default_rng(0).integers(0, 256, (768, 1024, 3), dtype=np.uint8)
    picture, options = Image.fromarray(noise), {"format": kind.split()[-1] if kind != "palette" else "PNG"}
    if kind == "turned JPEG":
        options["exif"] = Image.Exif()
        options["exif"][274] = 6
    picture = {"palette": picture.quantize(50), "CMYK JPEG": picture.convert("CMYK")}.get(kind, picture)
    picture = picture.convert("L") if kind.startswith("grey") else picture
    (tmp_path / "fashion-mnist-onnx").mkdir()
    (tmp_path / "fashion-mnist-onnx/lookbook.json").write_text(json.dumps({"image_spec": spec.to_dict()}))
    picture.save(tmp_path / "shoe.png", **options)
    pixels = re.findall(r"```python\n(.*?)```", (ROOT / "docs/exporting.md").read_text(), re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(pixels, found)
    ours = decode((tmp_path / "shoe.png").read_bytes(), spec, Limits(1 << 24, 1 << 24)).pixels
    np.testing.assert_array_equal(found["images"], ours[None])
