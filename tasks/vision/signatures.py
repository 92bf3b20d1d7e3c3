"""What a file is by its first bytes, for people: a few hundred formats have signatures, and these are what folders of
pictures hold beside pictures."""

import re

_BEGINNINGS = (
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"8BPS", "a Photoshop document"),
    (b"gimp xcf", "a GIMP document"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance HDR picture"),
    (b"DDS ", "a DDS texture"),
    (b"qoif", "a QOI picture"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"\0\0\2\0", "a cursor (CUR)"),
    (b"icns", "an icon (ICNS)"),
    (b"FUJIFILMCCD-RAW", "a raw file of a camera"),
    (b"IIU\0", "a raw file of a camera"),
    (b"IIRO", "a raw file of a camera"),
    (b"IIRS", "a raw file of a camera"),
    (b"II*\0\x10\0\0\0CR", "a raw file of a camera"),
    (b"II+\0", "a BigTIFF picture"),
    (b"MM\0+", "a BigTIFF picture"),
    (b"SIMPLE  =", "a FITS picture"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "a Parquet table"),
    (b"ARROW1", "an Arrow table"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (b"FLV\1", "a video (Flash)"),
    (b"\0\0\1\xba", "a video (MPEG)"),
    (b"\0\0\1\xb3", "a video (MPEG)"),
    (b"0&\xb2u\x8ef\xcf\x11", "a video (Windows Media)"),
    (b"OggS", "a sound or video (Ogg)"),
    (b"ID3", "a sound (MP3)"),
    (b"fLaC", "a sound (FLAC)"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a file of Microsoft Office, or Thumbs.db of Windows"),
    (b"\0\0\0\1Bud1", "a folder's settings (.DS_Store of macOS)"),
    (b"\0\5\x16\7\0", "a file's attributes (AppleDouble of macOS)"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program of Windows"),
    (b"version https://git-lfs.github.com/", "a pointer of Git LFS: its content was not fetched"),
    (b"/annex/objects/", "a pointer of git-annex: its content was not fetched"),
)
_ISO_BRANDS = {  # of the files that begin with the box `ftyp` (ISO/IEC 14496-12)
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC picture"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF picture"),
    b"crx ": "a raw file of a camera",
    b"M4A ": "a sound (m4a)",
    b"qt  ": "a video (QuickTime)",
}
_RIFF = {b"AVI ": "a video (AVI)", b"WAVE": "a sound (WAV)"}
_MARKUP = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*|<!doctype\s+)*<?(html|head|svg)\b", re.I | re.S
)
_LOOKED_AT = 1024  # bytes, for markup and text
_NOT_IN_TEXT = bytes({*range(32)} - {*b"\t\n\f\r\x1b"} | {127})


def described(content: bytes) -> str:
    """What the content is, with its article: `a PDF document`; `something else` where nothing is known of it."""
    for beginning, what in _BEGINNINGS:
        if content.startswith(beginning):
            return what
    if content[4:8] == b"ftyp":
        return _brand(content)
    if content[:4] == b"RIFF" and content[8:12] in _RIFF:
        return _RIFF[content[8:12]]
    if content[257:262] == b"ustar":
        return "a tar archive"
    return _text(content[:_LOOKED_AT]) or ("zeros alone" if not content.strip(b"\0") else "something else")


def _brand(content: bytes) -> str:
    """Of several brands, the first one that is known decides: AVIF pictures also name those that HEIC ones do."""
    boxes = content[8 : min(int.from_bytes(content[:4]), 256)]
    brands = [boxes[at : at + 4] for at in (0, *range(8, len(boxes) - 3, 4))]
    named = [brand for brand in brands if brand not in (b"mif1", b"msf1")] + brands
    return next((_ISO_BRANDS[brand] for brand in named if brand in _ISO_BRANDS), "a video (mp4)")


def _text(start: bytes) -> str | None:
    """What a text is by its beginning; None where it is none."""
    if found := _MARKUP.match(start):
        return "an SVG drawing" if found[1].lower() == b"svg" else "an HTML page"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text (UTF-16)"
    if start.translate(None, _NOT_IN_TEXT) != start:
        return None
    try:
        start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # a character that is cut is none that is wrong
            return None
    stripped = start.lstrip()
    return (
        "a JSON document"
        if stripped[:1] in b"{[" and stripped
        else "an XML document"
        if stripped[:5] == b"<?xml"
        else "text"
    )
