"""pytest tests/test_kills.py: what becomes of a `lookbook up` and its runs that are killed or interrupted."""

import contextlib
import hashlib
import itertools
import json
import os
import signal
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr
from upheld import asked, patch, post
from waiting import eventually

from artifacts import runs
from flows import automations
from flows.heartbeats import EVERY_SECONDS, HEARTBEAT
from flows.serving import healthy

pytestmark = [pytest.mark.kill, pytest.mark.long]


def draw_shards(top, shards, files):
    """Grey pictures under names of which each last one ends a shard, by the rule in docs/design.md."""
    top.mkdir()
    Image.fromarray(np.arange(28 * 28, dtype=np.uint32).reshape(28, 28).astype(np.uint8)).save(top / "0000.png")
    for shard in range(1, shards + 1):
        names = [f"{shard:02d}{index:04d}.png" for index in range(files - 1)]
        lasts = (f"{shard:02d}z{index}.png" for index in itertools.count())
        names.append(next(name for name in lasts if ends_shard(name)))
        for name in names:
            (top / name).hardlink_to(top / "0000.png")


def ends_shard(name):
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) % 10_000 == 0


@contextlib.contextmanager
def told_dead_soon(up):
    """Silence is taken for the end of a run after ten seconds, the least that Prefect takes, instead of ninety."""
    [made] = [each for each in asked(up.api, "automations") if "process died" in each["name"]]
    assert made["trigger"]["within"] == automations.SILENT_SECONDS == 3 * EVERY_SECONDS == 90
    notify = SecretStr(up.environment["LOOKBOOK_NOTIFY_URL"])
    with temporary_settings({PREFECT_API_URL: up.api}), get_client(sync_client=True) as client:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(automations, "SILENT_SECONDS", 10)
            automations.create_automations(client, notify)
        try:
            yield
        finally:
            automations.create_automations(client, notify)


def give_a_last_sign_of_life(up, run):
    """As the process of the run does it."""
    found = up.run(run)
    of_flow = {
        "prefect.resource.id": f"prefect.flow.{found['flow_id']}",
        "prefect.resource.role": "flow",
        "prefect.resource.name": found["name"].partition("-")[0],
    }
    now = datetime.now(UTC).isoformat()
    beat = {"id": str(uuid4()), "event": HEARTBEAT, "occurred": now, "payload": {}, "related": [of_flow]}
    beat["resource"] = {"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.name": found["name"]}
    post(f"{up.api}/events", [beat])


def test_killed_with_their_worker_runs_are_crashed_and_go_on_when_they_are_run_again(up, champion):
    """One training and one scoring, as a machine's end would end both."""
    draw_shards(up.top / "photos/many", shards=25, files=400)
    shards = up.top / "store/staging/shards"
    known = set(shards.glob("*/*.json"))
    training = up.start("retrain/weekly", name="killed", epochs=60, if_unchanged="train", seed=21)
    scored_by = runs.find(up.store.disk, champion)["weights"]  # whoever is champion when it goes on
    scoring = up.start("score/by-hand", folder="photos:many", weights=scored_by)
    up.wait(scoring, "RUNNING")
    eventually(lambda: set(shards.glob("*/*.json")) - known, lambda: f"a finished shard: {up.logs(scoring)}")
    victims = [up.engine(scoring)]
    os.kill(victims[0], signal.SIGSTOP)  # so that it isn't done before the other is as far
    up.wait_for_log(training, "epoch 2/60")
    victims.append(up.engine(training))
    for pid in [*victims, *up.processes("worker start --pool cpu")]:
        os.kill(pid, signal.SIGKILL)
    finished = sum(json.loads(each.read_text())["rows"] for each in set(shards.glob("*/*.json")) - known)
    assert up.store.verify().corrupt == []

    with told_dead_soon(up):
        for run in (training, scoring):
            give_a_last_sign_of_life(up, run)
        for run in (training, scoring):
            assert up.wait(run, "CRASHED")["state"]["message"].startswith("no sign of life for 10 seconds")
    up.retry(training)
    up.retry(scoring)
    assert up.wait(scoring)["state_type"] == "COMPLETED", up.logs(scoring)
    up.wait_for_log(scoring, " rows predicted, ")  # logs come a little later
    said = [line for line in up.logs(scoring) if " rows predicted, " in line][-1]
    assert int(said.split(" reused")[0].split()[-1].replace(",", "")) == finished > 0, said
    assert up.wait(training)["state_type"] == "COMPLETED", up.logs(training)
    assert up.run(training)["run_count"] == 2
    assert up.store.verify().corrupt == []


def test_a_server_that_is_killed_comes_back_and_the_training_goes_on(up, champion):
    run = up.start("retrain/weekly", name="restarted", epochs=60, seed=31)
    up.wait_for_log(run, "epoch 2/60")
    for pid in up.processes("flows.serving"):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: healthy(up.api), "the server that was started again")
    found = up.wait(run)
    assert (found["state_type"], found["run_count"]) == ("COMPLETED", 1)
    assert runs.find(up.store.disk, run)["weights"]


def test_ctrl_c_ends_all_and_the_next_up_goes_on(up):
    [automation] = [each for each in asked(up.api, "automations") if "new labels" in each["name"]]
    patch(f"{up.api}/automations/{automation['id']}", {"enabled": True})  # as somebody has switched it
    run = up.start("retrain/weekly", images="photos:shapes", epochs=10_000, seed=41, train_on="gpu pool")
    child = up.inner(run)["id"]
    up.wait_for_log(child, "epoch 2/10000")
    names = ("prefect worker start", "flows.serving", "prefect.engine")
    processes = [pid for name in names for pid in up.processes(name)]
    assert len(processes) >= 5
    up.bring_down()
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    up.bring_up_again()
    assert up.wait(run, "RUNNING")["run_count"] == 2
    assert up.inner(run)["id"] == child
    assert up.wait(child, "RUNNING")["run_count"] == 2
    up.cancel(run)
    assert up.wait(run)["state_type"] == "CANCELLED"
    [automation] = [each for each in asked(up.api, "automations") if "new labels" in each["name"]]
    assert automation["enabled"] is True
    patch(f"{up.api}/automations/{automation['id']}", {"enabled": False})
