"""pytest tests/test_scoring.py: plan, predict and commit on small pictures: what is scored, what is taken over."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image
from published import damage, remove
from rights import without_roots_rights

from artifacts import aliases, dataset, disk, pins, predictions, weights
from artifacts.collecting.collector import Collector
from artifacts.collecting.retention import Rules
from artifacts.documents import digest
from artifacts.errors import InvalidRef, StoreAway, StoreError
from artifacts.living import Needs
from artifacts.refs import Ref, check_name
from artifacts.settings import Settings
from artifacts.store import Store
from tasks import plan as plans
from tasks.commit import TooManyErrors, commit_predictions
from tasks.judging.measuring import evaluate_weights
from tasks.plan import plan_folder
from tasks.requests import ScoreRequest
from tasks.score import score_plan
from tasks.scoring import drift
from tasks.scoring.groups import shared, take_part
from tasks.scoring.job import make_job
from tasks.scoring.rows import table_of
from tasks.shared.collecting import repair_store
from tasks.shared.listing import FolderError, FolderLost, default_name, to_text
from tasks.shared.plans import entries_key, load_plan, remove_plan
from tasks.shared.retries import may_pass
from tasks.shared.watching import Watch
from tasks.vision.images import ImageSpec
from tasks.vision.recipes import TrainingSettings

CLASSES = ["circle", "square", "line"]
SPEC = ImageSpec(height=8, width=8, channels=1)
TABLES = ("staging", "predictions", "aliases/predictions")


TRAINING = TrainingSettings(epochs=10, batch_size=16)
HIDDEN = 20  # units of the dense network


def tensors():
    """A network that tells the three classes apart: a hidden unit looks where each of them is bright."""
    random = np.random.default_rng(0)
    bright = np.zeros((3, 8, 8), np.float32)
    bright[0, 2:6, 2:6], bright[1, :2], bright[2, :, 6:] = 1, 1, 1
    hidden = random.normal(0, 0.05, (64, HIDDEN)).astype(np.float32)
    hidden[:, :3] += (bright / bright.sum((1, 2), keepdims=True)).reshape(3, 64).T
    output = random.normal(0, 0.05, (HIDDEN, 3)).astype(np.float32)
    output[:3] += 5 * np.eye(3, dtype=np.float32)
    return {
        "hidden/kernel": hidden, "hidden/bias": np.zeros(HIDDEN, np.float32),
        "output/kernel": output, "output/bias": np.zeros(3, np.float32),
    }  # fmt: skip


class Templates:
    """What tests begin with copies of.

    pictures: a folder with the 60 test images in folders. A copy has the same times.
    store: one with the dataset and the weights, `champion`.
    scored: the same after a scoring of the folder `place`, with what that gave: `ref` and `outcome`.
    """

    def __init__(self, top, shapes):
        self.pictures, self.store, self.scored = top / "pictures", top / "store", top / "scored"
        self.place = top / "root/pictures"
        for index, image in enumerate(shapes["test"].images):
            (self.pictures / str(index % 3)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(self.pictures / str(index % 3) / f"{index:02d}.png")
        store = Store(self.store)
        self.dataset = dataset.save(
            store, "shapes", **shapes, classes=CLASSES, image_spec=SPEC.to_dict(), settings={"source": "drawn"},
            inputs={}, made={},
        )  # fmt: skip
        self.champion = weights.save(
            store, "shapes", tensors=tensors(), history=[], classes=CLASSES, image_spec=SPEC.to_dict(),
            settings=TRAINING.to_dict(), dataset=self.dataset, made={},
        )  # fmt: skip

    @cached_property
    def first(self):
        """The ref and the outcome of the scoring that `scored` has seen."""
        copy(self.store, self.scored)
        return score(Store(self.scored), settings_for(self.place), self.champion)


def copy(found, place):
    """Files that have several names still have them, and times are kept."""
    place.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", found, place], check=True)


def settings_for(pictures):
    return Settings(image_roots={"root": pictures}, decoders=1)


@pytest.fixture(scope="module")
def templates(tmp_path_factory, shapes):
    return Templates(tmp_path_factory.mktemp("scoring"), shapes)


@pytest.fixture
def store(templates, tmp_path):
    copy(templates.store, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def shapes_dataset(templates):
    return templates.dataset


@pytest.fixture
def champion(templates):
    return templates.champion


@pytest.fixture
def pictures(templates):
    """The 60 test images in folders, in the same place in each test."""
    copy(templates.pictures, templates.place)
    yield templates.place
    shutil.rmtree(templates.place, ignore_errors=True)


@pytest.fixture
def settings(pictures):
    return settings_for(pictures)


@pytest.fixture
def scored(templates, store, pictures):
    """The ref and the outcome of a first scoring of the pictures, which the store has seen."""
    first = templates.first
    remove(store.disk.root)
    copy(templates.scored, store.disk.root)
    return first


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(plans, "SHARD_FILES", 8)


def job_of(store, settings, champion, folder="root:", name="pictures", **asked):
    return make_job(store, settings, ScoreRequest(folder, weights=str(champion), name=name, **asked))


def listed(store, settings, champion, **asked):
    job = job_of(store, settings, champion, **asked)
    return plan_folder(store, settings, job), job


def planned(store, settings, champion):
    return load_plan(store.disk, listed(store, settings, champion)[0])


def score(store, settings, champion, **asked):
    key, job = listed(store, settings, champion, **asked)
    outcome = score_plan(store, settings, job, load_plan(store.disk, key))
    ref = commit_predictions(store, settings, job, key, outcome)
    remove_plan(store.disk, key)
    return ref, outcome


def rows(store, ref):
    found = predictions.load(store, ref)
    return pa.concat_tables([found.read(index) for index in range(len(found.parts))])


def by_path(store, ref):
    return {row["path"]: row for row in rows(store, ref).to_pylist()}


def test_the_table_is_what_the_contract_says(store, settings, champion, pictures, shapes, scored):
    ref, outcome = scored
    table = rows(store, ref)
    assert table.schema.names == [
        "path", "sha256", "bytes", "mtime_ns", "width", "height", "label", "confidence", "probabilities", "weights",
        "error", "detail",
    ]  # fmt: skip
    types = {field.name: field.type for field in table.schema}
    assert types["probabilities"] == pa.list_(pa.float32())
    assert set(map(len, table.column("probabilities").to_pylist())) == {3}
    assert {types[name].value_type for name in ("label", "weights", "error")} == {pa.string()}
    assert (types["bytes"], types["width"], types["confidence"]) == (pa.int64(), pa.int32(), pa.float32())
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert json.loads(metadata["lookbook.classes"]) == CLASSES
    assert json.loads(metadata["lookbook.image_spec"])["invert"] is False
    assert metadata["lookbook.weights"] == str(champion)
    paths = table.column("path").to_pylist()
    assert paths == sorted(paths, key=str.encode)
    assert len(paths) == 60 == outcome.predicted
    assert len(outcome.parts) > 3
    row = by_path(store, ref)["1/01.png"]
    assert (row["width"], row["height"], row["error"], row["weights"]) == (8, 8, None, str(champion))
    assert row["bytes"] == (pictures / "1/01.png").stat().st_size
    assert row["confidence"] == max(row["probabilities"]) == row["probabilities"][CLASSES.index(row["label"])]


def test_rows_are_the_bits_that_evaluation_saw(store, settings, champion, shapes_dataset, scored):
    from artifacts import metrics

    expected = metrics.load(store, evaluate_weights(store, champion, shapes_dataset)).probabilities()
    ref, _ = scored
    for path, row in by_path(store, ref).items():
        assert row["probabilities"] == expected[int(path[2:4])].tolist()


def test_every_odd_entry_has_one_typed_row(store, settings, champion, pictures):
    (pictures / "notes.txt").write_text("no picture")
    (pictures / "empty.png").write_bytes(b"")
    (pictures / "cut.png").write_bytes((pictures / "0/00.png").read_bytes()[:-20])
    (pictures / "passwd.png").symlink_to("/etc/passwd")
    (pictures / "loop").symlink_to(pictures)
    os.mkfifo(pictures / "pipe.png")
    Image.new("1", (9000, 9000)).save(pictures / "bomb.png")
    (pictures / "wrong.jpg").write_bytes((pictures / "0/00.png").read_bytes())
    (pictures / os.fsdecode(b"\xff.png")).write_bytes((pictures / "0/00.png").read_bytes())
    ref, _ = score(store, settings, champion)
    found = by_path(store, ref)
    kinds = {path: row["error"] for path, row in found.items() if "/" not in path}
    assert kinds == {
        "notes.txt": "unsupported", "empty.png": "corrupt", "cut.png": "corrupt", "passwd.png": "unsupported",
        "loop": "unsupported", "pipe.png": "unsupported", "bomb.png": "too_large", "wrong.jpg": None, "%FF.png": None,
    }  # fmt: skip
    bad = found["cut.png"]
    assert (bad["label"], bad["confidence"], bad["probabilities"], bad["width"]) == (None, None, None, None)
    assert bad["detail"] == "the PNG data breaks off before its end"
    assert found["passwd.png"]["sha256"] is None
    assert (
        found["wrong.jpg"]["probabilities"] == found["%FF.png"]["probabilities"] == found["0/00.png"]["probabilities"]
    )
    assert len(found) == 69
    facts = store.open(ref).facts
    assert facts["errors"] == {"corrupt": 2, "too_large": 1, "unsupported": 4}
    assert sum(facts["labels"].values()) + sum(facts["errors"].values()) == facts["rows"] == 69


def test_every_key_of_a_bucket_is_one_typed_row(store, champion, pictures, bucket, s3_service):
    name = bucket.removeprefix("s3://").split("/")[0]
    settings = Settings(image_roots={"root": f"s3://{name}/in"}, decoders=1)
    content = (pictures / "0/00.png").read_bytes()
    pictured = ["a", "a#1", "a%2fb", "a-1", "a/1"]
    odd = ["/a", "a//1", "a/../1", "a/1\n", "a/2/"]
    for key in (*pictured, *odd):
        s3_service.put(name, f"in/{key}", content)
    for marker in ("", "a/", "a/1/", "empty/"):
        s3_service.put(name, f"in/{marker}", b"")
    s3_service.put(name, "in/b", b"")
    s3_service.put(name, "in/b/1", content)
    ref, _ = score(store, settings, champion)
    found = by_path(store, ref)
    kinds = dict.fromkeys([*pictured, "b/1"]) | dict.fromkeys(odd, "unsupported") | {"b": "corrupt"}
    assert {path: row["error"] for path, row in found.items()} == {to_text(key.encode()): kinds[key] for key in kinds}
    paths = rows(store, ref).column("path").to_pylist()
    assert paths == [to_text(key) for key in sorted(key.encode() for key in kinds)]
    assert found["a/2/"]["detail"] == (
        "the object can't be asked for: its key begins or ends with '/', or has '//'; rename it"
    )
    again, outcome = score(store, settings, champion)
    assert (again, outcome.predicted) == (ref, 0)


def test_whatever_time_and_size_an_entry_has_it_is_a_row_and_stays_one(store, champion, pictures, in_memory):
    content = (pictures / "0/00.png").read_bytes()
    times = {
        "2300.png": 10_413_792_000 * 10**9, "2301.png": 10_445_328_000 * 10**9, "last.png": (1 << 63) * 10**9 - 1,
        "first.png": -(1 << 63) * 10**9, "1600.png": -11_676_096_000 * 10**9, "1969.png": -1, "1970.png": 0,
        "held.png": (1 << 63) - 1, "not held.png": 1 << 63,
    }  # fmt: skip
    for name, at in times.items():
        (in_memory / name).write_bytes(content)
        os.utime(in_memory / name, ns=(at, at))
    for name in ("huge.png", "as huge.png"):
        with open(in_memory / name, "wb") as file:
            file.truncate((1 << 63) - 1)
    settings = settings_for(in_memory)
    ref, _ = score(store, settings, champion)
    found = by_path(store, ref)
    errors = {name: row["error"] for name, row in found.items()}
    assert errors == {**dict.fromkeys(times), "huge.png": "too_large", "as huge.png": "too_large"}
    assert len({row["mtime_ns"] for row in found.values() if row["error"] is None}) == len(times)
    assert [found[name]["mtime_ns"] for name in ("1969.png", "1970.png", "held.png")] == [-1, 0, (1 << 63) - 1]
    again, outcome = score(store, settings, champion)
    assert (again, outcome.predicted) == (ref, 0)
    os.utime(in_memory / "2300.png", ns=(times["2301.png"], times["2301.png"]))
    newer, outcome = score(store, settings, champion)
    assert newer != ref
    assert outcome.predicted == 0


@pytest.mark.slow
def test_an_unreadable_file_is_a_row_and_is_tried_again(store, settings, champion, pictures):
    (pictures / "0/00.png").chmod(0o000)
    ref, _ = without_roots_rights(lambda: score(store, settings, champion))
    row = by_path(store, ref)["0/00.png"]
    assert (row["error"], row["detail"]) == ("unreadable", "the file can't be read: Permission denied")
    (pictures / "0/00.png").chmod(0o644)
    ref, _ = score(store, settings, champion)
    assert by_path(store, ref)["0/00.png"]["error"] is None


def test_the_same_folder_again_scores_nothing_and_is_the_same_version(store, settings, champion, scored):
    ref, first = scored
    again, second = score(store, settings, champion)
    assert again == ref
    assert (second.predicted, second.reused) == (0, 60)
    assert second.parts == first.parts
    actions = [each.action for each in aliases.history(store.disk, "predictions", "pictures", "latest")]
    assert actions == ["promote", "keep"]
    assert not list(store.disk.list("staging/plans"))


def test_fresh_scores_everything_and_gives_the_same_version(store, settings, champion, scored):
    ref, _ = scored
    again, outcome = score(store, settings, champion, fresh=True)
    assert (again, outcome.predicted, outcome.reused) == (ref, 60, 0)


def test_one_new_file_changes_one_shard_and_is_the_only_one_scored(store, settings, champion, pictures, scored):
    _, before = scored
    (pictures / "1/01a.png").write_bytes((pictures / "1/01.png").read_bytes())
    ref, after = score(store, settings, champion)
    assert (after.predicted, after.reused) == (1, 60)
    assert len({part.digest for part in after.parts} - {part.digest for part in before.parts}) <= 2
    found = by_path(store, ref)
    assert len(found) == 61
    assert found["1/01a.png"]["probabilities"] == found["1/01.png"]["probabilities"]
    assert aliases.current(store.disk, "predictions", "pictures", "latest") == ref


@pytest.mark.slow
def test_changed_removed_and_touched_files(store, settings, champion, pictures, scored):
    ref, _ = scored
    before = by_path(store, ref)
    (pictures / "0/00.png").write_bytes((pictures / "1/01.png").read_bytes())
    (pictures / "0/03.png").unlink()
    os.utime(pictures / "0/06.png", ns=(1, 1))
    ref, outcome = score(store, settings, champion)
    after = by_path(store, ref)
    assert outcome.predicted == 1
    assert "0/03.png" not in after
    assert after["0/00.png"]["probabilities"] == before["1/01.png"]["probabilities"]
    assert after["0/06.png"] == before["0/06.png"] | {"mtime_ns": 1}
    unchanged = set(after) - {"0/00.png", "0/06.png"}
    assert all(after[path] == before[path] for path in unchanged)
    assert by_path(store, score(store, settings, champion, name="anew", fresh=True)[0]) == after


@pytest.mark.slow
def test_other_weights_or_another_reading_of_pictures_takes_nothing_over(
    store, settings, champion, shapes_dataset, scored
):
    _, inverted = score(store, settings, champion, invert=True)
    assert inverted.predicted == 60
    other = weights.save(
        store, "shapes", tensors=weights.load(store, champion).tensors, history=[], classes=CLASSES,
        image_spec=SPEC.to_dict(), settings={"architecture": "dense", "seed": 5}, dataset=shapes_dataset, made={},
    )  # fmt: skip
    ref, outcome = score(store, settings, other)
    assert outcome.predicted == 60
    assert {row["weights"] for row in by_path(store, ref).values()} == {str(other)}


@pytest.mark.slow
def test_invert_sees_the_negative(store, settings, champion, pictures, shapes, scored):
    ref, _ = scored
    for path in pictures.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    inverted, _ = score(store, settings, champion, invert=True)
    for path, row in by_path(store, inverted).items():
        assert row["probabilities"] == by_path(store, ref)[path]["probabilities"]


@pytest.mark.slow
def test_limit_is_a_trial_whose_shards_the_whole_run_takes_over(store, settings, champion):
    ref, outcome = score(store, settings, champion, limit=20)
    assert len(by_path(store, ref)) == 20 == outcome.predicted
    assert aliases.current(store.disk, "predictions", "pictures", "latest") is None
    _, whole = score(store, settings, champion)
    finished = sum(part.rows for part in outcome.parts[:-1])  # the last one was cut short by the limit
    assert (whole.reused, whole.predicted) == (finished, 60 - finished)
    assert finished > 0


def test_the_same_content_twice_is_a_row_a_path(store, settings, champion, pictures):
    for copy in range(3):
        (pictures / f"copy-{copy}.png").write_bytes((pictures / "0/00.png").read_bytes())
    found = by_path(store, score(store, settings, champion)[0])
    assert len({found[f"copy-{copy}.png"]["sha256"] for copy in range(3)}) == 1
    assert len(found) == 63


@pytest.mark.slow
def test_what_vanishes_or_changes_after_the_plan_is_told_and_tried_again(store, settings, champion, pictures):
    key, job = listed(store, settings, champion)
    content = (pictures / "0/00.png").read_bytes()
    (pictures / "0/00.png").unlink()
    (pictures / "1/01.png").write_bytes(b"other")
    outcome = score_plan(store, settings, job, load_plan(store.disk, key))
    ref = commit_predictions(store, settings, job, key, outcome)
    found = by_path(store, ref)
    assert (found["0/00.png"]["error"], found["1/01.png"]["error"]) == ("missing", "changed")
    assert len(found) == 60
    (pictures / "0/00.png").write_bytes(content)
    found = by_path(store, score(store, settings, champion)[0])
    assert (found["0/00.png"]["error"], found["1/01.png"]["error"]) == (None, "unsupported")


def test_a_damaged_part_is_refused_by_readers_and_scored_anew(store, settings, champion, scored):
    ref, outcome = scored
    path = store.disk.local_path(outcome.parts[1].key)
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.unlink()
    path.write_bytes(content)
    again, repaired = score(store, settings, champion)
    assert again == ref
    assert repaired.predicted + repaired.reused == 60
    assert store.verify().corrupt == []


def test_scorings_that_find_nothing_new_leave_nothing_new(store, settings, champion, scored):
    counts = []
    for _ in range(3):
        score(store, settings, champion)
        counts.append({folder: len(list(store.disk.list(folder))) for folder in ("runs", "staging", "predictions")})
    assert counts[0] == counts[1] == counts[2]
    [claim] = store.disk.list("runs/living")
    assert str(scored[0]) in store.disk.read(claim).decode()


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("file", ["data/part-00001.parquet", "report.html", "manifest.json"])
def test_a_damaged_latest_table_is_mended_by_scoring_again(store, settings, champion, scored, file, fresh):
    """As `verify --repair` says: it is not removed. A part in staging and in the version is one file on the disk: the
    same damage hits both."""
    ref, _ = scored
    path = store.disk.local_path(f"{ref.folder}/{file}")
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    damage(path, content)
    for key in list(store.disk.list("runs/living")):
        store.disk.remove(key)
    [offer] = repair_store(store, store.verify().damaged, print, yes=True)
    assert "score that folder again" in offer.refused
    assert score(store, settings, champion, fresh=fresh)[0] == ref
    assert store.verify().corrupt == []


def test_tables_that_share_a_damaged_part_are_mended_by_the_one_that_is_whole(
    store, settings, champion, pictures, scored
):
    first, _ = scored
    (pictures / "2/zz.png").write_bytes((pictures / "0/00.png").read_bytes())
    second, _ = score(store, settings, champion)
    pins.pin(store, first, "dear")
    damage(store.disk.local_path(f"{first.folder}/data/part-00000.parquet"), b"rotten")
    for key in list(store.disk.list("runs/living")):
        store.disk.remove(key)
    assert set(store.verify().damaged) == {str(first), str(second)}
    refused = repair_store(store, store.verify().damaged, print, yes=True)
    assert all(each.refused and not each.mended for each in refused)
    score(store, settings, champion)
    [offer] = repair_store(store, store.verify().damaged, print, yes=False)
    assert (offer.ref, offer.same, offer.mended) == (str(first), str(second), False)
    [done] = repair_store(store, store.verify().damaged, print, yes=True)
    assert (done.mended, done.bytes) == (True, None)
    assert store.verify().corrupt == []


@pytest.mark.slow
def test_other_limits_are_another_version_with_a_report_of_its_own(store, settings, champion, scored):
    ref, _ = scored
    other, _ = score(store, settings.model_copy(update={"max_image_pixels": 1000}), champion)
    assert other != ref
    assert "report.html" in store.open(other).files


def test_a_damaged_earlier_table_is_no_reason_to_fail(store, settings, champion, pictures, scored):
    ref, _ = scored
    manifest = store.open(ref).folder / "manifest.json"
    damage(manifest, manifest.read_bytes().replace(b"rows", b"rowz"))
    (pictures / "1/01a.png").write_bytes(b"x")
    assert score(store, settings, champion)[0] != ref


@pytest.mark.slow
def test_a_shard_with_a_passing_error_is_resumed_for_that_row_alone(store, settings, champion, pictures):
    key, job = listed(store, settings, champion)
    (pictures / "0/00.png").rename(pictures.parent / "away.png")
    first = score_plan(store, settings, job, load_plan(store.disk, key))  # killed before its commit
    assert first.predicted == 60
    (pictures.parent / "away.png").rename(pictures / "0/00.png")
    ref, outcome = score(store, settings, champion)
    assert (outcome.predicted, outcome.reused) == (1, 59)
    assert by_path(store, ref)["0/00.png"]["error"] is None


@pytest.mark.slow
def test_taken_over_or_scored_at_once_the_same_rows_are_the_same_version(store, settings, champion, pictures):
    (pictures / "1/aa.png").write_bytes(b"\x89PNG")
    (pictures / "1/zz.txt").write_bytes(b"text")
    score(store, settings, champion)
    (pictures / "1/bb.txt").write_bytes(b"text")
    (pictures / "1/aa.png").unlink()
    ref, outcome = score(store, settings, champion)
    assert outcome.predicted == 1
    assert score(store, settings, champion, fresh=True)[0] == ref


def test_an_empty_or_missing_folder_fails_and_makes_no_version(store, settings, champion, pictures):
    (pictures / "none/deep").mkdir(parents=True)
    with pytest.raises(FolderError, match="expected pictures in .*/pictures/none, found an empty folder"):
        score(store, settings, champion, folder="root:none")
    with pytest.raises(FolderError, match="expected a folder of pictures at .*/pictures/missing, found: No such file"):
        score(store, settings, champion, folder="root:missing")
    assert list(store.refs("predictions")) == []
    assert not list(store.disk.list("staging"))


@pytest.mark.slow
def test_two_identical_runs_at_once_give_one_version(store, settings, champion):
    with ThreadPoolExecutor(2) as pool:
        refs = {each.result()[0] for each in [pool.submit(score, store, settings, champion) for _ in range(2)]}
    assert len(refs) == 1
    assert list(store.refs("predictions")) == list(refs)
    assert len(by_path(store, refs.pop())) == 60
    assert store.verify().corrupt == []


def test_scorings_of_one_folder_at_once_each_publish(store, settings, champion, scored):
    """Each has listed the folder before the first one ends: the listings are equal, and neither one's end takes what
    the other works with."""
    asked = [{"name": "pictures"}, {"name": "others"}, {"name": "inverted", "invert": True}]
    begun = [listed(store, settings, champion, **each) for each in asked]
    for key, job in begun:
        outcome = score_plan(store, settings, job, load_plan(store.disk, key))
        ref = commit_predictions(store, settings, job, key, outcome)
        remove_plan(store.disk, key)
        assert len(by_path(store, ref)) == 60
        assert aliases.current(store.disk, "predictions", job.name, "latest") == ref
    assert not list(store.disk.list("staging/plans"))


@pytest.mark.parametrize("step", ["aliases", "staging/fresh"])
def test_a_commit_that_the_store_broke_off_is_tried_again(store, settings, champion, pictures, monkeypatch, step):
    """As Prefect tries the task again: after the table, or after `latest`, too, is on record."""
    key, job = listed(store, settings, champion, fresh=True)
    outcome = score_plan(store, settings, job, load_plan(store.disk, key))
    with monkeypatch.context() as away:
        for name in ("create", "remove"):
            does = getattr(store.disk, name)

            def refuse(key, *rest, does=does):
                if key.startswith(step):
                    raise StoreAway(f"the store does not answer: {key}")
                return does(key, *rest)

            away.setattr(store.disk, name, refuse)
        with pytest.raises(StoreAway):
            commit_predictions(store, settings, job, key, outcome)
    [published] = store.refs("predictions")
    assert commit_predictions(store, settings, job, key, outcome) == published
    assert aliases.current(store.disk, "predictions", "pictures", "latest") == published


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(store, settings, champion, pictures, monkeypatch, scored):
    ref, _ = scored
    (pictures / "0/00a.png").write_bytes((pictures / "0/00.png").read_bytes())
    create = store.disk.create

    for allowed in range(6):
        left = [allowed]

        def refuse(key, content, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise store.disk._refused("write", key, OSError(28, os.strerror(28)))
            create(key, content)

        monkeypatch.setattr(store.disk, "create", refuse)
        try:
            with pytest.raises(StoreError, match="No space left on device; make room"):
                score(store, settings, champion)
        except pytest.fail.Exception:
            break
    monkeypatch.undo()
    assert allowed > 2
    assert store.verify().corrupt == []
    assert by_path(store, ref).keys() == by_path(store, score(store, settings, champion)[0]).keys() - {"0/00a.png"}


KILLED = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from artifacts import weights
from artifacts.refs import Ref; from artifacts.store import Store
from tasks import plan
from tasks.shared import model
from tasks.vision.images import ImageSpec
plan.SHARD_FILES = 8
CHANGES = ("os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod")

def load(store, ref, temperature, processors):
    # The network in NumPy: TensorFlow would be imported by each run.
    published = weights.load(store, ref)
    w = published.tensors
    def predict(images):
        pixels = images.reshape(len(images), -1) / np.float32(255)
        hidden = np.maximum(pixels @ w["hidden/kernel"] + w["hidden/bias"], 0)
        logits = np.exp(hidden @ w["output/kernel"] + w["output/bias"])
        return (logits / logits.sum(1, keepdims=True)).astype(np.float32)
    return model.Model(ref, published.classes, ImageSpec.from_dict(published.image_spec), predict, predict)

model.load = load
sys.path.insert(0, sys.argv[1])
from test_scoring import score, settings_for

def run(root, kill_at):
    seen = 0
    def count(event, arguments):
        nonlocal seen
        if event in CHANGES or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    score(Store(Path(root)), settings_for(Path(sys.argv[2])), Ref.parse(sys.argv[3]))
    return seen

for line in sys.stdin:  # a run is a fork, which has everything imported
    said, say = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(say, str(run(*json.loads(line))).encode())
        os._exit(0)
    os.close(say)
    with open(said) as changes:
        told = changes.read()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), told or 0, flush=True)
"""
KILLS = 20


@pytest.mark.long
@pytest.mark.kill
def test_killed_at_many_changes_of_files_and_resumed_it_yields_the_rows_of_an_uninterrupted_run(
    store, tmp_path, champion, pictures
):
    """The changes are drawn from all that an uninterrupted run makes, so some runs are done before theirs."""
    (pictures / "bad.png").write_bytes(b"\x89PNG")
    command = [sys.executable, "-c", KILLED, os.path.dirname(__file__), str(pictures), str(champion)]
    runner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(root, kill_at=None):
        """The run's exit status, and how many changes it made if it was not killed."""
        print(json.dumps([str(root), kill_at]), file=runner.stdin, flush=True)
        return tuple(map(int, runner.stdout.readline().split()))

    whole = tmp_path / "whole"
    copy(store.disk.root, whole)
    status, changes = run(whole)
    assert status == 0
    [ref] = Store(whole).refs("predictions")
    drawn = random.Random(0)
    kills = 0
    while kills < KILLS:
        status, _ = run(store.disk.root, drawn.randint(1, changes))
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
        assert store.verify().corrupt == []
        if status == 0 or kills % 5 == 0:  # begin anew, so that kills meet every stage
            for folder in TABLES:
                if (store.disk.root / folder).exists():
                    remove(store.disk.root / folder)
    assert run(store.disk.root)[0] == 0
    with runner:
        runner.stdin.close()
    assert list(store.refs("predictions")) == [ref]
    assert rows(store, ref).equals(rows(Store(whole), ref))
    assert len(rows(store, ref)) == 61
    assert store.verify().corrupt == []


def test_what_is_scored_is_published_though_the_folder_is_gone_by_then(store, settings, champion, pictures, capsys):
    key, job = listed(store, settings, champion)
    outcome = score_plan(store, settings, job, load_plan(store.disk, key))
    shutil.rmtree(pictures)
    told = []
    ref = commit_predictions(store, settings, job, key, outcome, told.append)
    assert store.resolve("predictions/pictures@latest") == ref
    assert "data:image" not in store.open(ref).read("report.html").decode()
    assert "has no pictures, as they can't be read any more: expected a folder of pictures at" in told[0]
    assert told[0] in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_the_report_shows_counts_pictures_errors_and_the_shift(store, settings, champion, pictures, shapes_dataset):
    evaluate_weights(store, champion, shapes_dataset)
    (pictures / "<b>bad.png").write_bytes(b"GIF8")
    ref, _ = score(store, settings, champion)
    text = store.open(ref).read("report.html").decode()
    for part in (
        "61 entries: 60 predicted, 1 error.",
        "circle",
        "corrupt",
        "&lt;b&gt;bad.png",
        "population stability index",
    ):
        assert part in text
    assert "<b>bad" not in text
    assert text.count("<img src='data:image/jpeg;base64,") > 20
    assert "shares of the classes: <b>0.00</b>, much the same as in the test split" in text
    assert "http" not in text.replace("http-equiv", "")


def test_names_come_from_the_folder(settings, pictures):
    assert default_name(settings, "root:") == "pictures"
    assert default_name(settings, "root:a/New Shoes (2026)") == "new-shoes-2026"
    assert default_name(settings, "root:ünï cödé") == "uni-code"
    assert default_name(settings, "root:Straße Ærø & Łódź") == "strasse-aero-lodz"
    assert default_name(settings, "root:ﬁsh №1 🐟") == default_name(settings, "root:fish no1") == "fish-no1"
    assert default_name(settings, f"root:{unicodedata.normalize('NFD', 'Ðoré')}") == "dore"
    for folder, offered in (("写真", "pictures"), ("写真 2024", "2024"), ("Катя k", "k"), ("...", "pictures")):
        with pytest.raises(
            InvalidRef, match=f"the folder '{folder}' gives no name .* give one with --name, as --name "
        ):
            default_name(settings, f"root:x/{folder}")
        with pytest.raises(InvalidRef) as refused:
            default_name(settings, f"root:x/{folder}")
        assert check_name(str(refused.value).split()[-1]) == offered


def test_shards_end_where_the_content_says_so(store, settings, champion, pictures):
    whole = planned(store, settings, champion)
    (pictures / "1/00new.png").write_bytes(b"x")
    more = planned(store, settings, champion)
    assert len(set(more.digests) & set(whole.digests)) >= len(whole.digests) - 1
    assert [len(more.entries(shard)) for shard in range(len(more.digests))] != []
    assert more.rows == 61
    paths = [path for shard in range(len(more.digests)) for path in more.entries(shard).column("path").to_pylist()]
    assert paths == sorted(paths)


def test_shards_have_limits(store, settings, champion, monkeypatch):
    monkeypatch.setattr(plans, "SHARD_FILES", 1 << 30)
    monkeypatch.setattr(plans, "SHARD_FILES_AT_MOST", 25)
    found = planned(store, settings, champion)
    sizes = [len(found.entries(shard)) for shard in range(len(found.digests))]
    assert sum(sizes) == 60
    assert 60 / 25 < len(sizes) <= 60 / 12
    assert max(sizes) <= 25
    monkeypatch.setattr(plans, "SHARD_BYTES_AT_MOST", 1)
    assert len(planned(store, settings, champion).digests) == 60


@pytest.mark.parametrize("limit", ["SHARD_FILES_AT_MOST", "SHARD_BYTES_AT_MOST"])
def test_one_new_file_changes_one_shard_where_the_limits_cut_too(
    store, settings, champion, pictures, monkeypatch, limit
):
    """A cut at the limit itself moved all later shards, up to the next path that ends one."""
    monkeypatch.setattr(plans, "SHARD_FILES", 1 << 30)
    monkeypatch.setattr(plans, limit, 20 if limit == "SHARD_FILES_AT_MOST" else 2000)
    (pictures / "9").mkdir()
    for index in range(1000):
        (pictures / "9" / f"{index:04d}").write_bytes(b"x" * 100)
    before = planned(store, settings, champion).digests
    changed = []
    for place in range(0, 1000, 100):
        added = pictures / "9" / f"{place:04d}a"
        added.write_bytes(b"y" * 100)
        after = planned(store, settings, champion).digests
        changed.append(len(set(after) - set(before)))
        added.unlink()
    assert len(before) > 50
    assert np.mean(changed) < 3


def test_large_files_have_small_shards_that_one_new_file_leaves_alone(store, settings, champion, pictures, monkeypatch):
    monkeypatch.setattr(plans, "SHARD_FILES", 1 << 30)
    monkeypatch.setattr(plans, "SHARD_BYTES", 1000)
    monkeypatch.setattr(plans, "SHARD_BYTES_AT_MOST", 4000)
    before = planned(store, settings, champion)
    assert 3 < len(before.digests) < 20
    (pictures / "0/00a.png").write_bytes(b"x" * 90)
    after = planned(store, settings, champion)
    assert len(set(after.digests) - set(before.digests)) <= 2


def test_a_plan_of_many_shards_is_opened_once(store, settings, champion, pictures, monkeypatch):
    opened = []
    whole = pa.ipc.open_file
    monkeypatch.setattr(pa.ipc, "open_file", lambda *given: opened.append(given) or whole(*given))
    found = planned(store, settings, champion)
    assert sum(len(found.entries(shard)) for shard in range(len(found.digests))) == 60
    assert len(opened) == 1


def test_a_plan_that_is_read_is_not_mapped(store, settings, champion):
    """Pages of a map count as the process's memory, 7 bytes a file."""
    found = planned(store, settings, champion)
    assert len(found.entries(0))
    with open("/proc/self/maps") as maps:
        assert entries_key(found.key) not in maps.read()


def test_unchanged_parts_are_hashed_once_a_run(store, settings, champion, pictures, monkeypatch, scored):
    (pictures / "1/01a.png").write_bytes((pictures / "1/01.png").read_bytes())
    monkeypatch.setattr(disk, "_SETTLED_SECONDS", 0)  # files that were changed just now are hashed again
    monkeypatch.setattr(disk, "_HASHED", {})  # as in a new process
    hashed = Counter()
    whole = hashlib.file_digest

    def count(file, kind):
        hashed[os.path.basename(file.name)] += file.name.endswith(".parquet")
        return whole(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", count)
    _, outcome = score(store, settings, champion)
    reused = [os.path.basename(part.key) for part in outcome.parts]
    assert outcome.reused == 60
    assert {hashed[name] for name in reused} == {0, 1}  # the new one by another name, while it was written


def twin(pictures, top):
    """Another folder whose files have the same names, sizes and times, and other contents."""
    for path in sorted(pictures.rglob("*.png")):
        other = top / path.relative_to(pictures)
        other.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.open(path))
        # Uncompressed BMP: equal sizes whatever is on it.
        for target, drawn in ((path, pixels), (other, 255 - pixels)):
            Image.fromarray(drawn).save(target, "BMP")
            os.utime(target, ns=(1, 1))
    return top


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pictures", "twin"])
def test_another_folder_with_the_same_names_sizes_and_times_has_its_own_rows(
    store, settings, champion, pictures, tmp_path, name
):
    """The digest of a shard knew neither folder nor name: the second folder got the first one's labels."""
    other = twin(pictures, tmp_path / "twin")
    both = settings.model_copy(update={"image_roots": {"root": pictures, "other": other}})
    score(store, both, champion)
    ref, outcome = score(store, both, champion, name=name, folder="other:")
    assert (outcome.predicted, outcome.reused) == (60, 0)
    found = by_path(store, ref)
    alone = Store(tmp_path / "alone")
    shutil.copytree(store.disk.root / "weights", alone.disk.root / "weights")
    assert found == by_path(alone, score(alone, both, champion, folder="other:")[0])
    _, again = score(store, both, champion, name=name, folder="other:")
    assert (again.predicted, again.reused) == (0, 60)


@pytest.mark.slow
def test_a_folder_behind_a_link_that_was_moved_on_is_another_one(store, settings, champion, pictures, tmp_path):
    other = twin(pictures, tmp_path / "twin")
    current = tmp_path / "current"
    linked = settings.model_copy(update={"image_roots": {"root": current}})
    current.symlink_to(pictures)
    score(store, linked, champion)
    current.unlink()
    current.symlink_to(other)
    _, outcome = score(store, linked, champion)
    assert (outcome.predicted, outcome.reused) == (60, 0)


@pytest.fixture
def moving(settings, pictures, tmp_path):
    """Settings whose folder is behind a link, and a function that moves the link to a twin, or back."""
    other = twin(pictures, tmp_path / "twin")
    current, new = tmp_path / "current", tmp_path / "new"
    current.symlink_to(pictures)

    def move(back=False):
        new.symlink_to(pictures if back else other)
        new.replace(current)

    return settings.model_copy(update={"image_roots": {"root": current}}), move


@pytest.mark.slow
def test_a_link_that_is_moved_before_the_table_is_published_leaves_the_next_table_right(
    store, champion, moving, pictures, tmp_path
):
    """The table had one folder's rows and said that it was of the other, which then took them over."""
    linked, move = moving
    key, job = listed(store, linked, champion)
    outcome = score_plan(store, linked, job, load_plan(store.disk, key))
    move()
    ref = commit_predictions(store, linked, job, key, outcome)
    assert store.open(ref).manifest["provenance"]["folder"] == str(pictures)
    assert b"data:image/jpeg" not in store.open(ref).read("report.html")  # the twin's would be other pictures
    after, outcome = score(store, linked, champion)
    assert (outcome.predicted, outcome.reused) == (60, 0)
    alone = Store(tmp_path / "alone")
    shutil.copytree(store.disk.root / "weights", alone.disk.root / "weights")
    assert by_path(store, after) == by_path(alone, score(alone, linked, champion)[0])


@pytest.mark.parametrize("first", ["link", "job"])
def test_a_link_that_is_moved_after_the_listing_is_told(store, champion, moving, first):
    """Rows of one folder were written down as those of the other."""
    linked, move = moving
    key, job = listed(store, linked, champion)
    move()
    if first == "link":
        job = job_of(store, linked, champion)
    with pytest.raises(FolderError, match="a link on the way was moved; run it again") as error:
        score_plan(store, linked, job, load_plan(store.disk, key))
    assert not may_pass(error.value)
    move(back=True)
    assert score(store, linked, champion)[1].predicted == 60


@pytest.mark.slow
def test_a_folder_whose_path_is_no_utf8_is_scored_like_any(store, settings, champion, pictures, tmp_path):
    odd = pictures.rename(tmp_path / os.fsdecode(b"\xff"))
    odd_settings = settings.model_copy(update={"image_roots": {"root": odd}})
    ref, outcome = score(store, odd_settings, champion)
    assert outcome.predicted == 60
    assert store.open(ref).manifest["provenance"]["folder"] == str(tmp_path / "%FF")
    assert score(store, odd_settings, champion)[1].reused == 60


@pytest.mark.slow
def test_a_link_that_becomes_a_file_of_its_size_and_time_is_scored(store, settings, champion, pictures):
    path = pictures / "0/00.png"
    content = path.read_bytes()
    path.unlink()
    path.symlink_to("x" * len(content))
    os.utime(path, ns=(1, 1), follow_symlinks=False)
    assert by_path(store, score(store, settings, champion)[0])["0/00.png"]["error"] == "unsupported"
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert by_path(store, score(store, settings, champion)[0])["0/00.png"]["error"] is None


def test_a_folder_that_moved_keeps_its_rows_by_content(store, settings, champion, pictures, tmp_path, scored):
    ref, _ = scored
    moved = pictures.rename(tmp_path / "moved")
    elsewhere = settings.model_copy(update={"image_roots": {"root": moved}})
    again, outcome = score(store, elsewhere, champion)
    assert (again, outcome.predicted, outcome.reused) == (ref, 0, 60)


@pytest.mark.slow
def test_an_older_listing_that_is_done_later_does_not_take_latest_back(store, settings, champion, pictures):
    key, job = listed(store, settings, champion)
    outcome = score_plan(store, settings, job, load_plan(store.disk, key))
    (pictures / "new.png").write_bytes((pictures / "0/00.png").read_bytes())
    newer, _ = score(store, settings, champion)
    older = commit_predictions(store, settings, job, key, outcome)
    assert older != newer
    assert len(by_path(store, older)) == 60
    assert aliases.current(store.disk, "predictions", "pictures", "latest") == newer
    *_, last = aliases.history(store.disk, "predictions", "pictures", "latest")
    assert (last.action, last.challenger) == ("keep", str(older))
    assert last.reason == f"{newer} is of a later listing of the folder"
    (pictures / "new.png").unlink()
    ref, _ = score(store, settings, champion)
    assert ref == older
    assert aliases.current(store.disk, "predictions", "pictures", "latest") == older, "listed anew, it is the newest"


@pytest.mark.slow
def test_an_older_listing_does_not_take_latest_back_from_one_that_found_nothing_new(
    store, settings, champion, pictures, scored
):
    table, _ = scored
    (pictures / "new.png").write_bytes((pictures / "0/00.png").read_bytes())
    key, job = listed(store, settings, champion)
    outcome = score_plan(store, settings, job, load_plan(store.disk, key))
    (pictures / "new.png").unlink()
    assert score(store, settings, champion)[0] == table
    older = commit_predictions(store, settings, job, key, outcome)
    assert older != table
    assert aliases.current(store.disk, "predictions", "pictures", "latest") == table
    told = [(each.action, each.challenger) for each in aliases.history(store.disk, "predictions", "pictures", "latest")]
    assert told == [("promote", str(table)), ("keep", str(table)), ("keep", str(older))]


@pytest.mark.slow
def test_rows_that_were_missing_do_not_take_latest_back(store, settings, champion, pictures, scored):
    """The earlier listing has the same entries: its table has other rows, as a file went while it was scored."""
    table, _ = scored
    key, job = listed(store, settings, champion, name="pictures", fresh=True)
    (pictures / "0/00.png").rename(pictures.parent / "away.png")
    outcome = score_plan(store, settings, job, load_plan(store.disk, key))
    (pictures.parent / "away.png").rename(pictures / "0/00.png")
    assert score(store, settings, champion)[0] == table
    older = commit_predictions(store, settings, job, key, outcome)
    assert store.open(older).facts["errors"] == {"missing": 1}
    assert aliases.current(store.disk, "predictions", "pictures", "latest") == table


@pytest.mark.slow
def test_a_listing_by_a_clock_that_was_ahead_does_not_hold_latest(store, settings, champion, pictures, monkeypatch):
    now = time.time
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: now() + 365 * 86400)
        score(store, settings, champion)
    (pictures / "new.png").write_bytes((pictures / "0/00.png").read_bytes())
    newer, _ = score(store, settings, champion)
    assert aliases.current(store.disk, "predictions", "pictures", "latest") == newer


@pytest.mark.slow
def test_a_table_of_nothing_is_published_and_latest_stays(store, settings, champion, pictures, scored):
    before, _ = scored
    (pictures / "0/00.png").write_bytes(b"x")
    key, job = listed(store, settings, champion, fresh=True)
    for path in sorted(pictures.rglob("*.png"))[:40]:
        path.unlink()
    outcome = score_plan(store, settings, job, load_plan(store.disk, key))
    with pytest.raises(
        TooManyErrors, match=r"at most 50% of the 60 entries .* \(max_errors\), found missing 40; predictions/pictures@"
    ):
        commit_predictions(store, settings, job, key, outcome)
    assert aliases.current(store.disk, "predictions", "pictures", "latest") == before
    assert len(list(store.refs("predictions"))) == 2
    assert not list(store.disk.list("staging/plans"))
    ref, _ = score(store, settings, champion, max_errors=0.0)
    assert ref == aliases.current(store.disk, "predictions", "pictures", "latest")


@pytest.mark.slow
def test_what_machines_leave_counts_against_no_limit(store, settings, champion, pictures):
    """A folder from a Mac, and from a NAS: each picture has a file beside it that is none. All of them are rows."""
    for path in sorted(pictures.rglob("*.png")):
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
        path.with_suffix(".xmp").write_text("<x/>")
    ref, _ = score(store, settings, champion)
    assert store.open(ref).facts["errors"] == {"unsupported": 120}
    assert drift.numbers_of(store.open(ref))["errors"] == 0
    (pictures / "0/bad.png").write_bytes(b"no picture")
    more, _ = score(store, settings.model_copy(update={"retrain_when": {"errors": 0.01}}), champion)
    assert drift.numbers_of(store.open(more))["errors"] == round(1 / 61, 4)
    key, job = listed(store, settings, champion, fresh=True, max_errors=0.1)
    for path in sorted(pictures.rglob("._*.png")):
        path.unlink()
    outcome = score_plan(store, settings, job, load_plan(store.disk, key))
    last = commit_predictions(store, settings, job, key, outcome)
    assert store.open(last).facts["errors"]["missing"] == 60
    assert aliases.current(store.disk, "predictions", "pictures", "latest") == last


def test_more_errors_may_pass_where_that_is_asked(store, settings, champion, pictures):
    key, job = listed(store, settings, champion, max_errors=0.7)
    for path in sorted(pictures.rglob("*.png"))[:40]:
        path.unlink()
    outcome = score_plan(store, settings, job, load_plan(store.disk, key))
    ref = commit_predictions(store, settings, job, key, outcome)
    assert aliases.current(store.disk, "predictions", "pictures", "latest") == ref


def test_files_that_are_no_pictures_are_no_errors_that_pass(store, settings, champion, pictures):
    for path in sorted(pictures.rglob("*.png"))[:50]:
        path.write_text("no picture")
    ref, _ = score(store, settings, champion)
    assert aliases.current(store.disk, "predictions", "pictures", "latest") == ref


def many(pictures, count=400):
    content = (pictures / "0/00.png").read_bytes()
    for index in range(count):
        (pictures / f"{index:03d}.png").write_bytes(content)


@pytest.mark.slow
def test_a_folder_that_vanishes_is_one_failure_that_is_tried_again(store, settings, champion, pictures, tmp_path):
    many(pictures)
    key, job = listed(store, settings, champion)
    away = pictures.rename(tmp_path / "away")
    found = load_plan(store.disk, key)
    with pytest.raises(FolderLost, match="No such file or directory; it was there when it was listed") as error:
        score_plan(store, settings, job, found)
    assert may_pass(error.value)
    pictures.mkdir()  # the empty mount point
    with pytest.raises(FolderLost, match="found 100 in a row that can't be read, the last one .* went away") as error:
        score_plan(store, settings, job, found)
    assert may_pass(error.value)
    assert list(store.refs("predictions")) == []
    pictures.rmdir()
    away.rename(pictures)
    ref = commit_predictions(store, settings, job, key, score_plan(store, settings, job, found))
    assert store.open(ref).facts["errors"] == {}


@pytest.mark.slow
def test_files_without_permission_are_rows_however_many(store, settings, champion, pictures):
    many(pictures, 400)
    for path in sorted(pictures.glob("*.png"))[100:250]:
        path.chmod(0o000)
    ref, _ = without_roots_rights(lambda: score(store, settings, champion))
    assert store.open(ref).facts["errors"] == {"unreadable": 150}


@pytest.mark.slow
def test_an_interrupted_fresh_scoring_goes_on_with_what_it_finished(store, settings, champion, pictures, scored):
    ref, _ = scored
    key, job = listed(store, settings, champion, fresh=True)
    found = load_plan(store.disk, key)

    def interrupt(rows, errors, reused):
        done.append(rows)
        if sum(done) > 40:
            raise KeyboardInterrupt

    done = []
    with pytest.raises(KeyboardInterrupt):
        score_plan(store, settings, job, found, Watch(interrupt))
    again, outcome = score(store, settings, champion, fresh=True)
    assert again == ref
    assert 0 < outcome.reused < 60
    assert outcome.predicted + outcome.reused == 60
    _, whole = score(store, settings, champion, fresh=True)
    assert (whole.predicted, whole.reused) == (60, 0), "what was published is not gone on with"


@pytest.mark.slow
def test_groups_of_a_fresh_scoring_have_its_mark_however_late_they_begin(store, settings, champion, pictures):
    key, job = listed(store, settings, champion, fresh=True)
    late = load_plan(store.disk, key)  # a group on another worker, which has read it and not begun
    ref = commit_predictions(store, settings, job, key, score_plan(store, settings, job, late))
    outcome = score_plan(store, settings, job, late)
    assert (outcome.predicted, outcome.reused) == (0, 60)
    assert not list(store.disk.list("staging/fresh"))
    again, whole = score(store, settings, champion, fresh=True)
    assert again == ref
    assert (whole.predicted, whole.reused) == (60, 0), "nothing of the one before"


def test_what_groups_take_part_by_is_not_collected(store, settings, champion, pictures, scored):
    """The run that asks has been at work for longer than a collection keeps what is new."""
    key, job = listed(store, settings, champion)
    with Needs(store.disk) as needs:
        needs.add(job.weights, job.dataset, key)
        with shared(store, settings, job, key) as known_by:
            for path in (store.disk.root / "staging/plans").iterdir():
                os.utime(path, (0, 0))
            Collector(store, Rules(grace=3600.0)).carry_out()
            asked = take_part(store, known_by)
            assert load_plan(store.disk, asked.plan).rows == 60
        assert take_part(store, known_by) is None


def as_an_earlier_lookbook(job, shard):
    """The table of a shard without errors, whose lists had a fixed size."""
    table = table_of(job, shard)
    lists = table.column("probabilities").cast(pa.list_(pa.float32(), 3))
    return table.set_column(table.schema.get_field_index("probabilities"), "probabilities", lists)


def test_a_table_of_an_earlier_lookbook_is_taken_over_whole(store, settings, champion, pictures, monkeypatch):
    """Its rows are not scored again, and no part of it stands in the new table beside those with other columns."""
    with monkeypatch.context() as then:
        then.setattr("tasks.scoring.finishing.table_of", as_an_earlier_lookbook)
        then.setattr(
            "tasks.scoring.job.record_digest", lambda shard, folder: digest({"shard": shard, "folder": folder})
        )
        before, _ = score(store, settings, champion)
    Image.new("L", (8, 8)).save(pictures / "1/new.png")
    ref, outcome = score(store, settings, champion)
    assert (outcome.predicted, outcome.reused) == (1, 60)
    old, new = by_path(store, before), by_path(store, ref)
    assert {path: row for path, row in new.items() if path != "1/new.png"} == old
    for folder, size in ((predictions.load(store, before).folder, 3), (predictions.load(store, ref).folder, -1)):
        types = {pq.read_schema(path).field("probabilities").type for path in folder.iterdir()}
        assert types == {pa.list_(pa.field("element", pa.float32()), size)}
    assert ds.dataset(folder).to_table().num_rows == polars.read_parquet(f"{folder}/*.parquet").height == 61
    assert score(store, settings, champion)[0] == ref


def test_other_tools_read_the_folder(store, settings, champion, scored):
    ref, _ = scored
    folder = predictions.load(store, ref).folder
    assert pq.read_table(folder).num_rows == 60


@pytest.mark.slow
@pytest.mark.parametrize("of_before", [False, True])
def test_calibrated_confidence_is_compared_with_the_test_splits_calibrated_too(store, settings, champion, of_before):
    """The pictures are the test images: calibrated or not, nothing differs from the test split."""
    published = weights.load(store, champion)
    data = Ref.parse(published.artifact.identity["inputs"]["dataset"])
    ref = weights.save(
        store, "shapes", tensors=published.tensors, history=[], classes=CLASSES, image_spec=SPEC.to_dict(),
        settings=published.settings, dataset=data, made={},
        calibration={"temperature": 4.0, "by": "held-out", "items": 30},
    )  # fmt: skip
    measured = evaluate_weights(store, ref, data)
    if of_before:
        _as_before(store, measured, ref, data)
    tables = {}
    for calibrated in (False, True):
        key, job = listed(store, settings, ref, uncalibrated=not calibrated)
        outcome = score_plan(store, settings, job, load_plan(store.disk, key))
        tables[calibrated] = commit_predictions(store, settings, job, key, outcome)
        page = store.open(tables[calibrated]).read("report.html").decode()
        assert "confidence: <b>0.00</b>, much the same as in the test split" in page
        assert ("calibrated by the temperature 4.000" in page) == calibrated
    sure = [max(row["confidence"] for row in by_path(store, each).values()) for each in tables.values()]
    assert sure[1] < sure[0]
    assert store.open(tables[True]).identity["settings"]["temperature"] == 4.0
    metadata = predictions.load(store, tables[True]).read(0).schema.metadata
    assert metadata[b"lookbook.temperature"] == b"4.0"


def _as_before(store, measured, weights, data):
    """Put an evaluation as an earlier Lookbook made it, of the network's own softmax, in the place of this one."""
    from artifacts import metrics
    from tasks.shared import model

    found, own = metrics.load(store, measured), model.load(store, weights, 1.0)
    images = dataset.load(store, data).test.images
    numbers = {name: each for name, each in found.document.items() if name not in ("temperature", "uncalibrated")}
    labels, fair = found.labels(), np.flatnonzero(found.fair())
    remove(store.disk.root / measured.folder)
    metrics.save(
        store, "shapes", numbers=numbers, labels=labels, probabilities=own.predict(images),
        sources=[""] * len(images), weights=weights, dataset=data, report=dict, fair=fair, made={},
    )  # fmt: skip
