"""pytest tests/test_groups.py: runs that share the scoring of a folder, on the workers of a pool."""

import os
import signal

import numpy as np
import pytest
from PIL import Image
from test_kills import draw_shards
from upheld import asked
from waiting import eventually

from artifacts import runs

pytestmark = [pytest.mark.slow, pytest.mark.kill, pytest.mark.long]


@pytest.fixture(scope="module")
def shared(up, champion):
    """A folder of 20 shards, and the weights that score it."""
    folder = up.top / "photos/shared"
    draw_shards(folder, 20, 20)
    large = np.add.outer(np.arange(2000), np.arange(2000)).astype(np.uint8)
    Image.fromarray(large).save(folder / "0000.png")  # all are links to it: each takes some time
    return {"folder": "photos:shared", "weights": runs.find(up.store.disk, champion)["weights"]}


def groups_of(up, run):
    """The runs that were started for the groups of a run."""
    [parent] = asked(up.api, "flow_runs", flow_runs={"id": {"any_": [run]}})
    found = asked(up.api, "flow_runs", flow_runs={"name": {"like_": "-group-"}})
    return sorted((each for each in found if each["created"] > parent["created"]), key=lambda each: each["name"])


def test_groups_share_a_folder_and_make_the_table_of_one_run(up, shared):
    before = set(up.store.disk.list("staging/plans"))  # of runs that other tests have ended
    run = up.start("score/by-hand", **shared, groups=3, fresh=True)
    assert up.wait(run)["state_type"] == "COMPLETED", up.logs(run)
    children = groups_of(up, run)
    called = up.run(run)["name"]
    assert [each["name"] for each in children] == [f"{called}-group-2-of-3", f"{called}-group-3-of-3"]
    became = {up.wait(child["id"])["state_type"] for child in children}
    assert became in (
        {"COMPLETED"},
        {"COMPLETED", "CANCELLED"},
    )  # one for which the pool had no room was not waited for
    alone = up.start("score/by-hand", **shared, fresh=True)
    assert up.wait(alone)["state_type"] == "COMPLETED", up.logs(alone)
    table, again = (runs.find(up.store.disk, each)["predictions"] for each in (run, alone))
    assert table == again
    assert set(up.store.disk.list("staging/plans")) <= before


def test_a_group_that_is_killed_costs_no_rows(up, shared):
    run = up.start("score/by-hand", **shared, groups=2, fresh=True)
    [child] = eventually(lambda: groups_of(up, run), "the run of a group")
    parent = up.engine(run)
    os.kill(parent, signal.SIGSTOP)  # or it might do all before the other has begun
    up.wait(child["id"], "RUNNING")
    os.kill(up.engine(child["id"]), signal.SIGKILL)
    os.kill(parent, signal.SIGCONT)
    assert up.wait(run)["state_type"] == "COMPLETED", up.logs(run)
    assert up.store.verify().corrupt == []
