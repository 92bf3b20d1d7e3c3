"""pytest tests/test_labelled.py: which files are learned from: a folder a class, train and test, a table of labels."""

import os
import unicodedata

import pandas
import pytest
from PIL import Image

from artifacts.settings import Settings
from tasks.preparing.labelled import LabelError, allow_images, list_labelled, split_table
from tasks.shared.listing import FolderError, to_text


@pytest.fixture
def top(tmp_path):
    return tmp_path / "pictures"


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path, "PNG")


def listed(top, path=""):
    found = list_labelled(Settings(image_roots={"root": top}), f"root:{path}")
    return [
        (os.fsdecode(each.path), *rest) for each, *rest in zip(found.entries, found.labels, found.sides, strict=True)
    ]


def bad(top, path=""):
    return list_labelled(Settings(image_roots={"root": top}), f"root:{path}").bad


def test_a_folder_a_class_whatever_it_is_called(top):
    for path in ("a b/1.png", "🥾/deep/er/2.png", "100% wool/3.png", "a b/.hidden.png", ".git/4.png", "5.png"):
        draw(top / path)
    assert listed(top) == [
        ("100% wool/3.png", "100% wool", None),
        ("a b/1.png", "a b", None),
        ("🥾/deep/er/2.png", "🥾", None),
    ]
    assert bad(top) == {"5.png": "in no class's folder"}


def test_a_folder_that_is_no_utf8_has_a_label_all_the_same(top):
    draw(top / "boot/1.png")
    draw(top / os.fsdecode(b"caf\xe9") / "2.png")
    assert [label for _, label, _ in listed(top)] == ["boot", "caf%E9"]


def test_train_and_test_with_a_folder_a_class_in_each(top):
    for path in ("train/boot/1.png", "train/shoe/2.png", "test/boot/3.png", "test/shoe/x/4.png", "train/5.png"):
        draw(top / path)
    assert listed(top) == [
        ("test/boot/3.png", "boot", "test"),
        ("test/shoe/x/4.png", "shoe", "test"),
        ("train/boot/1.png", "boot", "train"),
        ("train/shoe/2.png", "shoe", "train"),
    ]
    assert bad(top) == {"train/5.png": "in no class's folder"}


@pytest.mark.parametrize(
    "names", [("train", "val"), ("train", "test", "validation"), ("train",), ("train", "test", "unlabelled")]
)
def test_other_sides_are_not_taken_for_classes(top, names):
    for name in names:
        draw(top / name / "boot/1.png")
    with pytest.raises(
        LabelError, match=r"expected train and test in .*, found .*train.*; call the two sides train and test"
    ):
        listed(top)


def test_sides_may_begin_with_a_capital(top):
    for path in ("Train/boot/1.png", "Train/shoe/2.png", "Test/boot/3.png"):
        draw(top / path)
    assert [side for _, _, side in listed(top)] == ["test", "train", "train"]
    draw(top / "train/boot/4.png")
    with pytest.raises(LabelError, match="found Test, Train, train; call the two sides train and test"):
        listed(top)


def test_a_linked_class_is_not_passed_over_in_silence(top):
    for path in ("train/boot/1.png", "train/shoe/2.png", "test/boot/3.png", "test/shoe/4.png"):
        draw(top / path)
    (top / "train/hat").symlink_to(top / "train/shoe")
    with pytest.raises(FolderError, match=r"found train/hat, a link or a device, which is not followed; remove it, or"):
        listed(top)


SIDES = ["val", "Valid", "VALIDATION", "train", "test", "tests", "dev", "eval", "training_set", "seg_test",
         "Test Set 2", "val2017", "trainval", "images-train", "hold-out", "Testing", "\uff34EST"]  # fmt: skip


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("inside", ["1.png", "boot/1.png"])
def test_a_side_beside_classes_is_asked_about(top, name, inside):
    for path in ("boot/1.png", "shoe/2.png", f"{name}/{inside}"):
        draw(top / path)
    with pytest.raises(LabelError, match=r"called like a side of a data set, beside boot; .*give a table of paths"):
        listed(top)
    rows = "".join(f"{path},{path.split('/')[0]}\n" for path in ("boot/1.png", "shoe/2.png", f"{name}/{inside}"))
    (top / "labels.csv").write_text(f"path,label\n{rows}")
    assert [label for _, label, _ in listed(top, "labels.csv")] == sorted(["boot", "shoe", name])


@pytest.mark.parametrize(
    "name", ["testicle", "test tube", "trainers", "invalid", "valley", "device", "evalyn", "latest", "contest", "12"]
)
def test_names_that_only_have_the_word_of_a_side_in_them_are_classes(top, name):
    for path in ("boot/1.png", f"{name}/2.png"):
        draw(top / path)
    assert [label for _, label, _ in listed(top)] == sorted(["boot", name])


@pytest.mark.parametrize("names", [("train", "test"), ("training_set", "test_set"), ("seg_train", "seg_test")])
def test_sides_without_a_folder_a_class_in_them_are_no_classes(top, names):
    for name in names:
        draw(top / name / "cat.0.png")
        draw(top / name / "dog.0.png")
    with pytest.raises(
        LabelError, match="called like a side of a data set and not like a class; make a folder for each class"
    ):
        listed(top)


@pytest.mark.parametrize("names", [("Training", "Testing"), ("training_set", "test_set"), ("seg_train", "seg_test")])
def test_sides_by_other_names_are_to_be_called_train_and_test(top, names):
    for name in names:
        draw(top / name / "cat/0.png")
        draw(top / name / "dog/1.png")
    with pytest.raises(
        LabelError, match=f"expected train and test in .*, found {', '.join(sorted(names))}; call the two"
    ):
        listed(top)
    for name, called in zip(names, ("train", "test"), strict=True):
        (top / name).rename(top / called)
    assert {(label, side) for _, label, side in listed(top)} == {
        (label, side) for label in ("cat", "dog") for side in ("train", "test")
    }


def test_a_class_that_is_called_train_on_both_sides(top):
    """Vehicles: here the folders say which ones are the sides."""
    for path in ("train/train/1.png", "train/bus/2.png", "test/train/3.png", "test/bus/4.png"):
        draw(top / path)
    assert {label for _, label, _ in listed(top)} == {"bus", "train"}


@pytest.mark.parametrize("tops", [("2025", "2026"), ("ann", "bob", "cy")])
def test_folders_that_all_have_the_classes_in_them_are_none(top, tops):
    for path in (f"{name}/{inside}/1.png" for name in tops for inside in ("cat", "dog")):
        draw(top / path)
    (top / tops[0] / "notes.txt").write_text("a file that is no picture")
    with pytest.raises(
        LabelError, match=rf"found {', '.join(tops)}, which all have the same folders in them \(cat, dog"
    ):
        listed(top)
    assert {label for _, label, _ in listed(top, tops[0])} == {"cat", "dog"}  # as the message says


@pytest.mark.parametrize(
    "inside", [("2026-11-29", "2026-11-30"), ("front",), ("1", "2")], ids=["days", "one", "numbers"]
)
def test_classes_may_be_kept_in_the_same_way(top, inside):
    for path in (f"{name}/{each}/1.png" for name in ("cat", "dog") for each in inside):
        draw(top / path)
    assert {label for _, label, _ in listed(top)} == {"cat", "dog"}


def test_classes_with_pictures_beside_folders_of_the_same_names(top):
    for path in ("cat/front/1.png", "cat/back/2.png", "cat/3.png", "dog/front/4.png", "dog/back/5.png"):
        draw(top / path)
    assert {label for _, label, _ in listed(top)} == {"cat", "dog"}


@pytest.mark.parametrize("kind", ["csv", "parquet", "CSV"])
def test_a_table_of_paths_and_labels(top, kind):
    for path in ("a/1.png", "a/2.png", "b/100%.png", "unlisted.png"):
        draw(top / path)
    table = pandas.DataFrame(
        {
            "other": [1, 2, 3, 4, 5, 6, 7],
            "label": ["T-shirt/top", "007", "x", "x", None, "y", "y"],
            "path": ["a/1.png", "./a/2.png", "b/100%.png", "gone.png", "a/1.png", "../../etc/passwd", "/etc/passwd"],
        }
    )
    file = top / f"labels.{kind}"
    table.to_csv(file, index=False) if kind.lower() == "csv" else table.to_parquet(file)
    assert listed(top, f"labels.{kind}") == [
        ("a/2.png", "007", None),
        ("b/100%.png", "x", None),
    ]
    assert bad(top, f"labels.{kind}") == {
        "gone.png": "missing: the table names it, and there is no such file below the table's folder",
        "a/1.png": "unlabelled: the table has no label for it",
        "../../etc/passwd": "missing: the table names it, and there is no such file below the table's folder",
        "/etc/passwd": "missing: the table names it, and there is no such file below the table's folder",
    }


def test_a_table_may_say_the_side_and_names_a_file_once(top):
    for name in "123456":
        draw(top / f"{name}.png")
    rows = ["1,a,train", "2,b,test", "2,b,test", "3,a,", "4,a,train", "4,b,train", "5,b,valid", "6,b,train"]
    (top / "labels.csv").write_text("path,label,split\n" + "\n".join(f"{row[0]}.png{row[1:]}" for row in rows))
    assert listed(top, "labels.csv") == [
        ("1.png", "a", "train"),
        ("2.png", "b", "test"),
        ("3.png", "a", None),
        ("6.png", "b", "train"),
    ]
    assert bad(top, "labels.csv") == {
        "4.png": "conflicting: the table has it as a and as b",
        "5.png": "unlabelled: expected train or test as its split, found valid",
    }


def test_not_available_is_a_label_like_any_other(top):
    labels = ("NA", "null", "nan", "N/A", "")
    for name in range(5):
        draw(top / f"{name}.png")
    (top / "labels.csv").write_text(
        "path,label\n" + "\n".join(f"{name}.png,{each}" for name, each in enumerate(labels))
    )
    assert [label for _, label, _ in listed(top, "labels.csv")] == list(labels[:4])
    assert list(bad(top, "labels.csv")) == ["4.png"]


@pytest.mark.parametrize(
    "content",
    [
        'path, label\na.png, shoe\nb/ c.png, "boot, high"\n',
        'path,label\na.png , shoe\nb/ c.png,"boot, high "\n',
        '\ufeffpath,label\r\na.png,shoe\r\n\r\nb/ c.png,"boot, high"\r\n',
        ' label ,\tpath, split\nshoe,a.png,\n"boot, high", b/ c.png, ',
        '"label","other","path"\n"shoe","two\nlines","a.png"\n"boot, high","","b/ c.png"',
    ],
    ids=["spaces after commas", "spaces in values", "byte order mark", "spaces everywhere", "quotes"],
)
def test_white_space_in_a_table_is_nobodys_class(top, content):
    for path in ("a.png", "b/ c.png"):
        draw(top / path)
    (top / "labels.csv").write_bytes(content.encode())
    assert listed(top, "labels.csv") == [("a.png", "shoe", None), ("b/ c.png", "boot, high", None)]


def test_a_path_is_taken_as_it_stands_before_spaces_around_it_are_passed_over(top):
    for path in (" a.png", "a.png", " b.png ", "c.png"):
        draw(top / path)
    (top / "labels.csv").write_text("path,label\n a.png,one\na.png,two\n b.png ,three\n c.png ,four\n")
    assert listed(top, "labels.csv") == [
        (" a.png", "one", None),
        (" b.png ", "three", None),
        ("a.png", "two", None),
        ("c.png", "four", None),
    ]


def test_the_case_of_column_names_counts(top):
    (top / "x").mkdir(parents=True)
    (top / "labels.csv").write_text("Path, Label\na.png, shoe\n")
    with pytest.raises(LabelError, match="expected one column path and one column label in .*, found Path, Label;"):
        listed(top, "labels.csv")


def test_a_file_is_named_once_however_it_is_spelled(top):
    for name in "01":
        draw(top / f"{name}.png")
    (top / "labels.csv").write_text("path,label\n./0.png,\n0.png,a\n1.png,b\n./1.png,c\n")
    with pytest.raises(LabelError, match=r"found none; 0.png: unlabelled: .*; 1.png: conflicting: "):
        listed(top, "labels.csv")


def test_a_table_of_predictions_is_a_table_of_labels(top):
    """Its paths are percent-encoded."""
    for path in ("100% wool.png", "x.png"):
        draw(top / path)
    pandas.DataFrame({"path": ["100%25 wool.png", "x.png"], "label": ["a", "b"]}).to_parquet(top / "p.parquet")
    assert [path for path, _, _ in listed(top, "p.parquet")] == ["100% wool.png", "x.png"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"file,class\n1.png,a\n", r"expected one column path and one column label in .*csv, found file, class"),
        (
            b"path,label,label\n1.png,a,b\n",
            r"expected one column path and .* found path, label, label",
        ),
        (b"path,label\nx/1.png,a\nx/2.png,b\n", "found none; x/1.png: missing: the table names it"),
        (b"", "expected a table in .*labels.csv, found what can't be read as one"),
        (b"path,label\n1.png,\xff\xfe\n", "can't be read as one|two of them at least"),
        (b"path,label\n1.png,a,b,c\n", "can't be read as one"),
        (b"path,label\n,a\n", "expected a path in every row of .*, found none in row 1"),
        (b"path,label\n1.png,a\n", "expected labels of two classes in .*labels.csv, two of them at least, found a"),
    ],
)
def test_tables_that_are_none(top, content, told):
    draw(top / "1.png")
    (top / "labels.csv").write_bytes(content)
    with pytest.raises(LabelError, match=told):
        listed(top, "labels.csv")


def test_what_is_not_followed_or_not_there(top):
    draw(top / "boot/1.png")
    (top / "labels.csv").symlink_to("/etc/passwd")
    with pytest.raises(FolderError, match=r"found labels.csv, a link or a device, which is not followed"):
        listed(top)
    with pytest.raises(FolderError, match="expected a file at .*labels.csv, found: Too many levels of symbolic links"):
        listed(top, "labels.csv")
    os.mkfifo(top / "pipe.csv")
    with pytest.raises(FolderError, match="expected a file at .*pipe.csv, found a folder, a pipe or a device"):
        listed(top, "pipe.csv")
    with pytest.raises(FolderError, match="expected a file at .*none.csv, found: No such file"):
        listed(top, "none.csv")
    with pytest.raises(FolderError, match="expected a folder as root:sub/path"):
        listed(top, "../labels.csv")
    (top / "labels.csv").unlink()
    (top / "pipe.csv").unlink()
    with pytest.raises(LabelError, match=r"expected a folder for each class in .*, two of them at least, found boot"):
        listed(top)


def test_a_table_is_told_from_a_folder_by_its_name():
    assert split_table("photos:shoes/labels.csv") == ("photos:shoes", "labels.csv")
    assert split_table("photos:labels.parquet") == ("photos:", "labels.parquet")
    assert split_table("photos:shoes") == ("photos:shoes", None)
    assert split_table("photos:") == ("photos:", None)


def test_a_table_that_a_command_names_is_read_in_its_folder(tmp_path):
    folder = tmp_path / "of: 100%"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        draw(folder / name)
    (folder / "labels.csv").write_text("path,label\na.png,boot\nb.png,sandal\n")
    images = allow_images(str(folder / "labels.csv"))
    assert images == f"{folder}/labels.csv"
    assert split_table(images) == (str(folder), "labels.csv")
    assert list_labelled(Settings(), images).classes == ["boot", "sandal"]
    assert allow_images(str(folder)) == str(folder)


def table(top, *paths, first="path,label"):
    (top / "labels.csv").write_text("\n".join([first, *(f"{path},x{number % 2}" for number, path in enumerate(paths))]))
    return [path for path, _, _ in listed(top, "labels.csv")]


@pytest.mark.parametrize(
    "written",
    [
        lambda top, path: unicodedata.normalize("NFC", path),
        lambda top, path: path.replace("/", "\\"),
        lambda top, path: f".\\{path}".replace("/", "\\"),
        lambda top, path: f"{top}/{path}",
        lambda top, path: f"{top.resolve()}/{unicodedata.normalize('NFC', path)}".upper().replace(
            str(top.resolve()).upper(), str(top.resolve())
        ),
        lambda top, path: path.upper(),
        lambda top, path: to_text(os.fsencode(path.replace("/", "\\"))),
    ],
    ids=["other form", "backslashes", "dot", "absolute", "absolute, other form and case", "case", "encoded"],
)
def test_paths_of_other_machines_are_found(tmp_path, written):
    real, top = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    top.symlink_to(real)
    paths = [unicodedata.normalize("NFD", path) for path in ("a/Größe 1%.png", "b c/Größe_2.png", "b c/é.png")]
    for path in paths:
        draw(top / path)
    assert table(top, *(written(top, path) for path in paths)) == paths
    assert bad(top, "labels.csv") == {}


def test_a_path_that_may_be_two_files_is_neither(top):
    for path in ("a/1.png", "a/1.PNG", "b/\u00e9.png", "b/e\u0301.png", "c.png", "d.png"):
        draw(top / path)
    assert table(top, "A/1.Png", "a/1.PNG", "B/\u00e9.png", "b\\e\u0301.png", "c.png", "d.png") == [
        "a/1.PNG",
        "b/e\u0301.png",
        "c.png",
        "d.png",
    ]
    assert bad(top, "labels.csv") == {
        "A/1.Png": "ambiguous: it may be 'a/1.PNG' or 'a/1.png'; write one of them",
        "B/\u00e9.png": "ambiguous: it may be 'b/e\u0301.png' or 'b/\u00e9.png'; write one of them",
    }


def test_another_case_of_a_path_that_is_written_too_is_another_file(top):
    for path in ("a/1.png", "b/2.png", "c.png"):
        draw(top / path)
    text = "path,label\na/1.png,shoe\nA/1.png,boot\nb/2.png,boot\nb/2.PNG,shoe\n.\\b\\2.png,boot\nC.png,shoe\n"
    (top / "labels.csv").write_text(text)
    found = list_labelled(Settings(), allow_images(str(top / "labels.csv")))
    assert [each.path for each in found.entries] == [b"a/1.png", b"b/2.png", b"c.png"]
    assert found.labels == ["shoe", "boot", "shoe"]
    missing = "missing: the table names it, and there is no such file below the table's folder"
    assert found.bad == {"A/1.png": missing, "b/2.PNG": missing}


def test_a_file_that_is_called_so_comes_before_one_that_nearly_is(top):
    for path in ("a\\1.png", "a/1.png", "A/1.png"):
        draw(top / path)
    assert table(top, "a\\1.png", "a/1.png", "A/1.png") == ["A/1.png", "a/1.png", "a\\1.png"]


@pytest.mark.parametrize("separator", [";", "\t", "; "])
def test_tables_of_other_separators(top, separator):
    for path in ("a,1.png", "b.png"):
        draw(top / path)
    rows = [("path", "label"), ("a,1.png", "x, y"), ("b.png", "z")]
    (top / "labels.csv").write_text("\n".join(separator.join(row) for row in rows))
    assert [row[:2] for row in listed(top, "labels.csv")] == [("a,1.png", "x, y"), ("b.png", "z")]


def test_what_an_export_put_before_a_formula_is_taken_away(top):
    for path in ("=1.png", "-2.png", "'+3.png", "'4.png"):
        draw(top / path)
    (top / "labels.csv").write_text("path,label\n'=1.png,'-x\n'-2.png,'-x\n'+3.png,'y\n'4.png,'y\n")
    assert [row[:2] for row in listed(top, "labels.csv")] == [
        ("'+3.png", "'y"),
        ("'4.png", "'y"),
        ("-2.png", "-x"),
        ("=1.png", "-x"),
    ]


def test_a_quote_that_is_never_closed_swallows_no_rows(top):
    draw(top / "1.png")
    (top / "labels.csv").write_text('path,label\n1.png,"a\n2.png,b\n3.png,c\n')
    with pytest.raises(LabelError, match="can't be read as one: unexpected end of data in line 4"):
        listed(top, "labels.csv")


def test_a_table_names_what_it_likes(top):
    for path in ("#recycle/1.png", "train/2.png"):
        draw(top / path)
    assert table(top, "#recycle/1.png", "train/2.png") == ["#recycle/1.png", "train/2.png"]
