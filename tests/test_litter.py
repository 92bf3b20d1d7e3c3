"""pytest tests/test_litter.py: what machines, programs and Lookbook itself leave among pictures."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from environment import WITHOUT_ROOTS_RIGHTS
from PIL import Image

from artifacts import dataset
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.prepare import prepare_folder
from tasks.preparing.labelled import LabelError, list_labelled
from tasks.preparing.pictures import TooManyBad
from tasks.requests import PictureSettings
from tasks.shared.deadline import Deadline
from tasks.shared.folders import opened
from tasks.shared.listing import FolderError
from tasks.shared.litter import is_hidden, is_litter, is_no_picture

LEFT = [
    "Thumbs.db", "cat/Thumbs.db", "cat/thumbs.DB", "cat/desktop.ini", "cat/.DS_Store", "cat/._0.jpg", "cat/Icon\r",
    "cat/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/cat/._0.jpg",
    "#recycle/0.jpg", "$RECYCLE.BIN/S-1-5/$R0.jpg", ".Trash-1000/files/0.jpg", "lost+found/0.jpg",
    "cat/.ipynb_checkpoints/0-checkpoint.jpg", ".picasaoriginals/0.jpg", ".thumbnails/0.jpg", ".dtrash/files/0.jpg",
    "Fotos Previews.lrdata/0/0.lrprev", "System Volume Information/0.jpg", "@Recycle/0.jpg", "cat/@__thumb/0.jpg",
]  # fmt: skip


class Here:
    """A folder of pictures on this machine."""

    def __init__(self, tmp_path):
        self.top, self.settings = tmp_path / "pictures", Settings(image_roots={"root": tmp_path / "pictures"})

    def put(self, path, content=b"x"):
        file = self.top / path
        if path.endswith("/"):
            file.mkdir(parents=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


class InABucket:
    """The same in a bucket."""

    def __init__(self, s3_service, bucket):
        self.name = bucket.removeprefix("s3://").split("/")[0]
        self.service = s3_service
        self.settings = Settings(image_roots={"root": f"s3://{self.name}/pictures"})

    def put(self, path, content=b"x"):
        self.service.put(self.name, f"pictures/{path}", b"" if path.endswith("/") else content)


@pytest.fixture(params=["here", pytest.param("bucket", marks=pytest.mark.slow)])
def pictures(request, tmp_path):
    if request.param == "here":
        return Here(tmp_path)
    return InABucket(request.getfixturevalue("s3_service"), request.getfixturevalue("bucket"))


def paths(pictures):
    with opened(pictures.settings, "root:") as top:
        return [os.fsdecode(each.path) for each in top.walk()]


def test_litter_is_no_class_and_no_bad_picture(pictures):
    for path in ("cat/0.jpg", "dog/0.jpg", *LEFT):
        pictures.put(path)
    found = list_labelled(pictures.settings, "root:")
    assert [each.path for each in found.entries] == [b"cat/0.jpg", b"dog/0.jpg"]
    assert (found.classes, found.bad) == (["cat", "dog"], {})
    assert paths(pictures) == sorted(("cat/0.jpg", "dog/0.jpg", *LEFT))  # a table of predictions has a row of each


def test_what_a_person_may_have_named_is_no_litter():
    for path in (b"recycled/1.jpg", b"cat/thumbs.jpg", b"Originals/1.jpg", b"lost and found/1.jpg", b"a@b/1.jpg"):
        assert not is_litter(path)
    assert not is_hidden(b"a.b/c..d")


@pytest.mark.parametrize("name", ["a.zip", "A.ZIP", "cat/notes.txt", "labels.csv", "cat.d/film.MOV"])
def test_names_of_what_is_no_picture(name):
    assert is_no_picture(name.encode())


@pytest.mark.parametrize("name", ["zip", "cat.zip/1", "1.heic", "1.jpg", "1.cr2", "1", "1.zip.jpg"])
def test_names_of_what_may_be_a_picture(name):
    assert not is_no_picture(name.encode())


def test_a_class_folder_without_a_picture_is_told(pictures):
    for path in ("cat/0.jpg", "dog/0.jpg", "fox/", "owl/.ipynb_checkpoints/0.jpg", "yak/Thumbs.db", "@eaDir/", ".git/"):
        pictures.put(path)
    found = list_labelled(pictures.settings, "root:")
    told = "empty: no file in this folder can be learned from, so it is no class"
    assert found.bad == {"fox/": told, "owl/": told, "yak/": told}
    before = found.digest
    pictures.put("fox/0.jpg")
    found = list_labelled(pictures.settings, "root:")
    assert (found.classes, list(found.bad)) == (["cat", "dog", "fox"], ["owl/", "yak/"])
    assert found.digest != before


def test_a_folder_of_archives_and_texts_alone_is_no_class(pictures):
    for path in ("cat/0.jpg", "cat/notes.txt", "dog/0.jpg", "docs/readme.txt", "zips/a.zip", "zips/more/b.zip"):
        pictures.put(path)
    found = list_labelled(pictures.settings, "root:")
    assert found.classes == ["cat", "dog"]
    assert [path for path, why in found.bad.items() if why.startswith("empty:")] == ["docs/", "zips/"]
    assert {path for path, why in found.bad.items() if why == "in no class's folder"} == {
        "docs/readme.txt", "zips/a.zip", "zips/more/b.zip",
    }  # fmt: skip


def test_an_empty_folder_on_a_side_is_told(pictures):
    for path in ("train/cat/0.jpg", "train/dog/0.jpg", "test/cat/1.jpg", "test/dog/1.jpg", "train/fox/", "test/fox/"):
        pictures.put(path)
    assert list(list_labelled(pictures.settings, "root:").bad) == ["test/fox/", "train/fox/"]


def test_the_only_class_beside_an_empty_one(pictures):
    for path in ("cat/0.jpg", "dog/"):
        pictures.put(path)
    with pytest.raises(LabelError, match="found cat; dog/: empty: no file in this folder can be learned from"):
        list_labelled(pictures.settings, "root:")


def png(number):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


FOUND = {
    "README.md": "in no class's folder",
    "cat/archive.zip": "unsupported",
    "cat/films.zip": "too_large",
    "cat/notes.txt": "corrupt",
    "fox/": "empty",
}


def filled(pictures):
    """A folder as people have them: most of its files are no pictures, and not one of them is a bad picture."""
    for number in range(20):
        pictures.put(f"{('cat', 'dog')[number % 2]}/{number}.png", png(number))
        pictures.put(f"cat/@eaDir/{number}.png/SYNOPHOTO_THUMB_M.png", png(100 + number))
    for path in ("README.md", "Thumbs.db", "cat/Thumbs.db", "cat/archive.zip", "fox/"):
        pictures.put(path, b"PK\x03\x04")
    pictures.put("cat/notes.txt", b"")
    pictures.put("cat/films.zip", bytes(10_000))
    pictures.settings = pictures.settings.model_copy(update={"decoders": 1, "max_image_bytes": 5_000})


def prepared(store, pictures, **how):
    asked = PictureSettings(image_size=16, **how)
    return prepare_folder(store, pictures.settings, "root:", asked, "animals", Deadline.after(1))


@pytest.mark.slow
def test_the_same_folder_here_and_in_a_bucket_is_the_same_dataset(store, tmp_path, s3_service, bucket):
    """With the limit of one bad file in a hundred; and what is no picture is named all the same."""
    both = Here(tmp_path), InABucket(s3_service, bucket)
    for each in both:
        filled(each)
    ref, other = (prepared(store, each) for each in both)
    assert ref == other
    data = dataset.load(store, ref)
    assert data.classes == ["cat", "dog"]
    assert len(data.train.labels) + len(data.test.labels) == 20
    assert {path: why.partition(":")[0] for path, why in data.bad.items()} == FOUND
    told = {each["text"]: each["examples"] for each in data.findings}
    assert told["1 folder without a picture, which made no class: fox"] == ["fox"]
    assert told["1 file left out: unsupported"][0].startswith("cat/archive.zip (unsupported: ")
    assert prepared(store, both[0]) == ref


def test_a_file_that_is_called_as_a_picture_counts(store, tmp_path):
    here = Here(tmp_path)
    filled(here)
    here.put("cat/a-picture.jpg", b"PK\x03\x04")
    with pytest.raises(TooManyBad, match=r"found 1 of 21: cat/a-picture.jpg \(unsupported: "):
        prepared(store, here)
    ref = prepared(store, here, max_bad=0.05)
    with pytest.raises(TooManyBad, match=r"found 1 of 21: "):  # of the published dataset
        prepared(store, here)
    assert prepared(store, here, max_bad=0.05) == ref


@pytest.mark.parametrize("which", ["the configured one", "another one"])
def test_a_store_among_pictures_is_neither_learned_nor_scored(pictures, which):
    for path in ("cat/0.jpg", "dog/0.jpg", "store-room/0.jpg", "zebra/0.jpg"):
        pictures.put(path)
    root = pictures.settings.image_roots["root"]
    where = f"{root}/deep/store" if which == "the configured one" else f"{root}/store"
    store = Store(where)
    store.prepare()
    store.disk.create("predictions/m/0123456789abcdef/report.png", b"a chart")
    store.disk.create("aliases/weights/m/champion/00000001.json", b"{}")
    configured = where if which == "the configured one" else "elsewhere"
    pictures.settings = pictures.settings.model_copy(update={"store": configured})
    assert paths(pictures) == ["cat/0.jpg", "dog/0.jpg", "store-room/0.jpg", "zebra/0.jpg"]
    assert list_labelled(pictures.settings, "root:").classes == ["cat", "dog", "store-room", "zebra"]
    pictures.settings.image_roots["root"] = where
    with pytest.raises(FolderError, match="expected a folder of pictures at .*, found one of Lookbook's own"):
        paths(pictures)


def test_pictures_inside_of_the_stores_folder_are_pictures(tmp_path):
    """As somebody's `/data`, which is the store, and `/data/pictures`."""
    here = Here(tmp_path)
    here.put("cat/0.jpg")
    here.settings = here.settings.model_copy(update={"store": str(tmp_path)})
    assert paths(here) == ["cat/0.jpg"]


_WALK = """
import os, sys
sys.path.insert(0, sys.argv[2])
from tasks.shared.walking import walk
print([each.path for each in walk(os.open(sys.argv[1], os.O_RDONLY))])
"""


def test_a_folder_of_the_machines_that_may_not_be_read_stops_nothing(tmp_path):
    """`lost+found` of a disk is root's alone. A folder of somebody's that may not be read still stops the listing."""
    tmp_path.chmod(0o755)
    (tmp_path / "1.jpg").write_bytes(b"x")
    (tmp_path / "lost+found").mkdir(mode=0)

    def walked():
        code = [sys.executable, "-c", _WALK, tmp_path, os.getcwd()]
        return subprocess.run([*WITHOUT_ROOTS_RIGHTS, *code], capture_output=True, text=True, timeout=60)

    assert walked().stdout.strip() == "[b'1.jpg']"
    (tmp_path / "photos").mkdir(mode=0)
    assert "can't list the folder photos/" in walked().stderr
