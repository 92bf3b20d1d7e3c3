"""pytest tests/test_copying.py: a copy is whole whatever goes on beside it, and one thing that can't be copied keeps
nothing else back."""

import pytest
from published import damage
from test_collecting import House, age, collect, seconds, unsynced  # noqa: F401  (fixtures)

from artifacts import aliases, audits, copying, living, pins, runs, tombstones
from artifacts.collecting.collector import Collector
from artifacts.collecting.leftovers import Leftover, Leftovers
from artifacts.collecting.retention import Rules
from artifacts.disk import LocalDisk
from artifacts.documents import seal
from artifacts.errors import Corrupt, InvalidRef, StoreError
from artifacts.labels import Labels, Statement
from artifacts.refs import Ref
from artifacts.registry import FOLDERS, KINDS, may_go
from artifacts.store import Store


@pytest.fixture
def house(store):
    return House(store)


@pytest.fixture
def target(tmp_path):
    return Store(tmp_path / "copy")


def say(store, name="shop", picture="0" * 64):
    """A label and an audit."""
    log = Labels(store.disk, name)
    log.say(f"said-{len(log.events)}-{store.disk.root}", "ann", [Statement(picture, "class", "x")])
    audits.write_audit(store.disk, name, "predictions/shop@0123456789abcdef", {"x": 1}, int(picture[0]), [])


def keys(store, folder):
    return list(store.disk.list(folder))


def bytes_of_parts(store):
    """What they take on the store's disk."""
    found = {path.stat().st_ino: path.stat().st_size for path in store.disk.root.rglob("*.parquet")}
    return sum(found.values())


def test_a_copy_that_is_collected_by_itself_gets_all_that_is_new(store, house, target, monkeypatch):
    monkeypatch.setattr("artifacts.numbered.now", iter(map(str, range(10**6))).__next__)  # never at the same second
    weeks = [house.retrain() for _ in range(4)]
    copying.copy(store, target)
    age(target, 30)
    for each in (store, target):
        collect(each, keep=1)
        assert not each.has(weeks[0][1])
    say(store)
    mine = tombstones.find(target.disk, weeks[0][1])
    for _ in range(2):
        copying.copy(store, target)
    assert keys(target, "labels") == keys(store, "labels")
    assert keys(target, "audits") == keys(store, "audits")
    assert tombstones.find(target.disk, weeks[0][1]) == mine
    assert target.verify().corrupt == []


def test_a_wish_of_each_store_is_its_own(store, target):
    store.prepare()
    store.disk.create("runs/wished-shop-2026-01-01.json", seal({"because": "here"}))
    target.disk.create("runs/wished-shop-2026-01-01.json", seal({"because": "there"}))
    say(store)
    assert copying.copy(store, target).present == 1
    assert keys(target, "audits") == keys(store, "audits")


@pytest.mark.parametrize("when", range(5))
def test_a_retraining_that_ends_meanwhile(store, house, target, monkeypatch, when):
    """Wherever it comes between two of the source's answers, the copy refers to nothing that it has not."""
    house.retrain()
    real, looks = LocalDisk.list, []

    def listed(disk, prefix):
        if disk is store.disk and prefix.split("/")[0] in (*KINDS, "runs", "aliases", "labels", "pins", "collected"):
            looks.append(prefix)
            if len(looks) == 2 * when + 1:
                _, weights, _ = house.retrain()
                runs.record(disk, "meanwhile", {"weights": str(weights), "decision": aliases_key(store)})
        yield from real(disk, prefix)

    monkeypatch.setattr(LocalDisk, "list", listed)
    copying.copy(store, target)
    monkeypatch.setattr(LocalDisk, "list", real)
    assert len(looks) > 2 * when
    assert target.verify().corrupt == []
    copying.copy(store, target)
    assert set(target.refs()) == set(store.refs())
    assert target.resolve("shoes@champion") == store.resolve("shoes@champion")


def aliases_key(store):
    return aliases.event_key("weights", "shoes", "champion", len(keys(store, "aliases/weights/shoes/champion")))


def test_parts_that_tables_share_are_written_once(store, house, target):
    _, weights, _ = house.retrain()
    for night in range(12):
        house.score("shop", weights, ["every night", "and this one", f"new in night {night}"])
        if night == 6:  # a copy that goes on
            copying.copy(store, target)
    found = copying.copy(store, target)
    assert bytes_of_parts(target) == bytes_of_parts(store)
    tables = list(target.refs("predictions"))
    shared = [target.open(each).path("data/part-00000.parquet").stat().st_ino for each in tables]
    assert len(set(shared)) == 1
    assert len(tables) == 12
    last = target.open(target.resolve("shop@latest"))
    assert found.bytes < 5 * sum(each["bytes"] for each in last.files.values()), "what was linked is not counted"
    assert target.verify().corrupt == []


def test_a_part_that_is_damaged_in_the_copy_is_not_spread(store, house, target):
    _, weights, _ = house.retrain()
    first = house.score("shop", weights, ["every night", "one"])
    copying.copy(store, target)
    damage(target.disk.local_path(f"{first.folder}/data/part-00000.parquet"), b"rotten")
    second = house.score("shop", weights, ["every night", "two"])
    copying.copy(store, target)
    assert target.verify(second).corrupt == []


@pytest.mark.parametrize("bucketed", [False, True])
def test_what_is_collected_meanwhile_is_left_out(store, house, request, target, monkeypatch, bucketed):
    if bucketed:
        target = Store(request.getfixturevalue("bucket"))
    weeks = [house.retrain() for _ in range(3)]

    def collected(ref):
        if ref == weeks[0][0]:
            collect(store, keep=1)

    copying.copy(store, target, collected)
    assert not store.has(weeks[0][1])
    assert target.verify().corrupt == []
    assert target.resolve("shoes@champion") == weeks[2][1]


def test_what_is_damaged_keeps_nothing_else_back(store, house, target):
    weeks = [house.retrain() for _ in range(2)]
    pins.pin(store, weeks[1][1], "dear")
    say(store)
    damage(store.disk.local_path(f"{weeks[0][1].folder}/a.json"), b"?")
    damage(store.disk.local_path(f"{weeks[0][2].folder}/manifest.json"), b"?")
    damage(store.disk.local_path("aliases/weights/shoes/champion/00000002.json"), b"?")
    with pytest.raises(Corrupt) as error:
        copying.copy(store, target)
    for each in (f"{weeks[0][1].folder}/a.json", f"{weeks[0][2].folder}/manifest.json", "champion/00000002.json"):
        assert f"{each} is damaged" in str(error.value)
    assert set(target.refs()) == {weeks[0][0], *weeks[1]}
    assert keys(target, "labels") == keys(store, "labels")
    assert keys(target, "pins") == keys(store, "pins")


def test_a_history_that_went_another_way_is_told_last_and_never_mixed(store, house, target):
    house.retrain()
    say(store)
    copying.copy(store, target)
    say(target, picture="1" * 64)
    for picture in "23":
        say(store, picture=picture * 64)
    say(store, name="zoo")
    house.retrain()
    with pytest.raises(StoreError, match=r"found another labels/shop/00000002.json, audits/shop/00000002.json"):
        copying.copy(store, target)
    assert [event.statements[0].sha256[0] for event in Labels(target.disk, "shop").events] == ["0", "1"]
    assert keys(target, "labels/zoo")
    assert target.resolve("shoes@champion") == store.resolve("shoes@champion")


def test_an_event_that_is_damaged_in_the_copy_is_replaced(store, house, target):
    house.retrain()
    copying.copy(store, target)
    damage(target.disk.local_path("aliases/weights/shoes/champion/00000001.json"), b"?")
    copying.copy(store, target)
    assert target.verify().corrupt == []


def test_a_long_copy_gives_signs_of_life(store, house, target, monkeypatch):
    house.retrain()
    seen = []
    monkeypatch.setattr(copying, "RENEW_SECONDS", 0.0)
    copying.copy(store, target, lambda _: seen.extend(keys(target, living.FOLDER)))
    assert len(set(seen)) == len(seen) == 3
    assert keys(target, living.FOLDER) == []


def test_a_copy_that_failed_keeps_no_collection_from_its_work(store, house, target):
    house.retrain()

    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        copying.copy(store, target, fail)
    assert keys(target, living.FOLDER) == []


def test_every_folder_of_a_store_is_copied_or_named_as_left(store, house, target):
    """What a store has follows from one list."""
    _, weights, _ = house.retrain()
    house.score("shop", weights, ["a"])
    pins.pin(store, weights, "dear")
    say(store)
    for _ in range(2):
        house.retrain()
    collect(store, keep=1)
    runs.record(store.disk, "a-run", {"weights": str(weights)})
    copying.copy(store, target)
    there = {path.name for path in store.disk.root.iterdir()}
    assert there <= {"store.json", *KINDS, *FOLDERS}
    copied = {path.name for path in target.disk.root.iterdir()} - {"store.json", "staging"}
    assert copied == {name for name in there if name in KINDS or (name in FOLDERS and FOLDERS[name].copied)}


def test_a_kind_that_is_not_in_the_list_is_published_by_nobody(store):
    with pytest.raises(InvalidRef, match="expected a kind out of datasets, .*, found 'checks'"):
        store.publish("checks", "shoes", {"a.json": b"1"}, settings={}, inputs={}, facts={})
    assert not (store.disk.root / "checks").exists()


def test_what_something_is_made_from_comes_first():
    before = set()
    for name, kind in KINDS.items():
        assert set(kind.made_from) <= before
        assert Ref.parse(f"{name}/x@0123456789abcdef").kind == name
        before.add(name)


@pytest.mark.parametrize("folder", [name for name, folder in FOLDERS.items() if folder.copied])
def test_what_is_written_down_is_verified_and_never_collected(store, house, folder):
    house.retrain()
    key = f"{folder}/weights/shoes/0123456789abcdef/00000001.json"
    store.disk.create(key, b"damaged")
    assert any(f"{key} is damaged" in each for each in store.verify().corrupt)
    assert not may_go(key)


def test_a_leftover_in_a_folder_that_stays_is_not_removed(store, house, monkeypatch):
    house.retrain()
    age(store, 30)
    there = [stored for folder in ("aliases", "staging") for stored in store.disk.survey(folder)]
    monkeypatch.setattr(Leftovers, "find", lambda _: iter([Leftover("plans", "by mistake", list(there))]))
    Collector(store, Rules()).plan()
    found = Collector(store, Rules()).plan().removed
    assert sum(each.files for each in found if each.what == "plans") == sum(may_go(each.key) for each in there)
    assert not any(may_go(each.key) for each in there if each.key.startswith("aliases/"))
