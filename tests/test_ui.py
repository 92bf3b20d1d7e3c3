"""pytest tests/test_ui.py: a person with a mouse: a retraining and a scoring from Prefect's pages, and their reports.

SCREENSHOTS=docs/images also draws the pictures of the docs.
"""

import os
import re
from pathlib import Path

import pytest
from browser import (
    Browser,
    field,
    fill,
    open_deployment,
    open_form,
    open_run,
    read_report,
    screenshot,
    state_message,
    submit,
)
from conftest import WARDROBE
from playwright.sync_api import expect

SCREENSHOTS = os.environ.get("SCREENSHOTS")


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(browser, up):
    """Prefect's first page, as somebody opens it."""
    with browser.open_page(up.url, up.review) as page:
        yield page


def picture(page, name):
    if SCREENSHOTS:
        screenshot(page, Path(SCREENSHOTS) / f"{name}.png")


LABELS = 80  # that a person says on the page


def test_the_loop_closed_with_mouse_and_keyboard_alone(page, up):
    """Train, score a night's pictures, label what the model was least sure of, train again, read why it is better."""
    settings = {"images": "photos:wardrobe/own", "name": "wardrobe", "epochs": 30, "image_size": 28, "color": "grey"}
    settings |= {"schedule": "constant", "significance": 0.04, "max_recall_drop": 0.5}
    open_deployment(page, "retrain/weekly")
    open_form(page)
    assert "How often every training image is seen." in field(page, "epochs").inner_text()
    assert "Chance of promoting a model that is only as good" in field(page, "significance").inner_text()
    run = retrain(page, up, **settings, train_on="gpu pool")
    picture(page, "retrain-run")
    report = read_report(page, "retrain-wardrobe")
    picture(page, "retrain-report")
    assert "Promoted. the first model, accuracy" in report["text"]
    assert len(report["images"]) == 2
    assert all(width > 300 for width in report["images"])
    assert ["on the test images", "this model"] in report["rows"]
    open_whole_report(page, f"{up.review}/reports/metrics/wardrobe/")
    expect(page.locator("#matrix")).to_be_visible()
    open_run(page, up.url, run)
    report = read_report(page, "decision-wardrobe")
    assert "Promoted. the first model, accuracy" in report["text"]
    assert "This test split has made 0 decisions before this one." in report["text"]

    open_deployment(page, "score/by-hand")
    open_form(page)
    for name, value in {"folder": "photos:wardrobe/night", "weights": "wardrobe@champion", "name": "looks"}.items():
        fill(page, name, value)
    assert ended(page, up, submit(page)) == "Completed"
    report = read_report(page, "score-looks")
    picture(page, "score-report")
    assert "without a prediction" in report["text"]
    assert ["unsupported", "1", "zz notes.txt"] in report["rows"]
    assert report["images"]
    assert all(report["images"])
    labelling = page.get_by_role("link", name="Label what it was least sure of").get_attribute("href")
    assert labelling == f"{up.review}/review/looks"
    open_whole_report(page, f"{up.review}/reports/predictions/looks/")
    expect(page.get_by_role("heading", name="Least certain")).to_be_visible()

    page.goto(labelling)
    labels = page.locator("#classes button")
    expect(labels).to_have_count(4)
    keys = dict(zip(labels.evaluate_all("all => all.map(each => each.dataset.label)"), "1234", strict=True))
    for number in range(LABELS):
        path = page.locator("#what").inner_text()
        expect(page.locator("figure img")).to_have_attribute("alt", path)
        truth = WARDROBE[int(path.removesuffix(".png")[-1])]
        page.keyboard.press(keys[truth])
        expect(page.locator("#done")).to_contain_text(f"{number + 1} of them now")
    expect(page.locator("#done")).to_contain_text(f"{LABELS} labelled")
    expect(page.locator("#next")).to_contain_text("The next retraining with --labels looks has")
    picture(page, "review")

    page.goto(up.url)
    open_deployment(page, "retrain/weekly")
    open_form(page)
    run = retrain(page, up, **settings, labels="looks")
    report = read_report(page, "decision-wardrobe")
    picture(page, "decision-report")
    assert "Promoted. better: accuracy" in report["text"]
    assert ["on the same 480 test images", "challenger", "champion before"] in report["rows"]
    assert "recall of shirt" in [row[0] for row in report["rows"]]
    assert "McNemar's exact test" in report["text"]
    assert "made 1 decision before this one" in report["text"]
    added = rf"Labels of looks: {LABELS} added. Of \d+ labelled pictures that the model had named wrongly"
    assert re.search(added, report["text"])
    open_run(page, up.url, run)
    report = read_report(page, "retrain-wardrobe")
    picture(page, "labels-report")
    assert "What people's labels changed" in report["text"]
    assert ["the folder's own", "480"] in [row[:2] for row in report["rows"]]


def open_whole_report(page, where):
    """From a report's page: its link to the page of the same version, below `where`."""
    address = page.get_by_role("link", name="The whole report").get_attribute("href")
    assert address.startswith(where)
    page.goto(address)


def retrain(page, up, **settings):
    """A retraining by the form that is open: its run, whose page is open then."""
    for name, value in settings.items():
        fill(page, name, value)
    run = submit(page)
    assert ended(page, up, run) == "Completed"
    return run


def ended(page, up, run):
    """The state of a run on its page, which is opened when it has ended."""
    up.wait(run)
    return open_run(page, up.url, run)


def test_a_forbidden_folder_is_refused_in_words_that_a_person_understands(page, up):
    open_deployment(page, "score/by-hand")
    open_form(page)
    fill(page, "folder", "photos:../../etc")
    assert ended(page, up, submit(page)) == "Failed"
    assert "expected a folder as root:sub/path below one of LOOKBOOK_IMAGE_ROOTS (photos:)" in state_message(page)


EVERY = (
    "retrain/weekly",
    "train/for-a-retraining",
    "score/by-hand",
    "score/nightly",
    "group/for-a-scoring",
    "collect/sundays",
)


def test_no_form_says_that_a_property_is_none(page):
    for name in EVERY:
        open_deployment(page, name)
        open_form(page)
        expect(field(page, "deadline_hours")).to_be_visible()  # the last one
        assert "is type" not in page.locator("form").inner_text(), name


def test_the_short_form_starts_a_retraining(page, up):
    open_deployment(page, "retrain/by-hand")
    open_form(page)
    fill(page, "if_unchanged", "stop")
    assert page.locator("form fieldset").count() <= 10
    assert "is type" not in page.locator("form").inner_text()
    for name, value in {"images": "photos:shapes", "name": "by-hand", "architecture": "dense", "epochs": 2}.items():
        fill(page, name, value)
    picture(page, "run-form")
    run = submit(page)
    assert ended(page, up, run) == "Completed"
    assert up.run(run)["parameters"] == {
        "images": "photos:shapes", "name": "by-hand", "architecture": "dense", "epochs": 2, "if_unchanged": "stop",
        "new_classes": False, "train_on": "here",
    }  # fmt: skip
    assert re.fullmatch(rf"retrain-by-hand-\d{{4}}-\d\d-\d\d-\d\d:\d\d-{run[-4:]}", up.run(run)["name"])


def test_the_form_minds_the_limits(page):
    open_deployment(page, "retrain/weekly")
    open_form(page)
    fill(page, "epochs", 0)
    page.get_by_role("button", name="Submit").click()
    complaints = page.locator("form :invalid").evaluate_all("all => all.map(e => e.validationMessage).filter(Boolean)")
    assert complaints
    assert "1" in complaints[0]


def test_a_collection_shows_what_stays_and_why_with_a_chart(page, up, champion):
    open_deployment(page, "collect/sundays")
    open_form(page)
    assert "Without this nothing is removed" in field(page, "remove").inner_text()
    fill(page, "remove", False)  # the deployment's own is to remove
    assert ended(page, up, submit(page)) == "Completed"
    report = read_report(page, "collect-store")
    picture(page, "collect-report")
    assert report["images"]
    assert all(width > 300 for width in report["images"])
    assert "of the last 5 champions of fashion-mnist" in [row[0] for row in report["rows"]]
