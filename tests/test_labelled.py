"""pytest tests/test_labelled.py: a folder a class becomes a dataset; pictures keep their side, bad files are told."""

import shutil

import numpy as np
import pytest
from PIL import Image

from artifacts import dataset
from artifacts.errors import InvalidRef
from artifacts.settings import Settings
from tasks.deadline import Deadline, DeadlineExceeded
from tasks.labelled import TooFewPictures
from tasks.listing import FolderError
from tasks.prepare import prepare_folder
from tasks.vision.images import ImageSpec, Limits, decode


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """200 noisy pictures of two classes, in colour, larger than the network's size."""
    top = tmp_path_factory.mktemp("drawn")
    random = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 180)):
        (top / name).mkdir()
        for index in range(100):
            pixels = random.integers(level, level + 60, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(top / name / f"{index:03d}.png")
    return top


@pytest.fixture
def folder(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "pictures")


def prepare(store, folder, name="pictures"):
    settings = Settings(image_roots={"root": folder}, decoders=1)
    return prepare_folder(store, settings, "root:", name, Deadline.after(1))


def sides(store, ref):
    data = dataset.load(store, ref)
    return [dict(zip(map(str, side.sources), side.images, strict=True)) for side in (data.train, data.test)]


def test_pictures_become_what_scoring_would_see(store, folder):
    data = dataset.load(store, prepare(store, folder))
    assert data.classes == ["dark", "light"]
    train, test = sides(store, data.artifact.ref)
    assert len(train) + len(test) == 200
    assert 10 < len(test) < 50
    for path, pixels in list(test.items())[:5]:
        spec = ImageSpec.from_dict(data.image_spec)
        seen = decode((folder / path).read_bytes(), spec, Limits(1 << 20, 1 << 20)).pixels
        assert (pixels == seen).all()
        assert data.classes[data.test.labels[list(test).index(path)]] == path.partition("/")[0]


def test_a_picture_keeps_its_side_when_others_arrive_and_equal_ones_share_it(store, folder):
    train, test = sides(store, prepare(store, folder))
    random = np.random.default_rng(1)
    for index in range(30):
        Image.fromarray(random.integers(0, 255, (9, 9), dtype=np.uint8)).save(folder / f"dark/new{index}.png")
    for path in [*list(train)[:10], *list(test)[:10]]:
        shutil.copy(folder / path, folder / f"{path}.copy.png")
    more_train, more_test = sides(store, prepare(store, folder))
    assert set(train) <= set(more_train)
    assert set(test) <= set(more_test)
    for one, other in ((train, more_test), (test, more_train)):
        assert not {f"{path}.copy.png" for path in one} & set(other)


def test_the_same_content_is_the_same_version_and_is_not_read_again(store, folder, monkeypatch):
    ref = prepare(store, folder)
    (folder / "dark/000.png").touch()
    assert prepare(store, folder) == ref, "another time, the same content"
    monkeypatch.setattr("tasks.prepare.gather", lambda *_: pytest.fail("read again"))
    assert prepare(store, folder) == ref


def test_bad_files_are_listed_and_too_many_stop(store, folder):
    (folder / "light/cut.png").write_bytes((folder / "light/000.png").read_bytes()[:100])
    (folder / "readme.txt").write_text("hello")
    bad = dataset.load(store, prepare(store, folder)).artifact.facts["bad"]
    assert bad["readme.txt"] == "in no class's folder"
    assert bad["light/cut.png"].startswith("corrupt: ")
    for index in range(3):
        (folder / f"light/empty{index}.png").touch()
    before = list(store.refs())
    with pytest.raises(FolderError, match=r"at most 1% of the files .* to be pictures, found 5 of 205: "):
        prepare(store, folder)
    assert list(store.refs()) == before


def test_what_can_not_be_trained_on(store, folder, tmp_path):
    (folder / "rare").mkdir()
    shutil.copy(folder / "light/000.png", folder / "rare/one.png")
    with pytest.raises(TooFewPictures, match="of rare"):
        prepare(store, folder)
    shutil.rmtree(folder / "rare")
    shutil.rmtree(folder / "dark")
    with pytest.raises(FolderError, match="two of them at least, found light"):
        prepare(store, folder)
    with pytest.raises(FolderError, match="expected a folder of pictures at"):
        prepare(store, tmp_path / "nowhere")
    with pytest.raises(InvalidRef, match="expected a name"):
        prepare(store, folder, name="no such/name")


def test_a_deadline_ends_the_reading(store, folder):
    settings = Settings(image_roots={"root": folder}, decoders=1)
    with pytest.raises(DeadlineExceeded, match="still reading the pictures of root:"):
        prepare_folder(store, settings, "root:", "pictures", Deadline(hours=1, until=0))
    assert list(store.refs()) == []
