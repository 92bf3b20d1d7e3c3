"""pytest tests/test_remote_embedding.py: what a retraining hands to a cluster lies in the store as all else does, and
is its own. tests/test_cluster.py has the cluster."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from test_collecting import age, collect

from artifacts.collecting.collector import Collector
from artifacts.collecting.retention import Rules
from artifacts.documents import canonical
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref
from artifacts.settings import Settings
from tasks.cluster.errors import ClusterError
from tasks.cluster.sharing import shared_document, shared_plan
from tasks.preparing import remote
from tasks.shared import remote_embedding
from tasks.shared.embedding import View
from tasks.shared.listing import Entry
from tasks.shared.watching import Watch
from tasks.vision.images import ImageSpec

DATASET = Ref("datasets", "shoes", "0" * 16)
EMBEDDING = SimpleNamespace(
    backbone=SimpleNamespace(ref=Ref("backbones", "lite0", "1" * 16)), precision="float32", side=None
)
MISSING = [(View("train", False), np.arange(600)), (View("test", True), np.arange(20))]


def embed(store):
    remote_embedding.embed_on_cluster(Settings(), store, DATASET, EMBEDDING, MISSING, Watch())


@pytest.fixture
def at_work(monkeypatch):
    """What is done while a cluster embeds."""
    done = []

    def carry_out(_settings, work, numbers, _piece, _watch):
        assert list(numbers) == [0, 1, 2]
        done.pop(0)(work)
        return iter(())

    monkeypatch.setattr(remote_embedding, "carry_out", carry_out)
    return done


def batches(store, work):
    return shared_document(store.disk, work["batches"])["batches"]


def test_a_collection_beside_it(store, at_work):
    store.prepare()

    def collected(work):
        age(store, 30, "staging/plans")  # it takes its time
        assert collect(store).removed == []
        assert [len(each["items"]) for each in batches(store, work)] == [512, 88, 20]
        assert batches(store, work)[2] == {"side": "test", "mirrored": True, "items": list(range(20))}

    at_work.append(collected)
    embed(store)
    assert at_work == []
    assert list(store.disk.list("staging/plans")) == []
    assert list(store.disk.list("runs/living")) == []


def test_a_collection_beside_a_preparation(store, tmp_path, monkeypatch):
    """Its files wait for the cluster longer than a collection keeps what is new."""
    store.prepare()
    read = []

    def carry_out(_settings, work, numbers, _piece, _watch):
        age(store, 30, "staging/plans")
        assert collect(store).removed == []
        read.append(shared_plan(store.disk, work["plan"]).rows)
        return iter(())

    monkeypatch.setattr(remote, "carry_out", carry_out)
    settings = Settings(image_roots={"root": tmp_path}, cluster="local")
    entries = [Entry(b"%d.png" % each, 1, 1, True) for each in range(3)]
    remote.read_on_cluster(settings, store, "root:", entries, ImageSpec(8, 8, 3), {}, Watch())
    assert read == [3]
    assert list(store.disk.list("staging/plans")) == []
    assert list(store.disk.list("runs/living")) == []


def test_two_retrainings_that_embed_the_same(store, at_work):
    store.prepare()
    at_work.append(lambda work: (embed(store), batches(store, work)))
    at_work.append(lambda work: batches(store, work))
    embed(store)
    assert at_work == []


def test_what_an_earlier_lookbook_left_there_keeps_no_collection_from_its_work(store):
    store.prepare()
    key = f"staging/plans/{'a' * 64}.json"
    store.disk.create(key, canonical({"batches": [{"side": "train", "mirrored": False, "items": [1]}]}))
    assert Collector(store, Rules()).plan().removed == []
    age(store, 30)
    collect(store)
    assert not store.disk.exists(key)


@pytest.mark.parametrize("content", [b"{}", b"", canonical({"batches": [], "records": ["a"]}), b'{"batches": [1'])
def test_a_damaged_plan_still_stops_a_collection(store, content):
    store.prepare()
    store.disk.create("staging/plans/a.json", content)
    with pytest.raises(Corrupt, match=r"staging/plans/a.json is damaged"):
        Collector(store, Rules()).plan()


def test_a_document_that_is_damaged_or_not_there_is_not_used(store, at_work):
    store.prepare()

    def harmed(work):
        key = work["batches"]
        content = json.loads(store.disk.read(key))
        store.disk.replace(key, json.dumps({**content, "batches": []}).encode())
        with pytest.raises(Corrupt):
            batches(store, work)
        store.disk.remove(key)
        with pytest.raises(ClusterError, match="found another one, or none"):
            batches(store, work)
        with pytest.raises(NotFound):
            store.disk.read(key)

    at_work.append(harmed)
    embed(store)
