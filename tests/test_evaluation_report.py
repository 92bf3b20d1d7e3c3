"""pytest tests/test_evaluation_report.py: an evaluation's page in a real browser, its pictures, and the model card.

SCREENSHOTS=docs/images also draws the picture of the docs.
"""

import base64
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, open_page
from PIL import Image
from playwright.sync_api import expect

from artifacts import dataset, metrics, weights
from artifacts.metrics import Numbers
from artifacts.store import Store
from tasks.reports import evaluation
from tasks.vision.images import ImageSpec
from tasks.vision.metrics import evaluate
from tasks.vision.recipes import TrainingSettings

CLASSES = ["T-shirt/top", "<b>bold</b> & $5", "🌵 cactus", "x" * 60]
SCREENSHOTS = os.environ.get("SCREENSHOTS")


def publish(top, channels=1, classes=CLASSES, items=400, settings=None, temperature=1.5, findings=(), seed=0):
    """An evaluation of made-up predictions, of made-up images: (store, metrics ref)."""
    from tasks.vision.network import make_network

    store, random = Store(top / "store"), np.random.default_rng(seed)
    labels = (np.arange(items) % len(classes)).astype(np.int32)
    images = random.integers(0, 255, (items, 12, 12, channels), dtype=np.uint8)
    split = dataset.Split(images, labels, [f"a folder/<{index}>.png" for index in range(items)])
    spec = ImageSpec(12, 12, channels)
    data = dataset.save(
        store, "things", train=split, test=split, classes=classes, image_spec=spec.to_dict(), settings={}, inputs={},
        findings=lambda *_: findings, bad={"a.png": "corrupt: the file is empty"}, made={},
    )  # fmt: skip
    settings = settings or TrainingSettings(validation=0.1)
    history = [
        {"epoch": epoch, "loss": 1 / epoch, "accuracy": 0.5, "validation_loss": 1.1 / epoch, "validation_accuracy": 0.4}
        for epoch in range(1, 6)
    ]
    trained = weights.save(
        store, "things", tensors=make_network("dense", spec, len(classes)).tensors(), history=history, classes=classes,
        image_spec=spec.to_dict(), settings=settings.to_dict(), dataset=data, made={"device": "CPU:0 (AMD EPYC)"},
        calibration=temperature and {"temperature": temperature, "by": "held-out", "items": 40},
    )  # fmt: skip
    logits = random.normal(0, 1, (items, len(classes)))
    logits[np.arange(items), labels] += 1.5
    powers = np.exp(2 * logits)
    probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    numbers = evaluate(probabilities, labels, classes, temperature)
    typed = Numbers.from_document(numbers)
    opened, on = weights.load(store, trained), dataset.load(store, data)
    ref = metrics.save(
        store, "things", numbers=numbers, labels=labels, probabilities=probabilities, sources=split.sources,
        weights=trained, dataset=data, report=lambda: evaluation.draw(opened, on, on, typed, probabilities),
        fair=np.arange(len(labels)), made={},
    )  # fmt: skip
    return store, ref


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    findings = [{"check": "blank images", "text": "1 image of a <i>single</i> colour", "examples": ["a & b.png"]}]
    return publish(tmp_path_factory.mktemp("report"), findings=findings)


@pytest.fixture(scope="module")
def numbers(published):
    return metrics.load(*published).document


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two classes and 40 images: (store, weights, dataset)."""
    store = publish(tmp_path_factory.mktemp("small"), classes=["a", "b"], items=40, temperature=None)[0]
    return store, weights.load(store, next(store.refs("weights"))), dataset.load(store, next(store.refs("datasets")))


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(published):
    store, ref = published
    return f"file://{store.open(ref).path('report.html')}"


@pytest.fixture
def page(browser, address):
    with browser.open_page(address) as page:
        yield page


def test_the_page_says_what_the_numbers_say(page, numbers):
    text = page.inner_text("body")
    low, high = numbers["accuracy_interval"]
    assert f"{numbers['accuracy']:.2%}\naccuracy, {low:.2%} to {high:.2%} with 95 % confidence" in text
    assert f"{numbers['brier']:.4f}" in text
    own = numbers["uncalibrated"]
    assert "Confidence is calibrated by the temperature 1.500, fitted to 40 images held out." in text
    assert (
        f"(lookbook score --uncalibrated), the error is {own['error']:.2%}, and the loss is {own['loss']:.4f}." in text
    )
    assert "1 image of a <i>single</i> colour" in text, "as text, not as markup"
    page.get_by_text("for example").click()
    assert "a & b.png" in page.inner_text(".warnings")
    for name, told in numbers["per_class"].items():
        [cells] = [
            row
            for row in page.locator("h2:text('Classes') + .wide tr").evaluate_all(
                "all => all.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
            )
            if row[0] == name
        ]
        assert cells[1:] == [f"{told[key]:.2%}" for key in ("precision", "recall", "f1")] + [f"{told['support']:,}"]


def test_a_click_on_a_cell_of_the_matrix_shows_its_images(page, numbers):
    matrix = numbers["confusion_matrix"]
    shown = page.locator(".matrix tr").evaluate_all("all => all.map(row => [...row.cells].map(cell => cell.innerText))")
    assert [[int(cell or 0) for cell in row[1:]] for row in shown[1:]] == matrix
    assert [row[0] for row in shown[1:]] == CLASSES
    assert page.locator("section.cell:visible").count() == 0
    page.locator("a[href='#c1-0']").first.click()
    section = page.locator("section.cell:visible")
    expect(section).to_have_count(1)
    assert section.locator("h3").inner_text().startswith(f"<b>bold</b> & $5, called T-shirt/top: {matrix[1][0]}")
    pictures = section.locator("img").evaluate_all("all => all.map(image => [image.complete, image.naturalWidth])")
    assert pictures == [[True, 12]] * min(matrix[1][0], 24)
    assert "a folder/<" in section.inner_text()
    page.locator("a[href='#c2-2']").click()
    expect(section).to_have_count(1)
    assert "🌵 cactus, rightly called so" in section.inner_text()
    section.get_by_role("link", name="back to the matrix").click()
    expect(page.locator("section.cell:visible")).to_have_count(0)


def test_the_images_of_a_cell_are_those_of_the_test_split(published, page, numbers):
    """Read back out of the page: the most certain mistake is the pixels that it should be."""
    store = published[0]
    worst = numbers["mistakes"][0]
    test = dataset.load(store, next(store.refs("datasets"))).test
    uri = page.locator("h2:text('Most certain mistakes') + .gallery img").first.get_attribute("src")
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    assert (drawn == test.images[worst["item"], ..., 0]).all()


def test_it_needs_no_network_and_no_script(published):
    store, ref = published
    html = store.open(ref).read("report.html").decode()
    assert not re.search(r"<script|javascript:|\son\w+=|@import|https?://", html)
    for name in re.findall(r"(?:src|href)=['\"]([^'\"]*)", html):
        assert name.startswith(("data:image/", "#")), name[:80]


@pytest.mark.browser
def test_it_is_readable_on_a_phone(browser, address):
    with browser.open_page(address, device="Pixel 7") as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"
        assert page.locator("p").first.evaluate("each => parseFloat(getComputedStyle(each).fontSize)") >= 16
        wide = page.locator(".wide").first
        assert wide.evaluate("each => getComputedStyle(each).overflowX") == "auto", "a wide table scrolls by itself"
        page.locator("a[href='#c1-0']").first.tap()
        expect(page.locator("section.cell:visible")).to_have_count(1)


def test_the_pictures_are_pictures(published):
    store, ref = published
    artifact = store.open(ref)
    names = {"learning-curve.png", "confusion-matrix.png", "reliability.png", "mistakes.png"}
    assert names < set(artifact.manifest["rendered"])
    assert set(artifact.identity["files"]) == {"metrics.json", "predictions.parquet"}
    for name in names:
        picture = Image.open(artifact.path(name))
        assert picture.width > 300
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10, "something is drawn"
    assert artifact.files["report.html"]["bytes"] < 2_000_000


def test_the_model_card(published, numbers):
    store, ref = published
    card = store.open(ref).read("model-card.md").decode()
    for part in (
        "# things",
        "## Data",
        "## Metrics",
        "## Limits",
        "## Settings",
        "## Lineage",
        "left out: 1 file.",
    ):
        assert part in card
    assert f"| accuracy | {numbers['accuracy']:.2%} (" in card
    assert r"\<b\>bold\</b\> \& $5" in card, "names hold no markup"
    [ours] = store.refs("weights")
    assert str(ours) in card
    assert "| learning_rate | 0.1 |" in card


@pytest.mark.parametrize(
    ("validation", "temperature", "told", "limit"),
    [
        (0.1, 1.5, "10 % of each class held out", "calibrated by the temperature 1.500, fitted to 40 images held out."),
        (0.1, None, "10 % of each class held out", "not calibrated: these weights have no temperature."),
        (0.0, None, "Trained on 40 images of", "not calibrated: these weights have no temperature."),
    ],
)
def test_the_model_card_says_what_was_held_out(tmp_path, validation, temperature, told, limit):
    settings = TrainingSettings(validation=validation)
    store, ref = publish(tmp_path, classes=["a", "b"], items=40, temperature=temperature, settings=settings)
    card = store.open(ref).read("model-card.md").decode()
    assert told in card
    assert f"- Confidence is {limit}" in card
    assert ("of each class held out" in card) == bool(validation)
    assert ("| the same, uncalibrated |" in card) == (temperature is not None)


def test_equal_runs_have_equal_metrics_and_a_report_is_drawn_once(published, tmp_path, monkeypatch):
    store, ref = published
    monkeypatch.setattr(evaluation, "draw", lambda *_: pytest.fail("drawn again"))
    findings = [{"check": "blank images", "text": "1 image of a <i>single</i> colour", "examples": ["a & b.png"]}]
    assert publish(store.disk.root.parent, findings=findings)[1] == ref


def test_colour_one_mistake_and_none_at_all(tmp_path):
    store, ref = publish(tmp_path, channels=3, classes=["a", "b"], items=40, temperature=None)
    html = store.open(ref).read("report.html").decode()
    assert "data:image/jpeg;base64," in html
    assert "Confidence is not calibrated: these weights have no temperature." in html
    assert "--uncalibrated" not in html
    artifact = store.open(ref)
    probabilities = np.eye(2, dtype=np.float32)[np.arange(40) % 2]
    data = dataset.load(store, next(store.refs("datasets")))
    measured = weights.load(store, next(store.refs("weights")))
    numbers = evaluate(probabilities, data.test.labels, ["a", "b"])
    drawn = evaluation.draw(measured, data, data, Numbers.from_document(numbers), probabilities)
    assert b"None." in drawn["report.html"]
    assert Image.open(io.BytesIO(drawn["mistakes.png"])).width > 0
    assert json.loads(artifact.read("metrics.json"))["accuracy"] < 1


def test_a_model_that_answers_nan_has_a_report_that_says_so(small):
    _, measured, data = small
    nothing = np.full((40, 2), np.nan, np.float32)
    numbers = Numbers.from_document(evaluate(nothing, data.test.labels, ["a", "b"]))
    drawn = evaluation.draw(measured, data, data, numbers, nothing)
    assert b"Its predictions are not numbers (NaN)." in drawn["report.html"]
    assert b"Its predictions are not numbers (NaN)." in drawn["model-card.md"]


def test_weights_that_are_measured_on_another_dataset_tell_both(small):
    store, measured, learned = small
    half = dataset.Split(learned.test.images[:20], learned.test.labels[:20], [f"x{index}" for index in range(20)])
    other = dataset.load(
        store,
        dataset.save(
            store, "things", train=half, test=half, classes=["a", "b"], image_spec=learned.image_spec, settings={},
            inputs={}, made={},
        ),
    )  # fmt: skip
    probabilities = np.full((20, 2), 0.5, np.float32)
    numbers = evaluate(probabilities, half.labels, ["a", "b"])
    for known, told in ((learned, "Trained on 40 images of"), (None, "which is not in the store any more")):
        drawn = evaluation.draw(measured, known, other, Numbers.from_document(numbers), probabilities)
        card = drawn["model-card.md"].decode()
        assert told in card
        assert f"Tested with 20 images of `{other.artifact.ref}`" in card
        assert f"| trained on | `{learned.artifact.ref}` |" in card
        assert f"<td>trained on<td class=number><code>{learned.artifact.ref}</code>" in drawn["report.html"].decode()


def test_many_classes_and_many_mistakes_leave_no_cell_empty(tmp_path):
    classes = [f"class {index}" for index in range(60)]
    store, ref = publish(tmp_path, classes=classes, items=6000, temperature=None)
    html = store.open(ref).read("report.html").decode()
    assert set(re.findall(r"<section class=cell id=(c\d+-\d+)>", html)) == set(
        re.findall(r"<a href='#(c\d+-\d+)'>\d", html)
    )
    assert "None." not in html
    assert store.open(ref).files["report.html"]["bytes"] < 8_000_000


def test_hundreds_of_classes_are_a_picture_and_links(tmp_path):
    classes = [f"class {index}" for index in range(120)]
    store, ref = publish(tmp_path, classes=classes, items=1000, temperature=None)
    html = store.open(ref).read("report.html").decode()
    assert "class=matrix" not in html
    assert "Click a number" not in html
    assert len(re.findall("<section class=cell", html)) == len(re.findall("<a href='#c", html)) == 10
    assert store.open(ref).files["report.html"]["bytes"] < 4_000_000


@pytest.mark.browser
def test_the_report_of_a_real_training(first, home):
    """Fashion-MNIST's, by the command; the picture of the docs."""
    store = Store(home / "store")
    ref = store.resolve(json.loads(first.stdout.splitlines()[-1])["metrics"])
    with open_page(f"file://{store.open(ref).path('report.html')}") as page:
        assert page.locator(".matrix a").count() > 50
        assert "9 test images with nearly the same pixels as one to train on" in page.inner_text(".warnings")
        page.locator("a[href='#c6-0']").first.click()
        assert page.locator("section.cell:visible img").count() == 24
        page.goto(page.url.partition("#")[0])
        if SCREENSHOTS:
            page.set_viewport_size({"width": 1000, "height": 1000})
            page.screenshot(path=Path(SCREENSHOTS) / "evaluation-report.png", full_page=True)


def test_a_thousand_classes_have_no_matrix_but_what_is_confused_and_the_weakest(tmp_path):
    classes = [f"class {index}" for index in range(1000)]
    store, ref = publish(tmp_path, classes=classes, items=4000, temperature=None)
    numbers = metrics.load(store, ref).document
    assert numbers["confusion_matrix"] is None
    assert len(numbers["per_class"]) == 1000
    confused = [each["items"] for each in numbers["most_confused"]]
    assert len(confused) == 100
    assert confused == sorted(confused, reverse=True)
    artifact = store.open(ref)
    assert "confusion-matrix.png" not in artifact.manifest["rendered"]
    html, card = (artifact.read(name).decode() for name in ("report.html", "model-card.md"))
    assert "1,000 classes are too many for a matrix" in html
    assert len(re.findall("<section class=cell", html)) == 100
    for text in (html, card):
        assert "The 100 classes with the lowest F1 of 1,000" in text
    assert sum(artifact.files[name]["bytes"] for name in artifact.manifest["rendered"]) < 4_000_000
