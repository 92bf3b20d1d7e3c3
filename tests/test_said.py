"""pytest tests/test_said.py: a dataset of a folder's labels and people's words, by content."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from reviewed import draw

from artifacts import dataset as datasets
from artifacts.errors import NotFound
from artifacts.labels import Labels, Statement
from artifacts.metrics import LESSONS
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.judging.lessons import lessons
from tasks.prepare import prepare_folder
from tasks.requests import PictureSettings
from tasks.shared.deadline import Deadline
from tasks.shared.listing import allow_place, to_text
from tasks.vision.duplicates import firsts


class Shop:
    """A folder with two classes of 40 pictures each, and one that was scored, with 30 others."""

    def __init__(self, store, top):
        self.store, self.top = store, top
        self.sha = {}
        for label, start in (("boot", 0), ("shoe", 100)):
            for number in range(40):
                path = f"{label}/{number}.png"
                self.sha[path] = draw(top / "shop" / path, start + number)
        self.night = {f"{number}.png": draw(top / "night" / f"{number}.png", 500 + number) for number in range(30)}
        self.settings = Settings(store=str(store.disk.root), image_roots={"root": str(top)}, decoders=1)
        self.said = 0

    def say(self, sha256, label=None, verdict="class", **more):
        self.said += 1
        where = {"path": "x.png", "folder": str(self.top / "night"), "chosen": "unsure", "predicted": "boot"}
        statement = Statement(sha256, verdict, label, **{**where, **more})
        Labels(self.store.disk, "night").say(f"number-{self.said}", "ann", [statement])

    def say_of_night(self, path, label, **more):
        self.say(self.night[path], label, path=path, **more)

    def prepare_plain(self):
        """Without anybody's word."""
        asked = PictureSettings(image_size=8)
        ref = prepare_folder(self.store, self.settings, "root:shop", asked, "shop", Deadline.after(1))
        return datasets.load(self.store, ref)

    def prepare(self, **more):
        asked = PictureSettings(image_size=8, labels="night", **more)
        ref = prepare_folder(self.store, self.settings, "root:shop", asked, "shop", Deadline.after(1))
        return datasets.load(self.store, ref)


@pytest.fixture
def shop(store, tmp_path):
    return Shop(store, tmp_path)


def sides(dataset):
    """source -> (side, class)"""
    return {
        str(source): (name, dataset.classes[label])
        for name, side in (("train", dataset.train), ("test", dataset.test))
        for source, label in zip(side.sources, side.labels, strict=True)
    }


def uses(dataset):
    return {row["source"]: row["use"] for row in dataset.labels}


def test_without_a_word_nothing_is_different(shop):
    plain = prepare_folder(
        shop.store, shop.settings, "root:shop", PictureSettings(image_size=8), "shop", Deadline.after(1)
    )
    assert "labels" not in shop.store.open(plain).identity["settings"]
    shop.say_of_night("1.png", "boot")
    assert sides(datasets.load(shop.store, plain)).items() <= sides(shop.prepare()).items()


def test_labelled_pictures_join_and_corrections_beat_the_folder(shop):
    shop.say(shop.sha["boot/4.png"], "boot")
    before = sides(shop.prepare())
    shop.say_of_night("1.png", "shoe")
    shop.say(shop.sha["boot/3.png"], "shoe")
    made = shop.prepare()
    now = sides(made)
    assert now["labels:night/1.png"] == ("train", "shoe")
    assert now["boot/3.png"] == (before["boot/3.png"][0], "shoe")
    assert uses(made) == {"labels:night/1.png": "added", "boot/3.png": "corrected", "boot/4.png": "confirmed"}
    assert {source: side for source, (side, _) in before.items()} == {
        source: side for source, (side, _) in now.items() if source in before
    }
    [finding] = [each for each in made.findings if each["check"] == "labels"]
    assert finding["examples"] == ["boot/3.png: boot -> shoe"]


def test_pictures_of_another_folder_are_no_entries_of_this_one(shop, capfd):
    for number in range(3):
        shop.say_of_night(f"{number}.png", "shoe")
    shop.prepare()
    assert "80 of 80 entries" in capfd.readouterr().err


def test_what_shows_none_of_the_classes_or_is_bad_leaves(shop):
    shop.say(shop.sha["boot/3.png"], verdict="none")
    shop.say(shop.sha["shoe/3.png"], verdict="bad")
    shop.say_of_night("1.png", None, verdict="bad")
    made = shop.prepare(max_bad=0.0)  # a person's word is no bad file
    assert not {"boot/3.png", "shoe/3.png", "labels:night/1.png"} & set(sides(made))
    assert made.bad == {"boot/3.png": "labelled: none of the classes", "shoe/3.png": "labelled: a bad picture"}
    assert set(uses(made).values()) == {"left out"}
    assert shop.prepare(max_bad=0.0).artifact.ref == made.artifact.ref


def test_pictures_chosen_by_the_model_are_never_tested_with_and_audits_may_be(shop):
    for number in range(30):
        chosen = "audit" if number < 15 else "unsure"
        shop.say_of_night(f"{number}.png", ("boot", "shoe")[number % 2], chosen=chosen)
    shop.say_of_night("1.png", "shoe", chosen="unsure")  # shown again later: at first it was drawn
    shop.say_of_night("20.png", "boot", chosen="audit")  # and this one was chosen at first
    found = sides(shop.prepare())
    tested = {source for source, (side, _) in found.items() if side == "test" and source.startswith("labels:")}
    assert tested
    assert tested <= {f"labels:night/{number}.png" for number in range(15)}
    assert sum(source.startswith("labels:") for source in found) == 30


def test_new_classes_need_a_word(shop):
    for number in range(6):
        shop.say_of_night(f"{number}.png", "sandal")
    shop.say_of_night("7.png", "Boot")
    made = shop.prepare()
    assert made.classes == ["boot", "shoe"]
    assert set(uses(made).values()) == {"no class"}
    texts = " ".join(each["text"] for each in made.findings)
    assert "--new-classes takes it" in texts
    assert sides(made).keys() == sides(shop.prepare()).keys()
    made = shop.prepare(new_classes=True)
    assert made.classes == ["boot", "sandal", "shoe"]  # though none of them was drawn at random
    assert uses(made)["labels:night/7.png"] == "no class"  # two names for one class
    assert {side for source, (side, label) in sides(made).items() if label == "sandal"} == {"train", "test"}


def test_what_is_not_there_any_more_is_told_and_what_was_learned_stays(shop):
    shop.say_of_night("1.png", "boot")
    shop.say_of_night("2.png", "boot")
    first = shop.prepare()
    for number, label in ((3, "boot"), (4, "shoe"), (5, "shoe")):
        shop.say_of_night(f"{number}.png", label)
    (shop.top / "night/3.png").unlink()
    (shop.top / "night/1.png").unlink()
    draw(shop.top / "night/4.png", 9999)
    (shop.top / "night/5.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    made = shop.prepare()
    assert uses(made) == {
        "labels:night/1.png": "added",  # the version before has its pixels
        "labels:night/2.png": "added",
        "labels:night/3.png": "missing",
        "labels:night/4.png": "changed",
        "labels:night/5.png": "corrupt",
    }
    assert made.artifact.ref != first.artifact.ref
    shutil.rmtree(shop.top / "night")
    shop.say_of_night("6.png", "boot")
    made = shop.prepare()
    assert uses(made)["labels:night/6.png"] == "unreadable"
    assert "labels:night/2.png" in sides(made)
    assert str(shop.top) not in json.dumps(made.labels)  # a version holds no paths of a machine


def test_a_folder_that_is_no_root_is_not_read(shop, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    sha256 = draw(elsewhere / "1.png", 700)
    shop.say(sha256, "boot", path="1.png", folder=str(elsewhere))
    made = shop.prepare()
    assert uses(made) == {"labels:night/1.png": "unreadable"}
    assert any("expected a folder below one of LOOKBOOK_IMAGE_ROOTS" in each["text"] for each in made.findings)


def test_an_unknown_content_is_told_and_counts_once_it_is_there(shop):
    sha256 = hashlib.sha256(b"nobody has seen this").hexdigest()
    shop.say(sha256, "boot", path=None, folder=None)
    assert uses(shop.prepare()) == {f"labels:night/{sha256[:12]}": "unknown"}
    shop.say(draw(shop.top / "shop/boot/new.png", 800), "shoe", path=None, folder=None)
    assert uses(shop.prepare())["boot/new.png"] == "corrected"


def test_nothing_is_decoded_twice_and_the_same_words_are_the_same_version(shop):
    for number in range(5):
        shop.say_of_night(f"{number}.png", "boot")
    first = shop.prepare()
    assert shop.prepare().artifact.ref == first.artifact.ref
    shop.say_of_night("5.png", "boot")
    made = shop.prepare()
    assert made.artifact.manifest["provenance"]["decoded"] == 1
    assert not list(shop.store.disk.list("staging/decoded"))


def test_a_name_that_nobody_knows_is_refused(shop):
    with pytest.raises(NotFound, match="expected labels, or a table of predictions, called night; found neither"):
        shop.prepare()


def test_what_a_person_says_is_of_no_class_of_the_folder_is_not_learned_from_as_another(shop):
    shop.say(shop.sha["boot/3.png"], "sandal")
    made = shop.prepare()
    assert "boot/3.png" not in sides(made)
    assert made.bad["boot/3.png"] == "labelled: a class that the folder has not"


def test_equal_pictures_and_labels_are_the_same_version_however_they_came(shop, tmp_path):
    """Taken over, decoded now, or in another order."""
    for number in (3, 1, 2):
        shop.say_of_night(f"{number}.png", "boot")
    shop.prepare()
    for number in (7, 0, 5):
        shop.say_of_night(f"{number}.png", "shoe")
    made = shop.prepare()
    other = Shop(Store(tmp_path / "other-store"), shop.top)
    for number, label in ((5, "shoe"), (2, "boot"), (0, "shoe"), (3, "boot"), (7, "shoe"), (1, "boot")):
        other.say_of_night(f"{number}.png", label)
    assert other.prepare().artifact.ref == made.artifact.ref


def test_what_could_not_be_read_is_tried_again(shop):
    shop.say_of_night("1.png", "boot")
    (shop.top / "night").rename(shop.top / "away")
    assert uses(shop.prepare()) == {"labels:night/1.png": "unreadable"}
    (shop.top / "away").rename(shop.top / "night")
    assert uses(shop.prepare()) == {"labels:night/1.png": "added"}


def test_what_was_learned_from_stays_beside_preparations_without_labels(shop):
    shop.say_of_night("1.png", "boot")
    shop.prepare()
    plain = PictureSettings(image_size=8)
    prepare_folder(shop.store, shop.settings, "root:shop", plain, "shop", Deadline.after(1))
    (shop.top / "night/1.png").unlink()
    assert uses(shop.prepare()) == {"labels:night/1.png": "added"}


@pytest.mark.parametrize("name", ["50% off", "caf\udce9"])
def test_a_folder_with_an_odd_name_is_read_where_it_was_allowed(shop, tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("odd") / name
    sha256 = draw(folder / "1.png", 700)
    where = to_text(os.fsencode(folder))
    shop.say(sha256, "boot", path="1.png", folder=where)
    allow_place(where)
    assert uses(shop.prepare()) == {"labels:night/1.png": "added"}


def test_a_picture_that_was_tested_with_is_not_learned_from_when_its_file_is_gone(shop):
    """People labelled it elsewhere, because a model was unsure of it."""
    before = sides(shop.prepare_plain())
    tested = sorted(source for source, (side, _) in before.items() if side == "test")
    kinds = [(f"{number}.png", source) for number, source in enumerate(tested, start=100)]
    for path, source in kinds:
        shutil.copy(shop.top / "shop" / source, shop.top / "night" / path)
        shop.say(shop.sha[source], before[source][1], path=path)
    shop.say_of_night("1.png", "boot")
    first, second, third = kinds[:3]
    (shop.top / "shop" / first[1]).unlink()  # before a retraining has heard of the label
    assert sides(shop.prepare())[f"labels:night/{first[0]}"] == ("test", before[first[1]][1])
    (shop.top / "shop" / second[1]).unlink()  # after it
    shop.prepare_plain()  # and one without labels between
    for path, _ in (first, third):
        (shop.top / "night" / path).unlink()
    (shop.top / "shop" / third[1]).unlink()
    made = shop.prepare()
    found = sides(made)
    for path, source in (first, second, third):
        assert found[f"labels:night/{path}"] == ("test", before[source][1])
    assert found["labels:night/1.png"] == ("train", "boot")
    assert "moved" not in {each["check"] for each in made.findings}
    seed = made.artifact.identity["settings"]["split_seed"] + 1
    assert sides(shop.prepare(split_seed=seed))[f"labels:night/{first[0]}"][0] == "train"  # another split, as asked for


def test_what_nobody_drew_at_random_is_told_apart_from_audits(shop):
    """With new classes, pictures that a model was unsure of are tested with."""
    for number in range(12):
        shop.say_of_night(f"{number}.png", "sandal", chosen="import")
    for number in range(12, 30):
        shop.say_of_night(f"{number}.png", "boot", chosen="audit")
    data = shop.prepare(new_classes=True)
    tested = [source for source, (side, _) in sides(data).items() if side == "test" and source.startswith("labels:")]
    drawn = [source for source in tested if sides(data)[source][1] == "boot"]
    assert 0 < len(drawn) < len(tested)
    right = np.eye(3, dtype=np.float32)[data.test.labels]
    every = np.arange(len(right))
    found = json.loads(lessons(data, right, every, lambda images: right[: len(images)])[LESSONS])["tested"]
    assert {part: each["items"] for part, each in found.items()} == {
        "folder": len(data.test.labels) - len(tested),
        "audits": len(drawn),
        "others": len(tested) - len(drawn),
    }
    counted = every[3:]
    found = json.loads(lessons(data, right, counted, lambda images: right[: len(images)])[LESSONS])["tested"]
    assert sum(each["items"] for each in found.values()) == len(counted)


def test_another_file_of_a_picture_that_is_tested_with_is_not_learned_from(shop):
    """Somebody saved pictures of the shop once more and scored them: the model was unsure of them, so anything else
    would be trained on."""
    shop.say_of_night("1.png", "boot")
    tested = [path for path, (side, _) in sides(shop.prepare()).items() if side == "test" and path.startswith("boot")]
    for number, path in enumerate(tested):
        again = shop.top / "night" / f"again{number}.bmp"
        Image.open(shop.top / "shop" / path).save(again)
        shop.say(hashlib.sha256(again.read_bytes()).hexdigest(), "boot", path=again.name)
    made = shop.prepare(max_bad=0.0)
    found = sides(made)
    again = [f"labels:night/again{number}.bmp" for number in range(len(tested))]
    assert {found[path] for path in [*tested, *again]} == {("test", "boot")}
    assert {uses(made)[path] for path in again} == {"added"}
    right = np.eye(2, dtype=np.float32)[made.test.labels]
    counted = np.unique(firsts(made.test.images, made.test.labels))
    parts = json.loads(lessons(made, right, counted, lambda images: right[: len(images)])[LESSONS])["tested"]
    assert (parts["folder"]["items"], parts["others"]["items"]) == (len(made.test.labels) - len(again), 0)
