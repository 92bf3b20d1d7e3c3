"""pytest tests/test_labels.py: what people said of pictures, in the store and as files."""

import csv
import hashlib
import itertools
import json
import shutil
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reviewed import CLASSES, draw, draw_folder, guesses, publish_table

from artifacts.copying import copy
from artifacts.errors import Corrupt, NotFound
from artifacts.labels import Labels, Statement, label_names
from artifacts.store import Store
from tasks.shared.class_names import ClassNameError
from tasks.shared.labels import Imported, LabelFileError, export, read_in, told_of
from tasks.shared.paths import SeveralPaths

A, B = "a" * 64, "b" * 64


def said(sha256=A, label="circle", verdict="class", **more):
    return Statement(sha256, verdict, label if verdict == "class" else None, **more)


def counts(store, name="night"):
    """SHA-256 -> what counts: a label, or a verdict."""
    words = Labels(store.disk, name).words()
    return {sha256: word.statement.label or word.statement.verdict for sha256, word in words.items()}


def test_the_newest_word_counts_and_all_are_on_record(store):
    log = Labels(store.disk, "night")
    log.say("one-of-ann", "ann", [said(A, chosen="audit"), said(B, verdict="bad")])
    log.say("two-of-bob", "bob", [said(A, "square", chosen="unsure")])
    word = Labels(store.disk, "night").words()[A]
    assert (word.statement.label, word.event.by, word.first.chosen) == ("square", "bob", "audit")
    assert counts(store) == {A: "square", B: "bad"}
    assert [each.by for each in Labels(store.disk, "night").events] == ["ann", "bob"]
    assert label_names(store.disk) == ["night"]


def test_what_is_taken_back_counts_no_more_and_what_was_before_does(store):
    log = Labels(store.disk, "night")
    log.say("one-of-ann", "ann", [said(A)])
    second = log.say("two-of-bob", "bob", [said(A, "square"), said(B)])
    log.undo("three-of-bob", "bob", second.number)
    assert counts(store) == {A: "circle"}
    with pytest.raises(NotFound):
        log.undo("four-of-bob", "bob", 3)  # what takes back can't be taken back
    with pytest.raises(NotFound):
        log.undo("five-of-bob", "bob", 9)


def test_nothing_is_written_twice_under_one_id(store):
    first = Labels(store.disk, "night").say("one-of-ann", "ann", [said(A)])
    again = Labels(store.disk, "night").say("one-of-ann", "ann", [said(A)])  # another process, after a lost answer
    assert again == first
    assert len(list(store.disk.list("labels"))) == 1


def test_many_at_once_lose_nothing(store):
    def work(who):
        log = Labels(store.disk, "night")
        for number in range(25):
            log.say(f"{who}-{number:08d}", who, [said(f"{number:064x}", "square")])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, ["ann", "bob", "cid", "dee"]))
    events = Labels(store.disk, "night").events
    assert [each.number for each in events] == list(range(1, 101))
    assert {each.by for each in events} == {"ann", "bob", "cid", "dee"}
    assert len(counts(store)) == 25


def test_what_others_write_is_there_after_a_look(store):
    mine, other = Labels(store.disk, "night"), Labels(store.disk, "night")
    other.say("one-of-ann", "ann", [said(A)])
    assert mine.words() == {}
    mine.refresh()
    assert mine.words()[A].statement.label == "circle"


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "not an event"])
def test_a_damaged_log_is_told_and_nothing_guessed(store, damage):
    log = Labels(store.disk, "night")
    for number in range(3):
        log.say(f"number-{number}", "ann", [said(A)])
    path = store.disk.root / "labels/night/00000002.json"
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:40])
    elif damage == "flipped":
        path.write_bytes(content.replace(b"circle", b"square"))
    elif damage == "not an event":
        path.write_bytes(b"{}")
    with pytest.raises(Corrupt, match="labels/night/00000002.json"):
        Labels(store.disk, "night")
    assert any("labels/night/00000002.json" in each for each in store.verify().corrupt)


def test_a_copy_has_the_labels(store, tmp_path):
    store.prepare()
    Labels(store.disk, "night").say("one-of-ann", "ann", [said(A)])
    other = Store(tmp_path / "other")
    copy(store, other)
    assert counts(other) == {A: "circle"}


def test_a_log_in_a_bucket_is_the_same(bucket):
    store = Store(bucket)
    mine, other = Labels(store.disk, "night"), Labels(store.disk, "night")
    first = mine.say("one-of-ann", "ann", [said(A)])
    other.say("two-of-bob", "bob", [said(A, "square"), said(B)])
    assert other.say("one-of-ann", "ann", [said(A)]) == first
    mine.undo("three-of-ann", "ann", 2)
    assert counts(store) == {A: "circle"}
    assert [each.number for each in Labels(store.disk, "night").events] == [1, 2, 3]


@pytest.fixture
def night(store, tmp_path):
    """A table called night, of 20 pictures."""
    draw_folder(tmp_path / "pictures", 20)
    return publish_table(store, tmp_path / "pictures", "night", guesses(20), parts=3)


def write(path, *rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def test_labels_of_another_tool_come_in_by_path_and_by_content(store, night, tmp_path):
    file = write(
        tmp_path / "in.csv",
        ("path", "sha256", "label", "verdict"),
        ("000003.png", "", "square", ""),
        ("", A, "line", "class"),
        ("000004.png", "", "", "bad"),
        ("nowhere.png", "", "circle", ""),
    )
    assert read_in(store, "night", file) == Imported(labels=3, new=3, unchanged=0, unseen=1, unknown=["nowhere.png"])
    assert sorted(counts(store).values()) == ["bad", "line", "square"]
    [word] = [each for each in Labels(store.disk, "night").words().values() if each.statement.path == "000003.png"]
    assert word.statement.table == str(night)
    assert word.statement.predicted in CLASSES
    again = read_in(store, "night", file)
    assert again == Imported(labels=3, new=0, unchanged=3, unseen=1, unknown=["nowhere.png"])
    assert len(Labels(store.disk, "night").events) == 1


@pytest.mark.parametrize("path", ["'=x.png", "./'=x.png", "./000003.png", " 000003.png", "'=y.png", "''=x.png"])
def test_a_path_of_another_tool_is_the_file_that_is_called_so(store, tmp_path, path):
    """An apostrophe that a file's name begins with is no escape; one that an export has put before it is."""
    names = ["'=x.png", "000003.png", "=y.png"]
    shas = [draw(tmp_path / "pictures" / each, number) for number, each in enumerate(names)]
    publish_table(store, tmp_path / "pictures", "night", guesses(3, classes=2), classes=["'=c", "square"])
    file = write(tmp_path / "in.csv", ("path", "label"), (path, "'=c"))
    assert read_in(store, "night", file).unknown == []
    assert counts(store) == {shas[next(n for n, each in enumerate(names) if each in path)]: "'=c"}


def one(tmp_path, label, path="000001.png"):
    """A file with one label."""
    return write(tmp_path / f"{label}.csv", ("path", "label"), (path, label))


def test_the_file_that_was_read_last_counts_also_when_it_was_read_before(store, night, tmp_path):
    for label in ("line", "square", "line"):
        read_in(store, "night", one(tmp_path, label))
        assert list(counts(store).values()) == [label]
    found = read_in(store, "night", one(tmp_path, "square"))
    [conflict] = found.conflicting
    assert (found.labels, found.new, found.unchanged) == (1, 0, 0)
    assert (conflict.row, conflict.path, conflict.label, conflict.was) == (1, "000001.png", "square", "line")
    assert conflict.by == Labels(store.disk, "night").events[-1].by


def test_what_was_taken_back_can_be_read_in_again(store, night, tmp_path):
    read_in(store, "night", one(tmp_path, "line"))
    Labels(store.disk, "night").undo("an-undoing", "ann", 1)
    assert counts(store) == {}
    assert read_in(store, "night", one(tmp_path, "line")).new == 1
    assert list(counts(store).values()) == ["line"]


def test_whose_label_a_file_changes_is_told(store, night, tmp_path, lookbook):
    sha256 = hashlib.sha256((tmp_path / "pictures/000001.png").read_bytes()).hexdigest()
    Labels(store.disk, "night").say("one-of-ann", "ann", [said(sha256, verdict="bad")])
    file = write(tmp_path / "in.csv", ("sha256", "label"), (sha256, "line"), (A, "circle"))
    ran = lookbook("labels", "import", "night", file, "--json", LOOKBOOK_STORE=str(store.disk.root))
    result = json.loads(ran.stdout.splitlines()[-1])
    [conflict] = result["conflicting"]
    assert (conflict["was"], conflict["by"], conflict["label"]) == ("bad", "ann", "line")
    assert (result["labels"], result["new"]) == (2, 1)
    Labels(store.disk, "night").say("two-of-ann", "ann", [said(sha256, "square")])
    told = lookbook("labels", "import", "night", file, LOOKBOOK_STORE=str(store.disk.root)).stdout
    assert "2 labels on record: 0 new, 1 as before, 1 where something else was said" in told
    assert "000001.png: square (ann, " in told


def test_one_content_in_two_rows(store, night, tmp_path):
    """By its content and by its path, or by the paths of two copies."""
    shutil.copy(tmp_path / "pictures/000001.png", tmp_path / "pictures/copy.png")
    publish_table(store, tmp_path / "pictures", "night", guesses(21))
    sha256 = hashlib.sha256((tmp_path / "pictures/000001.png").read_bytes()).hexdigest()
    header = ("sha256", "path", "label")
    rows = [("", "copy.png", "line"), (sha256, "", "line"), ("", "000001.png", "line"), (sha256, "copy.png", "line")]
    for places in itertools.permutations(range(4), 3):
        file = write(tmp_path / "in.csv", header, *(rows[place] for place in places))
        found = read_in(store, "night", file)
        assert (found.labels, found.unknown) == (3, [])
    assert len(Labels(store.disk, "night").events) == 1
    file = write(tmp_path / "in.csv", header, ("", "000002.png", "line"), *rows[1:3], ("", "copy.png", "square"))
    with pytest.raises(
        LabelFileError, match="expected one label for one content, found line in row 2 and square in row 4"
    ):
        read_in(store, "night", file)
    assert len(Labels(store.disk, "night").events) == 1


def test_a_content_that_was_read_in_before_anybody_saw_it_is_found_where_it_is(store, night, tmp_path):
    """Without its place no retraining could read it."""
    draw(tmp_path / "pictures/new.png", 99)
    sha256 = hashlib.sha256((tmp_path / "pictures/new.png").read_bytes()).hexdigest()
    file = write(tmp_path / "in.csv", ("sha256", "label"), (sha256, "line"))
    assert read_in(store, "night", file).unseen == 1
    publish_table(store, tmp_path / "pictures", "night", guesses(21))
    for _ in range(2):
        assert read_in(store, "night", file) == Imported(labels=1, new=0, unchanged=1)
    assert Labels(store.disk, "night").words()[sha256].statement.path == "new.png"
    assert len(Labels(store.disk, "night").events) == 2


def test_odd_line_ends_in_a_path_are_a_part_of_it(store, tmp_path):
    names = ["a\u2028b.png", "a\x0bb.png", "a\x85b.png", "a\nb.png", "a\rb.png"]
    for number, name in enumerate(names):
        draw(tmp_path / "pictures" / name, number)
    publish_table(store, tmp_path / "pictures", "night", guesses(5))
    file = write(tmp_path / "in.csv", ("path", "label"), *((name, "line") for name in names))
    assert read_in(store, "night", file) == Imported(labels=5, new=5, unchanged=0)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (
            [("path", "label"), ("000001.png", "oval")],
            r"expected one of the classes circle, square, line, found 'oval'",
        ),
        ([("path", "label"), ("000001.png", "Circle ")], r"one name for one class, found 'Circle' beside 'circle'"),
        ([("path", "label"), ("000001.png", "")], r"expected a label with the verdict class.* in row 1"),
        ([("path", "label", "verdict"), ("000001.png", "", "odd")], r"expected class, none or bad as the verdict"),
        ([("sha256", "label"), ("abc", "circle")], r"expected a SHA-256 of 64 hexadecimal digits"),
        ([("file", "label"), ("000001.png", "circle")], r"expected the columns label, and sha256 or path"),
        ([], r"expected the columns label"),
    ],
)
def test_a_file_that_can_not_be_right_is_refused_whole(store, night, tmp_path, rows, complaint):
    file = write(tmp_path / "in.csv", *rows)
    with pytest.raises((LabelFileError, ClassNameError), match=complaint):
        read_in(store, "night", file)
    assert list(store.disk.list("labels")) == []


ODD = ["a/Größe.png", "b/é 1.png"]


@pytest.fixture
def odd_names(store, tmp_path):
    """A table of files that are called as another machine would not call them."""
    names = [unicodedata.normalize("NFD", name) for name in ODD]
    shas = [draw(tmp_path / "pictures" / name, number) for number, name in enumerate(names)]
    publish_table(store, tmp_path / "pictures", "odd", guesses(2, classes=2), classes=["-a", "b, c"])
    return dict(zip(shas, ("-a", "b, c"), strict=True))


@pytest.mark.parametrize(
    "written",
    [
        lambda top, name: name,
        lambda top, name: name.replace("/", "\\"),
        lambda top, name: f".\\{name}".upper(),
        lambda top, name: f"{top}/{unicodedata.normalize('NFD', name)}",
        lambda top, name: f"{top}/{name}",
    ],
    ids=["other form", "backslashes", "case", "absolute", "absolute and other form"],
)
@pytest.mark.parametrize(
    ("first", "row"),
    [
        ("path,label", '"{}","{}"'),
        ("path, label", '"{}", "{}"'),
        ("\ufeffpath;label", "{};{}"),
        ("path\tlabel\tverdict", "{}\t{}"),
    ],
    ids=["commas", "spaces", "semicolons", "tabs"],
)
def test_tables_are_read_as_those_that_retrain_takes(store, odd_names, tmp_path, written, first, row):
    rows = [
        row.format(written(tmp_path / "pictures", name), label)
        for name, label in zip(ODD, odd_names.values(), strict=True)
    ]
    file = tmp_path / "in.csv"
    file.write_text("\n".join([first, *rows]))
    assert read_in(store, "odd", str(file)) == Imported(labels=2, new=2, unchanged=0)
    words = Labels(store.disk, "odd").words()
    assert {sha256: word.statement.label for sha256, word in words.items()} == odd_names
    assert {word.statement.path for word in words.values()} == {unicodedata.normalize("NFD", name) for name in ODD}


def test_a_file_of_which_nothing_is_read_in_is_no_success(store, night, tmp_path, lookbook):
    table = f"{night}"
    for rows, told in (
        (
            [("path", "label"), ("x/1.png", "line"), ("x/2.png", "line")],
            rf"{table} has no row of x/1.png, x/2.png; write",
        ),
        ([("path", "label"), *((f"{n}.png", "line") for n in range(7))], r"3.png, 4.png and 2 more; write"),
        ([("path", "label")], r"found none: it has no rows"),
    ):
        with pytest.raises(LabelFileError, match=told):
            read_in(store, "night", write(tmp_path / "in.csv", *rows))
    file = write(tmp_path / "in.csv", ("path", "label"), ("x/1.png", "line"))
    with pytest.raises(
        LabelFileError, match="no table is called day that could have its paths; `lookbook score FOLDER"
    ):
        read_in(store, "day", file, new_classes=True)
    ran = lookbook("labels", "import", "night", file, LOOKBOOK_STORE=str(store.disk.root))
    assert ran.returncode == 1
    assert "expected labels in " in ran.stderr
    assert "has no row of x/1.png; write paths as that table does" in ran.stderr
    assert list(store.disk.list("labels")) == []


def test_a_path_that_may_be_two_rows_is_refused_by_name(store, tmp_path):
    for number, name in enumerate(("a.png", "A.png", "b.png")):
        draw(tmp_path / "pictures" / name, number)
    publish_table(store, tmp_path / "pictures", "two", guesses(3))
    file = write(tmp_path / "in.csv", ("path", "label"), ("b.png", "line"), ("a.PNG", "line"))
    with pytest.raises(SeveralPaths, match=r"the path 'a.PNG' is ambiguous: it may be 'A.png' or 'a.png'; write one"):
        read_in(store, "two", file)
    assert list(store.disk.list("labels")) == []


def test_another_case_of_a_path_that_is_written_too_is_in_no_row(store, tmp_path):
    for number, name in enumerate(("a.png", "b.png")):
        draw(tmp_path / "pictures" / name, number)
    publish_table(store, tmp_path / "pictures", "two", guesses(2))
    file = write(tmp_path / "in.csv", ("path", "label"), ("A.png", "circle"), ("a.png", "line"), ("B.png", "line"))
    imported = read_in(store, "two", file)
    assert (imported.new, imported.unknown) == (2, ["A.png"])


def test_new_classes_need_a_word(store, night, tmp_path):
    file = write(tmp_path / "in.csv", ("path", "label"), ("000001.png", "oval"))
    assert read_in(store, "night", file, new_classes=True).new == 1


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_written_out_comes_in_again(store, night, tmp_path, kind):
    file = write(tmp_path / "in.csv", ("path", "label"), ("000001.png", "line"), ("000002.png", "circle"))
    read_in(store, "night", file)
    out = str(tmp_path / f"out.{kind}")
    assert export(store, "night", out) == 2
    if kind == "parquet":
        assert set(pq.read_table(out).column("label").to_pylist()) == {"line", "circle"}
    other = Store(tmp_path / "other")
    other.prepare()
    assert read_in(other, "night", out) == Imported(labels=2, new=2, unchanged=0, unseen=2)
    assert counts(other) == counts(store)


FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_no_name_is_a_formula_in_a_spreadsheet_and_all_come_in_again_as_they_were(store, tmp_path, kind):
    """A stranger names a file, a class, or herself."""
    evil = '=HYPERLINK("http:evil.example","look")'
    names = [
        evil,
        "-x",
        "+1",
        "@me",
        "\ttab",
        "\rreturn",
        "\nline",
        "'-x",
        "''=x",
        "'plain",
        "plain",
        "\uff1dwide",
        'a"b,c\r\nd',
    ]
    classes = ["-x", evil, "'-x", "1"]
    for number, name in enumerate(names):
        draw(tmp_path / "pictures" / f"{name}.png", number)
    publish_table(store, tmp_path / "pictures", "night", guesses(len(names), classes=4), classes=classes)
    said = [(f"{name}.png", classes[number % 4]) for number, name in enumerate(names)]
    file = str(tmp_path / "in.parquet")
    pq.write_table(pa.table({"path": [path for path, _ in said], "label": [label for _, label in said]}), file)
    assert read_in(store, "night", file).new == len(names)
    mine = Labels(store.disk, "night").words()
    Labels(store.disk, "night").say("one-of-evil", evil, [next(iter(mine.values())).statement])
    out = str(tmp_path / f"out.{kind}")
    assert export(store, "night", out) == len(names)
    if kind == "csv":
        with open(out, newline="") as written:
            cells = [cell for row in csv.reader(written) for cell in row]
        assert len(cells) == 11 * (1 + len(names))
        assert [cell for cell in cells if cell.startswith(FORMULAS)] == []
        assert f"'{evil}" in cells
    other = Store(tmp_path / "other")
    publish_table(other, tmp_path / "pictures", "night", guesses(len(names), classes=4), classes=classes)
    assert read_in(other, "night", out) == Imported(labels=len(names), new=len(names), unchanged=0)
    theirs = Labels(other.disk, "night").words()
    assert sorted((each.statement.path, each.statement.label) for each in theirs.values()) == sorted(said)
    if kind == "csv":  # and by their paths alone
        with open(out, newline="") as written:
            rows = [(row["path"], row["label"]) for row in csv.DictReader(written)]
        by_path = write(tmp_path / "paths.csv", ("path", "label"), *rows)
        assert read_in(other, "night", by_path) == Imported(labels=len(names), new=0, unchanged=len(names))


def test_names_of_other_tools_are_what_they_look_like(store, tmp_path):
    """They escape nothing."""
    for number, name in enumerate(("=x.png", "-y.png", "'z.png")):
        draw(tmp_path / "pictures" / name, number)
    publish_table(store, tmp_path / "pictures", "night", guesses(3), classes=["-x", "b", "c"])
    file = write(tmp_path / "in.csv", ("path", "label"), ("=x.png", "-x"), ("-y.png", "b"), ("'z.png", "c"))
    assert read_in(store, "night", file) == Imported(labels=3, new=3, unchanged=0)


def test_the_history_of_a_picture(store, night, tmp_path, lookbook):
    log = Labels(store.disk, "night")
    log.say("one-of-ann", "ann", [said(A, path="000001.png", predicted="line", confidence=0.4)])
    second = log.say("two-of-bob", "bob", [said(A, "square", path="000001.png")])
    log.undo("three-of-bob", "bob", second.number)
    for picture in ("000001.png", "aaaa"):
        told = told_of(store, "night", picture)
        assert [(each["label"], each["by"], bool(each["taken_back"])) for each in told] == [
            ("circle", "ann", False),
            ("square", "bob", True),
        ]
    with pytest.raises(NotFound, match="no word about"):
        told_of(store, "night", "000002.png")
    with pytest.raises(NotFound, match=r"there are: night"):
        told_of(store, "day", "000001.png")
    ran = lookbook("labels", "history", "night", "000001.png", "--json", LOOKBOOK_STORE=str(store.disk.root))
    assert [each["label"] for each in json.loads(ran.stdout.splitlines()[-1])] == ["circle", "square"]


def test_a_file_that_was_read_before_brings_what_it_could_not_then(store, night, tmp_path):
    file = write(tmp_path / "in.csv", ("path", "label"), ("000001.png", "line"), ("000025.png", "circle"))
    assert read_in(store, "night", file).unknown == ["000025.png"]
    draw_folder(tmp_path / "pictures", 30)
    publish_table(store, tmp_path / "pictures", "night", guesses(30))
    assert read_in(store, "night", file) == Imported(labels=2, new=1, unchanged=1)
    assert sorted(counts(store).values()) == ["circle", "line"]
