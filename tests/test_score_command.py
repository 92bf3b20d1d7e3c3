"""pytest tests/test_score_command.py: `lookbook score`, as a person runs it: a real server, real signals."""

import json
import os
import shutil
import signal
import subprocess
import sys

import duckdb
import numpy as np
import pandas
import polars
import pytest
from commands import answer, complaint, run_flow_inside
from PIL import Image
from upheld import asked

from artifacts import aliases, dataset, metrics, runs
from artifacts.errors import StoreAway
from artifacts.refs import Ref
from artifacts.store import Store
from flows.score import score
from tasks import plan
from tasks import score as predicting
from tasks.score import score_plan
from tasks.shared.listing import FolderError, FolderLost

FILES = 2_000


@pytest.fixture
def lookbook_environment(shared_environment):
    return shared_environment


@pytest.fixture
def store(home):
    return Store(home / "store")


@pytest.fixture(scope="session")
def test_images(tmp_path_factory, fashion_mnist):
    """The first FILES test images as PNG files, in a folder a class."""
    top = tmp_path_factory.mktemp("fashion")
    for label in range(10):
        (top / str(label)).mkdir()
    test = fashion_mnist["test"]
    for index, (image, label) in enumerate(zip(test.images[:FILES], test.labels[:FILES], strict=True)):
        Image.fromarray(image[..., 0]).save(top / str(label) / f"{index:05d}.png")
    return top


@pytest.fixture(scope="session")
def scored(test_images, server, lookbook_command, shared_environment):
    return subprocess.run(
        [*lookbook_command, "score", test_images, "--name", "fashion", "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**shared_environment, "PREFECT_API_URL": server},
    )


def test_every_file_has_the_class_that_evaluation_found(scored, first, store):
    result = answer(scored)
    assert set(result) >= {
        "predictions", "path", "images", "predicted", "reused", "errors", "images_per_second", "seconds",
    }  # fmt: skip
    assert (result["images"], result["predicted"], result["reused"], result["errors"]) == (FILES, FILES, 0, {})
    table = pandas.read_parquet(result["path"])
    classes = json.loads(_metadata(result)["lookbook.classes"])
    best = metrics.load(store, Ref.parse(answer(first)["metrics"])).probabilities().argmax(1)
    places = table.path.str[2:7].astype(int)
    assert sorted(places) == list(range(FILES))
    assert table.label.tolist() == [classes[best[place]] for place in places]
    labels = dataset.load(store, Ref.parse(answer(first)["dataset"])).test.labels
    assert np.mean(best == labels) == answer(first)["accuracy"], "these are the predictions that its accuracy is of"


def _metadata(result):
    import pyarrow.parquet as pq

    metadata = pq.read_schema(f"{result['path']}/part-00000.parquet").metadata
    return {key.decode(): value.decode() for key, value in metadata.items()}


def test_score_predict_and_evaluate_give_the_same_bits(scored, first, test_images, lookbook, store):
    expected = metrics.load(store, Ref.parse(answer(first)["metrics"])).probabilities()
    table = pandas.read_parquet(answer(scored)["path"]).set_index("path")
    labels = dataset.load(store, Ref.parse(answer(first)["dataset"])).test.labels
    for path, row in table.sample(200, random_state=0).iterrows():
        assert row.probabilities.tolist() == expected[int(path[2:7])].tolist()
    paths = [f"{labels[index]}/{index:05d}.png" for index in range(5)]
    predicted = answer(lookbook("predict", *(test_images / path for path in paths), "--json"))["results"]
    for path, result in zip(paths, predicted, strict=True):
        assert list(result["probabilities"].values()) == table.loc[path].probabilities.tolist()


def test_pandas_polars_and_duckdb_read_it_with_one_line_each(scored):
    path = answer(scored)["path"]
    expected = answer(scored)["classes"]
    assert pandas.read_parquet(path).label.value_counts().to_dict() == expected
    counted = polars.read_parquet(f"{path}/*.parquet")["label"].value_counts()
    assert dict(counted.iter_rows()) == expected
    assert dict(duckdb.sql(f"select label, count(*) from '{path}/*.parquet' group by label").fetchall()) == expected


def test_again_nothing_is_scored(scored, test_images, lookbook, server):
    again = answer(lookbook("score", test_images, "--name", "fashion", "--json", PREFECT_API_URL=server))
    assert again["predictions"] == answer(scored)["predictions"]
    assert (again["predicted"], again["reused"]) == (0, FILES)


def test_what_the_runs_produced_names_the_decision_about_latest(scored, server, store):
    named = [each["id"] for each in asked(server, "flow_runs") if each["name"].startswith("score-fashion-")]
    produced = [found for run in named if (found := runs.find(store.disk, run))]
    assert {each["predictions"] for each in produced} == {answer(scored)["predictions"]}
    events = aliases.history(store.disk, "predictions", "fashion", "latest")  # the later ones found the same table
    keys = {aliases.event_key("predictions", "fashion", "latest", event.number) for event in events}
    decided = {each["decision"] for each in produced}
    assert aliases.event_key("predictions", "fashion", "latest", 1) in decided
    assert decided <= keys


def test_prefects_ui_has_the_report_and_the_progress(scored, server):
    reports = {each["key"]: each for each in asked(server, "artifacts")}
    assert reports["score-fashion"]["type"] == "markdown"
    for part in (f"**{FILES:,}** entries of fashion", "| Ankle boot |", answer(scored)["predictions"]):
        assert part in reports["score-fashion"]["data"]
    assert float(reports["score-fashion-progress"]["data"]) == 100


def test_bad_files_are_counted_by_kind_and_the_run_succeeds(test_images, lookbook, server, tmp_path, store):
    for index, path in enumerate(sorted((test_images / "0").iterdir())[:50]):
        (tmp_path / f"{index:02d}.png").write_bytes(path.read_bytes())
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "00.png").read_bytes()[:60])
    said = lookbook("score", tmp_path, "--name", "mixed", PREFECT_API_URL=server)
    assert said.returncode == 0
    for part in ("52: 52 scored now, 0 taken over", "1 corrupt, 1 unsupported", "report.html"):
        assert part in said.stdout
    assert "52 of 52 entries" in said.stderr
    [run] = [each for each in asked(server, "flow_runs") if each["name"].startswith("score-mixed-")]
    assert run["parameters"]["folder"] == str(tmp_path), "Prefect's page shows the folder that was named"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["missing"], "/missing, found: No such file or directory"),
        (["file"], "/file, found: Not a directory"),
        (["empty"], "/empty, found an empty folder"),
        (["full", "--weights", "0000"], "nothing in the store"),
        (["full", "--name", "A B"], "expected a name of a-z"),
    ],
)
def test_what_can_not_be_scored_is_one_line(lookbook, server, tmp_path, store, arguments, told):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.png").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    before = list(store.refs())
    folder, *rest = arguments
    assert told in complaint(lookbook("score", tmp_path / folder, *rest, PREFECT_API_URL=server))
    assert list(store.refs()) == before


def test_a_folder_from_a_form_stays_inside_the_roots(server, shared_environment, tmp_path):
    """The flow itself refuses, whatever the form allowed."""
    environment = {**shared_environment, "PREFECT_API_URL": server}
    environment["LOOKBOOK_IMAGE_ROOTS"] = json.dumps({"photos": str(tmp_path)})
    _, state = run_flow_inside(score, {"folder": "photos:../etc"}, environment)
    assert state.is_failed()
    told = r"expected a folder as root:sub/path below one of LOOKBOOK_IMAGE_ROOTS \(photos:\)"
    with pytest.raises(FolderError, match=told):
        state.result()


@pytest.fixture
def scoring(server, shared_environment, test_images, tmp_path):
    """Run the flow on a folder of a few pictures, perhaps again by a run's id: (run id, state)."""
    shutil.copytree(test_images / "0", tmp_path / "few", copy_function=os.link)
    environment = {**shared_environment, "PREFECT_API_URL": server}
    environment["LOOKBOOK_IMAGE_ROOTS"] = json.dumps({"photos": str(tmp_path)})
    return lambda again=None: run_flow_inside(score, {"folder": "photos:few"}, environment, again)


def test_a_run_that_is_done_has_one_table_however_often_it_is_run(scoring, store, tmp_path):
    run, state = scoring()
    before, made = state.result(), runs.find(store.disk, run)
    next((tmp_path / "few").iterdir()).unlink()
    _, state = scoring(run)
    again = state.result()
    assert again["predictions"] == before["predictions"] == made["predictions"]
    assert (again["images"], again["predicted"], again["reused"]) == (before["images"], 0, before["images"])
    assert runs.find(store.disk, run) == made
    _, state = scoring()
    assert state.result()["images"] == before["images"] - 1


def test_a_run_whose_record_the_store_refused_is_tried_again(scoring, store, monkeypatch):
    def refuse(*_):
        raise StoreAway("the store does not answer")

    with monkeypatch.context() as away:
        away.setattr(runs, "record", refuse)
        run, state = scoring()
    assert state.is_failed()
    assert runs.find(store.disk, run) is None
    _, state = scoring(run)
    assert runs.find(store.disk, run)["predictions"] == state.result()["predictions"]
    assert aliases.current(store.disk, "predictions", "few", "latest") == Ref.parse(state.result()["predictions"])


@pytest.fixture
def after_the_listing(monkeypatch):
    """Let something happen when the folder has been listed."""
    listed = plan.plan_folder

    def do(what):
        def plan_folder(*given):
            key = listed(*given)
            what()
            return key

        monkeypatch.setattr(plan, "plan_folder", plan_folder)

    return do


def test_a_mount_that_vanishes_while_it_is_scored_is_waited_for(
    scored, test_images, after_the_listing, lookbook, server, tmp_path, monkeypatch
):
    """It comes back when the first try has failed. The task's pause before the next one is none here."""
    folder, away, failed = tmp_path / "mount", tmp_path / "away", []
    shutil.copytree(test_images / "0", folder / "0", copy_function=os.link)
    after_the_listing(lambda: (folder / "0").rename(away))

    def try_to_score(*given, **named):
        try:
            return score_plan(*given, **named)
        except FolderLost as error:
            failed.append(str(error))
            away.rename(folder / "0")
            raise

    monkeypatch.setattr(predicting, "score_plan", try_to_score)
    monkeypatch.setattr(predicting.score, "retry_delay_seconds", 0)
    monkeypatch.setattr(predicting.score, "retry_jitter_factor", None)
    result = answer(lookbook("score", folder, "--name", "mount", "--json", PREFECT_API_URL=server))
    [told] = failed
    assert "in a row that can't be read" in told
    files = len(list((test_images / "0").iterdir()))
    assert (result["images"], result["errors"]) == (files, {})
    assert labels(result).items() <= labels(answer(scored)).items()


def labels(result):
    return pandas.read_parquet(result["path"]).set_index("path").label.to_dict()


def test_a_table_of_nothing_fails_and_says_what_to_do(
    test_images, after_the_listing, lookbook, server, tmp_path, store
):
    """Files that vanish after the listing: fewer than make a folder that went away."""
    for path in sorted((test_images / "0").iterdir())[:30]:
        os.link(path, tmp_path / path.name)
    after_the_listing(lambda: [path.unlink() for path in tmp_path.iterdir()])
    run = lookbook("score", tmp_path, "--name", "nothing", PREFECT_API_URL=server)
    assert "found missing 30; predictions/nothing@" in complaint(run)
    assert aliases.current(store.disk, "predictions", "nothing", "latest") is None


INTERRUPTED = """
import os, sys
from flows.cli import main
from tasks import plan

def interrupt(event, arguments):
    # The rows of a second shard are a file, and are about to be recorded.
    if event == "os.link" and "staging/shards" in os.fspath(arguments[1]):
        recorded.append(arguments[1])
        if len(recorded) == 2:
            os.kill(os.getpid(), kind)

kind, plan.SHARD_FILES, recorded = int(sys.argv.pop(1)), int(sys.argv.pop(1)), []
sys.addaudithook(interrupt)
main()
"""


@pytest.mark.long
@pytest.mark.kill
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_started_again_it_goes_on_and_ends_with_the_same_version(
    test_images, lookbook, server, shared_environment, store, kind, monkeypatch
):
    files = 100  # a shard
    monkeypatch.setattr(plan, "SHARD_FILES", files)
    asked = ("score", test_images, "--name", f"ended-by-{kind}", "--json")
    undisturbed = answer(lookbook(*asked, PREFECT_API_URL=server))
    command = [sys.executable, "-c", INTERRUPTED, str(int(kind)), str(files), *asked, "--fresh"]
    environment = {**shared_environment, "PREFECT_API_URL": server}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == (130 if kind == signal.SIGINT else -signal.SIGKILL), run.stderr
    if kind == signal.SIGINT:
        assert "lookbook: interrupted" in run.stderr
        assert "Traceback" not in run.stderr
    assert store.verify().corrupt == []
    again = answer(lookbook(*asked, "--fresh", PREFECT_API_URL=server))
    assert again["predictions"] == undisturbed["predictions"]
    assert 0 < again["reused"] < FILES
    assert again["predicted"] + again["reused"] == FILES
