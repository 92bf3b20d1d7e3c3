"""pytest tests/test_labels_kept.py: a labelled picture that was learned from stays, whatever is retrained and collected
when its file is gone."""

import shutil

import pytest
from published import damage
from reviewed import draw
from test_collecting import age, collect, seconds  # noqa: F401  (a fixture)
from test_said import Shop, sides, uses

from artifacts import dataset as datasets
from artifacts.labels import Labels
from artifacts.refs import Ref
from tasks.prepare import prepare_folder
from tasks.requests import PictureSettings
from tasks.shared.collecting import repair_store
from tasks.shared.deadline import Deadline

pytestmark = pytest.mark.slow  # datasets by the dozen

WEEK = 7


class Labelled(Shop):
    """The shop, with six pictures of the night that somebody labelled."""

    said_of = tuple(f"{number}.png" for number in range(6))

    def __init__(self, store, top):
        super().__init__(store, top)
        for number, path in enumerate(self.said_of):
            self.say_of_night(path, ("boot", "shoe")[number % 2])
        self.sources = {f"labels:night/{path}" for path in self.said_of}

    def end(self):
        """The processes that retrained end: what they needed is over."""
        for key in list(self.store.disk.list("runs/living")):
            self.store.disk.remove(key)

    def lose(self):
        """The files that were labelled go."""
        shutil.rmtree(self.top / "night")

    def week(self, number, **asked):
        """A retraining, for which one more picture has arrived in the folder."""
        draw(self.top / "shop" / "boot" / f"new-{number}.png", 900 + number)
        pictures = PictureSettings(**{"image_size": 8, "labels": "night", **asked})
        ref = prepare_folder(self.store, self.settings, "root:shop", pictures, "shop", Deadline.after(1))
        age(self.store, WEEK)
        return datasets.load(self.store, ref)

    def collect(self, **rules):
        self.end()
        return collect(self.store, **{"keep": 1, **rules})


@pytest.fixture
def shop(store, tmp_path):
    return Labelled(store, tmp_path)


def test_after_a_retraining_without_labels(shop):
    learned = shop.week(1)
    shop.lose()
    shop.week(2, labels=None)
    shop.collect()
    found = shop.week(3)
    assert shop.sources <= sides(found).keys()
    assert set(uses(found).values()) == {"added"}
    assert {source: sides(learned)[source] for source in shop.sources}.items() <= sides(found).items()


def test_collections_in_a_row_keep_one_dataset_of_them(shop):
    shop.week(1)
    shop.lose()
    learned = [shop.week(number) for number in range(2, 5)]
    for number in range(5, 9):
        plain = shop.week(number, labels=None)
        shop.collect()
        assert set(shop.store.refs("datasets")) == {learned[-1].artifact.ref, plain.artifact.ref}
    assert shop.collect().stays["it has labelled pictures that no newer dataset has"] == 1
    assert shop.sources <= sides(shop.week(9)).keys()


def test_pictures_of_another_size_do_not_stand_for_them(shop):
    shop.week(1)
    shop.lose()
    smaller = shop.week(2, image_size=4)
    assert shop.sources.isdisjoint(sides(smaller))
    shop.week(3, labels=None)
    shop.collect()
    assert shop.sources <= sides(shop.week(4)).keys()


def test_a_label_that_is_taken_back_and_said_again(shop):
    shop.week(1)
    shop.lose()
    log = Labels(shop.store.disk, "night")
    log.undo("undo", "ann", 1)
    without = shop.week(2)
    assert sides(without).keys() & shop.sources == shop.sources - {"labels:night/0.png"}
    shop.collect()
    shop.say_of_night("0.png", "boot")
    assert shop.sources <= sides(shop.week(3)).keys()
    age(shop.store, WEEK)
    shop.collect()
    assert len(list(shop.store.refs("datasets"))) == 1, "the newest has them all again"


def test_what_was_learned_from_in_several_versions_comes_from_all_of_them(shop):
    shop.week(1)
    log = Labels(shop.store.disk, "night")
    for number in range(3):
        log.undo(f"undo-{number}", "ann", number + 1)
    shop.week(2)
    shop.say_of_night("6.png", "boot")
    shop.week(3)
    shop.lose()
    log.undo("undo-6", "ann", 10)
    shop.week(4)
    for path in ("0.png", "1.png", "2.png", "6.png"):
        shop.say_of_night(path, "boot")
    shop.collect()
    assert {*shop.sources, "labels:night/6.png"} <= sides(shop.week(5)).keys()


def test_a_newer_version_that_is_damaged_is_passed_over(shop):
    shop.week(1)
    shop.lose()
    broken = shop.week(2)
    damage(shop.store.disk.local_path(f"{broken.artifact.ref.folder}/train.arrow"), b"rotten")
    assert shop.sources <= sides(shop.week(3)).keys()


def test_what_a_version_has_is_not_known_where_its_list_is_damaged(shop):
    first = shop.week(1)
    shop.lose()
    broken = shop.week(2)
    damage(shop.store.disk.local_path(f"{broken.artifact.ref.folder}/labels.json"), b"[]")
    plain = shop.week(3, labels=None)
    found = shop.collect()
    assert set(shop.store.refs("datasets")) == {each.artifact.ref for each in (first, broken, plain)}
    assert any(f"{broken.artifact.ref.folder}/labels.json is damaged" in note for note in found.notes)
    assert shop.sources <= sides(shop.week(4)).keys()


def test_a_repair_removes_no_pictures_that_are_whole(shop):
    learned = shop.week(1).artifact
    shop.lose()
    shop.week(2, labels=None)
    damage(shop.store.disk.local_path(f"{learned.ref.folder}/labels.json"), b"[]")
    shop.end()
    [repair] = repair_store(shop.store, shop.store.verify().damaged, print, yes=True)
    assert "labelled pictures that no other dataset has" in repair.refused
    assert "retrain with --labels night" in repair.refused
    assert shop.sources <= sides(shop.week(3)).keys()
    shop.end()
    [repair] = repair_store(shop.store, shop.store.verify().damaged, print, yes=True)
    assert repair.refused is None
    assert repair.mended or not shop.store.has(Ref.parse(repair.ref))


def test_a_repair_removes_no_pictures_of_which_no_manifest_tells(shop):
    """Which pictures it has can't be known: it stays as long as it may be the only one."""
    learned = shop.week(1).artifact
    again = shop.week(2).artifact
    shop.lose()
    shop.end()
    for each in (learned, again):
        damage(shop.store.disk.local_path(f"{each.ref.folder}/manifest.json"), b"{}")
    found = repair_store(shop.store, shop.store.verify().damaged, print, yes=True)
    assert {each.ref for each in found} == {str(learned.ref), str(again.ref)}
    for each in found:
        assert "its manifest can't be read, and it may have labelled pictures that no other dataset has" in each.refused
        assert "retrain with --labels night" in each.refused
    assert shop.store.has(learned.ref)


def test_a_manifest_that_no_labelled_picture_depends_on_is_repaired(shop):
    plain, learned = shop.week(1, labels=None).artifact, shop.week(2).artifact
    shop.end()
    damage(shop.store.disk.local_path(f"{plain.ref.folder}/manifest.json"), b"{}")
    [done] = repair_store(shop.store, shop.store.verify().damaged, print, yes=True)
    assert (done.refused, shop.store.has(plain.ref), shop.store.has(learned.ref)) == (None, False, True)


def test_the_newest_that_learned_from_labels_stays_though_it_has_none(shop):
    log = Labels(shop.store.disk, "night")
    for number in range(6):
        log.undo(f"undo-{number}", "ann", number + 1)
    shop.say_of_night("7.png", None, verdict="bad")
    learned = shop.week(1)
    for number in range(2, 4):
        shop.week(number, labels=None)
    shop.collect()
    assert shop.store.has(learned.artifact.ref), "by it new labels are counted"
