"""pytest tests/test_kills.py: what becomes of a `lookbook up` and its runs that are killed or interrupted."""

import contextlib
import hashlib
import itertools
import json
import os
import signal
import time

import httpx
import numpy as np
import pytest
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings
from upheld import WORK_SECONDS

from artifacts import runs

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


@pytest.fixture(scope="session")
def killed(up, champion):
    """One training and one scoring that were killed with their worker, as a machine's end would end both.

    They are marked crashed by the signs of life that don't come for 90 seconds. Both count in their pool until then, so
    it takes more runs for the tests that go on meanwhile. Gives the ids of the runs, and how many rows were finished.
    """
    with temporary_settings({PREFECT_API_URL: up.api}), get_client(sync_client=True) as client:
        client.update_work_pool("cpu", WorkPoolUpdate(concurrency_limit=10))
    draw_shards(up.top / "photos/many", shards=25, files=400)
    shards = up.top / "store/staging/shards"
    known = set(shards.glob("*/*.json"))
    training = up.start("retrain/weekly", epochs=60, if_unchanged="train", seed=21)
    scored_by = runs.find(up.store.disk, champion)["weights"]  # whoever is champion when it goes on
    scoring = up.start("score/folder", folder="photos:many", weights=scored_by)
    up.wait(scoring, "RUNNING")
    until = time.monotonic() + WORK_SECONDS
    while not set(shards.glob("*/*.json")) - known:
        assert time.monotonic() < until, up.logs(scoring)
        time.sleep(0.005)
    victims = [up.engine(scoring)]
    os.kill(victims[0], signal.SIGSTOP)  # so that it isn't done before the other is as far
    up.wait_for_log(training, "epoch 2/60")
    victims.append(up.engine(training))
    for pid in [*victims, *up.processes("worker start --pool cpu")]:
        os.kill(pid, signal.SIGKILL)
    finished = sum(json.loads(each.read_text())["rows"] for each in set(shards.glob("*/*.json")) - known)
    return training, scoring, finished


@pytest.mark.early
def test_killed_with_its_worker_a_run_leaves_a_whole_store(up, killed):
    """What becomes of the runs is judged late: until then other tests go on."""
    assert up.store.verify().corrupt == []


@pytest.mark.late
def test_killed_with_its_worker_a_scoring_is_crashed_and_its_rerun_goes_on(up, killed):
    training, scoring, finished = killed
    for run in (training, scoring):
        state = up.wait(run, "CRASHED")["state"]
        assert state["message"].startswith("no sign of life for 90 seconds")
    up.retry(training)  # judged below
    up.retry(scoring)
    assert up.wait(scoring)["state_type"] == "COMPLETED", up.logs(scoring)
    up.wait_for_log(scoring, " rows predicted, ")  # logs come a little later
    said = [line for line in up.logs(scoring) if " rows predicted, " in line][-1]
    assert int(said.split(" reused")[0].split()[-1].replace(",", "")) == finished > 0, said


@pytest.mark.late
def test_killed_with_its_worker_a_training_goes_on_when_it_is_run_again(up, killed):
    training, *_ = killed
    assert up.wait(training)["state_type"] == "COMPLETED", up.logs(training)
    assert up.run(training)["run_count"] == 2
    assert up.store.verify().corrupt == []


@pytest.mark.late
def test_a_server_that_is_killed_comes_back_and_the_training_goes_on(up, champion):
    run = up.start("retrain/weekly", epochs=60, seed=31)
    up.wait_for_log(run, "epoch 2/60")
    for pid in up.processes("flows.serving"):
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + WORK_SECONDS
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{up.api}/health").is_success:
                break
        assert time.monotonic() < until
        time.sleep(0.2)
    found = up.wait(run)
    assert (found["state_type"], found["run_count"]) == ("COMPLETED", 1)
    assert runs.find(up.store.disk, run)["weights"]


@pytest.mark.late
def test_ctrl_c_ends_all_and_the_next_up_goes_on(up):
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
