"""pytest tests/test_cli.py: the command line, as a person uses it."""

import json
import os
import shlex
import signal
import subprocess

import click
import pytest
from commands import answer, complaint
from PIL import Image
from published import damage
from pydantic import BaseModel, field_serializer

from artifacts import aliases, weights
from artifacts.store import Store
from flows.cli import lookbook as group

CLASSES = ["circle", "square", "line"]
SPEC = {"height": 8, "width": 8, "channels": 1}


@pytest.fixture(scope="module")
def trained(shapes):
    """Weights that tell the three shapes apart, and the settings that they were trained with."""
    from tasks.vision.images import ImageSpec
    from tasks.vision.training import TrainingSettings, fit

    train = shapes["train"]
    settings = TrainingSettings(epochs=10, batch_size=16)
    return fit(train.images, train.labels, classes=3, spec=ImageSpec(**SPEC), settings=settings), settings


@pytest.fixture
def champion(store, trained, shapes_dataset):
    """Published weights, promoted."""
    result, settings = trained
    ref = weights.save(
        store, "shapes", tensors=result.tensors, history=[epoch.to_dict() for epoch in result.history],
        classes=CLASSES, image_spec=SPEC, settings=settings.to_dict(), dataset=shapes_dataset, made={"seconds": 1},
    )  # fmt: skip
    aliases.promote(store.disk, ref, "first")
    return ref


@pytest.mark.parametrize("verb", ["", *sorted(group.commands)])
def test_help_has_an_example_that_is_real(verb, lookbook):
    said = lookbook(*[verb][: bool(verb)], "--help")
    assert said.returncode == 0
    examples = [
        shlex.split(line)[1:] for line in said.stdout.splitlines() if line.startswith(("  lookbook", "    lookbook"))
    ]
    assert examples
    for name, *arguments in examples:
        command = group.commands[name]
        command.make_context(name, arguments)


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_an_interrupt_is_one_whatever_becomes_of_it(lookbook, monkeypatch, verbose):
    """Prefect's client writes JSON by pydantic, which makes an error of its own of Ctrl-C in a serializer."""

    class Asked(BaseModel):
        name: str

        @field_serializer("name")
        def as_written(self, name):
            os.kill(os.getpid(), signal.SIGINT)
            return name

    @click.command()
    @click.option("--verbose", is_flag=True)
    def ask(verbose):
        Asked(name="pool").model_dump(mode="json")

    monkeypatch.setitem(group.commands, "show", ask)
    assert "interrupted; nothing half-done was published" in complaint(lookbook("show", *verbose), 130)


@pytest.mark.kill
def test_each_verb_as_a_process_of_its_own(lookbook_process, lookbook_environment, champion, tmp_path):
    """All other tests run these inside. CONTRIBUTING.md says where the other verbs are processes."""
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    for verb in (
        ["--help"],
        ["list", "--json"],
        ["show", "champion"],
        ["lineage", "champion"],
        ["history"],
        ["verify"],
        ["promote", "champion", "--reason", "again"],
        ["predict", tmp_path / "black.png", "--weights", champion, "--json"],
        ["export", champion, "--format", "tflite", "--output", tmp_path / "exported"],
        ["pin", champion, "--reason", "dear"],
        ["unpin", champion],
        ["collect"],
        ["backbone", "list"],
    ):
        said = lookbook_process(*verb)
        assert said.returncode == 0, said.stderr
        assert said.stdout
        assert said.stderr == ""
    assert answer(lookbook_process("copy", tmp_path / "store", tmp_path / "copy", "--json"))["copied"] == 6
    assert "there is none to go back to" in complaint(lookbook_process("rollback"))
    assert "expected labels of nothing" in complaint(lookbook_process("labels", "export", "nothing", "labels.csv"))
    assert complaint(lookbook_process("nothing"), status=2)


def test_data_sets_that_can_be_named_are_those_that_are_known():
    from tasks.vision.sources import DATASETS

    retrain = group.commands["retrain"]
    option = next(each for each in retrain.get_params(click.Context(retrain)) if each.name == "dataset")
    assert list(option.type.choices) == list(DATASETS)


def test_an_empty_store(lookbook):
    assert "the store is empty; lookbook retrain fills it" in lookbook("list").stdout
    assert answer(lookbook("list", "--json")) == []
    assert "nothing was decided yet" in lookbook("history").stdout
    assert answer(lookbook("verify", "--json")) == {"checked": 0, "corrupt": []}
    assert "nothing in the store" in complaint(lookbook("show", "champion"))
    assert "nothing in the store" in complaint(lookbook("predict", "x.png"))
    assert "nothing in the store" in complaint(lookbook("rollback"))


def test_list_show_and_history(lookbook, champion, shapes_dataset):
    listed = answer(lookbook("list", "--json"))
    assert [each["ref"] for each in listed] == [str(shapes_dataset), str(champion)]
    assert [each["ref"] for each in answer(lookbook("list", "weights", "--json"))] == [str(champion)]
    assert str(champion) in lookbook("list").stdout
    shown = answer(lookbook("show", "champion", "--json"))
    assert shown["ref"] == str(champion)
    assert shown["identity"]["inputs"]["dataset"] == str(shapes_dataset)
    text = lookbook("show", champion.version[:5]).stdout
    for part in ("learning_rate", "circle, square, line", "weights.safetensors", "from dataset"):
        assert part in text
    assert "300 images" in lookbook("show", f"datasets/{shapes_dataset.version}").stdout
    [event] = answer(lookbook("history", "--json"))
    assert (event["name"], event["action"], event["reason"], event["ref"]) == (
        "shapes",
        "promote",
        "first",
        str(champion),
    )
    assert "first" in lookbook("history", "shapes").stdout


def test_promote_and_rollback(lookbook, store, champion, shapes_dataset):
    other = weights.save(
        store, "shapes", tensors=weights.load(store, champion).tensors, history=[], classes=CLASSES, image_spec=SPEC,
        settings={"architecture": "dense", "seed": 1}, dataset=shapes_dataset, made={},
    )  # fmt: skip
    event = answer(lookbook("promote", other.version[:6], "--reason", "it looks better", "--json"))
    assert (event["ref"], event["previous"], event["reason"]) == (str(other), str(champion), "it looks better")
    assert store.resolve("champion") == other
    assert f"{champion} is champion (rollback" in lookbook("rollback").stdout
    assert store.resolve("champion") == champion
    assert "there is none to go back to" in complaint(lookbook("rollback", "shapes"))
    assert "--reason" in complaint(lookbook("promote", str(other)), status=2)
    assert "expected one of the weights" in complaint(lookbook("promote", str(shapes_dataset), "--reason", "x"))
    assert "nothing in the store" in complaint(lookbook("promote", "0000", "--reason", "x"))


def test_predict_names_what_is_on_a_picture(lookbook, champion, shapes, tmp_path):
    from tasks.vision.images import ImageSpec
    from tasks.vision.inference import Predictor
    from tasks.vision.network import Dense

    pictures = []
    for index in range(6):
        pictures.append(tmp_path / f"{index} [bold].png")
        Image.fromarray(shapes["test"].images[index, ..., 0]).save(pictures[-1])
    results = answer(lookbook("predict", *pictures, "--json"))["results"]
    network = Dense(ImageSpec(**SPEC), 3)
    network.assign(weights.load(Store(tmp_path / "store"), champion).tensors)
    expected = Predictor(network)(shapes["test"].images[:6])
    for result, picture, row, label in zip(results, pictures, expected, shapes["test"].labels, strict=False):
        assert (result["path"], result["label"], result["error"]) == (str(picture), CLASSES[label], None)
        assert list(result["probabilities"].values()) == row.tolist(), "the same bits as the arrays of the test split"
        assert result["confidence"] == row.max()
    said = lookbook("predict", pictures[0]).stdout
    assert f"0 [bold].png  {results[0]['label']} {results[0]['confidence']:.1%}" in said


def test_predict_tells_of_each_picture_that_is_none_and_goes_on(lookbook, champion, shapes, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(shapes["test"].images[0, ..., 0]).save(tmp_path / "good.png")
    names = ["notes.txt", "good.png", "empty.png", "missing.png", ""]
    run = lookbook("predict", *(tmp_path / name for name in names), "--json")
    assert run.returncode == 1
    results = json.loads(run.stdout)["results"]
    assert [each["error"] for each in results] == ["unsupported", None, "corrupt", "missing", "unsupported"]
    assert results[1]["label"] in CLASSES
    assert "empty.png  corrupt: the file is empty" in lookbook("predict", tmp_path / "empty.png").stdout


def test_verify_finds_a_flipped_bit_and_predict_refuses_it(lookbook, champion, store):
    good = answer(lookbook("verify", "--json"))
    assert good["corrupt"] == []
    path = store.open(champion).path("weights.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    damage(path, content)
    run = lookbook("verify", "--json")
    assert run.returncode == 1
    found = json.loads(run.stdout)
    assert found["checked"] == good["checked"]
    assert "weights.safetensors is damaged" in found["corrupt"][0]
    assert "weights.safetensors is damaged: expected" in complaint(lookbook("predict", "x.png"))
    assert lookbook("verify", str(store.open(champion).identity["inputs"]["dataset"])).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["retrain", "--epochs", "0"], "0 is not in the range 1<=x<=10000"),
        (["retrain", "--learning-rate", "-1"], "-1.0 is not in the range x>0"),
        (["retrain", "--learning-rate", "nan"], "nan is no finite number"),
        (["retrain", "--dataset", "mnist"], "'mnist' is not 'fashion-mnist'"),
        (["retrain", "--schedule", "cosine"], "'cosine' is not one of"),
        (["predict"], "Missing argument 'IMAGE...'"),
        (["list", "models"], "'models' is not one of"),
        (["nothing"], "No such command 'nothing'"),
        (["show", "champion", "--colour"], "No such option"),
    ],
)
def test_wrong_usage(lookbook, arguments, told):
    assert told in complaint(lookbook(*arguments), status=2)


@pytest.mark.parametrize("ref", ["nonsense", "weights/shoes@", "../../etc/passwd", "models/x@0123456789abcdef"])
def test_unknown_refs(lookbook, ref):
    assert "expected" in complaint(lookbook("show", ref))


def test_settings_that_can_not_be(lookbook):
    told = complaint(lookbook("list", LOOKBOOK_MAX_IMAGE_BYTES="many"))
    assert "LOOKBOOK_MAX_IMAGE_BYTES can't be 'many'" in told


def test_a_store_that_can_not_be_read(lookbook, champion, tmp_path, without_roots_rights):
    (tmp_path / "store/weights").chmod(0o000)
    told = complaint(lookbook("list", behind=without_roots_rights))
    (tmp_path / "store/weights").chmod(0o755)
    assert "can't list" in told
    assert "Permission denied; make room or mend the permissions, or point LOOKBOOK_STORE" in told


def test_a_store_that_can_not_be_written(lookbook, champion, tmp_path, without_roots_rights):
    (tmp_path / "store/aliases/weights/shapes/champion").chmod(0o500)
    told = complaint(lookbook("promote", "champion", "--reason", "again", behind=without_roots_rights))
    (tmp_path / "store/aliases/weights/shapes/champion").chmod(0o755)
    assert "can't write aliases/weights/shapes/champion/00000002.json" in told
    assert len(answer(lookbook("history", "--json"))) == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_drama(lookbook_command, champion, lookbook_environment, closed):
    command = f"{shlex.join(lookbook_command)} show champion --json {closed}"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=lookbook_environment)
    assert (run.returncode, run.stderr) == (0, "")


def shown(lookbook_command, environment, command):
    """What a shell says of `lookbook COMMAND`, and the status of the first process of its pipe."""
    command = f"{shlex.join(lookbook_command)} {command}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("verb", ["show champion --json", "list", "promote champion --reason again"])
def test_who_reads_no_further_is_no_drama(lookbook_command, champion, lookbook_environment, verb):
    run = shown(lookbook_command, lookbook_environment, f"{verb} | true")
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("form", ["", "--json"])
def test_what_is_done_is_done_though_a_full_disk_takes_no_word_of_it(
    lookbook_command, champion, store, lookbook_environment, form
):
    run = shown(lookbook_command, lookbook_environment, f"promote champion --reason again {form} > /dev/full")
    assert run.returncode == 0
    assert run.stderr == (
        "lookbook: the work is done, but its result can't be written to standard output: No space left on device\n"
    )
    assert len(aliases.history(store.disk, "weights", "shapes", "champion")) == 2
    assert shown(lookbook_command, lookbook_environment, f"list {form} > /dev/full 2> /dev/full").returncode == 1
    run = shown(lookbook_command, lookbook_environment, f"list {form} > /dev/full")
    assert run.returncode == 1
    assert run.stderr == "lookbook: its result can't be written to standard output: No space left on device\n"


@pytest.mark.slow
def test_names_that_a_terminals_encoding_lacks_are_shown_by_their_numbers(
    lookbook_command, champion, lookbook_environment, tmp_path
):
    name = "\u00fc\U0001f97e\x1b[1m.png"
    Image.new("L", (8, 8)).save(tmp_path / name)
    environment = {**lookbook_environment, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    run = shown(lookbook_command, environment, f"predict {shlex.quote(str(tmp_path / name))}")
    assert run.returncode == 0, run.stderr
    assert "\\U0001f97e\\ufffd[1m.png" in run.stdout
    run = shown(lookbook_command, environment, f"show {shlex.quote(name)}")
    assert run.returncode == 1
    assert "unexpected" not in run.stderr


def test_a_result_that_can_not_be_drawn_is_told_as_data(lookbook, champion, store, monkeypatch):
    def fail(result):
        raise ValueError("no such colour")

    monkeypatch.setattr("tasks.reports.terminal.decision", fail)
    said = lookbook("promote", "champion", "--reason", "again")
    assert said.returncode == 0
    assert json.loads(said.stdout)["reason"] == "again"
    assert "the work is done, but its result can't be shown" in said.stderr
    monkeypatch.setattr("tasks.reports.terminal.history", fail)
    assert "no such colour" in complaint(lookbook("history"))
