"""pytest tests/test_verification.py: what `verify` and `rollback` say of what is damaged, and of what is gone."""

import json

import pytest
from commands import answer, complaint
from published import damage, remove

from artifacts import aliases, runs, weights
from artifacts.aliases import Choice
from artifacts.disk import hash_file
from artifacts.errors import StoreError


def publish(store, seed, inputs=None):
    """Weights, different for each seed."""
    files = {"weights.safetensors": bytes([seed]) * 100, "history.json": b"[]"}
    return store.publish("weights", "shoes", files, settings={"seed": seed}, inputs=inputs or {}, facts={})


def gone(store, ref):
    """As somebody removes a version by hand."""
    remove(store.disk.local_path(ref.folder))


@pytest.fixture
def nightly(store):
    """Four tables: three share a part, two of these another one."""
    for part in "abc":
        store.disk.create(f"staging/parts/{part}", part.encode() * 1000)

    def table(name, parts):
        files = {
            f"data/part-{index:05d}.parquet": store.disk.local_path(f"staging/parts/{part}")
            for index, part in enumerate(parts)
        }
        return store.publish("predictions", name, files, settings={}, inputs={}, facts={})

    return [table("shop", "ab"), table("shop", "bca"), table("other", "a"), table("other", "c")]


def test_a_damaged_file_is_told_once_with_all_versions_that_share_it(store, nightly):
    first, second, third, _ = nightly
    good = store.verify()
    assert good.corrupt == []
    damage(store.open(third).path("data/part-00000.parquet"), b"a" * 999 + b"x")
    found = store.verify()
    assert found.checked == good.checked
    [sentence] = found.corrupt
    assert "data/part-00000.parquet is damaged: expected 1,000 bytes" in sentence
    assert all(str(ref) in sentence or ref.folder in sentence for ref in (first, second, third))
    assert str(nightly[3]) not in sentence


def test_verify_of_one_version_names_the_others_too(store, nightly):
    first, second, third, fourth = nightly
    damage(store.open(first).path("data/part-00000.parquet"), b"")
    [sentence] = store.verify(second).corrupt
    assert sentence.startswith(f"{second.folder}/data/part-00002.parquet is damaged")
    assert sentence.endswith("; the same file is also in " + ", ".join(map(str, sorted([first, third]))))
    assert store.verify(fourth).corrupt == []


def test_a_shared_file_is_read_once(store, nightly, monkeypatch):
    read = []
    monkeypatch.setattr("artifacts.disk.hash_file", lambda path: read.append(path) or hash_file(path))
    store.verify()
    assert len(read) == 3


def test_a_damaged_file_that_another_version_has_is_mended(store, nightly, lookbook):
    first, *_ = nightly
    store.disk.create("staging/parts/other", b"a" * 1000)  # the same bytes, another file
    files = {"data/part-00000.parquet": store.disk.local_path("staging/parts/other")}
    whole = store.publish("predictions", "whole", files, settings={}, inputs={}, facts={})
    damage(store.open(first).path("data/part-00000.parquet"), b"a" * 999 + b"x")
    shown = lookbook("verify", "--repair").stdout.replace("\n", " ")
    assert f"add --yes to mend it by the same bytes in {whole}" in " ".join(shown.split())
    run = lookbook("verify", "--repair", "--yes", "--json")
    assert {each["mended"] for each in json.loads(run.stdout)["repair"]} == {True}
    assert store.verify().corrupt == []
    assert all(store.has(each) for each in nightly)


def test_an_old_store_whose_files_may_be_written_to_is_as_good(store, nightly):
    for path in store.disk.root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert store.verify().corrupt == []


def test_inputs_that_are_gone_are_told(store):
    data = store.publish("datasets", "shoes", {"x": b""}, settings={}, inputs={"a.gz": "sha256:12"}, facts={})
    made = [publish(store, seed, {"dataset": str(data)}) for seed in range(7)]
    assert store.verify().corrupt == []
    gone(store, data)
    [sentence] = store.verify(made[0]).corrupt
    assert sentence == (
        f"{data} is missing from the store {store.disk.root}, but is referred to by {made[0]}; restore it from a copy"
    )
    [sentence] = store.verify().corrupt
    assert sentence.startswith(f"{data} is missing")
    assert sentence.endswith(", ".join(map(str, sorted(made)[:5])) + " and 2 more; restore it from a copy")


def test_champions_of_now_and_before_must_be_there_and_challengers_need_not(store):
    first, second, kept = (publish(store, seed) for seed in range(3))
    for ref in (first, second):
        aliases.promote(store.disk, ref, "better")
    keep = Choice("keep", str(second), str(kept), "not better")
    aliases.decide(store.disk, "weights", "shoes", "champion", lambda events: keep)
    gone(store, kept)
    assert store.verify().corrupt == []
    gone(store, second)
    [sentence] = store.verify().corrupt
    assert f"{second} is missing" in sentence
    assert "referred to by aliases/weights/shoes/champion/00000002.json" in sentence
    gone(store, first)
    assert {sentence.split(" is missing")[0] for sentence in store.verify().corrupt} == {str(first), str(second)}


def test_missing_events_are_told_and_a_whole_history_by_the_run_that_made_it(store):
    for seed in range(4):
        aliases.promote(store.disk, publish(store, seed), "better")
    folder = "aliases/weights/shoes/champion"
    runs.record(store.disk, "older", {"weights": "weights/shoes@" + "0" * 16})
    runs.record(store.disk, "newer", {"decision": f"{folder}/00000004.json"})
    assert store.verify().corrupt == []
    for number in (1, 3):
        store.disk.remove(f"{folder}/{number:08d}.json")
    assert [sentence.partition(";")[0] for sentence in store.verify().corrupt] == [
        f"{folder}/{number:08d}.json is missing from the store {store.disk.root}, but is referred to by "
        f"{folder}/00000004.json"
        for number in (1, 3)
    ]
    remove(store.disk.local_path("aliases"))
    [sentence] = store.verify().corrupt
    assert f"{folder}/00000004.json is missing" in sentence
    assert "runs/newer.json" in sentence


def test_a_latest_history_that_is_gone_is_told_by_the_scoring_that_made_it(store):
    """The record is as flows/score.py writes it."""
    table = store.publish("predictions", "shop", {"a": b"1"}, settings={}, inputs={}, facts={})
    for _ in range(2):
        choice = Choice("promote", str(table), str(table), "newest")
        aliases.decide(store.disk, "predictions", "shop", "latest", lambda _, choice=choice: choice)
    produced = {"predictions": str(table)}
    decided = str(aliases.decision_on(store.disk, table, "latest"))
    runs.record(store.disk, "a-scoring", {**produced, "decision": decided})
    runs.record(store.disk, "a-trial", produced)
    assert store.verify().corrupt == []
    store.disk.remove("aliases/predictions/shop/latest/00000002.json")
    [sentence] = store.verify().corrupt
    assert "latest/00000002.json is missing" in sentence
    remove(store.disk.local_path("aliases"))
    [sentence] = store.verify().corrupt
    assert sentence.startswith("aliases/predictions/shop/latest/00000002.json is missing from the store")
    assert "referred to by runs/a-scoring.json" in sentence


def test_a_run_that_says_nonsense_is_told(store):
    runs.record(store.disk, "odd", {"decision": "../../etc/passwd"})
    assert "../../etc/passwd is missing" in store.verify().corrupt[0]


def test_what_can_not_be_asked_for_is_not_called_missing(store):
    """A folder that this user may not look into, say."""
    aliases.promote(store.disk, publish(store, 1), "first")
    runs.record(store.disk, "newer", {"decision": "aliases/weights/shirts/champion/00000001.json"})
    folder = store.disk.local_path("aliases/weights/shirts")
    folder.symlink_to(folder.name)  # even root can't
    with pytest.raises(StoreError, match=r"can't read aliases/weights/shirts/champion/00000001.json in "):
        store.verify()


def test_the_command_ends_with_1_and_the_same_keys(store, lookbook):
    ref = publish(store, 1)
    aliases.promote(store.disk, ref, "first")
    gone(store, ref)
    run = lookbook("verify", "--json")
    assert run.returncode == 1
    found = json.loads(run.stdout)
    assert found.keys() == {"checked", "corrupt", "error", "kind", "exit"}
    assert (found["kind"], found["exit"]) == ("Corrupt", 1)
    assert f"{ref} is missing" in found["corrupt"][0]


def test_rollback_refuses_what_is_gone_or_damaged_and_says_what_can_be_done(store, lookbook):
    first, second, third = (publish(store, seed) for seed in range(3))
    for ref in (first, second, third):
        aliases.promote(store.disk, ref, "better")
    damage(store.open(second).path("weights.safetensors"), b"other")
    told = complaint(lookbook("rollback", "shoes"))
    assert f"can't go back to {second}, the champion before: " in told
    assert "weights.safetensors is damaged" in told
    assert "is damaged" in complaint(lookbook("promote", second, "--reason", "again"))
    gone(store, second)
    told = complaint(lookbook("rollback", "shoes"))
    assert f"can't go back to {second}, the champion before: {second} is not in the store" in told
    command = f"lookbook promote {first} --reason ..."
    assert command in told
    assert answer(lookbook("promote", first, "--reason", "the second is gone", "--json"))["ref"] == str(first)
    assert answer(lookbook("rollback", "shoes", "--json"))["ref"] == str(third)
    gone(store, first)
    told = complaint(lookbook("rollback"))
    assert f"{second} is not in the store" in told
    assert "lookbook promote" not in told  # no other one is left
    assert aliases.current(store.disk, "weights", "shoes", "champion") == third


@pytest.mark.parametrize("brought_along", [False, True])
def test_weights_whose_backbone_is_gone_become_champion_only_where_they_bring_it_along(store, lookbook, brought_along):
    below = [
        store.publish("backbones", name, {"weights.safetensors": b"1"}, settings={}, inputs={}, facts={})
        for name in ("one", "other")
    ]
    inputs = {"backbone": str(below[0]), "backbone-2": str(below[1])}
    facts = {"views": [weights.View(ref, 64).to_dict() for ref in below], "image_spec": {"height": 64}}
    facts["tensors"] = ["output/kernel", *(["backbone/stem/kernel"] if brought_along else [])]
    files = {"weights.safetensors": b"2"}
    first = store.publish("weights", "shoes", files, settings={}, inputs=inputs, facts=facts)
    for ref in (first, publish(store, 1)):
        aliases.promote(store.disk, ref, "better")
    gone(store, below[1])
    if brought_along:
        assert answer(lookbook("rollback", "shoes", "--json"))["ref"] == str(first)
        assert answer(lookbook("promote", first, "--reason", "again", "--json"))["ref"] == str(first)
    else:
        said = f"{below[1]} is not in the store"
        assert f"can't go back to {first}, the champion before: {said}" in complaint(lookbook("rollback", "shoes"))
        told = complaint(lookbook("promote", first, "--reason", "again"))
        assert said in told
        assert "lookbook backbone add" in told
