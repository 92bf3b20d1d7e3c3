"""pytest tests/test_looks.py: what pictures look like to a backbone: which ones teach most, and how far they are from
those that were learned from."""

import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image
from reviewed import CLASSES, publish_table

from artifacts import backbones, predictions, weights
from artifacts import dataset as datasets
from artifacts.features import Features
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.shards import Part
from artifacts.store import Store
from tasks.reports.summary import Summary
from tasks.requests import ScoreRequest
from tasks.reviewing.looks import in_order
from tasks.reviewing.review import Review
from tasks.reviewing.rows import Place
from tasks.scoring.drift import drift
from tasks.scoring.job import make_job
from tasks.shared import backbones as pretrained
from tasks.shared.embedding import Embedding, embed
from tasks.shared.listing import allow_folder
from tasks.vision.images import ImageSpec

pytestmark = pytest.mark.slow

SPEC = ImageSpec(height=64, width=64, channels=3)


def stripes(angle, seed):
    """A picture with stripes: uint8 [64, 64, 3]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.7 + random.uniform(0, 6))
    colour = 128 + 100 * wave[..., None] * np.array([1.0, 0.6, -0.4])
    return np.clip(colour + random.normal(0, 6, (64, 64, 3)), 0, 255).astype(np.uint8)


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A store with weights on a backbone, and what they learned from: stripes, whose features are on record."""
    store = Store(tmp_path_factory.mktemp("looks") / "store")
    backbone = backbones.load(store, pretrained.add_package(store))
    train = np.stack([stripes(number % 3, number) for number in range(24)])
    test = np.stack([stripes(number % 3, 100 + number) for number in range(12)])
    labels = np.arange(24, dtype=np.int32) % 3
    sides = (
        datasets.Split(images, labels[: len(images)], [str(each) for each in range(len(images))])
        for images in (train, test)
    )
    train_side, test_side = sides
    learned = datasets.save(
        store, "stripes", train=train_side, test=test_side, classes=CLASSES, image_spec=SPEC.to_dict(), settings={},
        inputs={}, made={},
    )  # fmt: skip
    for images in (train, test):
        embed(store, Embedding(backbone, SPEC, "float32", "/CPU:0"), images)
    return store.disk.root, weights.save(
        store, "stripes", tensors={"output/bias": np.zeros(3, np.float32)}, history=[], classes=CLASSES,
        image_spec=SPEC.to_dict(), settings={"architecture": "transfer"}, dataset=learned,
        views=[weights.View(backbone.ref, 64)], precision="float32", made={},
    )  # fmt: skip


@pytest.fixture
def on_backbone(published, store):
    """Those weights, in a store of the test's own."""
    root, ref = published
    shutil.copytree(root, store.disk.root)
    return ref


def save(folder, pictures):
    folder.mkdir(exist_ok=True)
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")


def test_what_teaches_most_is_uncertain_and_no_two_look_alike(store, on_backbone, tmp_path, monkeypatch):
    """Ten copies of one picture, all less certain than five others: one copy comes first, then others."""
    monkeypatch.setenv("LOOKBOOK_STORE", str(store.disk.root))
    one = stripes(0, 0).astype(np.int16)
    copies = [np.clip(one + seed, 0, 255).astype(np.uint8) for seed in range(10)]
    save(tmp_path / "night", copies + [noise(seed) for seed in range(2)] + [stripes(1.5, seed) for seed in range(3)])
    said = np.full((15, 3), [0.45, 0.4, 0.15], np.float32)
    said[10:] = [0.55, 0.3, 0.15]
    ref = publish_table(store, tmp_path / "night", "night", said, made_by=on_backbone)
    review = Review(store, Settings(), "night")
    before = review.to_label("unsure", 15)
    assert sorted(each.path for each in before.rows) == [f"{number:03d}.png" for number in range(15)]
    before.table.reordering.join()  # its process goes behind all others that want a processor, and has 5 minutes
    now = [each.place for each in review.to_label("unsure", 15).rows]
    review.close()
    assert sum(place.row < 10 for place in now[:4]) == 1
    contents = [hashlib.sha256(noise(seed).tobytes()).digest() for seed in range(2)]
    backbone = backbones.load(store, weights.load(store, on_backbone).backbone)
    decided_by = Embedding(backbone, SPEC, "float32", "/CPU:0").decided_by(mirrored=False)
    assert all(each in Features(store.disk, decided_by, 1280) for each in contents)  # kept for the next training
    order = in_order(store, Settings(decoders=1), ref, [Place(0, row) for row in range(15)])
    assert sorted(order) == [Place(0, row) for row in range(15)]
    assert now == order


@pytest.mark.parametrize(("drawn", "far"), [("stripes", False), ("noise", True)])
def test_the_distance_tells_other_pictures_from_those_that_were_learned_from(store, on_backbone, tmp_path, drawn, far):
    pictures = [stripes(seed % 3, 500 + seed) if drawn == "stripes" else noise(seed) for seed in range(20)]
    assert (distance(store, on_backbone, tmp_path / "night", pictures) > 1.5) is far


def distance(store, made_by, folder, pictures):
    """What drift says of a table of twenty pictures."""
    save(folder, pictures)
    settings = Settings(store=str(store.disk.root), decoders=1)
    job = make_job(store, settings, ScoreRequest(allow_folder(folder), weights=str(made_by)))
    ref = publish_table(store, folder, "night", np.full((20, 3), [0.5, 0.3, 0.2], np.float32))
    table, file = store.open(ref), predictions.file_name(0)
    part = Part(table.key(file), table.files[file]["sha256"], "digest", "000.png", 20, {"circle": 20}, {})
    summary = Summary(rows=20, classes={"circle": 20}, confidence=[0, 0, 0, 0, 0, 20, 0, 0, 0, 0])
    return drift(store, settings, job, [part], summary)["distance"]


@pytest.mark.parametrize("others", [12, 0])
def test_the_distance_is_not_that_of_test_images_that_are_nearly_training_images(store, on_backbone, tmp_path, others):
    """Twenty of them, beside as many others; without others there is nothing to compare with."""
    like = weights.load(store, on_backbone)
    before = datasets.load(store, Ref.parse(like.artifact.identity["inputs"]["dataset"]))
    brighter = np.minimum(before.train.images[:20], 253) + np.uint8(2)
    images = np.concatenate([brighter, before.test.images[:others]])
    train, test = (
        datasets.Split(pixels, np.arange(len(pixels), dtype=np.int32) % 3, names, names)
        for pixels, names in (
            (before.train.images, [f"train {number}" for number in range(24)]),
            (images, [f"test {number}" for number in range(len(images))]),
        )
    )
    data = datasets.save(
        store, "stripes", train=train, test=test, classes=CLASSES, image_spec=SPEC.to_dict(), settings={}, inputs={},
        made={},
    )  # fmt: skip
    embed(store, Embedding(backbones.load(store, like.backbone), SPEC, "float32", "/CPU:0"), images)
    made_by = weights.save(
        store, "stripes", tensors=like.tensors, history=[], classes=CLASSES, image_spec=SPEC.to_dict(),
        settings=like.settings, dataset=data, views=like.views, precision="float32", made={},
    )  # fmt: skip
    found = distance(store, made_by, tmp_path / "night", [stripes(seed % 3, 500 + seed) for seed in range(20)])
    assert found is None if others == 0 else found <= 1.5
