"""pytest tests/test_wishes.py: numbers of scorings as events, and retrainings that start by themselves."""

import json
import os
import subprocess
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from commands import answer, complaint, run_flow_inside
from conftest import WARDROBE, draw_wardrobe
from PIL import Image
from reviewed import draw_folder, guesses, publish_table
from upheld import asked, patch, post
from waiting import eventually

from artifacts import aliases, predictions, runs
from artifacts import dataset as datasets
from artifacts.documents import canonical, seal, unseal
from artifacts.labels import Labels, Statement
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from flows.ports import listen
from flows.retrain import retrain
from flows.review import command
from flows.score import score
from flows.wishes import tell_of_scoring
from tasks.scoring.drift import exceeded, numbers_of


def events(url, name, about):
    """The events of this name about a name of tables, as the server has them."""
    found = post(f"{url}/events/filter", {"filter": {"event": {"name": [name]}}}).json()["events"]
    ours = [each for each in found if each["resource"]["prefect.resource.name"] == about]
    return sorted(ours, key=lambda each: each["occurred"])


def all_events(url, name, about):
    """The same, when the server has all that was sent: an event that is sent now has arrived behind them."""
    last = {"id": str(uuid.uuid4()), "event": "tests.last", "occurred": datetime.now(UTC).isoformat(), "payload": {}}
    last["resource"] = {"prefect.resource.id": "tests", "prefect.resource.name": last["id"]}
    post(f"{url}/events", [last])
    eventually(lambda: events(url, "tests.last", last["id"]), "an event")
    return events(url, name, about)


def a_day_earlier(store, name):
    """The newest table of a name, as if yesterday's night had made it."""
    number = len(aliases.history(store.disk, "predictions", name, "latest"))
    key = aliases.event_key("predictions", name, "latest", number)
    event = unseal(store.disk.read(key), key)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    store.disk.remove(key)
    store.disk.create(key, seal({**event, "at": yesterday.strftime("%Y-%m-%dT%H:%M:%SZ")}))


def noise(folder, items, seed):
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for item in range(items):
        pixels = random.integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}-{item}.png")


def test_a_number_is_exceeded_above_its_limit_alone():
    numbers = {"low_confidence": 0.3, "class_shift": None, "errors": 0.2, "distance": 9.0}
    assert exceeded(numbers, {"low_confidence": 0.3, "class_shift": 0.1, "errors": 0.1}) == {"errors": 0.2}


def test_a_share_of_unsure_predictions_counts_only_where_it_rose():
    """A hard set has many of them on its own test split: what an earlier Lookbook told of a table says nothing."""
    limits = {"low_confidence": 0.3, "low_confidence_rise": 0.1}
    assert exceeded({"low_confidence": 0.45}, limits) == {}
    assert exceeded({"low_confidence": 0.45, "low_confidence_rise": None}, limits) == {}
    assert exceeded({"low_confidence": 0.45, "low_confidence_rise": 0.0}, limits) == {}
    both = {"low_confidence": 0.45, "low_confidence_rise": 0.12}
    assert exceeded(both, limits) == both


class Emitted(list):
    def __init__(self, monkeypatch):
        monkeypatch.setattr("prefect.events.emit_event", lambda **event: self.append(event))

    def wishes(self):
        return [each["payload"]["because"] for each in self if each["event"] == "lookbook.retraining.wished"]


def drifting_table(store, name, rows, days_ago, drifted=True, action="promote"):
    """A table, as if it had been published some days ago."""
    numbers = {"low_confidence": 0.6, "low_confidence_rise": 0.5 if drifted else 0.0}
    ref = store.publish("predictions", name, {"numbers.json": canonical({**numbers, "rows": rows})},
                        settings={}, inputs={}, facts={})  # fmt: skip
    at = (datetime.now(UTC) - timedelta(days=days_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    number = len(aliases.history(store.disk, "predictions", name, "latest")) + 1
    event = {"number": number, "action": action, "ref": str(ref), "previous": None, "challenger": None,
             "reason": "scored", "numbers": {}, "at": at, "by": "test"}  # fmt: skip
    store.disk.create(aliases.event_key("predictions", name, "latest", number), seal(event))
    return SimpleNamespace(artifact=store.open(ref))


@pytest.mark.parametrize("days_ago", [1, 7, 31])
def test_two_drifted_tables_in_a_row_are_a_wish_however_far_apart(store, monkeypatch, days_ago):
    emitted = Emitted(monkeypatch)
    drifting_table(store, "weekly", 1, days_ago)
    tell_of_scoring(store, Settings(), drifting_table(store, "weekly", 2, 0))
    assert emitted.wishes() == [
        "weekly drifted in two tables in a row: rise of the share of predictions below 50 % confidence 0.5 and 0.5"
    ]


def test_what_is_no_second_table_in_a_row_is_no_wish(store, monkeypatch):
    emitted = Emitted(monkeypatch)
    drifting_table(store, "between", 1, 9)
    drifting_table(store, "between", 2, 2, drifted=False)
    tell_of_scoring(store, Settings(), drifting_table(store, "between", 3, 0))
    drifting_table(store, "again", 1, 3)
    tell_of_scoring(store, Settings(), drifting_table(store, "again", 1, 0))  # the same table once more
    drifting_table(store, "today", 1, 0)
    tell_of_scoring(store, Settings(), drifting_table(store, "today", 2, 0))  # one day's pictures
    assert emitted.wishes() == []


def test_a_limit_of_a_number_that_is_none_is_refused(lookbook):
    said = complaint(lookbook("list", LOOKBOOK_RETRAIN_WHEN='{"distanse": 2}'))
    assert "LOOKBOOK_RETRAIN_WHEN can't have this value of 'distanse'" in said


@pytest.mark.slow
def test_two_nights_of_drift_are_one_wish_a_day(lookbook, server, shared_environment, tmp_path):
    store = Store(shared_environment["LOOKBOOK_STORE"])
    for key in list(store.disk.list("runs")):
        if "wished-" in key:
            store.disk.remove(key)
    settings = {**shared_environment, "PREFECT_API_URL": server}
    settings["LOOKBOOK_RETRAIN_WHEN"] = json.dumps({"class_shift": 0.1, "low_confidence": 0.99})

    def score(seed):
        noise(tmp_path / "night", 60, seed)
        return answer(lookbook("score", tmp_path / "night", "--name", "drifting", "--json", **settings))

    first = score(1)
    [event] = all_events(server, "lookbook.scored", "drifting")
    assert event["payload"]["table"] == first["predictions"]
    numbers = numbers_of(predictions.load(store, Ref.parse(first["predictions"])).artifact)
    assert {**numbers, "table": first["predictions"]} == event["payload"]
    assert numbers["class_shift"] > 0.1
    assert numbers["distance"] is None  # of a network without a backbone
    assert numbers["errors"] == 0.0
    a_day_earlier(store, "drifting")
    score(2)
    [wish] = all_events(server, "lookbook.retraining.wished", "drifting")
    assert wish["payload"]["because"].startswith("drifting drifted in two tables in a row: shift of the classes")
    score(3)
    assert len(all_events(server, "lookbook.scored", "drifting")) == 3
    assert all_events(server, "lookbook.retraining.wished", "drifting") == [wish]
    assert store.verify().corrupt == []


@pytest.mark.slow
def test_so_many_new_labels_are_a_wish(store, server, tmp_path):
    draw_folder(tmp_path / "pictures", 20)
    publish_table(store, tmp_path / "pictures", "labelled", guesses(20))
    [listening_on] = listen("127.0.0.1", 0)
    environment = {**os.environ, "LOOKBOOK_STORE": str(store.disk.root), "PREFECT_API_URL": server}
    environment["LOOKBOOK_RETRAIN_WHEN"] = json.dumps({"labels": 4})
    process = subprocess.Popen(command([listening_on]), env=environment, pass_fds=[listening_on.fileno()])
    try:
        http = httpx.Client(base_url=f"http://127.0.0.1:{listening_on.getsockname()[1]}", timeout=60)
        with http:
            token = http.post("/api/session").json()["token"]
            found = http.get("/api/tables/labelled").json()
            for number, item in enumerate(found["items"][:9]):
                body = {"id": f"a-word-{number}", "version": found["version"], "chosen": "unsure"}
                body["said"] = [{"part": item["part"], "row": item["row"], "verdict": "bad"}]
                http.post(
                    "/api/tables/labelled/labels", json=body, headers={"X-Lookbook-Token": token}
                ).raise_for_status()
        [wish] = eventually(lambda: events(server, "lookbook.retraining.wished", "labelled"), "a wish")
        assert wish["payload"]["because"] == "labelled has 4 new labels"
    finally:
        process.terminate()
        process.wait(20)
        listening_on.close()


@pytest.mark.slow
def test_the_command_learns_from_labels_of_a_folder_that_its_user_scored(
    lookbook, server, shared_environment, tmp_path, fashion_mnist
):
    draw_wardrobe(tmp_path / "wardrobe", fashion_mnist["test"].images, fashion_mnist["test"].labels, test=12, night=13)
    settings = {**shared_environment, "PREFECT_API_URL": server, "LOOKBOOK_STORE": str(tmp_path / "store")}
    asked_for = (
        "--images",
        tmp_path / "wardrobe/own",
        "--name",
        "wardrobe-by-hand",
        "--epochs",
        "3",
        "--color",
        "grey",
    )
    lookbook("retrain", *asked_for, **settings)
    night = ("score", tmp_path / "wardrobe/night", "--weights", "wardrobe-by-hand@champion", "--name", "by-hand")
    answer(lookbook(*night, "--json", **settings))
    truth = tmp_path / "truth.csv"
    names = [path.name for path in sorted((tmp_path / "wardrobe/night").iterdir())[:50]]
    truth.write_text("path,label\n" + "".join(f"{name},{WARDROBE[int(name[-5])]}\n" for name in names))
    assert answer(lookbook("labels", "import", "by-hand", truth, "--json", **settings))["labels"] == 50
    made = answer(lookbook("retrain", *asked_for, "--labels", "by-hand", "--json", **settings))
    rows = datasets.load(Store(settings["LOOKBOOK_STORE"]), Ref.parse(made["dataset"])).labels
    assert [row["use"] for row in rows] == ["added"] * 50
    said = complaint(lookbook("retrain", "--labels", "by-hand", **settings), 2)
    assert "--labels is about pictures of your own: it goes with --images" in said


@pytest.mark.long
def test_the_automation_sleeps_until_somebody_wakes_it_and_says_why_it_started(up):
    own = {"images": "photos:wardrobe/own", "name": "wished", "epochs": 3, "image_size": 28, "color": "grey"}
    first, state = run_flow_inside(retrain, own, {**up.environment, "PREFECT_API_URL": up.api})
    assert state.is_completed(), state
    asked_for = {"folder": "photos:wardrobe/night", "weights": "wished@champion", "name": "wished"}
    _, state = run_flow_inside(score, asked_for, {**up.environment, "PREFECT_API_URL": up.api})
    assert state.is_completed(), state
    [ours] = [each for each in asked(up.api, "automations") if "new labels" in each["name"]]
    assert ours["enabled"] is False
    wish(up, "first")
    eventually(lambda: events(up.api, "lookbook.retraining.wished", "wished"), "a wish")

    weekly = up.deployment("retrain/weekly")
    changed = {**weekly["parameters"], **own, "labels": "wished", "if_unchanged": "train"}
    patch(f"{up.api}/deployments/{weekly['id']}", {"parameters": changed})
    patch(f"{up.api}/automations/{ours['id']}", {"enabled": True})
    try:
        for key in up.store.disk.list("runs"):
            if "wished-" in key:
                up.store.disk.remove(key)  # as on the next day
        wish(up, "second")
        because = lambda: [each for each in asked(up.api, "flow_runs") if each["parameters"].get("because")]  # noqa: E731
        eventually(because, "a retraining that says why")
        [run] = because()  # the first wish started none
        run = up.wait(run["id"])
        assert run["state_type"] == "COMPLETED", up.logs(run["id"])
    finally:
        patch(f"{up.api}/deployments/{weekly['id']}", {"parameters": weekly["parameters"]})
        patch(f"{up.api}/automations/{ours['id']}", {"enabled": False})
    assert run["name"].startswith("retrain-wished-wished-has-")
    reports = [each for each in asked(up.api, "artifacts") if each["flow_run_id"] == run["id"]]
    [report] = [each["data"] for each in reports if each["key"] == "retrain-wished"]
    assert "Started because wished has" in report
    assert "What people's labels changed" in report
    assert runs.find(up.store.disk, run["id"])["weights"] != runs.find(up.store.disk, first)["weights"]


def wish(up, which):
    """Label five more pictures on the page."""
    with httpx.Client(base_url=up.review, timeout=60) as http:
        token = http.post("/api/session").json()["token"]
        found = http.get("/api/tables/wished").json()
        for number, item in enumerate(found["items"][:5]):
            said = [{"part": item["part"], "row": item["row"], "verdict": "class", "label": item["label"]}]
            body = {"id": f"{which}-{number}-word", "version": found["version"], "chosen": "unsure", "said": said}
            answer = http.post("/api/tables/wished/labels", json=body, headers={"X-Lookbook-Token": token})
            answer.raise_for_status()


def test_labels_that_a_dataset_has_learned_from_are_not_new(store, tmp_path):
    from flows.wishes import _learned_from

    log = Labels(store.disk, "night")
    log.say("one-of-ann", "ann", [Statement("a" * 64, "bad")])
    assert _learned_from(store, "night") == 0
    side = datasets.Split(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1], np.int32), ["a", "b"])
    datasets.save(
        store, "shop", train=side, test=side, classes=["a", "b"], image_spec={}, settings={"labels": "night"},
        inputs={}, made={}, labels=[{"sha256": "a" * 64}],
    )  # fmt: skip
    assert _learned_from(store, "night") == 1
