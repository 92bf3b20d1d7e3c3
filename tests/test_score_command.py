"""pytest tests/test_score_command.py: `lookbook score`, as a person runs it: a real server, real signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import duckdb
import numpy as np
import pandas
import polars
import pytest
from commands import answer, complaint
from PIL import Image
from upheld import asked

from artifacts import aliases, dataset
from artifacts.refs import Ref
from artifacts.store import Store


@pytest.fixture
def lookbook_environment(shared_environment):
    return shared_environment


@pytest.fixture
def store(home):
    return Store(home / "store")


@pytest.fixture(scope="session")
def test_images(tmp_path_factory, fashion_mnist):
    """The 10,000 test images as PNG files, in a folder a class."""
    top = tmp_path_factory.mktemp("fashion")
    for label in range(10):
        (top / str(label)).mkdir()
    for index, (image, label) in enumerate(
        zip(fashion_mnist["test"].images, fashion_mnist["test"].labels, strict=True)
    ):
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


def test_ten_thousand_files_have_the_accuracy_that_evaluation_found(scored, first):
    result = answer(scored)
    assert set(result) >= {
        "predictions", "path", "images", "predicted", "reused", "errors", "images_per_second", "seconds",
    }  # fmt: skip
    assert (result["images"], result["predicted"], result["reused"], result["errors"]) == (10_000, 10_000, 0, {})
    table = pandas.read_parquet(result["path"])
    classes = json.loads(_metadata(result)["lookbook.classes"])
    accuracy = np.mean([classes[int(path[0])] == label for path, label in zip(table.path, table.label, strict=True)])
    assert accuracy == answer(first)["accuracy"]


def _metadata(result):
    import pyarrow.parquet as pq

    metadata = pq.read_schema(f"{result['path']}/part-00000.parquet").metadata
    return {key.decode(): value.decode() for key, value in metadata.items()}


def test_score_predict_and_evaluate_give_the_same_bits(scored, first, test_images, lookbook, store):
    from artifacts import metrics

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
    assert (again["predicted"], again["reused"]) == (0, 10_000)


def test_prefects_ui_has_the_report_and_the_progress(scored, server):
    reports = {each["key"]: each for each in asked(server, "artifacts")}
    assert reports["score-fashion"]["type"] == "markdown"
    for part in ("**10,000** entries of fashion", "| Ankle boot |", answer(scored)["predictions"]):
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
    program = "import sys\nfrom flows.score import score\nscore(folder=sys.argv[1])"
    environment = {**shared_environment, "PREFECT_API_URL": server}
    environment["LOOKBOOK_IMAGE_ROOTS"] = json.dumps({"photos": str(tmp_path)})
    run = subprocess.run(
        [sys.executable, "-c", program, "photos:../etc"], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 1
    assert "FolderError: expected a folder as root:sub/path below one of LOOKBOOK_IMAGE_ROOTS (photos:)" in run.stderr


@pytest.mark.long
@pytest.mark.kill
def test_a_mount_that_vanishes_while_it_is_scored_is_waited_for(
    scored, test_images, lookbook_command, server, shared_environment, store, tmp_path
):
    folder, away = tmp_path / "mount", tmp_path / "away"
    shutil.copytree(test_images, folder, copy_function=os.link)
    away.mkdir()
    plans = set(store.disk.list("staging/plans"))
    process = subprocess.Popen(
        [*lookbook_command, "score", folder, "--name", "mount", "--json", "--verbose"],
        env={**shared_environment, "PREFECT_API_URL": server},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None and set(store.disk.list("staging/plans")) == plans:
        time.sleep(0.002)
    for each in sorted(folder.iterdir()):
        each.rename(away / each.name)
    said = []
    for line in process.stdout:
        said.append(line)
        if "in a row that can't be read" in line and away.exists():
            for each in sorted(away.iterdir()):
                each.rename(folder / each.name)
            away.rmdir()
    assert process.wait(120) == 0, "".join(said)
    process.stdout.close()
    result = json.loads(said[-1])
    assert (result["images"], result["errors"]) == (10_000, {})
    assert not away.exists(), "the folder was never missed"
    assert result["classes"] == answer(scored)["classes"]


def test_a_table_of_nothing_fails_and_says_what_to_do(test_images, server, shared_environment, tmp_path, store):
    """Files that vanish after the listing: fewer than make a folder that went away."""
    for path in sorted((test_images / "0").iterdir())[:30]:
        os.link(path, tmp_path / path.name)
    program = (
        "import os, sys; from pathlib import Path; from tasks import plan\n"
        "listed = plan.plan_folder\n"
        "def plan_folder(*given):\n"
        "    key = listed(*given)\n"
        "    [path.unlink() for path in Path(sys.argv[2]).iterdir()]\n"
        "    return key\n"
        "plan.plan_folder = plan_folder\n"
        "from flows.cli import main; main()\n"
    )
    command = [sys.executable, "-c", program, "score", tmp_path, "--name", "nothing"]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=300,
        env={**shared_environment, "PREFECT_API_URL": server, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"},
    )  # fmt: skip
    assert "found missing 30; predictions/nothing@" in complaint(run)
    assert aliases.current(store.disk, "predictions", "nothing", "latest") is None


@pytest.mark.long
@pytest.mark.kill
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_started_again_it_ends_with_the_same_version(
    scored, test_images, lookbook_command, lookbook, server, shared_environment, store, kind
):
    environment = {**shared_environment, "PREFECT_API_URL": server}
    command = [*lookbook_command, "score", test_images, "--name", "fashion", "--fresh"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    parts = store.disk.local_path("staging/parts")
    before = set(os.listdir(parts))
    while process.poll() is None and set(os.listdir(parts)) == before:
        time.sleep(0.002)
    process.send_signal(kind)
    said = process.communicate(timeout=60)[1]
    if kind == signal.SIGINT and process.returncode:
        assert process.returncode == 130
        assert "lookbook: interrupted" in said
        assert "Traceback" not in said
    assert store.verify().corrupt == []
    again = answer(lookbook("score", test_images, "--name", "fashion", "--json", PREFECT_API_URL=server))
    assert again["predictions"] == answer(scored)["predictions"]
