"""pytest tests/test_review_page.py: people who label pictures, with keys, a mouse and a thumb, in a real browser."""

import itertools
import json
import os
import re
import signal
import subprocess
import threading
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from browser import PATIENT, Browser
from commands import COMMAND
from playwright.sync_api import expect
from proxied import documented, proxied
from reviewed import CLASSES, Clock, draw, draw_folder, guesses, publish_table, publish_weights, served
from upheld import free_port

from artifacts import predictions
from artifacts.labels import Labels
from artifacts.settings import Settings
from tasks.reviewing.production import draw_audit

pytestmark = pytest.mark.browser

MANY, KILLS = 300, 5  # pictures that are labelled while the server is killed so often
CLOTHES = ["t-shirt-top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"]
SIGNS = [
    *(f"speed limit {speed}" for speed in (20, 30, 50, 60, 70, 80, 100, 120)), "end of speed limit 80", "no passing",
    "no passing for trucks", "priority at next crossing", "priority road", "yield", "stop", "no vehicles", "no trucks",
    "no entry", "danger", "bend left", "bend right", "double bend", "bumpy road", "slippery road", "road narrows",
    "road works", "traffic signals", "pedestrians", "children", "bicycles", "ice or snow", "wild animals",
    "end of all limits", "turn right ahead", "turn left ahead", "ahead only", "straight or right", "straight or left",
    "keep right", "keep left", "roundabout", "end of no passing", "end of no passing, trucks",
]  # fmt: skip
"""The 43 classes of the German traffic sign benchmark (GTSRB, 2011), in words."""
AHEAD = 12  # pictures that the page fetches at once (review.js)


# The page's policy forbids what Page.wait_for_function does.
ALL_IS_SENT = """async patient => {
  const until = Date.now() + patient
  while (Object.keys(localStorage).length) {
    if (Date.now() > until) throw new Error("not sent: " + JSON.stringify(localStorage))
    await new Promise(done => setTimeout(done, 20))
  }
}"""


SHOWN = """async patient => {
  const until = Date.now() + patient
  for (;;) {
    const path = document.querySelector("#what").innerText
    if (path && document.querySelector("figure img")?.alt === path) return path
    if (Date.now() > until) throw new Error(`no picture of ${path}: ${document.querySelector("figure").innerText}`)
    await new Promise(done => setTimeout(done, 5))
  }
}"""


class Served:
    """A `lookbook review night`, as a process that may be killed and started again at its port."""

    def __init__(self, store, *asked):
        self._asked = asked
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            **os.environ,
            "LOOKBOOK_STORE": str(store.disk.root),
            "LOOKBOOK_REVIEW_PORT": str(self.port),
        }
        self.start()

    def start(self):
        command = [*COMMAND, "review", "night", "--json", *self._asked]
        self.process = subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, text=True)
        assert json.loads(self.process.stdout.readline())["url"].startswith(f"{self.url}/review/night")

    def kill(self, by=signal.SIGKILL):
        self.process.send_signal(by)
        status = self.process.wait(60)
        self.process.stdout.close()
        return status


@contextmanager
def started(store, *asked):
    process = Served(store, *asked)
    try:
        yield process
    finally:
        process.kill(signal.SIGINT)


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def labelling(store, browser, clock):
    """Opens a page of a new server, which is in a thread of this process."""

    @contextmanager
    def labelling(path="/review/night"):
        settings = Settings(store=str(store.disk.root))
        with served(settings, clock=clock) as url, browser.open_page(f"{url}{path}", url) as page:
            yield page

    return labelling


@pytest.fixture
def folder(tmp_path):
    draw_folder(tmp_path / "pictures", 120)
    return tmp_path / "pictures"


@pytest.fixture
def night(store, folder):
    return publish_table(store, folder, "night", guesses(120), parts=2)


def shown(page):
    """The path of the picture on the screen, once it is there: looked at at once, as a new table may come meanwhile."""
    return page.evaluate(SHOWN, PATIENT)


def press(page, key):
    path = shown(page)
    page.keyboard.press(key)
    return path


def recorded(store):
    """path -> a label or a verdict, as it counts now."""
    words = Labels(store.disk, "night").words().values()
    return {each.statement.path: each.statement.label or each.statement.verdict for each in words}


def wait_for(page, text):
    expect(page.locator("#done")).to_contain_text(re.compile(rf"\b{re.escape(text)}"))  # 0 labelled, not 30 labelled


def test_keys_label_and_take_back(labelling, store, night):
    with labelling() as page:
        expect(page.locator("#classes button")).to_have_text(["circle 1", "square 2", "line 3"])
        said = {press(page, "2"): "square", press(page, "x"): "none", press(page, "b"): "bad"}
        predicted = page.locator("#classes button.said").inner_text().split()[0]
        said[press(page, "Enter")] = predicted
        skipped = press(page, "s")
        undone = press(page, "1")
        wait_for(page, "5 labelled")
        page.keyboard.press("u")
        wait_for(page, "4 labelled")
        assert shown(page) == undone
        said[press(page, "3")] = "line"
        wait_for(page, "5 labelled, 5 of them now")
        assert recorded(store) == said
        assert skipped not in said
        page.reload()
        assert shown(page) not in said
    events = Labels(store.disk, "night").events
    assert len(events) == 7
    assert [event.undoes for event in events if event.undoes] == [5]


def test_a_grid_accepts_all_but_what_was_clicked(labelling, store, night):
    with labelling() as page:
        shown(page)
        page.keyboard.press("g")
        pictures = page.locator("#pictures button")
        expect(pictures).to_have_count(50)
        expect(pictures.locator("img")).to_have_count(50)
        titles = pictures.evaluate_all("all => all.map(each => each.title)")
        labels = pictures.locator("span").all_inner_texts()
        pictures.nth(3).click()
        pictures.nth(7).click()
        pictures.nth(9).click()
        pictures.nth(9).click()  # it was right after all
        page.keyboard.press("Enter")
        wait_for(page, "48 labelled")
        accepted = dict(zip(titles, labels, strict=True))
        del accepted[titles[3]], accepted[titles[7]]
        assert recorded(store) == accepted
        assert len(Labels(store.disk, "night").events) == 1
        assert [press(page, "1"), press(page, "2")] == [titles[3], titles[7]]  # what was clicked comes next, one by one
        wait_for(page, "50 labelled")


def test_a_grid_accepts_nothing_that_was_not_on_the_screen(labelling, store, night):
    with labelling() as page:
        for _ in range(30):
            press(page, "1")
        wait_for(page, "30 labelled")
        page.keyboard.press("g")
        page.keyboard.press("Enter")  # at once: nobody has seen them
        pictures = page.locator("#pictures button")
        expect(pictures.locator("img")).to_have_count(50)
        titles = set(pictures.evaluate_all("all => all.map(each => each.title)"))
        before = set(recorded(store))
        page.keyboard.press("Enter")
        wait_for(page, f"{len(before | titles)} labelled")
        assert set(recorded(store)) - before <= titles


def test_a_key_that_is_held_says_one_thing(labelling, store, night):
    with labelling() as page:
        first = shown(page)
        page.keyboard.down("1")
        for _ in range(5):
            page.keyboard.down("1")  # as a keyboard repeats it
        wait_for(page, "1 labelled, 1 of them now")
        assert shown(page) != first
        page.keyboard.down("1")  # still held when the next picture is there
        page.keyboard.up("1")
        second = press(page, "2")
        wait_for(page, "2 labelled, 2 of them now")  # what is said is sent in turn: there is no more to come
        assert recorded(store) == {first: "circle", second: "square"}


def test_enter_on_a_button_that_was_reached_by_tab_is_that_button(labelling, store, night):
    with labelling() as page:
        path = shown(page)
        page.keyboard.press("Tab")
        page.locator("#bad").focus()
        page.keyboard.press("Enter")
        wait_for(page, "1 labelled")
        assert recorded(store) == {path: "bad"}


def test_a_new_table_under_an_open_page_is_shown_and_undo_keeps_to_its_own(labelling, store, night, folder, clock):
    with labelling() as page:
        first = press(page, "1")
        new = publish_table(store, folder, "night", guesses(120, seed=5))
        clock.ahead += 2.1  # by then the server has looked for a newer table
        while new.version not in page.locator("#table").inner_text():  # until the page asks for more
            press(page, "2")
        press(page, "3")
        wait_for(page, " labelled, ")
        assert recorded(store)[first] == "circle"
        said = int(page.locator("#done").inner_text().split(", ")[1].split()[0])
        for _ in range(said):
            page.keyboard.press("u")
        wait_for(page, "0 labelled")
        assert shown(page) == first
        press(page, "2")
        wait_for(page, "1 labelled")
        assert recorded(store) == {first: "square"}


def test_a_grid_is_of_one_table(labelling, store, night, folder, clock):
    """Under an open page comes a new one, and what was said of the one before is taken back."""
    with labelling() as page:
        for _ in range(2):
            press(page, "1")
        new = publish_table(store, folder, "night", guesses(120, seed=5))
        clock.ahead += 2.1  # by then the server has looked for a newer table
        while new.version not in page.locator("#table").inner_text():  # until the page asks for more
            press(page, "2")
        said = int(page.locator("#done").inner_text().split(", ")[1].split()[0])
        for _ in range(5):  # one of them may be of the new table already
            page.keyboard.press("u")
        wait_for(page, f"{said - 5} labelled")
        page.keyboard.press("g")
        pictures = page.locator("#pictures button")
        expect(pictures.first).to_be_visible()
        count = pictures.count()
        assert count <= 5
        expect(pictures.locator("img")).to_have_count(count)
        page.keyboard.press("Enter")
        wait_for(page, f"{said - 5 + count} labelled")
        accepted = Labels(store.disk, "night").events[-1].statements
        assert [each.table for each in accepted] == [str(night)] * count
        assert all(each.label == each.predicted for each in accepted)


def test_a_new_class_by_the_mouse_and_an_old_one_found_by_its_name(labelling, store, night):
    with labelling() as page:
        first = shown(page)
        page.locator("#find").fill("oval")
        page.get_by_role("button", name='Add the new class "oval"').click()
        expect(page.locator("#classes button")).to_have_text(["circle 1", "square 2", "line 3", "oval 4"])
        second = press(page, "/")
        page.keyboard.type("qua")
        page.keyboard.press("Enter")
        wait_for(page, "2 labelled")
        assert recorded(store) == {first: "oval", second: "square"}
        expect(page.locator("#next")).to_contain_text("new classes: oval")
        third = shown(page)
        page.locator("#find").fill("Square")
        page.get_by_role("button", name='Add the new class "Square"').click()
        expect(page.locator("#problem")).to_contain_text("one name for one class, found 'Square' beside 'square'")
        assert shown(page) == third  # it is there again


def test_two_tabs_at_once_lose_nothing(labelling, store, night):
    with labelling() as page:
        other = page.context.new_page()
        other.goto(page.url)
        said = {}
        for _ in range(20):
            said[press(page, "1")] = "circle"
            said[press(other, "2")] = "square"  # the same pictures: the later word counts
        wait_for(page, "20 of them now")
        wait_for(other, "20 of them now")
        page.evaluate(ALL_IS_SENT, PATIENT)
        events = Labels(store.disk, "night").events
        assert len(events) == 40
        assert recorded(store).keys() == said.keys()
        assert len({event.id for event in events}) == 40


@pytest.mark.kill
def test_what_was_said_while_the_server_was_away_is_sent_by_the_next_page(store, browser, night):
    with started(store) as process, browser.open_page(f"{process.url}/static/review.css", process.url) as page:
        arrived = itertools.count(1)
        with page.expect_event("requestfinished", lambda each: "/pictures/" in each.url and next(arrived) == AHEAD):
            page.goto(f"{process.url}/review/night")
        process.kill()  # the next pictures are there already
        said = {press(page, "1"): "circle", press(page, "2"): "square", press(page, "3"): "line"}
        expect(page.locator("#problem")).to_contain_text("The server does not answer")
        assert recorded(store) == {}
        page.close()
        process.start()
        again = page.context.new_page()
        again.goto(f"{process.url}/review/night")
        wait_for(again, "3 labelled")
        assert recorded(store) == said


def test_what_can_not_be_shown_is_told_and_not_labelled(labelling, store, night, folder):
    for path in folder.iterdir():
        draw(path, 5000)
    with labelling() as page:
        expect(page.locator("figure p")).to_contain_text("was changed since it was scored")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        path = page.locator("#what").inner_text()
        page.keyboard.press("b")
        wait_for(page, "1 labelled, 1 of them now")  # what is said is sent in turn: there is no more to come
        assert recorded(store) == {path: "bad"}
        folder.rename(folder.with_name("away"))
    with labelling() as page:
        expect(page.locator("figure p")).to_contain_text("the folder that was scored can't be read")


def test_a_damaged_log_is_told_on_the_page(labelling, store, night):
    Labels(store.disk, "night").say("one-of-ann", "ann", [])
    path = store.disk.root / "labels/night/00000001.json"
    path.unlink()
    path.write_text("{}")
    with labelling() as page:
        expect(page.locator("#problem")).to_contain_text("labels/night/00000001.json is damaged")


def test_a_page_that_may_not_write_says_so_before_anybody_labels(store, browser, night):
    """Behind a proxy whose address nobody has configured."""
    settings = Settings(store=str(store.disk.root))
    with (
        served(settings) as url,
        proxied(url, documented()) as through,
        browser.open_page(f"{through}/review/night", through) as page,
    ):
        expect(page.locator("#problem")).to_contain_text("refused: expected this server's own page")
        expect(page.locator("#problem")).to_contain_text("set LOOKBOOK_REVIEW_URL")
        expect(page.locator("#one")).to_be_hidden()


def test_a_page_behind_a_proxy_labels(store, browser, night):
    """At the address that is configured; and what is refused meanwhile is told, kept, and sent when it is not."""
    port = free_port()
    settings = Settings(store=str(store.disk.root), review_url=f"http://127.0.0.1:{port}")
    with (
        served(settings) as url,
        proxied(url, documented(), port) as through,
        browser.open_page(f"{through}/review/night", through) as page,
    ):
        first = press(page, "2")
        wait_for(page, "1 labelled")
        refusal = {"status": 403, "content_type": "text/plain", "body": "refused: for this test\n"}
        page.route("**/labels", lambda route: route.fulfill(**refusal))
        second = press(page, "3")
        expect(page.locator("#problem")).to_contain_text("Refused, so it is not on record: refused: for this test")
        page.unroute("**/labels")
        wait_for(page, "2 labelled")
        expect(page.locator("#problem")).to_be_hidden()
        assert recorded(store) == {first: "square", second: "line"}


EVIL = "<img src=x onerror=alert(1)>"


def test_names_of_strangers_are_text(labelling, store, tmp_path):
    folder = tmp_path / "pictures"
    for number in range(3):
        draw(folder / f"{EVIL}{number}.png".replace("/", "_"), number)
    publish_table(store, folder, "night", guesses(3), classes=[EVIL, "b & <b>", "${c}"])
    with labelling("/") as page:
        complaints = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.get_by_role("link", name="night").click()
        assert EVIL in shown(page)
        assert EVIL in page.locator("#classes").inner_text()
        assert page.locator("#classes img, #what img, #likely img").count() == 0
        press(page, "1")
        wait_for(page, "1 labelled")
        assert complaints == []


PHONES = [(390, 844), (360, 640), (844, 390)]


def opened_on_a_phone(store, browser, folder, classes, phone):
    draw_folder(folder, 5)
    made_by = publish_weights(store, "few", classes=classes)
    publish_table(store, folder, "night", guesses(5, classes=len(classes)), classes=classes, made_by=made_by)
    stack = ExitStack()
    url = stack.enter_context(served(Settings(store=str(store.disk.root))))
    return stack, stack.enter_context(browser.open_page(f"{url}/review/night", url, phone=phone))


def boxes(page, what):
    return [each.bounding_box() for each in page.locator(what).all()]


@pytest.mark.parametrize("phone", PHONES, ids=str)
def test_on_a_phone_the_picture_and_ten_classes_are_one_screen(store, browser, tmp_path, phone):
    stack, page = opened_on_a_phone(store, browser, tmp_path / "photos", CLOTHES, phone)
    with stack:
        shown(page)
        fits(page, phone, least=40)
        page.locator("#classes button", has_text="sandal").tap()
        wait_for(page, "1 labelled")
        shown(page)
        page.get_by_role("button", name="Bad picture").tap()
        wait_for(page, "2 labelled")
        assert sorted(recorded(store).values()) == ["bad", "sandal"]


@pytest.mark.parametrize("phone", PHONES[:2], ids=str)
def test_on_a_phone_the_picture_and_43_classes_are_one_screen(store, browser, tmp_path, phone):
    stack, page = opened_on_a_phone(store, browser, tmp_path / "photos", SIGNS, phone)
    with stack:
        shown(page)
        fits(page, phone, least=24)  # what a thumb hits (WCAG 2.2, 2.5.8)
        page.locator("#classes button").last.tap()
        wait_for(page, "1 labelled")
        assert [*recorded(store).values()] == [SIGNS[-1]]


def test_on_a_phone_classes_that_no_screen_holds_scroll_below_the_picture(store, browser, tmp_path):
    classes = [f"a long name of a class of things, number {number}" for number in range(43)]
    stack, page = opened_on_a_phone(store, browser, tmp_path / "photos", classes, PHONES[1])
    with stack:
        shown(page)
        page.locator("#classes button").last.tap()  # scrolled to
        assert boxes(page, "figure img")[0]["y"] >= 0
        wait_for(page, "1 labelled")
        assert [*recorded(store).values()] == [classes[-1]]


def fits(page, phone, least):
    """All of a screen is on it, buttons are that high, none is on another one, and the picture has a share of it."""
    width, height = phone
    found = boxes(page, "header select, header button, #find, #one button:visible, figure img, #likely")
    assert all(each["x"] >= 0 and each["x"] + each["width"] <= width for each in found)
    assert all(each["y"] >= 0 and each["y"] + each["height"] <= height for each in found)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    [seen] = boxes(page, "figure img")
    assert min(seen["width"], seen["height"]) >= 96
    buttons = boxes(page, "#one button:visible")
    assert min(each["height"] for each in buttons) >= least
    for one, other in itertools.combinations([seen, *buttons], 2):
        apart = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
        assert apart or one["y"] + one["height"] <= other["y"] or other["y"] + other["height"] <= one["y"]


def test_an_audit_from_the_command_to_the_answer(store, browser, night):
    with (
        started(store, "--audit", "12") as process,
        browser.open_page(f"{process.url}/review/night?mode=audit", process.url) as page,
    ):
        for _ in range(11):
            press(page, "Enter")
        expect(page.locator("#audit")).to_contain_text("11 of 12 labelled; how many are right is told when all are")
        press(page, "Enter")
        wait_for(page, "12 labelled")
        expect(page.locator("#audit")).to_contain_text("100.0 % right (95 % interval")
        expect(page.locator("#audit")).to_contain_text("12 of 12 labelled")
        expect(page.locator("figure")).to_contain_text("Nothing is left to label here.")


def test_a_new_audit_is_shown_in_a_page_that_stays_open_with_rows_of_the_one_before(labelling, store, tmp_path, clock):
    draw_folder(tmp_path / "few", 8)
    table = predictions.load(store, publish_table(store, tmp_path / "few", "night", guesses(8)))
    draw_audit(store, Settings(), table, 8, seed=1)
    with labelling("/review/night?mode=audit") as page:
        first = {press(page, key) for key in ["s", *["Enter"] * 7]}
        expect(page.locator("figure")).to_contain_text("Nothing is left to label here.")
        draw_audit(store, Settings(), table, 8, seed=2)
        clock.ahead += 10
        assert {press(page, "Enter") for _ in range(8)} == first
        expect(page.locator("#audit")).to_contain_text("8 of 8 labelled")


@pytest.mark.long
@pytest.mark.kill
def test_many_pictures_and_five_kills_lose_no_label(store, browser, tmp_path):
    folder = tmp_path / "many"
    draw_folder(folder, MANY + 100)
    publish_table(store, folder, "night", guesses(MANY + 100), parts=3)
    with started(store) as process, browser.open_page(f"{process.url}/review/night", process.url) as page:
        due, done = threading.Semaphore(0), threading.Event()

        def interfere():
            for _ in range(KILLS):
                due.acquire()
                process.kill()
                process.start()
            done.wait()  # the server ends with the thread that has started it

        killer = threading.Thread(target=interfere, daemon=True)
        killer.start()
        said = {}
        random = np.random.default_rng(0)
        for count, number in enumerate(random.integers(0, 3, MANY).tolist(), start=1):
            said[press(page, str(number + 1))] = CLASSES[number]
            if count % (MANY // (KILLS + 1)) == 0 and count < MANY:  # while the page goes on
                due.release()
        expect(page.locator("#done")).to_contain_text(f"{MANY} labelled, {MANY} of them now", timeout=3 * PATIENT)
        done.set()
        killer.join()
    assert len(said) == MANY
    assert recorded(store) == said
    events = Labels(store.disk, "night").events
    assert len(events) == MANY  # none twice
