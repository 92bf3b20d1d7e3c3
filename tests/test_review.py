"""pytest tests/test_review.py: what the page's server answers, and whom; asked by its script, and by strangers."""

import base64
import io
import shutil
import socket
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
from PIL import Image
from proxied import documented, proxied
from pydantic import ValidationError
from reviewed import CLASSES, Clock, draw, draw_folder, guesses, publish_table, served
from upheld import free_port

from artifacts.labels import Labels
from artifacts.refs import Ref
from artifacts.settings import Settings
from flows.review import address, listening
from flows.serving import ServerError
from tasks.reviewing.production import draw_audit
from tasks.reviewing.rows import Wanted, pick, read
from tasks.vision.errors import SettingsError
from tasks.vision.teaching import spread_over_classes, spread_over_features

ITEMS = 60
LOOK_SECONDS = 2.1  # by then the page has looked for a newer table, or audit


class Page:
    """What the script of the page asks for."""

    def __init__(self, url):
        self.http = httpx.Client(base_url=url, timeout=30)
        self.token = self.http.post("/api/session").json()["token"]
        self.count = 0

    def table(self, mode="unsure", count=100, name="night"):
        return self.http.get(f"/api/tables/{name}", params={"mode": mode, "count": count})

    def picture(self, item, size="whole", version=None):
        version = version or self.table().json()["version"]
        return self.http.get(
            f"/api/tables/night/{version}/pictures/{item['part']}/{item['row']}", params={"size": size}
        )

    def post(self, what, body, **headers):
        return self.http.post(
            f"/api/tables/night/{what}", json=body, headers={"X-Lookbook-Token": self.token, **headers}
        )

    def say(self, *said, chosen="unsure", version=None, id=None, **more):
        """said: (item, verdict or label)."""
        self.count += 1
        rows = []
        for item, word in said:
            verdict = word if word in ("none", "bad") else "class"
            label = word.removeprefix("new ") if verdict == "class" else None
            rows.append(
                {
                    "part": item["part"],
                    "row": item["row"],
                    "verdict": verdict,
                    "label": label,
                    "new": word.startswith("new "),
                }
            )
        version = version or self.table().json()["version"]
        body = {"id": id or f"a-page-{self.count}", "version": version, "chosen": chosen, "said": rows, **more}
        return self.post("labels", body)


@pytest.fixture
def settings(store):
    return Settings(store=str(store.disk.root))


@pytest.fixture
def folder(tmp_path):
    draw_folder(tmp_path / "pictures", ITEMS)
    return tmp_path / "pictures"


@pytest.fixture
def table(store, folder):
    said = guesses(ITEMS)
    said[[5, 40]] = np.nan
    return publish_table(store, folder, "night", said, parts=4)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def asked(settings, table, clock):
    with served(settings, clock=clock) as url:
        yield (page := Page(url))
        page.http.close()


def test_the_least_certain_come_first_and_take_turns_among_the_classes(asked):
    found = asked.table().json()
    assert found["classes"] == CLASSES
    assert found["rows"] == ITEMS
    items = found["items"]
    assert len(items) == ITEMS - 2
    assert {each["label"] for each in items[:3]} == set(CLASSES)
    for name in CLASSES:
        margins = [each["likely"][0][1] - each["likely"][1][1] for each in items if each["label"] == name]
        assert margins == sorted(margins)


@pytest.mark.parametrize(
    ("mode", "right"),
    [
        ("class:square", lambda each: each["label"] == "square"),
        ("error:corrupt", lambda each: each["error"].startswith("corrupt: ")),
        ("confidence:0.5-0.7", lambda each: 0.5 <= each["confidence"] <= 0.7),
    ],
)
def test_other_pictures_can_be_asked_for(asked, mode, right):
    items = asked.table(mode).json()["items"]
    assert items
    assert all(map(right, items))


@pytest.mark.parametrize("mode", ["odd", "class:", "confidence:1-0", "confidence:a-b", "error:", "unsure:x", "audit"])
def test_what_can_not_be_shown_is_told(asked, mode):
    answer = asked.table(mode)
    assert answer.status_code == 422
    assert "expected" in answer.json()["detail"]


def test_a_picture_is_drawn_anew_in_its_own_shape(asked, folder):
    [item] = asked.table(count=1).json()["items"]
    for size, side in (("whole", 640), ("small", 160)):
        answer = asked.picture(item, size)
        assert answer.headers["content-type"] == "image/jpeg"
        picture = Image.open(io.BytesIO(answer.content))
        assert picture.size == (side, side)
        above, middle = np.asarray(picture)[2].mean(), np.asarray(picture)[side // 2].mean()
        assert above == pytest.approx(24, abs=6)  # 12 x 16 in a square: the page's ground above and below
        assert middle > 60


def test_labels_are_on_record_and_not_shown_again(asked, store):
    first, second, third = asked.table().json()["items"][:3]
    answer = asked.say((first, "square"), (second, "none"), (third, "bad")).json()
    progress = answer["progress"]
    assert (progress["labelled"], progress["none"], progress["bad"]) == (3, 1, 1)
    words = Labels(store.disk, "night").words()
    assert [word.statement.verdict for word in words.values()] == ["class", "none", "bad"]
    [word] = [word for word in words.values() if word.statement.verdict == "class"]
    assert (word.statement.path, word.statement.predicted) == (first["path"], first["label"])
    assert word.statement.chosen == "unsure"
    left = {each["path"] for each in asked.table().json()["items"]}
    assert left.isdisjoint({first["path"], second["path"], third["path"]})


def test_one_content_is_shown_once(asked, store, folder, clock):
    shutil.copy(folder / "000001.png", folder / "copy.png")
    publish_table(store, folder, "night", guesses(ITEMS + 1, seed=3))
    clock.ahead += LOOK_SECONDS
    paths = [each["path"] for each in asked.table().json()["items"]]  # and the new table is seen without a restart
    assert len({"000001.png", "copy.png"} & set(paths)) == 1
    assert len(paths) == ITEMS


def test_what_was_sent_twice_is_written_once(asked, store):
    [item] = asked.table(count=1).json()["items"]
    assert asked.say((item, "square"), id="the-same-id").json()["number"] == 1
    assert asked.say((item, "square"), id="the-same-id").json()["number"] == 1
    assert len(Labels(store.disk, "night").events) == 1


def test_undo_takes_back_what_is_named(asked, store):
    first, second = asked.table().json()["items"][:2]
    asked.say((first, "square"), id="first-word")
    asked.say((second, "square"), id="second-word")
    answer = asked.post("undo", {"id": "an-undoing", "undone": "first-word"})
    assert answer.json()["progress"]["labelled"] == 1
    assert first["path"] in {each["path"] for each in asked.table().json()["items"]}
    assert asked.post("undo", {"id": "another-one", "undone": "no-such-word"}).status_code == 422


def test_a_class_that_nobody_knows_needs_a_word_and_two_names_for_one_are_refused(asked):
    items = asked.table().json()["items"]
    assert "expected one of the classes" in asked.say((items[0], "oval")).json()["detail"]
    assert "one name for one class" in asked.say((items[0], "new Square ")).json()["detail"]
    assert "on one line" in asked.say((items[0], "new a\nb")).json()["detail"]
    answer = asked.say((items[0], "new oval")).json()
    assert answer["progress"]["new_classes"] == ["oval"]
    assert asked.table().json()["classes"] == [*CLASSES, "oval"]
    assert asked.say((items[1], "oval")).status_code == 200
    assert "one name for one class" in asked.say((items[2], "new Oval")).json()["detail"]


def test_pictures_that_are_gone_or_changed_are_told(asked, folder):
    first, second, third = asked.table().json()["items"][:3]
    (folder / first["path"]).unlink()
    draw(folder / second["path"], 999)
    content = bytearray((folder / third["path"]).read_bytes())
    content[-20] ^= 1
    (folder / third["path"]).write_bytes(content)
    assert "is not in" in asked.picture(first).json()["detail"]
    for item in (second, third):
        answer = asked.picture(item)
        assert answer.status_code == 404
        assert "was changed since it was scored" in answer.json()["detail"]


def test_a_folder_that_is_gone_is_told_and_comes_back(asked, folder, tmp_path):
    first, second = asked.table().json()["items"][:2]
    assert asked.picture(first).status_code == 200
    folder.rename(tmp_path / "away")
    assert asked.picture(second).status_code in (200, 404)  # an open folder is still there
    (tmp_path / "away").rename(folder)
    assert asked.picture(second).status_code == 200


def test_a_folder_that_was_gone_from_the_start_is_told(settings, table, folder):
    shutil.rmtree(folder)
    with served(settings) as url, ExitStack() as stack:
        page = Page(url)
        stack.callback(page.http.close)
        [item] = page.table(count=1).json()["items"]
        assert "the folder that was scored can't be read" in page.picture(item).json()["detail"]


def test_only_what_was_scored_is_shown(asked, folder, tmp_path):
    [item] = asked.table(count=1).json()["items"]
    (folder / item["path"]).unlink()
    (tmp_path / "secret.png").write_bytes(b"x" * 100)
    (folder / item["path"]).symlink_to(tmp_path / "secret.png")
    assert asked.picture(item).status_code == 404
    version = asked.table().json()["version"]
    for path in (f"/api/tables/night/{version}/pictures/0/99999", f"/api/tables/night/{version}/pictures/99/0"):
        assert asked.http.get(path).status_code == 422
    for path in (
        "/static/../review.py",
        "/static/review.py",
        "/static/%2e%2e/%2e%2e/README.md",
        "/review/../../etc/passwd",
    ):
        assert asked.http.get(path).status_code in (404, 422)
    assert asked.http.get("/api/tables/night/../../x/pictures/0/0").status_code == 404
    assert asked.table(name="..%2f..%2fx").status_code in (404, 422)
    assert asked.table(name="nobody").status_code == 404


def test_a_damaged_log_stops_the_page_with_the_files_name(settings, store, table, asked):
    [item] = asked.table(count=1).json()["items"]
    asked.say((item, "square"))
    path = store.disk.root / "labels/night/00000001.json"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:50])
    with served(settings) as url:
        answer = httpx.get(f"{url}/api/tables/night")
        assert answer.status_code == 500
        assert "labels/night/00000001.json is damaged" in answer.json()["detail"]


def test_an_audit_is_shown_in_its_order_and_judged(asked, store, table):
    from artifacts import predictions

    audit = draw_audit(store, Settings(), predictions.load(store, table), 20, seed=1)
    found = asked.table("audit").json()
    assert [each["path"] for each in found["items"]] == [each.path for each in audit.pictures]
    for item in found["items"][:10]:
        answer = asked.say((item, item["label"]), chosen="audit", audit=item["audit"]).json()
    assert answer["production"]["labelled"] == 10
    assert answer["production"]["accuracy"] is None
    left = asked.table("audit").json()["items"]
    assert len(left) == 10
    answer = asked.say(*((item, item["label"]) for item in left), chosen="audit", audit=1).json()
    assert answer["production"]["accuracy"]["value"] == pytest.approx(1.0)
    assert {word.statement.audit for word in Labels(store.disk, "night").words().values()} == {1}


def test_only_rows_that_an_audit_drew_are_labelled_as_a_part_of_it(asked, store, table, clock):
    """Such labels decide what a model is tested with."""
    from artifacts import predictions

    items = asked.table().json()["items"]
    answer = asked.say((items[0], "square"), chosen="audit")
    assert answer.status_code == 422
    assert "expected an audit of predictions/night@" in answer.json()["detail"]
    audit = draw_audit(store, Settings(), predictions.load(store, table), 20, seed=1)
    drawn = {each.path for each in audit.pictures}
    [other, *_] = (each for each in items if each["path"] not in drawn)
    [one, *_] = (each for each in items if each["path"] in drawn)
    for said in ([(other, "square")], [(one, "square"), (other, "square")]):
        answer = asked.say(*said, chosen="audit", audit=1)
        assert answer.status_code == 422
        assert f"{other['path']} was not drawn by audit 1" in answer.json()["detail"]
    assert asked.say((one, "square"), chosen="audit", audit=2).status_code == 422
    assert asked.say((one, "square"), chosen="unsure", audit=1).status_code == 422
    assert Labels(store.disk, "night").events == []
    assert asked.say((one, "square"), chosen="audit").status_code == 200  # a page of an earlier Lookbook
    [event] = Labels(store.disk, "night").events
    assert event.statements[0].audit == 1


def test_a_new_audit_of_the_same_table_shows_again_what_an_earlier_one_did(asked, store, table, clock):
    from artifacts import predictions

    draw_audit(store, Settings(), predictions.load(store, table), 58, seed=1)
    items = asked.table("audit").json()["items"]
    asked.say(*((item, item["label"]) for item in items), chosen="audit", audit=1)
    assert asked.table("audit").json()["items"] == []
    draw_audit(store, Settings(), predictions.load(store, table), 58, seed=2)
    clock.ahead += LOOK_SECONDS
    found = asked.table("audit").json()
    assert len(found["items"]) == 58
    assert {item["audit"] for item in found["items"]} == {2}
    assert found["production"]["labelled"] == 0


def test_an_audit_shows_again_what_was_labelled_before(asked, store, table, clock):
    from artifacts import predictions

    audit = draw_audit(store, Settings(), predictions.load(store, table), 20, seed=1)
    clock.ahead += LOOK_SECONDS
    items = asked.table("audit").json()["items"]
    asked.say((items[0], "none"), chosen="unsure")
    assert len(asked.table("audit").json()["items"]) == 20
    asked.say((items[0], "none"), chosen="audit")
    assert len(asked.table("audit").json()["items"]) == len(audit.pictures) - 1


def test_a_table_that_is_not_the_newest_any_more_is_still_labelled(asked, store, folder, table, clock):
    old = asked.table().json()
    publish_table(store, folder, "night", guesses(ITEMS, seed=9), classes=["disc", "box", "stroke"])
    clock.ahead += LOOK_SECONDS
    assert asked.table().json()["classes"] == ["disc", "box", "stroke"]
    item = old["items"][0]
    assert asked.picture(item, version=old["version"]).status_code == 200
    assert asked.say((item, item["label"]), version=old["version"]).status_code == 200
    assert asked.say((asked.table().json()["items"][0], "disc")).status_code == 200


def test_what_is_said_of_a_table_that_was_removed_is_refused_for_good(asked, store, table):
    """The page would send it again for ever."""
    [item] = asked.table(count=1).json()["items"]
    answer = asked.say((item, "square"), version="0" * 16)
    assert answer.status_code == 422
    assert "is not in the store any more" in answer.json()["detail"]


def test_a_change_needs_the_token_and_the_pages_own_origin(asked, store):
    [item] = asked.table(count=1).json()["items"]
    body = {"id": "a-strange-page", "version": asked.table().json()["version"], "chosen": "unsure"}
    body["said"] = [{"part": item["part"], "row": item["row"], "verdict": "bad"}]
    assert asked.post("labels", body, **{"X-Lookbook-Token": "guessed"}).status_code == 403
    assert asked.http.post("/api/tables/night/labels", json=body).status_code == 403
    assert asked.post("labels", body, Origin="http://evil.example").status_code == 403
    for headers in (
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"},
        {"Host": "evil.example"},
    ):
        assert asked.http.post("/api/session", headers=headers).status_code == 403
        assert asked.http.get("/api/names", headers=headers).status_code == 403
    assert Labels(store.disk, "night").events == []
    assert asked.http.get("/api/session").json()["token"] == asked.token  # a page of an earlier Lookbook that is open
    assert asked.post("labels", body).status_code == 200


def test_what_is_too_long_or_no_label_is_refused(asked):
    long = asked.http.post(
        "/api/tables/night/labels", content=b"x" * (2 << 20), headers={"X-Lookbook-Token": asked.token}
    )
    assert long.status_code == 413
    for body in ({}, {"id": "12345678", "version": "x", "chosen": "odd", "said": []}, [1]):
        assert asked.post("labels", body).status_code == 422


def test_every_answer_says_what_a_browser_may_do_with_it(asked):
    for path in ("/", "/review/night", "/static/review.js", "/api/names", "/nothing"):
        headers = asked.http.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_with_a_password_the_name_that_is_given_is_on_record(settings, table, store):
    with served(settings, password="open sesame") as url:
        assert httpx.get(f"{url}/").status_code == 401
        assert httpx.get(f"{url}/", headers={"Authorization": "Basic \u00e9".encode("latin-1")}).status_code == 401
        for wrong in ("ann:wrong", "ann", ":"):
            header = {"Authorization": f"Basic {base64.b64encode(wrong.encode()).decode()}"}
            assert httpx.get(f"{url}/", headers=header).status_code == 401
        given = httpx.BasicAuth("ann", "open sesame")
        token = httpx.post(f"{url}/api/session", auth=given).json()["token"]
        found = httpx.get(f"{url}/api/tables/night", auth=given).json()
        item = found["items"][0]
        body = {"id": "from-ann-1", "version": found["version"], "chosen": "unsure"}
        body["said"] = [{"part": item["part"], "row": item["row"], "verdict": "bad"}]
        headers = {"X-Lookbook-Token": token}
        assert httpx.post(f"{url}/api/tables/night/labels", json=body, headers=headers, auth=given).status_code == 200
    [event] = Labels(store.disk, "night").events
    assert event.by == "ann"


def test_behind_a_proxy_the_configured_address_is_the_pages_own(store, table):
    """As docs/review.md has it: a proxy that says nothing of the name by which people reach it."""
    known_as = "https://review.example"
    password = {"auth": httpx.BasicAuth("ann", "open sesame")}
    settings = Settings(store=str(store.disk.root), review_url=f"{known_as}/")
    with served(settings, password="open sesame") as url, proxied(url, documented()) as through:
        for origin, status in ((known_as, 200), ("https://evil.example", 403), (url, 200), ("null", 403)):
            answer = httpx.post(f"{through}/api/session", headers={"Origin": origin}, **password)
            assert answer.status_code == status
        assert "open this page by" not in answer.text
        page = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "Origin": "https://evil.example"}
        assert httpx.post(f"{through}/api/session", headers=page, **password).status_code == 403
    with served(Settings(store=str(store.disk.root)), "open sesame") as url, proxied(url, documented()) as through:
        answer = httpx.post(f"{through}/api/session", headers={"Origin": known_as}, **password)
        assert answer.status_code == 403
        assert "set LOOKBOOK_REVIEW_URL to the address by which people open this page" in answer.text
        assert "PREFECT" not in answer.text


def test_a_page_for_others_has_a_password(store):
    """Whoever reaches the proxy could label otherwise."""
    with (
        pytest.raises(ServerError, match="expected a password"),
        listening(Settings(review_url="https://review.example")),
    ):
        pass
    settings = Settings(review_url="http://localhost:4201/", review_port=free_port())
    with listening(settings) as sockets:
        assert address(settings, sockets) == "http://localhost:4201"


def test_the_configured_address_is_told_only_at_the_configured_port():
    """It leads to whoever has that port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(
            review_url="https://review.example", review_password="open sesame", review_port=taken.getsockname()[1]
        )
        with listening(settings) as sockets:
            assert address(settings, sockets) == f"http://127.0.0.1:{sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("url", ["review.example", "ftp://review.example", "https://", "https://a:b", "http://u:p@x.y"])
def test_an_address_that_browsers_have_no_page_of_is_refused_with_an_example(url):
    with pytest.raises(ValidationError, match="expected an address like https://review.example"):
        Settings(review_url=url)


def test_passwords_can_not_be_guessed_in_numbers(settings, table, clock):
    with served(settings, password="open sesame", clock=clock) as url:
        with httpx.Client(base_url=url) as known:
            assert known.get("/", auth=("ann", "open sesame")).status_code == 200
            answers = [httpx.get(f"{url}/", auth=("ann", f"guess {number}")) for number in range(40)]
            statuses = [each.status_code for each in answers]
            assert statuses == [401] * 10 + [429] * 30
            assert 0 < int(answers[-1].headers["Retry-After"]) <= 6
            assert "too many wrong passwords" in answers[-1].text
            assert httpx.get(f"{url}/", auth=("bob", "open sesame")).status_code == 429  # or else it would be a guess
            assert httpx.get(f"{url}/").status_code == 401  # a browser asks without one first
            assert known.get("/", auth=("ann", "open sesame")).status_code == 200  # who was in before stays in
            assert known.get("/", auth=("ann", "open sesame?")).status_code == 401
        cookie = {"Cookie": "lookbook-review=guessed"}
        assert httpx.get(f"{url}/", auth=("bob", "open sesame"), headers=cookie).status_code == 429
        clock.ahead += 6.1
        assert httpx.get(f"{url}/", auth=("bob", "one more guess")).status_code == 401
        assert httpx.get(f"{url}/", auth=("bob", "another one")).status_code == 429
        clock.ahead += 6.1
        assert httpx.get(f"{url}/", auth=("bob", "open sesame")).status_code == 200


def test_it_listens_elsewhere_only_with_a_password(store):
    with pytest.raises(ServerError, match="expected a password"), listening(Settings(review_host="0.0.0.0")):
        pass
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(review_port=taken.getsockname()[1])
        with listening(settings) as sockets:
            assert address(settings, sockets) != f"http://127.0.0.1:{settings.review_port}"


def test_the_memory_of_a_look_does_not_grow_with_the_table(store, folder, table):
    from artifacts import predictions

    found = predictions.load(store, table)
    least = pick(found, Wanted(), most=7)
    confidences = [each.confidence for each in read(found, least)]
    everything = sorted(each.confidence for each in read(found, pick(found, Wanted(), most=1000)))
    assert confidences == everything[:7]
    with pytest.raises(SettingsError):
        Wanted.parse("confidence:2-3")
    assert found.artifact.ref == Ref.parse(str(table))


def test_pictures_are_spread_over_classes_and_over_looks():
    margin = np.array([0.1, 0.2, 0.3, 0.15, 0.9], np.float32)
    assert spread_over_classes(margin, np.array([0, 0, 0, 1, 1])).tolist() == [0, 3, 1, 4, 2]
    features = np.array([[1, 0], [1, 0.01], [0, 1], [0.7, 0.7], [-1, 0]], np.float32)
    order = spread_over_features(np.array([0.1, 0.11, 0.5, 0.2, 0.99], np.float32), features, 3).tolist()
    assert order == [0, 2, 3]  # not 1, a copy of 0; not 4, which is certain
    assert sorted(spread_over_features(margin, features, 9).tolist()) == [0, 1, 2, 3, 4]
