"""pytest tests/test_pictures.py: labelled pictures become a dataset; they keep their side, and are read once."""

import dataclasses
import hashlib
import os
import shutil
import subprocess

import numpy as np
import pandas
import pyarrow as pa
import pytest
from PIL import Image
from published import damage, remove

from artifacts import dataset
from artifacts.errors import InvalidRef
from artifacts.settings import Settings
from artifacts.store import Store
from tasks import prepare as stage
from tasks.prepare import prepare_folder
from tasks.preparing import pictures as reading
from tasks.preparing.checks import BlankPictures
from tasks.preparing.layout import LabelError
from tasks.preparing.pictures import TooManyBad
from tasks.preparing.sides import TEST_SHARE, TooFewPictures, lot
from tasks.requests import PictureSettings
from tasks.shared.deadline import Deadline, DeadlineExceeded
from tasks.shared.listing import FolderError
from tasks.vision.images import ImageSpec, Limits, decode

SIZE = {"image_size": 16}


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


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def folder(drawn, place):
    """A copy of its own for each test, in the same place, with the same times."""
    yield shutil.copytree(drawn, place / "pictures")
    shutil.rmtree(place / "pictures")


@pytest.fixture(scope="module")
def prepared_once(drawn, place, tmp_path_factory):
    """A store that has prepared the folder, and the ref of that."""
    folder = shutil.copytree(drawn, place / "pictures")
    store = Store(tmp_path_factory.mktemp("prepared") / "store")
    ref = prepare(store, folder)
    shutil.rmtree(folder)
    return store.disk.root, ref


@pytest.fixture
def prepared(prepared_once, store, folder):
    """The ref of a first preparation of the folder, which the store has seen."""
    found, ref = prepared_once
    subprocess.run(["cp", "-a", found, store.disk.root], check=True)
    return ref


def prepare(store, folder, name="pictures", images="root:", **how):
    settings = Settings(image_roots={"root": folder}, decoders=1)
    return prepare_folder(store, settings, images, PictureSettings(**{**SIZE, **how}), name, Deadline.after(1))


def sides(store, ref):
    data = dataset.load(store, ref)
    return [dict(zip(map(str, side.sources), side.images, strict=True)) for side in (data.train, data.test)]


def decoded(store, ref):
    return store.open(ref).manifest["provenance"]["decoded"]


def draw(path, seed, level=128):
    random = np.random.default_rng(seed)
    Image.fromarray(random.integers(level - 40, level + 40, (20, 20, 3), dtype=np.uint8)).save(path)


@pytest.mark.parametrize(("color", "channels"), [("rgb", 3), ("grey", 1)])
def test_pictures_become_what_scoring_would_see(store, folder, color, channels):
    data = dataset.load(store, prepare(store, folder, color=color))
    assert data.classes == ["dark", "light"]
    assert data.train.images.shape[1:] == (16, 16, channels)
    train, test = sides(store, data.artifact.ref)
    assert len(train) + len(test) == 200
    assert 10 < len(test) < 50
    for path, pixels in list(test.items())[:5]:
        spec = ImageSpec.from_dict(data.image_spec)
        seen = decode((folder / path).read_bytes(), spec, Limits(1 << 20, 1 << 20)).pixels
        assert (pixels == seen).all()
        assert data.classes[data.test.labels[list(test).index(path)]] == path.partition("/")[0]


def test_the_file_is_what_the_contract_says(store, folder, prepared):
    artifact = store.open(prepared)
    file = pa.ipc.open_file(pa.memory_map(str(artifact.path("train.arrow"))))
    assert file.num_record_batches == 1
    types = {field.name: field.type for field in file.schema}
    assert types == {
        "image": pa.fixed_shape_tensor(pa.uint8(), [16, 16, 3]),
        "label": pa.int32(),
        "source": pa.string(),
        "sha256": pa.string(),
    }


def test_mixed_formats_sizes_and_modes(store, folder):
    kinds = "jpg L, jpg CMYK, png P, png LA, png I;16, gif P, bmp RGB, webp RGBA, tiff CMYK, tiff 1"
    for index, (kind, mode) in enumerate(each.split() for each in kinds.split(", ")):
        picture = Image.fromarray(np.random.default_rng(index).integers(0, 255, (9 + index, 30, 3), dtype=np.uint8))
        picture = picture.convert("L").convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
        picture.save(folder / f"dark/mixed{index}.{kind}")
    data = dataset.load(store, prepare(store, folder))
    assert data.bad == {}
    assert len(data.train.labels) + len(data.test.labels) == 210


def test_a_picture_keeps_its_side_when_others_arrive_and_equal_ones_share_it(store, folder, prepared):
    train, test = sides(store, prepared)
    for index in range(30):
        draw(folder / f"dark/new{index}.png", index)
    for path in [*list(train)[:10], *list(test)[:10]]:
        shutil.copy(folder / path, folder / f"{path}.copy.png")
    more = prepare(store, folder)
    more_train, more_test = sides(store, more)
    assert set(train) <= set(more_train)
    assert set(test) <= set(more_test)
    for one, other in ((train, more_test), (test, more_train)):
        assert not {f"{path}.copy.png" for path in one} & set(other)
    [told] = [each["text"] for each in dataset.load(store, more).findings if each["check"] == "copies"]
    assert told == "20 files have the pixels of another one; they are on the same side"


def test_another_seed_splits_otherwise_and_the_same_again_alike(store, folder, prepared):
    first, again, other = prepared, prepare(store, folder, split_seed=0), prepare(store, folder, split_seed=1)
    assert first == again
    assert set(sides(store, first)[1]) != set(sides(store, other)[1])
    draws = [lot(f"{index:064x}", 5) for index in range(7000)]
    assert sum(each < TEST_SHARE for each in draws) == pytest.approx(1000, abs=100)
    assert 0 <= min(draws) < max(draws) < 1


def test_classes_of_two_pictures_have_one_on_each_side(store, tmp_path):
    for name in "abcdefghij":
        (tmp_path / "few" / name).mkdir(parents=True)
        for index in range(2):
            draw(tmp_path / "few" / name / f"{index}.png", ord(name) * 2 + index)
    ref = prepare(store, tmp_path / "few")
    data = dataset.load(store, ref)
    assert np.bincount(data.train.labels).tolist() == np.bincount(data.test.labels).tolist() == [1] * 10
    for name in "abcdefghij":
        for index in range(2, 60):
            draw(tmp_path / "few" / name / f"{index}.png", ord(name) * 1000 + index)
    train, test = sides(store, ref)
    more = sides(store, prepare(store, tmp_path / "few"))
    assert set(train) <= set(more[0]) | set(test), "who was learned from is never tested with"
    assert not set(train) & set(more[1])


def test_the_same_content_is_the_same_version_and_is_not_read_again(store, folder, monkeypatch, prepared):
    ref = prepared
    (folder / "dark/000.png").touch()
    assert prepare(store, folder) == ref, "another time, the same content"
    monkeypatch.setattr("tasks.prepare.read_files", lambda *_: pytest.fail("read again"))
    assert prepare(store, folder) == ref


def test_only_what_is_new_is_decoded(store, folder, tmp_path, prepared):
    first = prepared
    assert decoded(store, first) == 200
    draw(folder / "light/new.png", 1)
    os.utime(folder / "dark/003.png", (1, 1))
    draw(folder / "dark/005.png", 2)
    (folder / "dark/007.png").unlink()
    second = prepare(store, folder)
    assert decoded(store, second) == 2, "the new one, and the one with another content"
    shutil.rmtree(store.disk.root / "staging")
    remove(store.open(second).folder)
    assert prepare(store, folder) == second, "with nothing known it is the same version"
    assert decoded(store, second) == 200


def test_what_could_not_be_read_is_tried_again_and_what_is_no_picture_is_known(store, folder, monkeypatch):
    (folder / "dark/notes.png").write_text("no picture")
    first = prepare(store, folder)
    assert dataset.load(store, first).bad["dark/notes.png"].startswith("unsupported: ")
    draw(folder / "light/new.png", 1)
    asked = []
    decode_requests = stage.read_files.__globals__["DecoderPool"].decode

    def decode_and_note(pool, requests):
        yield from decode_requests(pool, (asked.extend(files.paths) or (key, files) for key, files in requests))

    monkeypatch.setattr(stage.read_files.__globals__["DecoderPool"], "decode", decode_and_note)
    prepare(store, folder)
    assert asked == [b"light/new.png"]


def test_what_could_not_be_read_for_a_reason_that_may_pass_is_tried_again(store, folder, monkeypatch):
    real = stage.read_files

    def slow(*given):
        found = real(*given)
        files = [each._replace(sha256=None, bad="timeout: decoding took longer than 10 s") if index == 3 else each
                 for index, each in enumerate(found.files)]  # fmt: skip
        return dataclasses.replace(found, files=files)

    monkeypatch.setattr(stage, "read_files", slow)
    assert list(dataset.load(store, prepare(store, folder)).bad) == ["dark/003.png"]
    monkeypatch.setattr(stage, "read_files", real)
    again = prepare(store, folder)
    assert dataset.load(store, again).bad == {}
    assert decoded(store, again) == 1


def test_labels_that_are_too_bad_are_refused_before_anything_is_decoded(store, folder, monkeypatch):
    for index in range(5):
        (folder / f"note{index}.png").touch()
    monkeypatch.setattr("tasks.prepare.read_files", lambda *_: pytest.fail("read"))
    with pytest.raises(TooManyBad, match=r"found 5 of 205: note0.png \(in no class's folder\)"):
        prepare(store, folder)


def test_another_decoder_decodes_anew(store, folder, monkeypatch, prepared):
    """Its pixels may differ in a last bit, and one dataset is of one decoder's."""
    ref = prepared
    monkeypatch.setattr("PIL.__version__", "1.2.3")
    asked = []
    real = stage.read_files
    monkeypatch.setattr(stage, "read_files", lambda *given: asked.append(real(*given)) or asked[0])
    assert prepare(store, folder) == ref
    assert asked[0].decoded == 200


def test_another_folder_of_the_same_name_is_read(store, drawn, tmp_path):
    """With the same paths, sizes and times, as archives and uncompressed formats have them."""
    for top, levels in (("one", (60, 200)), ("two", (200, 60))):
        for name, level in zip("ab", levels, strict=True):
            (tmp_path / top / name).mkdir(parents=True)
            for index in range(8):
                path = tmp_path / top / name / f"{index}.bmp"
                Image.fromarray(np.random.default_rng(index).integers(level - 40, level + 40, (9, 9), np.uint8)).save(
                    path
                )
                os.utime(path, (1, 1))
    refs = [prepare(store, tmp_path / top) for top in ("one", "two")]
    assert refs[0] != refs[1]


def test_a_copy_of_what_a_table_trains_on_is_never_tested_with(store, drawn):
    """Where a table says the side of some rows only: it holds for the copies, whatever the content would decide."""
    paths = sorted(path.relative_to(drawn).as_posix() for path in drawn.rglob("*.png"))
    ref = prepare(store, drawn)
    tested = next(iter(sides(store, ref)[1]))
    shutil.copy(drawn / tested, drawn / f"{tested}.copy.png")
    rows = [f"{path},{path.partition('/')[0]}," for path in [*paths, f"{tested}.copy.png"]]
    rows = [f"{row}train" if row.startswith(f"{tested},") else row for row in rows]
    (drawn / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    try:
        found = dataset.load(store, prepare(store, drawn, images="root:labels.csv"))
    finally:
        (drawn / "labels.csv").unlink()
        (drawn / f"{tested}.copy.png").unlink()
    assert not set(map(str, found.train.sha256)) & set(map(str, found.test.sha256))
    assert {tested, f"{tested}.copy.png"} <= set(map(str, found.train.sources))
    assert found.bad == {}


def test_a_damaged_or_missing_record_only_costs_time(store, folder, prepared):
    ref = prepared
    [key] = store.disk.list("staging/prepared")
    path = store.disk.local_path(key)
    content = path.read_bytes()
    damage(path, content[:100] + bytes([content[100] ^ 255]) + content[101:])
    draw(folder / "light/new.png", 1)
    assert decoded(store, prepare(store, folder)) == 201
    [key] = store.disk.list("staging/prepared")
    damage(store.disk.local_path(key), b"")
    (folder / "light/new.png").unlink()
    assert prepare(store, folder) == ref
    assert len(list(store.disk.list("staging/prepared"))) == 1


def test_a_damaged_dataset_before_is_no_reason_not_to_make_another(store, folder, prepared):
    first = prepared
    path = store.open(first).folder / "train.arrow"
    content = path.read_bytes()
    damage(path, content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    draw(folder / "light/new.png", 1)
    second = prepare(store, folder)
    assert decoded(store, second) == 201
    assert len(store.verify(second).corrupt) == 0
    (folder / "light/new.png").unlink()
    assert prepare(store, folder) == first
    assert store.verify().corrupt == [], "it is mended by the same bytes"


@pytest.mark.parametrize("file", ["checks.json", "manifest.json", "test.arrow"])
def test_a_damaged_dataset_is_mended_by_preparing_it_again(store, folder, prepared, file):
    damage(store.open(prepared).folder / file, b"{")
    assert len(store.verify().corrupt) == 1
    assert prepare(store, folder) == prepared
    assert store.verify().corrupt == []


def test_bad_files_are_listed_and_too_many_stop(store, folder):
    (folder / "light/cut.png").write_bytes((folder / "light/000.png").read_bytes()[:100])
    (folder / "readme.txt").write_text("hello")
    found = dataset.load(store, prepare(store, folder))
    assert found.bad["readme.txt"] == "in no class's folder"
    assert found.bad["light/cut.png"].startswith("corrupt: ")
    assert {each["text"] for each in found.findings if each["check"] == "bad files"} == {
        "1 file left out: corrupt",
        "1 file left out: in no class's folder",
    }
    (folder / "light/link.png").symlink_to("000.png")
    for index in range(2):
        (folder / f"light/empty{index}.png").touch()
    before = list(store.refs())
    with pytest.raises(
        TooManyBad, match=r"at most 1% of the files .*, found 4 of 204: light/cut.png .*; mend or remove"
    ):
        prepare(store, folder)
    assert list(store.refs()) == before
    ref = prepare(store, folder, max_bad=0.03)
    assert dataset.load(store, ref).bad["light/link.png"].startswith("unsupported: the entry is no regular file")
    with pytest.raises(TooManyBad):
        prepare(store, folder)


def test_whatever_time_and_size_a_file_has_it_is_one_file_and_is_known_again(store, folder, in_memory, monkeypatch):
    shutil.copytree(folder, in_memory, dirs_exist_ok=True)
    for number, seconds in enumerate((10_413_792_000, (1 << 63) - 1, -(1 << 63), -1)):
        os.utime(in_memory / f"dark/{number:03d}.png", ns=(seconds * 10**9,) * 2)
    for name in ("huge", "as huge"):
        (in_memory / f"light/{name}.png").touch()
        os.truncate(in_memory / f"light/{name}.png", (1 << 63) - 1)
    ref = prepare(store, in_memory, max_bad=0.01)
    found = dataset.load(store, ref)
    assert {path: why.partition(":")[0] for path, why in found.bad.items()} == {
        "light/as huge.png": "too_large", "light/huge.png": "too_large",
    }  # fmt: skip
    assert decoded(store, ref) == 200 + len(found.bad)
    monkeypatch.setattr("tasks.prepare.read_files", lambda *_: pytest.fail("read again"))
    assert prepare(store, in_memory, max_bad=0.01) == ref


def test_all_files_bad(store, folder):
    for file in folder.rglob("*.png"):
        file.write_text("no picture")
    with pytest.raises(TooManyBad, match="found 200 of 200"):
        prepare(store, folder)
    assert list(store.refs()) == []


def test_one_content_under_two_labels_is_left_out(store, folder):
    shutil.copy(folder / "dark/000.png", folder / "light/x.png")
    bad = dataset.load(store, prepare(store, folder)).bad
    assert bad == dict.fromkeys(
        ["dark/000.png", "light/x.png"], "conflicting: the same content is labelled dark and light"
    )


def test_what_can_not_be_trained_on(store, folder, tmp_path):
    (folder / "rare").mkdir()
    draw(folder / "rare/one.png", 1)
    with pytest.raises(TooFewPictures, match=r"of every class to .*, none of rare found among .*; a class needs two"):
        prepare(store, folder)
    shutil.rmtree(folder / "rare")
    shutil.rmtree(folder / "dark")
    with pytest.raises(LabelError, match="two of them at least, found light"):
        prepare(store, folder)
    with pytest.raises(FolderError, match="expected a folder of pictures at"):
        prepare(store, tmp_path / "nowhere")
    with pytest.raises(InvalidRef, match="expected a name"):
        prepare(store, folder, name="no such/name")
    assert list(store.refs()) == []


def test_pictures_of_nothing(store, folder):
    for index, file in enumerate(sorted(folder.rglob("*.png"))):
        Image.new("RGB", (10 + index, 10), (index, index, index)).save(file)
    with pytest.raises(BlankPictures, match="expected pictures that show something, found 200 of a single colour each"):
        prepare(store, folder)
    assert list(store.refs()) == []
    assert list(store.disk.list("datasets")) == [], "nothing half-published"


def test_strokes_on_a_transparent_ground_are_seen_on_another_one(store, folder):
    for index, file in enumerate(sorted(folder.rglob("*.png"))):
        picture = Image.new("RGBA", (20, 20))
        picture.paste((0, 0, 0, 255), (2, 3, 6 + index % 14, 4 + index // 14))
        picture.save(file)
    with pytest.raises(TooFewPictures, match=r"200 files are left out, of a single colour: --background 255 shows"):
        prepare(store, folder)
    made = dataset.load(store, prepare(store, folder, background=255))
    assert made.image_spec["background"] == 255
    assert "blank images" not in {each["check"] for each in made.findings}
    assert (made.train.images.min(axis=(1, 2, 3)) < 200).all()


def test_sixteen_bits_of_which_few_are_used(store, folder):
    """What one sees is there with `deep`, and what is lost without is told; the two are not taken for each other."""
    files = sorted(folder.rglob("*.png"))
    eight = [np.asarray(Image.open(file).convert("L").resize((16, 16))) for file in files]
    for file, pixels in zip(files, eight, strict=True):
        Image.fromarray(pixels.astype(np.uint16) * 16).save(file)  # 12 bits in 16
    upper = dataset.load(store, prepare(store, folder, color="grey"))
    assert "200 images with less than 32 of 256 levels" in " ".join(each["text"] for each in upper.findings)
    assert "deep" not in upper.image_spec
    stretched = dataset.load(store, prepare(store, folder, color="grey", deep="range"))
    assert stretched.image_spec["deep"] == "range"
    assert "faint images" not in {each["check"] for each in stretched.findings}
    assert (np.ptp(stretched.train.images, axis=(1, 2, 3)) == 255).all()
    assert stretched.artifact.ref != upper.artifact.ref
    assert prepare(store, folder, color="grey") == upper.artifact.ref


def test_given_sides_are_kept_and_equal_contents_are_only_tested_with(store, drawn, tmp_path):
    folder = tmp_path / "split"
    for side, start in (("train", 0), ("test", 80)):
        for name in ("dark", "light"):
            (folder / side / name).mkdir(parents=True)
            for index in range(start, start + (80 if side == "train" else 20)):
                shutil.copy(drawn / name / f"{index:03d}.png", folder / side / name)
    shutil.copy(drawn / "dark/085.png", folder / "train/dark/again.png")
    ref = prepare(store, folder)
    train, test = sides(store, ref)
    assert (len(train), len(test)) == (160, 40)
    assert {path.partition("/")[0] for path in test} == {"test"}
    assert dataset.load(store, ref).bad == {
        "train/dark/again.png": "duplicate: test/dark/085.png, which is tested with, has the same content"
    }


def test_a_table_of_labels_with_slashes_spaces_and_emoji(store, drawn):
    labels = {"dark": "T-shirt/top 👕", "light": "ankle boot"}
    paths = sorted(path.relative_to(drawn).as_posix() for path in drawn.rglob("*.png"))
    table = pandas.DataFrame({"path": paths, "label": [labels[path.partition("/")[0]] for path in paths]})
    table.loc[len(table)] = ["gone.png", "ankle boot"]
    table.to_csv(drawn / "labels.csv", index=False)
    try:
        found = dataset.load(store, prepare(store, drawn, images="root:labels.csv"))
    finally:
        (drawn / "labels.csv").unlink()
    assert found.classes == ["T-shirt/top 👕", "ankle boot"]
    assert list(found.bad) == ["gone.png"]
    assert len(found.train.labels) + len(found.test.labels) == 200


def test_a_deadline_ends_the_reading(store, folder):
    settings = Settings(image_roots={"root": folder}, decoders=1)
    with pytest.raises(DeadlineExceeded, match="still reading the pictures of root:"):
        prepare_folder(store, settings, "root:", PictureSettings(**SIZE), "pictures", Deadline(hours=1, until=0))
    assert list(store.refs()) == []
    assert not list(store.disk.list("staging/scratch"))


def save_again(path, kind="bmp"):
    """The same picture as another file: of the same pixels, or as `jpg` of nearly the same ones."""
    again = path.with_suffix(f".{kind}")
    Image.open(path).save(again, **({"quality": 90} if kind == "jpg" else {}))
    return again


def pixels_of(split):
    return {image.tobytes() for image in split.images}


def test_pictures_with_the_same_pixels_share_a_side_whatever_their_files_are(store, folder, prepared):
    for path in [*folder.glob("*/*.png")]:
        save_again(path)
    data = dataset.load(store, prepare(store, folder))
    train, test = pixels_of(data.train), pixels_of(data.test)
    assert not train & test
    assert 10 < len(test) < 50, "copies make the share that is tested with no larger"
    assert (len(train) + len(test), len(data.train.labels) + len(data.test.labels)) == (200, 400)
    [told] = [each["text"] for each in data.findings if each["check"] == "copies"]
    assert told == "200 files have the pixels of another one; they are on the same side"


def test_a_picture_keeps_its_side_unless_a_copy_decides(store, folder, prepared):
    """Its copies' files decide together, the one with the smallest SHA-256: most pictures stay."""
    before = dict.fromkeys(sides(store, prepared)[1], "test")
    again = [save_again(path) for path in sorted(folder.glob("dark/*.png"))]
    train, test = sides(store, prepare(store, folder))
    light = {path for path in test if path.startswith("light")}
    assert light == {path for path in before if path.startswith("light")}, "what has no copies stays"
    for path in again:
        files = [path.with_suffix(".png"), path]
        digests = sorted(hashlib.sha256(each.read_bytes()).hexdigest() for each in files)
        expected = test if lot(digests[0], 0) < TEST_SHARE else train
        assert all(str(each.relative_to(folder)) in expected for each in files)


def test_one_picture_under_two_labels_is_known_by_its_pixels(store, folder):
    again = save_again(folder / "dark/000.png")
    again.rename(folder / "light/again.bmp")
    bad = dataset.load(store, prepare(store, folder)).bad
    why = "conflicting: the same content is labelled dark and light"
    assert bad == {"dark/000.png": why, "light/again.bmp": why}


def test_a_copy_of_a_picture_that_is_tested_with_is_not_learned_from(store, drawn, tmp_path):
    top = tmp_path / "given"
    for side, chosen in (("train", range(80)), ("test", range(80, 100))):
        for name in ("dark", "light"):
            (top / side / name).mkdir(parents=True)
            for index in chosen:
                shutil.copy(drawn / name / f"{index:03d}.png", top / side / name)
    save_again(top / "test/dark/085.png").rename(top / "train/dark/again.bmp")
    data = dataset.load(store, prepare(store, top))
    assert data.bad == {
        "train/dark/again.bmp": "duplicate: test/dark/085.png, which is tested with, has the same content"
    }


def test_sides_that_were_dealt_by_files_are_dealt_anew_and_nothing_is_decoded(store, folder, monkeypatch):
    """What an earlier Lookbook put on record is no answer any more: copies may be on both of its sides."""
    for path in [*folder.glob("dark/*.png")]:
        save_again(path)
    with monkeypatch.context() as older:
        older.setattr(reading, "contents_in", lambda places: {sha256: sha256.encode() for sha256 in places})
        older.setattr(stage, "SIDES_BY", "files")
        leaking = dataset.load(store, prepare(store, folder))
    assert pixels_of(leaking.train) & pixels_of(leaking.test)
    mended = dataset.load(store, prepare(store, folder))
    assert not pixels_of(mended.train) & pixels_of(mended.test)
    assert decoded(store, mended.artifact.ref) == 0
