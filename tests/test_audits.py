"""pytest tests/test_audits.py: how good predictions are, by a random sample of them."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from reviewed import CLASSES, draw_folder, guesses, publish_table, publish_weights
from reviewed import draw as draw_picture
from test_said import Shop

from artifacts import metrics, predictions, weights
from artifacts.audits import Drawn, audits_of, read_audit, write_audit
from artifacts.documents import seal, unseal
from artifacts.labels import Labels, Statement
from artifacts.refs import Ref
from artifacts.settings import Settings
from tasks.reports import audit as audit_report
from tasks.reviewing.production import NothingToAudit, draw_audit, in_production
from tasks.reviewing.rows import Place, draw, read
from tasks.vision.auditing import allocate, estimate

pytestmark = pytest.mark.slow  # tables by the dozen


def test_a_sample_is_drawn_in_proportion_and_no_larger_than_what_there_is():
    assert allocate({"a": 900, "b": 90, "c": 10, "d": 0}, 100) == {"a": 90, "b": 9, "c": 1, "d": 0}
    assert allocate({"a": 2, "b": 1}, 100) == {"a": 2, "b": 1}
    assert sum(allocate({str(each): 7 for each in range(13)}, 50).values()) == 50


POPULATIONS = {
    "equal classes": ([10_000] * 10, [0.9] * 10),
    "classes that differ": ([10_000] * 10, np.linspace(0.5, 1, 10)),
    "one bad class": ([10_000] * 10, [0.99] * 9 + [0.3]),
    "many small classes": ([100] * 43, np.linspace(0.4, 1, 43)),
    "few large ones": ([90_000, 5000, 3000, 1000, 500, 300, 150, 50], [0.97, 0.8, 0.7, 0.6, 0.5, 0.5, 0.4, 0.3]),
    "a small table": ([500] * 4, [0.95, 0.9, 0.8, 0.99]),
}


@pytest.mark.parametrize("population", POPULATIONS)
def test_the_interval_covers_the_truth_in_93_to_97_of_100_draws(population):
    """Of an audit of 200, as docs/review.md has it; 3,000 draws, whose own standard error is 0.4 points."""
    rows, accuracies = POPULATIONS[population]
    rows = np.array(rows, np.int64)
    right = np.round(rows * accuracies).astype(np.int64)
    truth = right.sum() / rows.sum()
    labelled = np.array(list(allocate({str(each): int(count) for each, count in enumerate(rows)}, 200).values()))
    random, covered, total = np.random.default_rng(0), 0, 0.0
    for _ in range(3000):
        found = estimate(rows, labelled, random.hypergeometric(right, rows - right, labelled))
        covered += found.low <= truth <= found.high
        total += found.value
    assert 0.93 <= covered / 3000 <= 0.97
    assert total / 3000 == pytest.approx(truth, abs=0.002)


@pytest.mark.parametrize(("right", "low", "high"), [(0, 0.0, 0.05), (200, 0.95, 1.0)])
def test_all_or_none_right_still_has_an_interval(right, low, high):
    found = estimate(np.array([50_000, 50_000]), np.array([100, 100]), np.array([right // 2, right // 2]))
    assert low <= found.low <= found.value <= found.high <= high
    assert found.high > found.low


def test_a_whole_table_that_is_labelled_leaves_nothing_open():
    found = estimate(np.array([10, 20]), np.array([10, 20]), np.array([5, 18]))
    assert found.value == pytest.approx(23 / 30)
    assert found.high - found.low < 0.25
    assert estimate(np.array([10]), np.array([0]), np.array([0])) is None


@pytest.fixture
def night(store, tmp_path):
    """A table called night, of 120 pictures in four parts, two of them broken."""
    draw_folder(tmp_path / "pictures", 120)
    said = guesses(120)
    said[[7, 80]] = np.nan
    return predictions.load(store, publish_table(store, tmp_path / "pictures", "night", said, parts=4))


def test_the_same_seed_draws_the_same_rows_and_all_that_were_wanted(night):
    wanted = allocate(night.artifact.facts["labels"], 30)
    drawn = draw(night, wanted, seed=5)
    assert drawn == draw(night, wanted, seed=5)
    assert drawn != draw(night, wanted, seed=6)
    assert len(set(drawn)) == 30
    labels = [each.label for each in read(night, drawn)]
    assert {name: labels.count(name) for name in CLASSES} == wanted
    assert len({each.part for each in drawn}) == 4


@pytest.mark.slow
def test_each_row_of_a_class_is_as_likely_as_the_others(night):
    count = np.zeros(120, int)
    starts = [0, 30, 60, 90]
    for seed in range(400):
        for each in draw(night, {"circle": 5}, seed):
            count[starts[each.part] + each.row] += 1
    rows = read(night, [Place(part, row) for part in range(4) for row in range(30)])
    circles = np.array([row.label == "circle" for row in rows])
    assert count[~circles].sum() == 0
    expected = 400 * 5 / circles.sum()
    assert count[circles].min() > expected / 2
    assert count[circles].max() < 2 * expected


def label(store, sample, verdicts, **more):
    """Say of each picture of a sample what `verdicts` gives for its class: a label, none or bad."""
    log = Labels(store.disk, "night")
    part_of = {"chosen": "audit", "table": sample.table, "audit": sample.number, **more}
    for number, each in enumerate(sample.pictures):
        if (said := verdicts(each, number)) is not None:
            verdict = said if said in ("none", "bad") else "class"
            said = [Statement(each.sha256, verdict, said if verdict == "class" else None, **part_of)]
            log.say(f"label-{sample.number}-{number}", "ann", said)


def test_an_audit_tells_how_good_a_table_is(store, night, lookbook):
    ref = night.artifact.ref
    assert in_production(store, ref) is None
    audit = draw_audit(store, Settings(), night, 40, seed=0)
    assert in_production(store, ref).accuracy is None
    label(store, audit, lambda each, number: each.label if number % 4 else "none" if number % 8 else "line")
    found = in_production(store, ref)
    assert (found.drawn, found.labelled, found.bad) == (40, 40, 0)
    lines = [number % 8 == 0 and each.label == "line" for number, each in enumerate(audit.pictures)]
    right = sum(bool(number % 4) or line for number, line in enumerate(lines))
    assert found.accuracy.value == pytest.approx(right / 40, abs=0.02)
    assert found.accuracy.low < right / 40 < found.accuracy.high
    assert set(found.precision) == set(CLASSES)
    told = lookbook("show", str(ref), "--json", LOOKBOOK_STORE=str(store.disk.root)).stdout
    shown = json.loads(told.splitlines()[-1])
    assert shown["production"]["accuracy"]["value"] == pytest.approx(found.accuracy.value)
    said = lookbook("show", "predictions/night@latest", LOOKBOOK_STORE=str(store.disk.root)).stdout
    assert "95 %" in said
    assert "40 of 40" in said


def test_bad_pictures_do_not_count(store, night):
    audit = draw_audit(store, Settings(), night, 40, seed=0)
    label(store, audit, lambda each, number: "bad" if number < 10 else each.label)
    found = in_production(store, night.artifact.ref)
    assert (found.labelled, found.bad, found.accuracy.value, found.accuracy.items) == (40, 10, 1.0, 30)


def test_there_is_no_number_before_all_that_was_drawn_is_labelled(store, night, lookbook):
    """Whoever looks meanwhile may stop where it pleases, and what was put off are the hard ones."""
    audit = draw_audit(store, Settings(), night, 60, seed=0)
    label(store, audit, lambda each, number: each.label if number < 59 else None)
    found = in_production(store, night.artifact.ref)
    assert (found.drawn, found.labelled, found.accuracy, found.precision) == (60, 59, None, {})
    assert "59 of 60" in audit_report.markdown(found)
    said = lookbook("show", "predictions/night@latest", LOOKBOOK_STORE=str(store.disk.root)).stdout
    assert "not known yet: 59 of 60" in said
    assert "95 %" not in said
    label(store, audit, lambda each, number: each.label if number == 59 else None)
    assert in_production(store, night.artifact.ref).accuracy.value == 1.0


def test_a_word_of_one_audit_says_nothing_in_another(store, night, tmp_path):
    """Nor in one of a later table of the same pictures: their models have learned from that word."""
    first = draw_audit(store, Settings(), night, 40, seed=0)
    label(store, first, lambda each, number: each.label)
    again = draw_audit(store, Settings(), night, 118, seed=1)
    assert in_production(store, night.artifact.ref).labelled == 0
    later = publish_table(store, tmp_path / "pictures", "night", guesses(120, seed=1))
    draw_audit(store, Settings(), predictions.load(store, later), 120, seed=0)
    assert in_production(store, later).labelled == 0
    label(store, again, lambda each, number: each.label)
    assert in_production(store, night.artifact.ref).accuracy.value == 1.0
    assert in_production(store, later).labelled == 0


def test_words_of_an_earlier_lookbook_count_in_the_audit_of_their_table(store, night, tmp_path):
    """They name no audit."""
    audit = draw_audit(store, Settings(), night, 40, seed=0)
    label(store, audit, lambda each, number: each.label, audit=None)
    assert in_production(store, night.artifact.ref).accuracy.value == 1.0
    later = publish_table(store, tmp_path / "pictures", "night", guesses(120, seed=1))
    draw_audit(store, Settings(), predictions.load(store, later), 120, seed=0)
    assert in_production(store, later).labelled == 0


def test_a_later_word_from_elsewhere_changes_no_audit_and_one_that_is_taken_back_is_none(store, night):
    audit = draw_audit(store, Settings(), night, 10, seed=0)
    label(store, audit, lambda each, number: each.label)
    log = Labels(store.disk, "night")
    log.say("from-elsewhere", "bob", [Statement(audit.pictures[0].sha256, "none", chosen="unsure")])
    assert in_production(store, night.artifact.ref).accuracy.value == 1.0
    log.undo("taken-back", "ann", 1)
    found = in_production(store, night.artifact.ref)
    assert (found.labelled, found.accuracy) == (9, None)


def test_what_the_weights_have_learned_from_is_not_drawn_and_is_told(store, night, tmp_path):
    """They name it rightly, as they know it by heart: here 80 of 120, where of the others they name half rightly."""
    files = sorted((tmp_path / "pictures").iterdir())
    contents = [hashlib.sha256(each.read_bytes()).hexdigest() for each in files]
    made_by = publish_weights(store, learned=contents[:80])
    said = guesses(120, seed=2)
    said[[0, 100]] = np.nan
    table = publish_table(store, tmp_path / "pictures", "night", said, parts=3, made_by=made_by)
    audit = draw_audit(store, Settings(), predictions.load(store, table), 100, seed=0)
    assert {each.sha256 for each in audit.pictures} == set(contents[80:]) - {contents[100]}
    assert sum(audit.rows.values()) == 39
    label(store, audit, lambda each, number: each.label if number % 2 else "none")
    found = in_production(store, table)
    assert (found.drawn, found.learned) == (39, 79)
    assert found.accuracy.value == pytest.approx(0.5, abs=0.02)
    assert "79 more rows of pictures that its weights have learned from" in audit_report.markdown(found)
    of_no_files = draw_audit(store, Settings(), night, 10, seed=0)
    assert (of_no_files.learned, of_no_files.compared) == (0, True), "pixels are known without files"


def twins(store, tmp_path, others):
    """A table of 40 pictures that its weights have learned from, saved again as BMP, and of others."""
    shop = Shop(store, tmp_path)
    data = shop.prepare_plain()
    (tmp_path / "again").mkdir()
    for number, source in enumerate(map(str, data.train.sources[:40])):
        Image.open(shop.top / "shop" / source).save(tmp_path / "again" / f"{number:03d}.bmp")
    for number in range(others):
        draw_picture(tmp_path / "again" / f"other{number:03d}.png", 5000 + number)
    made_by = weights.save(
        store, "shop", tensors={"output/bias": np.zeros(2, np.float32)}, history=[], classes=data.classes,
        image_spec=data.image_spec, settings={"architecture": "dense"}, dataset=data.artifact.ref, made={},
    )  # fmt: skip
    said = np.tile(np.array([[0.9, 0.1]], np.float32), (40 + others, 1))
    return predictions.load(
        store, publish_table(store, tmp_path / "again", "night", said, classes=data.classes, made_by=made_by)
    )


def test_another_file_of_a_picture_that_was_learned_from_is_not_drawn(store, tmp_path):
    table = twins(store, tmp_path, others=40)
    audits = [draw_audit(store, Settings(decoders=1), table, 20, seed) for seed in range(6)]
    for audit in audits:
        assert (len(audit.pictures), audit.compared) == (20, True)
        assert all(each.path.startswith("other") for each in audit.pictures)
        assert audit.rows["boot"] + audit.learned == 80
    assert np.mean([audit.rows["boot"] for audit in audits]) == pytest.approx(40, abs=8)
    told = audit_report.markdown(in_production(store, table.artifact.ref))
    assert "0 of 20 rows" in told
    assert audit_report.learned_sentence(40, True).startswith("Not counted: about 40 more rows of pictures")


def test_a_table_of_nothing_but_such_files_can_not_be_audited(store, tmp_path):
    with pytest.raises(NothingToAudit, match="that its weights have not learned from, found none among 40"):
        draw_audit(store, Settings(decoders=1), twins(store, tmp_path, others=0), 10, seed=0)


def test_where_the_folder_is_gone_an_audit_says_what_it_does_not_know(store, tmp_path):
    table = twins(store, tmp_path, others=5)
    shutil.rmtree(tmp_path / "again")
    audit = draw_audit(store, Settings(decoders=1), table, 20, seed=0)
    assert (len(audit.pictures), audit.learned, audit.compared) == (20, 0, False)
    assert audit_report.learned_sentence(0, False) == (
        "Its weights have learned from none of the table's files. Other files of pictures that they have learned from "
        "may be among those drawn."
    )


def test_a_table_of_nothing_but_learned_pictures_can_not_be_audited(store, tmp_path):
    draw_folder(tmp_path / "pictures", 3)
    contents = [hashlib.sha256(each.read_bytes()).hexdigest() for each in (tmp_path / "pictures").iterdir()]
    ref = publish_table(
        store, tmp_path / "pictures", "night", guesses(3), made_by=publish_weights(store, learned=contents)
    )
    with pytest.raises(NothingToAudit, match="that its weights have not learned from, found none"):
        draw_audit(store, Settings(), predictions.load(store, ref), 10, seed=0)


def test_an_audit_of_an_earlier_lookbook_is_read_as_it_was(store, night):
    """It says nothing of what was learned from."""
    drawn = [Drawn(0, 0, "a" * 64, "000000.png", "circle")]
    audit = write_audit(store.disk, "night", str(night.artifact.ref), {"circle": 1}, 0, drawn)
    path = store.disk.root / "audits/night/00000001.json"
    document = unseal(path.read_bytes(), path.name)
    del document["learned"]
    path.unlink()
    path.write_bytes(seal(document))
    assert read_audit(store.disk, "audits/night/00000001.json") == audit
    label(store, audit, lambda each, number: each.label)
    assert "may be among them" in audit_report.markdown(in_production(store, night.artifact.ref))


def test_an_audit_of_another_table_says_nothing_of_this_one(store, night, tmp_path):
    draw_audit(store, Settings(), night, 40, seed=0)
    draw_folder(tmp_path / "others", 30, seed=1)
    other = publish_table(store, tmp_path / "others", "night", guesses(30, seed=1))
    assert in_production(store, other) is None
    assert in_production(store, night.artifact.ref) is not None


def test_a_table_without_predictions_has_nothing_to_audit(store, tmp_path):
    draw_folder(tmp_path / "pictures", 3)
    ref = publish_table(store, tmp_path / "pictures", "night", np.full((3, 3), np.nan, np.float32))
    with pytest.raises(NothingToAudit, match="expected predictions"):
        draw_audit(store, Settings(), predictions.load(store, ref), 10, seed=0)


def test_a_damaged_audit_is_told(store, night):
    draw_audit(store, Settings(), night, 10, seed=0)
    path = store.disk.root / "audits/night/00000001.json"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content.replace(b"circle", b"square", 1))
    assert any("audits/night/00000001.json" in each for each in store.verify().corrupt)


def test_it_is_told_beside_the_test_split_of_the_same_weights(store, night):
    inputs = night.artifact.identity["inputs"]
    numbers = {"accuracy": 0.75, "loss": 1.0, "items": 3, "per_class": {}, "confusion_matrix": []}
    metrics.save(
        store, "shapes", numbers=numbers, labels=np.zeros(3, np.int32), probabilities=np.ones((3, 3), np.float32),
        sources=["a", "b", "c"], weights=Ref.parse(inputs["weights"]), dataset=Ref.parse(inputs["dataset"]),
        report=dict, fair=np.arange(3), made={},
    )  # fmt: skip
    draw_audit(store, Settings(), night, 40, seed=0)
    assert in_production(store, night.artifact.ref).test_accuracy == 0.75
    assert len(list(audits_of(store.disk, "night"))) == 1


def test_what_was_labelled_because_the_model_was_unsure_does_not_bend_an_audit(store, night):
    log = Labels(store.disk, "night")
    audit = draw_audit(store, Settings(), night, 40, seed=0)
    for number, each in enumerate(audit.pictures[:20]):
        log.say(f"unsure-{number:04d}", "ann", [Statement(each.sha256, "none", chosen="unsure")])
    assert in_production(store, night.artifact.ref).labelled == 0
    label(store, audit, lambda each, number: each.label)
    found = in_production(store, night.artifact.ref)
    assert (found.labelled, found.accuracy.value) == (40, 1.0)
