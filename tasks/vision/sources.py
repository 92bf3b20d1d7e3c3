"""Where labelled images come from: IDX data sets (Fashion-MNIST and its family), found along a chain of places."""

import gzip
import hashlib
import logging
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.vision.downloads import OnBytes, debian_package, https
from tasks.vision.errors import SourceError
from tasks.vision.images import ImageSpec
from tasks.vision.locks import locked_within

IMAGES_MAGIC = 0x00000803  # unsigned bytes, three dimensions
LABELS_MAGIC = 0x00000801  # unsigned bytes, one dimension
_GREY_28 = ImageSpec(height=28, width=28, channels=1)
_QUIET_SECONDS, _WAIT_SECONDS = 15.0, 3600.0  # until a wait for another one is told, and at most
_log = logging.getLogger(__name__)
_COMPRESSED_LIMIT = 1.01  # gzip makes no file larger by more than its headers


@dataclass(frozen=True)
class IdxFile:
    """One file of an IDX data set: `bytes` and `sha256` are those of the decompressed content."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class IdxDataset:
    """An IDX data set: its four files, its classes in label order, and where it can be had.

    `urls` are HTTPS folders that hold `<file>.gz`; `debian_package` unpacks to `share/datasets/<name>`.
    """

    name: str
    classes: tuple[str, ...]
    train_images: IdxFile
    train_labels: IdxFile
    test_images: IdxFile
    test_labels: IdxFile
    image_spec: ImageSpec = _GREY_28
    urls: tuple[str, ...] = ()
    debian_package: str | None = None

    @property
    def files(self) -> tuple[IdxFile, ...]:
        return self.train_images, self.train_labels, self.test_images, self.test_labels


@dataclass(frozen=True)
class LabelledImages:
    """images: uint8 [items, height, width, channels], 0-255; labels: int32 [items]; sources: [items] `file[index]`."""

    images: np.ndarray
    labels: np.ndarray
    sources: list[str]


# Digests of the decompressed files, because archives repack the gzip. Read off Debian's dataset-fashion-mnist
# 0.0~git20200523.55506a9-1, which has the files of https://github.com/zalandoresearch/fashion-mnist.
FASHION_MNIST = IdxDataset(
    name="fashion-mnist",
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    train_images=IdxFile(
        "train-images-idx3-ubyte", 47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    train_labels=IdxFile(
        "train-labels-idx1-ubyte", 60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    test_images=IdxFile(
        "t10k-images-idx3-ubyte", 7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    test_labels=IdxFile(
        "t10k-labels-idx1-ubyte", 10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
    urls=(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    debian_package="dataset-fashion-mnist",
)

DATASETS = {dataset.name: dataset for dataset in (FASHION_MNIST,)}


def fetch(dataset: IdxDataset, cache: Path, mirror: Path | None, on_bytes: OnBytes) -> dict[str, bytes]:
    """The decompressed content of the four files, each with the pinned size and digest: file name -> bytes.

    Looked for in the mirror, the cache, what the package manager put on disk, over HTTPS, and in Debian's package, in
    this order. A file in the mirror that is not the expected one is an error, elsewhere the next place is tried. Raises
    SourceError, which tells every place that was tried.
    """
    folder = cache / "datasets" / dataset.name
    try:
        with _locked(folder):
            return {file.name: _find(dataset, file, folder, mirror, on_bytes) for file in dataset.files}
    except OSError as error:
        raise SourceError(
            f"can't keep downloads in {folder}: {error.strerror}; make room or mend the permissions, "
            "or point LOOKBOOK_CACHE at another folder"
        ) from error


def read_side(dataset: IdxDataset, contents: dict[str, bytes], side: str) -> LabelledImages:
    """The `train` or `test` side of fetched files. Raises SourceError when images and labels don't match."""
    images_file, labels_file = (
        (dataset.train_images, dataset.train_labels) if side == "train" else (dataset.test_images, dataset.test_labels)
    )
    images = parse_idx(contents[images_file.name], IMAGES_MAGIC, images_file.name)
    labels = parse_idx(contents[labels_file.name], LABELS_MAGIC, labels_file.name)
    spec = dataset.image_spec
    if images.shape[1:] != (spec.height, spec.width):
        raise SourceError(f"{images_file.name} holds images of {images.shape[1:]}, expected {spec.height}x{spec.width}")
    if len(images) != len(labels):
        raise SourceError(f"{images_file.name} holds {len(images)} images, {labels_file.name} {len(labels)} labels")
    if len(labels) and labels.max() >= len(dataset.classes):
        raise SourceError(f"{labels_file.name} has label {labels.max()}, expected 0 to {len(dataset.classes) - 1}")
    sources = [f"{images_file.name}[{index}]" for index in range(len(images))]
    return LabelledImages(images[..., None], labels.astype(np.int32), sources)


def parse_idx(content: bytes, magic: int, name: str) -> np.ndarray:
    """An IDX file of unsigned bytes as a read-only uint8 array with the dimensions in its header.

    Format: big-endian magic (its last byte the number of dimensions), one uint32 a dimension, the data, end of file
    (http://yann.lecun.com/exdb/mnist/, "THE IDX FILE FORMAT"). Raises SourceError.
    """
    found = int.from_bytes(content[:4], "big")
    if len(content) < 4 or found != magic:
        raise SourceError(f"{name} is no IDX file of this kind: expected magic {magic:#010x}, found {found:#010x}")
    dimensions = magic & 0xFF
    start = 4 + 4 * dimensions
    shape = tuple(int(size) for size in np.frombuffer(content[4:start].ljust(4 * dimensions, b"\0"), ">u4"))
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise SourceError(f"{name} claims {shape}, which takes {expected:,} bytes; found {len(content):,}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _find(dataset: IdxDataset, file: IdxFile, folder: Path, mirror: Path | None, on_bytes: OnBytes) -> bytes:
    misses: list[str] = []
    if mirror is not None:
        if content := _from_folder(file, mirror.expanduser()):
            return content
        misses.append(f"the mirror {mirror} has no {file.name}")
    cached = folder / f"{file.name}.gz"
    for place in (folder, *(Path(prefix) / "share/datasets" / dataset.name for prefix in ("/usr", "/usr/local"))):
        try:
            if content := _from_folder(file, place):
                return content
            misses.append(f"no {file.name} in {place}")
        except SourceError as error:
            misses.append(str(error))
    limit = int(file.bytes * _COMPRESSED_LIMIT) + 1024
    for url in dataset.urls:
        try:
            https(f"{url}{cached.name}", cached, limit, on_bytes)
            return _checked(file, cached)
        except SourceError as error:
            cached.unlink(missing_ok=True)
            misses.append(str(error))
    if dataset.debian_package:
        try:
            _keep_debian_files(dataset, folder, on_bytes)
            return _checked(file, cached)
        except SourceError as error:
            misses.append(str(error))
    raise SourceError(
        f"{dataset.name}: {file.name} can't be had; tried: {'; '.join(misses)}. Put the four .gz files of the data set "
        "into a folder and point LOOKBOOK_DATASET_MIRROR at it"
    )


def _keep_debian_files(dataset: IdxDataset, folder: Path, on_bytes: OnBytes) -> None:
    assert dataset.debian_package
    work = folder / "debian"
    try:
        unpacked = debian_package(dataset.debian_package, work, on_bytes)
        for file in dataset.files:
            for found in unpacked.glob(f"**/share/datasets/{dataset.name}/{file.name}.gz"):
                found.replace(folder / found.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _from_folder(file: IdxFile, folder: Path) -> bytes | None:
    for path in (folder / f"{file.name}.gz", folder / file.name):
        if path.is_file():
            return _checked(file, path)
    return None


def _checked(file: IdxFile, path: Path) -> bytes:
    """The decompressed content of `path` when it is exactly the expected one. Raises SourceError."""
    try:
        with open(path, "rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else open(path, "rb") as source:
            content: bytes = source.read(file.bytes + 1)  # a byte more than expected shows a file that is too long
    except FileNotFoundError:
        raise SourceError(f"{path} is missing") from None
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path} can't be read as gzip: {error}; remove it or replace it with a whole copy") from None
    if len(content) != file.bytes:
        more = "more" if len(content) > file.bytes else f"{len(content):,}"
        raise SourceError(f"{path} is not the expected file: expected {file.bytes:,} bytes, found {more}; replace it")
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != file.sha256:
        raise SourceError(
            f"{path} is not the expected file: expected SHA-256 {file.sha256[:12]}…, found {sha256[:12]}…; replace it"
        )
    return content


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One download at a time into a folder. Raises SourceError when another one does not end."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "wb") as lock:
        if not locked_within(lock.fileno(), _QUIET_SECONDS):
            _log.warning("waiting for another download into %s to end", folder)
            if not locked_within(lock.fileno(), _WAIT_SECONDS):
                raise SourceError(
                    f"expected another download into {folder} to end within {_WAIT_SECONDS / 60:g} minutes, found it "
                    f"still there, maybe stopped; find its process (fuser {folder}/.lock), end it, and run this again"
                )
        yield
