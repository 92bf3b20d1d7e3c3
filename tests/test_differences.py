"""pytest tests/test_differences.py: a scoring says what its pictures have that those which were learned from have not,
and says nothing of pictures of the same kind."""

import html
import json

import numpy as np
import pytest
from PIL import Image
from test_scoring import TRAINING, settings_for, tensors
from test_scoring import score as score_folder

from artifacts import dataset, predictions, weights
from tasks.reports.terminal import scoring as in_a_terminal
from tasks.results import scored
from tasks.vision.images import ImageSpec

pytestmark = pytest.mark.slow

CLASSES = ["circle", "square", "line"]


def trained(store, shapes, source="idx", channels=1, tint=(1, 1, 1)):
    """Weights that tell the shapes apart, and learned from such images."""
    spec = ImageSpec(8, 8, channels).to_dict()
    sides = {}
    for side, split in shapes.items():
        images = (split.images * np.array(tint[:channels])).astype(np.uint8)
        sides[side] = dataset.Split(images, split.labels, split.sources)
    data = dataset.save(
        store, "shapes", **sides, classes=CLASSES, image_spec=spec, settings={"source": source}, inputs={}, made={}
    )
    learned = tensors()
    learned["hidden/kernel"] = np.repeat(learned["hidden/kernel"], channels, axis=0) / channels
    return weights.save(
        store, "shapes", tensors=learned, history=[], classes=CLASSES, image_spec=spec, settings=TRAINING.to_dict(),
        dataset=data, made={},
    )  # fmt: skip


def draw(folder, images):
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(folder / f"{number:03d}.png")
    return folder


def fabrics(items=42, size=(48, 64)):
    """Woven stripes in colour, larger than what was learned from."""
    random = np.random.default_rng(0)
    stripes = np.add.outer(np.arange(size[0]), np.arange(size[1])) // 4 % 2
    colours = random.integers(60, 256, (items, 2, 3))
    return [colours[item][stripes].astype(np.uint8) for item in range(items)]


def told(store, folder, champion, **asked):
    """What a scoring of the folder says, and its result."""
    ref, outcome = score_folder(store, settings_for(folder), champion, **asked)
    result = scored(predictions.load(store, ref), outcome, 1.0)
    return result.differs, result, store.open(ref)


def test_colour_fabrics_under_a_model_of_small_grey_pictures(store, shapes, tmp_path, capsys):
    champion = trained(store, shapes)
    differs, result, table = told(store, draw(tmp_path / "fabrics", fabrics()), champion)
    assert differs["colour"] == "95% of these pictures are in colour, those learned from are grey"
    assert differs["size"] == "these pictures have 64x48 pixels (median), those learned from 8x8"
    assert set(differs) == {"colour", "size", "brightness"}
    page, short = table.read("report.html").decode(), table.read("report.md").decode()
    assert "<h2>These pictures differ from what the model has learned from</h2>" in page
    assert short.startswith("**These pictures differ from what the model has learned from.**")
    for text in differs.values():
        assert html.escape(text) in page
        assert text in short.replace("\\", "")
    in_a_terminal(json.loads(json.dumps(vars(result), default=str)))
    assert "95% of these pictures are in colour" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    again = told(store, tmp_path / "fabrics", champion)
    assert again[0] == differs, "nothing new: as the table says"


def test_pictures_of_the_same_kind_and_some_of_their_classes_alone(store, shapes, tmp_path):
    champion = trained(store, shapes)
    test = shapes["test"]
    assert told(store, draw(tmp_path / "all", test.images), champion, name="all")[0] == {}
    for label in range(3):
        folder = draw(tmp_path / str(label), test.images[test.labels == label])
        differs, _, table = told(store, folder, champion, name=f"only-{label}")
        assert differs == {}
        assert "These pictures differ" not in table.read("report.html").decode()


def test_what_was_learned_from_itself_under_weights_that_take_all_for_one_class(store, shapes, tmp_path):
    """Whose brightness is that of all classes, not of that one."""
    dark = np.array([1, 0.4, 0.1])
    lit = {
        side: dataset.Split(
            (255 - (255 - split.images) * dark[split.labels, None, None, None]).astype(np.uint8),
            split.labels, split.sources,
        )
        for side, split in shapes.items()
    }  # fmt: skip
    champion = trained(store, lit)
    differs, result, _ = told(store, draw(tmp_path / "same", lit["train"].images[:60]), champion)
    assert len(result.classes) < 3, "they are mistaken"
    assert differs == {}


def test_the_other_way_round(store, shapes, tmp_path):
    champion = trained(store, shapes, source="pictures", channels=3, tint=(1, 0.5, 0.3))
    tinted = [(image * np.array((1, 0.5, 0.3))).astype(np.uint8) for image in shapes["test"].images]
    assert told(store, draw(tmp_path / "colour", tinted), champion, name="colour")[0] == {}
    grey = [(image * 0.6).astype(np.uint8) for image in shapes["test"].images]
    differs = told(store, draw(tmp_path / "grey", grey), champion, name="grey")[0]
    assert differs == {"colour": "100% of these pictures are grey, 100% of those learned from are in colour"}


def test_what_is_not_known_is_not_told(store, shapes, tmp_path):
    """Pictures of one's own that are learned in grey may be colour photographs of any size."""
    champion = trained(store, shapes, source="pictures")
    tinted = [np.dstack([image] * 3).repeat(4, 0).repeat(4, 1) for image in shapes["test"].images]
    for image in tinted:
        image[::2, :, 2] //= 2
    assert told(store, draw(tmp_path / "own", tinted), champion)[0] == {}


@pytest.mark.parametrize("gone", [True, False])
def test_a_table_without_it(store, shapes, tmp_path, gone):
    """Where the dataset is gone there is nothing to compare with, and a table of before has nothing."""
    champion = trained(store, shapes)
    folder = draw(tmp_path / "fabrics", fabrics(8))
    if gone:
        [data] = store.refs("datasets", "shapes")
        store.disk.remove(store.open(data).key("train.arrow"))
        assert told(store, folder, champion)[0] == {}
    else:
        differs, _, table = told(store, folder, champion)
        assert differs
        assert "differences.json" not in table.identity["files"], "what is told is no part of the table's identity"


def test_nothing_but_errors(store, shapes, tmp_path):
    folder = tmp_path / "errors"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    assert told(store, folder, trained(store, shapes))[0] == {}
