"""pytest tests/test_publishing.py: what is published is never rewritten, however many publish it at once."""

import pytest
from published import damage

from artifacts.store import Store


def publish(store, who, rendered=None, name="x"):
    return store.publish(
        "datasets", name, {"train.arrow": b"1"}, rendered=rendered or (lambda: {"checks.json": who.encode()}),
        made={"who": who}, settings={}, inputs={}, facts={},
    )  # fmt: skip


@pytest.mark.parametrize("bucketed", [False, True])
def test_of_two_identical_runs_at_once_the_first_one_s_manifest_stays(store, request, bucketed):
    """The second looked before the first had committed."""
    if bucketed:
        store = Store(request.getfixturevalue("bucket"))
    manifests = []

    def drawn():
        ref = publish(Store(store.disk.root), "first")
        manifests.append(store.disk.read(f"{ref.folder}/manifest.json"))
        return {"checks.json": b"second"}

    ref = publish(store, "second", drawn)
    assert manifests == [store.disk.read(f"{ref.folder}/manifest.json")]
    assert store.open(ref).manifest["provenance"]["who"] == "first"
    assert store.open(ref).read("checks.json") == b"first"
    assert store.verify().corrupt == []


def test_a_manifest_that_two_find_damaged_is_written_by_the_first(store):
    ref = publish(store, "first")
    damage(store.disk.local_path(f"{ref.folder}/manifest.json"), b"{}")
    manifests = []

    def drawn():
        if not manifests:
            publish(Store(store.disk.root), "second")
            manifests.append(store.disk.read(f"{ref.folder}/manifest.json"))
        return {"checks.json": b"second"}

    publish(store, "third", drawn)
    assert manifests == [store.disk.read(f"{ref.folder}/manifest.json")]
    assert store.verify().corrupt == []
