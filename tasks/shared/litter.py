"""What machines and programs leave in folders of pictures, and files that say by their names that they are none.

One place for all that asks: it makes no class, no bad picture and no drift.
"""

_LEFT = frozenset(
    (
        *(b"thumbs.db", b"ehthumbs.db", b"ehthumbs_vista.db", b"desktop.ini"),  # Windows
        *(b"$recycle.bin", b"system volume information"),
        *(b"__macosx", b"icon\r", b"network trash folder", b"temporary items"),  # macOS, beside what begins with a dot
        *(b"@eadir", b"#recycle", b"#snapshot", b"@tmp"),  # Synology
        *(b"@recycle", b"@recently-snapshot", b"@__thumb"),  # QNAP
        *(b"lost+found", b"__pycache__"),
        *(b"picasa.ini", b"zbthumbnail.info", b"xnview.db", b"thumbnails-digikam.db"),  # programs for photographs
    )
)
_ENDINGS_LEFT = (b".lrdata", b"@synoeastream", b"@synoresource")  # Lightroom's previews, Synology's streams
_NO_PICTURES = frozenset(
    b"7z aae avi bz2 csv db doc docx gz h5 htm html ini ipynb json jsonl lock log m4v md mkv mov mp3 mp4 npy npz odt "
    b"parquet pdf pkl py rar rtf sh sqlite tar tgz tsv txt url wav webm xls xlsx xml xmp xz yaml yml zip".split()
)


def is_hidden(path: bytes) -> bool:
    """Whether a path, or a folder on it, begins with a dot: `.DS_Store`, `._1.jpg`, `.thumbnails/1.jpg`."""
    return path.startswith(b".") or b"/." in path


def is_litter(path: bytes) -> bool:
    """Whether no person put it there: a hidden file, or one that is called as what machines and programs leave, or is
    in a folder that is. Case does not count, as it does not where such files come from."""
    parts = path.lower().split(b"/")
    return is_hidden(path) or any(part in _LEFT or part.endswith(_ENDINGS_LEFT) for part in parts)


def is_no_picture(path: bytes) -> bool:
    """Whether a file's name says that it is something else: an archive, a text, a table, a film. What has no ending,
    or one that nobody knows, may be a picture."""
    _, dot, ending = path.lower().rpartition(b"/")[2].rpartition(b".")
    return bool(dot) and ending in _NO_PICTURES
