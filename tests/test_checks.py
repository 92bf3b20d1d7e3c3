"""pytest tests/test_checks.py: what is odd about a dataset is told, and what is not odd is not."""

import dataclasses

import numpy as np
import pytest
from scipy.fft import dctn

from artifacts import dataset
from artifacts.dataset import Split
from tasks.preparing.checks import BlankPictures, check, sentence
from tasks.vision import duplicates

CLASSES = ["boot", "shoe"]


def make(items, seed, level=128, shares=(0.5, 0.5), prefix="a"):
    """Soft random images, as smooth as photographs are: noise has no perceptual hash to speak of."""
    random = np.random.default_rng(seed)
    coarse = random.integers(-60, 60, (items, 4, 4, 3)).astype(float)
    images = np.clip(coarse.repeat(4, 1).repeat(4, 2) + level, 0, 255).astype(np.uint8)
    labels = np.repeat(np.arange(2), [round(items * shares[0]), items - round(items * shares[0])]).astype(np.int32)
    names = [f"{prefix}{seed}-{index}" for index in range(items)]
    return Split(images, labels, names, names)


def found(train, test, classes=CLASSES, **given):
    return {each["check"]: each["text"] for each in check(train, test, classes, **given)}


def published(store, train, test, classes=CLASSES):
    ref = dataset.save(
        store, "pairs", train=train, test=test, classes=classes, image_spec={}, settings={}, inputs={}, made={}
    )
    return dataset.load(store, ref)


def test_nothing_is_told_of_a_sound_dataset_even_against_the_one_before(store):
    train, test = make(200, 1), make(40, 2)
    assert found(train, test) == {}
    assert found(make(220, 3), make(44, 4), before=published(store, train, test)) == {}


def test_a_finding_names_its_example_once():
    few = {"text": "fewer than 20 images to train on: boot 12, shoe 3", "examples": ["boot 12", "shoe 3"]}
    assert sentence(few) == few["text"]
    bad = {"text": "2 files left out: corrupt", "examples": ["a.png (corrupt)"]}
    assert sentence(bad) == "2 files left out: corrupt, for example a.png (corrupt)"
    assert sentence({"text": "classes that are gone", "examples": []}) == "classes that are gone"


def test_imbalance_few_images_and_names_that_are_alike():
    told = found(make(220, 1, shares=(0.95, 0.05)), make(40, 2, shares=(0.9, 0.1)), ["Boot", "boot "])
    assert told["imbalance"] == "19 times as many images to train on of Boot (209) as of boot  (11)"
    assert told["class names"] == "classes that differ only in case, spaces or encoding: 'Boot' and 'boot '"
    assert "few images" in told
    texts = [each["text"] for each in check(make(220, 1, shares=(0.95, 0.05)), make(40, 2, shares=(0.9, 0.1)), CLASSES)]
    assert "fewer than 20 images to train on: shoe 11" in texts
    assert "fewer than 10 images to test with: shoe 4" in texts


@pytest.mark.parametrize("name", ["boot ", "\u3000boot", "bo\u200bot", "bo\not"])
def test_a_name_that_is_not_what_it_looks_like_is_told(name):
    told = found(make(200, 1), make(40, 2), [name, "shoe"])
    assert told == {"class names": f"names with spaces around them, or characters that nobody sees: {name!r}"}
    assert found(make(200, 1), make(40, 2), ["ünï cödé", "🥾"]) == {}


def test_blank_images_and_images_on_both_sides():
    train, test = make(200, 1), make(40, 2)
    train.images[7] = 99
    test.images[3] = train.images[50]
    test.images[4] = np.clip(train.images[60].astype(int) + 3, 0, 255)
    told = check(train, test, CLASSES)
    assert [(each["text"], each["examples"]) for each in told] == [
        ("1 image of a single colour", ["a1-7"]),
        ("1 test image with the same pixels as one to train on (2.50% of those to test with)", ["a2-3 ~ a1-50"]),
        ("1 test image with nearly the same pixels as one to train on (2.50% of those to test with)", ["a2-4 ~ a1-60"]),
    ]


def test_changes_against_the_version_before(store):
    before = published(store, make(400, 1), make(80, 2))
    version = before.artifact.ref.version
    told = found(make(100, 3, level=60, shares=(0.85, 0.15)), make(20, 4), before=before)
    assert told["shrunk"] == f"120 images, where {version} has 480"
    assert told["class shares"].startswith(
        f"the classes' shares differ much from {version} (population stability index"
    )
    assert "50.0% before, 85.0% now" in told["class shares"]
    assert "brightness differs much" in told["pixels"]
    assert found(make(400, 3), make(80, 4), ["boot", "hat"], before=before)["classes"].startswith(
        "classes that appeared"
    )
    texts = [each["text"] for each in check(make(400, 3), make(80, 4), ["boot", "hat"], before=before)]
    assert [text for text in texts if "classes that" in text] == [
        f"classes that vanished since {version}: shoe",
        f"classes that appeared since {version}: hat",
    ]


def test_images_that_were_trained_on_before_are_told(store):
    before = published(store, make(200, 1), make(40, 2))
    train, test = make(200, 1), make(40, 2)
    moved = dataclasses.replace(test, sha256=[train.sha256[9], *test.sha256[1:]])
    told = found(make(200, 5), moved, before=before)
    assert told["moved"] == (
        f"1 image to test with that {before.artifact.ref.version} trained on: its models have seen them"
    )


def test_images_of_another_size_are_not_compared(store):
    before = published(store, make(200, 1), make(40, 2))
    train, test = make(200, 3), make(40, 4)
    smaller = [dataclasses.replace(each, images=np.ascontiguousarray(each.images[:, :8, :8])) for each in (train, test)]
    assert "pixels" not in found(*smaller, before=before)


def test_a_perceptual_hash_is_that_of_the_cosine_transform():
    images = make(50, 1).images
    for image, found_hash in zip(images, duplicates.perceptual_hashes(images), strict=True):
        low = np.rint(dctn(image.mean(axis=2), type=2)[1:9, 1:9].T.ravel() / 4)  # SciPy's are four times as large
        expected = np.packbits(low > np.sort(low)[31]).view(np.uint64)[0]
        assert found_hash == expected


@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 64, 3), (8, 8, 3), (20, 33, 3)])
def test_near_duplicates_survive_what_copies_go_through_and_others_do_not(shape):
    random = np.random.default_rng(0)
    height, width, channels = shape
    coarse = random.integers(30, 220, (300, 6, 6, channels))
    rows, columns = (np.arange(size) * 6 // size for size in (height, width))
    images = coarse[:, rows][:, :, columns].astype(np.uint8)
    noisy = np.clip(images[:20].astype(int) + random.integers(-4, 5, images[:20].shape), 0, 255).astype(np.uint8)
    assert duplicates.near_duplicates(noisy, images)[0].tolist() == [[place, place] for place in range(20)]
    assert duplicates.near_duplicates(images[:150], images[150:])[0].tolist() == []


def test_fashion_mnist_has_nine_test_images_that_nearly_are_training_images(fashion_mnist):
    train, test = (fashion_mnist[side] for side in ("train", "test"))
    pairs, apart = duplicates.near_duplicates(test.images, train.images)
    assert apart.min() > 0, "none is the same"
    assert not {image.tobytes() for image in test.images} & {image.tobytes() for image in train.images}
    assert (len(pairs), len(np.unique(pairs[:, 0]))) == (14, 9)
    assert (train.labels[pairs[:, 1]] == test.labels[pairs[:, 0]]).all()


def test_images_that_were_trained_on_before_in_another_file_are_told(store):
    before = published(store, make(200, 1), make(40, 2))
    test = make(40, 2)
    test.images[5] = before.train.images[9]
    told = found(make(200, 5), test, before=before)
    assert told["moved"].startswith("1 image to test with that ")


def test_images_are_the_same_only_where_all_their_pixels_are():
    ours, theirs = make(30, 1).images, make(50, 2).images
    theirs[:10] = ours[5:15]
    theirs[10:20] = ours[15:25]
    theirs[10:20, 7, 7] ^= 1  # a pixel of which the first look sees nothing
    assert np.flatnonzero(duplicates.also_among(ours, theirs)).tolist() == list(range(5, 15))
    assert not duplicates.also_among(ours, theirs[:, :8]).any()
    assert not duplicates.also_among(ours, theirs[:0]).any()


def test_the_first_image_of_each_content():
    images = np.random.default_rng(0).integers(0, 2, (2000, 2, 3, 1), np.uint8)
    labels = np.arange(2000, dtype=np.int32) % 3
    for beside in (None, labels):
        keys = [(image.tobytes(), beside is not None and int(beside[item])) for item, image in enumerate(images)]
        assert duplicates.firsts(images, beside).tolist() == [keys.index(key) for key in keys]
    assert duplicates.firsts(images[:0]).tolist() == []


def test_images_with_hardly_a_level_are_told_with_what_stretches_them():
    train, test = make(200, 1), make(40, 2)
    train.images[5:9] = (train.images[5:9] >> 4) // 2  # at most 8 levels, as of 12 bits in 16
    test.images[3] = (np.indices((16, 16, 1)).sum(0) % 40).astype(np.uint8)  # 31 levels
    told = check(train, test, CLASSES)
    assert [(each["check"], each["examples"]) for each in told] == [
        ("faint images", [*(str(train.sources[item]) for item in range(5, 9)), str(test.sources[3])])
    ]
    assert "5 images with less than 32 of 256 levels between the darkest and the lightest pixel" in told[0]["text"]
    assert "--deep range" in told[0]["text"]


def test_blank_images_of_the_background_say_what_may_show_them():
    train, test = make(200, 1), make(40, 2)
    train.images[7], train.images[9] = 99, 0
    assert found(train, test)["blank images"] == (
        "2 images of a single colour, 1 of that of transparent pixels: --background 255 shows what is drawn on a "
        "transparent ground, and --deep range what 16-bit grey has in a part of its range"
    )
    assert "--background" not in found(train, test, background=40)["blank images"]
    train.images[9] = 255
    assert "--background 0 shows" in found(train, test, background=255)["blank images"]
    with pytest.raises(BlankPictures, match=r"240 of a single colour each.*--background 255 shows"):
        check(
            dataclasses.replace(train, images=train.images * 0),
            dataclasses.replace(test, images=test.images * 0),
            CLASSES,
        )
