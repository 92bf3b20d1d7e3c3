"""pytest tests/test_equal_pictures.py: files with equal pixels are one picture, for labels, sides and what is kept."""

import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image
from reviewed import draw
from test_collecting import seconds  # noqa: F401  (a fixture)
from test_labels_kept import Labelled
from test_said import Shop, sides, uses

from artifacts import dataset as datasets
from artifacts.labels import Labels, Statement
from artifacts.preparations import Read
from artifacts.settings import Settings
from tasks.prepare import prepare_folder
from tasks.preparing import labelled as listing
from tasks.preparing.pictures import FilesRead, TooManyBad, contents_in
from tasks.preparing.sides import assign, check_sides
from tasks.requests import PictureSettings
from tasks.shared.deadline import Deadline
from tasks.shared.listing import Entry
from tasks.vision.images import ImageSpec

pytestmark = pytest.mark.slow  # folders are prepared by the dozen

BOTH = ("boot/3.png", "boot/copy.bmp")


def save_again(shop, path, again):
    """Another file with the same pixels. Returns its SHA-256."""
    Image.open(shop.top / path).save(shop.top / again)
    return hashlib.sha256((shop.top / again).read_bytes()).hexdigest()


@pytest.fixture
def shop(store, tmp_path):
    """With a picture that is there twice."""
    shop = Shop(store, tmp_path)
    shop.sha["boot/copy.bmp"] = save_again(shop, "shop/boot/3.png", "shop/boot/copy.bmp")
    return shop


def side_and_class(dataset, *paths):
    found = sides(dataset)
    return [found.get(path) for path in paths]


def told(dataset, check):
    return [each["text"] for each in dataset.findings if each["check"] == check]


def test_a_label_beats_the_folders_for_every_file_of_a_picture(shop):
    before = side_and_class(shop.prepare_plain(), *BOTH)
    shop.say(shop.sha["boot/3.png"], "shoe", path="3.png")
    made = shop.prepare(max_bad=0.0)
    assert side_and_class(made, *BOTH) == [(side, "shoe") for side, _ in before]
    assert uses(made) == {"boot/3.png": "corrected"}
    assert made.bad == {}
    [finding] = [each for each in made.findings if each["check"] == "labels"]
    assert finding["examples"] == [f"{path}: boot -> shoe" for path in BOTH]


@pytest.mark.parametrize(("verdict", "why"), [("none", "none of the classes"), ("bad", "a bad picture")])
def test_what_shows_no_class_leaves_with_its_copies(shop, verdict, why):
    shop.say(shop.sha["boot/3.png"], verdict=verdict, path="3.png")
    made = shop.prepare(max_bad=0.0)
    assert side_and_class(made, *BOTH) == [None, None]
    assert made.bad == dict.fromkeys(BOTH, f"labelled: {why}")


@pytest.mark.parametrize("verdict", ["class", "none"])
def test_a_label_of_a_copy_elsewhere_beats_the_folders(shop, verdict):
    before = side_and_class(shop.prepare_plain(), *BOTH)
    sha256 = save_again(shop, "shop/boot/3.png", "night/again.tif")
    shop.say(sha256, "shoe" if verdict == "class" else None, verdict, path="again.tif")
    made = shop.prepare(max_bad=0.0)
    expected = [(side, "shoe") if verdict == "class" else None for side, _ in before]
    assert side_and_class(made, *BOTH, "labels:night/again.tif") == [*expected, expected[0]]
    assert list(uses(made).values()) == ["added" if verdict == "class" else "left out"]
    corrected = ["2 labels of the folder corrected by what people said as night"]
    assert told(made, "labels") == (corrected if verdict == "class" else [])


@pytest.mark.parametrize("verdict", ["class", "none", "unknown class"])
def test_of_labels_of_two_files_of_a_picture_the_newest_counts(shop, verdict):
    again = save_again(shop, "night/1.png", "night/again.bmp")
    shop.say_of_night("1.png", "boot")
    assert sides(shop.prepare())["labels:night/1.png"] == ("train", "boot")
    label = {"class": "shoe", "none": None, "unknown class": "sandal"}[verdict]
    shop.say(again, label, "none" if verdict == "none" else "class", path="again.bmp")
    made = shop.prepare(max_bad=0.0)
    files = ("labels:night/1.png", "again.bmp" if verdict == "none" else "labels:night/again.bmp")
    assert side_and_class(made, *files) == [("train", "shoe") if verdict == "class" else None] * 2
    expected = {"class": ("superseded", "added"), "none": ("left out",) * 2, "unknown class": ("no class",) * 2}
    assert uses(made) == dict(zip(files, expected[verdict], strict=True))
    assert made.learned == ({shop.night["1.png"], again} if verdict == "class" else set())
    shop.say_of_night("1.png", "boot")  # the same again, and now it is the newest
    made = shop.prepare(max_bad=0.0)
    assert side_and_class(made, "labels:night/1.png") == [("train", "boot")]
    if verdict == "class":
        assert uses(made) == dict(zip(files, ("added", "superseded"), strict=True))
        assert "1 label of night not used: superseded: a newer label" in told(made, "labels")[0]


def test_which_label_is_the_newest_decides_though_all_that_count_are_the_same(shop):
    again = save_again(shop, "night/1.png", "night/again.bmp")
    shop.say_of_night("1.png", "boot")
    shop.say(again, "shoe", path="again.bmp")
    assert sides(shop.prepare())["labels:night/1.png"] == ("train", "shoe")
    shop.say_of_night("1.png", "boot")
    assert sides(shop.prepare())["labels:night/1.png"] == ("train", "boot")


def test_a_class_said_after_none_brings_all_files_back(shop):
    again = save_again(shop, "night/1.png", "night/again.bmp")
    shop.say_of_night("1.png", None, verdict="none")
    shop.say(again, "shoe", path="again.bmp")
    made = shop.prepare(max_bad=0.0)
    files = ("labels:night/1.png", "labels:night/again.bmp")
    assert side_and_class(made, *files) == [("train", "shoe")] * 2
    assert uses(made) == dict(zip(files, ("superseded", "added"), strict=True))


def test_of_labels_that_came_together_the_last_counts(shop):
    again = save_again(shop, "night/1.png", "night/again.bmp")
    for order in ([shop.night["1.png"], again], [again, shop.night["1.png"]]):
        statements = [
            Statement(sha256, "class", label, path=path, folder=str(shop.top / "night"))
            for sha256, label in zip(order, ("boot", "shoe"), strict=True)
            for path in ["again.bmp" if sha256 == again else "1.png"]
        ]
        Labels(shop.store.disk, "night").say(f"together-{order[0]}", "ann", statements)
        made = shop.prepare()
        assert side_and_class(made, "labels:night/1.png") == [("train", "shoe")]
        assert {row["sha256"]: row["use"] for row in made.labels} == dict(
            zip(order, ("superseded", "added"), strict=True)
        )


def test_a_label_settles_what_the_folder_has_under_two(shop):
    shop.sha["shoe/same.bmp"] = save_again(shop, "shop/boot/4.png", "shop/shoe/same.bmp")
    files = ("boot/4.png", "shoe/same.bmp")
    with pytest.raises(
        TooManyBad, match="found 2 of 82: boot/4.png .conflicting: the same content is labelled boot and"
    ):
        shop.prepare_plain()
    shop.say(shop.sha["shoe/same.bmp"], "boot", path="same.bmp")
    made = shop.prepare(max_bad=0.0)
    assert {label for _, label in side_and_class(made, *files)} == {"boot"}


def test_a_file_that_can_not_be_read_is_not_recorded_as_learned_from(shop):
    (shop.top / "shop/boot/5.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    sha256 = hashlib.sha256((shop.top / "shop/boot/5.png").read_bytes()).hexdigest()
    shop.say(sha256, "boot", path="5.png")
    made = shop.prepare(max_bad=0.5)
    assert uses(made) == {"boot/5.png": "corrupt"}
    assert made.learned == set()


def test_the_dataset_that_has_a_labelled_picture_stays(store, tmp_path):
    """Somebody saves a corrected picture once more, and then both files go."""
    shop = Labelled(store, tmp_path)
    sha256 = shop.sha["boot/3.png"]
    shop.say(sha256, "shoe", path="boot/3.png", folder=str(tmp_path / "shop"))
    shop.week(1)
    save_again(shop, "shop/boot/3.png", "shop/boot/copy.bmp")
    assert sha256 in shop.week(2).learned
    shop.collect()
    for path in BOTH:
        (shop.top / "shop" / path).unlink()
    made = shop.week(3)
    assert [row["use"] for row in made.labels if row["sha256"] == sha256] == ["added"]
    assert sha256 in {*map(str, made.train.sha256), *map(str, made.test.sha256)}


def test_what_an_older_label_is_of_stays_for_when_the_newer_one_is_taken_back(store, tmp_path):
    shop = Labelled(store, tmp_path)
    again = save_again(shop, "night/0.png", "night/again.bmp")
    shop.say(again, "shoe", path="again.bmp")
    assert sides(shop.week(1))["labels:night/0.png"] == ("train", "shoe")
    shop.lose()
    shop.week(2, labels=None)
    shop.collect()
    log = Labels(store.disk, "night")
    log.undo("undo", "ann", len(log.events))
    made = shop.week(3)
    assert sides(made)["labels:night/0.png"] == ("train", "boot")
    assert uses(made)["labels:night/0.png"] == "added"


def test_what_is_said_to_be_learned_from_is_on_a_side(store, tmp_path):
    """Also where the sides were given, and a labelled file is a copy of one that is tested with."""
    shop = Shop(store, tmp_path)
    shop.say_of_night("1.png", "boot")
    for side, numbers in (("train", range(30)), ("test", range(30, 40))):
        for label in ("boot", "shoe"):
            for number in numbers:
                target = shop.top / "given" / side / label / f"{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(shop.top / "shop" / label / f"{number}.png", target)
    sha256 = save_again(shop, "given/test/boot/30.png", "given/train/boot/again.bmp")
    shop.say(sha256, "boot", path="again.bmp")
    asked = PictureSettings(image_size=8, labels="night", max_bad=0.0)
    ref = prepare_folder(store, shop.settings, "root:given", asked, "given", Deadline.after(1))
    made = datasets.load(store, ref)
    assert uses(made) == {"labels:night/1.png": "added", "train/boot/again.bmp": "duplicate"}
    assert made.learned == {shop.night["1.png"]}


def test_two_labelled_pictures_with_one_source_are_told_apart(shop):
    """One name scored over two folders. The second is a copy of one that is tested with."""
    shop.say_of_night("1.png", "boot")
    tested = next(
        path for path, (side, _) in sides(shop.prepare()).items() if side == "test" and path.startswith("boot")
    )
    (shop.top / "other").mkdir()
    sha256 = save_again(shop, f"shop/{tested}", "other/1.bmp")
    (shop.top / "other/1.bmp").rename(shop.top / "other/1.png")
    shop.say(sha256, "boot", path="1.png", folder=str(shop.top / "other"))
    made = shop.prepare(max_bad=0.0)
    assert [row["use"] for row in made.labels] == ["added", "added"]
    assert made.learned == {shop.night["1.png"], sha256}
    assert sha256 in set(map(str, made.test.sha256))
    assert shop.night["1.png"] in set(map(str, made.train.sha256))
    shop.say(sha256, None, "none", path="1.png", folder=str(shop.top / "other"))
    made = shop.prepare(max_bad=0.0)
    assert {row["sha256"]: row["use"] for row in made.labels} == {shop.night["1.png"]: "added", sha256: "left out"}
    assert made.learned == {shop.night["1.png"]}


def test_copies_of_what_was_learned_from_stay_with_it(store, tmp_path):
    """An audit draws pictures that were saved once more, after the others were learned from."""
    shop = Labelled(store, tmp_path)
    for number in range(6, 30):
        shop.say_of_night(f"{number}.png", ("boot", "shoe")[number % 2])
    shop.week(1)
    for number in range(6, 30):
        sha256 = save_again(shop, f"night/{number}.png", f"night/again{number}.bmp")
        shop.say(sha256, ("boot", "shoe")[number % 2], path=f"again{number}.bmp", chosen="audit")
    made = shop.week(2)
    assert {side for source, (side, _) in sides(made).items() if source.startswith("labels:")} == {"train"}
    assert told(made, "moved") == []
    assert set(uses(made).values()) == {"added"}


def test_what_was_tested_with_is_not_learned_from_as_another_file(shop):
    """The folder's file is gone, and a copy of it is labelled because a model was unsure."""
    shop.say_of_night("1.png", "boot")
    before = sides(shop.prepare())
    tested = [path for path, (side, _) in before.items() if side == "test" and path.startswith("boot")]
    for number, path in enumerate(tested):
        sha256 = save_again(shop, f"shop/{path}", f"night/again{number}.bmp")
        shop.say(sha256, "boot", path=f"again{number}.bmp")
        (shop.top / "shop" / path).unlink()
    made = shop.prepare()
    again = [f"labels:night/again{number}.bmp" for number in range(len(tested))]
    assert side_and_class(made, *again) == [("test", "boot")] * len(tested)


def test_a_copy_elsewhere_does_not_move_what_the_folder_has(shop):
    """Of the folder's own files the smallest SHA-256 decides, whatever is labelled elsewhere."""
    before = sides(shop.prepare_plain())
    for number in range(40):
        sha256 = save_again(shop, f"shop/shoe/{number}.png", f"night/again{number}.bmp")
        shop.say(sha256, "shoe", path=f"again{number}.bmp")
    found = sides(shop.prepare())
    assert {path: found[path] for path in before} == before
    for number in range(40):
        assert found[f"labels:night/again{number}.bmp"] == before[f"shoe/{number}.png"]


def test_pictures_that_are_on_both_given_sides_stop_nothing(store, tmp_path):
    settings = Settings(store=str(store.disk.root), image_roots={"root": str(tmp_path)}, decoders=1)
    for side, start, count in (("train", 0, 30), ("test", 500, 10)):
        for label, of in (("boot", 0), ("shoe", 100)):
            for number in range(count):
                draw(tmp_path / "shop" / side / label / f"{number}.png", start + of + number)
    again = [tmp_path / f"shop/train/boot/again{number}.bmp" for number in range(3)]
    for number, path in enumerate(again):
        Image.open(tmp_path / f"shop/test/boot/{number}.png").save(path)
    asked = PictureSettings(image_size=8, max_bad=0.0)
    made = datasets.load(store, prepare_folder(store, settings, "root:shop", asked, "shop", Deadline.after(1)))
    assert {why.partition(":")[0] for why in made.bad.values()} == {"duplicate"}
    assert told(made, "bad files") == ["3 files left out: duplicate"]
    assert prepare_folder(store, settings, "root:shop", asked, "shop", Deadline.after(1)) == made.artifact.ref


def test_blank_pictures_of_several_classes_stop_nothing(shop):
    for label in ("boot", "shoe"):
        Image.new("RGB", (16, 12), "white").save(shop.top / "shop" / label / "white.png")
        Image.new("RGB", (20, 12), "white").save(shop.top / "shop" / label / "wide.png")
    asked = PictureSettings(image_size=8, max_bad=0.0)
    made = datasets.load(
        shop.store, prepare_folder(shop.store, shop.settings, "root:shop", asked, "shop", Deadline.after(1))
    )
    assert set(made.bad.values()) == {"blank: of a single colour, and labelled boot and shoe"}
    assert len(made.bad) == 4


def put(rows, seed):
    """The sides of a folder's rows: path, label, given side, and a number that decides the pixels."""
    spec = ImageSpec(2, 2, 1)
    files = [Read(path.encode(), 1, 1, hashlib.sha256(path.encode()).hexdigest(), None) for path, *_ in rows]
    images = np.array([[[[number], [number]], [[number], [number + 1]]] for *_, number in rows], np.uint8)
    places = {file.sha256: (images, item) for item, file in enumerate(files)}
    entries = [Entry(path.encode(), 1, 1, True) for path, *_ in rows]
    labelled = listing.Labelled(entries, [label for _, label, *_ in rows], [side for *_, side, _ in rows], {}, "")
    return assign(labelled, FilesRead(files, places, contents_in(places), 0), spec, seed)


@pytest.mark.parametrize("given", [["train"], ["test"], ["train", "test"]])
def test_a_given_side_holds_for_every_file_of_a_picture(given):
    rows = [(f"a/{number}", "a", side, 10) for number, side in enumerate(given)]
    rows += [("a/copy", "a", None, 10), ("a/other", "a", None, 20)]
    rows += [("b/train", "b", "train", 30), ("b/test", "b", "test", 40)]
    for seed in range(200):
        made = put(rows, seed)
        check_sides(["a", "b"], made.train, made.test)
        side, other = (made.test, made.train) if "test" in given else (made.train, made.test)
        assert "a/copy" in side.sources
        assert "a/other" in other.sources
