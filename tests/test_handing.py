"""pytest tests/test_handing.py: who does which piece of a work, whatever ends, and what makes machines alike."""

import random

import pytest

from artifacts.settings import Settings
from tasks.cluster.conducting import check_cluster, shared_environment
from tasks.cluster.errors import ClusterError
from tasks.cluster.handing import Handing
from tasks.cluster.likeness import differences, likeness


def test_each_piece_is_handed_out_once_while_there_are_others():
    handing, given = Handing(range(100)), []
    while len(given) < 100:
        given += handing.give("a", 2)
    assert sorted(given) == list(range(100))


def test_hands_are_full_at_the_beginning_and_small_at_the_end():
    handing = Handing(range(1000))
    sizes = [len(handing.give("ab"[turn % 2], 2)) for turn in range(100)]
    assert sizes[0] == 32
    assert sizes == sorted(sizes, reverse=True)
    assert 1 in sizes


def test_what_a_lost_worker_had_in_hand_waits_again_in_front():
    handing = Handing(range(10))
    first = handing.give("a", 2)
    assert first == [0, 1]
    handing.done(0)
    assert handing.take_back("a") == 1
    assert handing.give("b", 2)[0] == 1


def test_the_last_pieces_are_given_twice_and_counted_once():
    handing = Handing(range(8))
    held = handing.give("slow", 1)
    copies = handing.give("quick", 2)
    assert held == list(range(8))
    assert copies == [4, 5, 6, 7]
    assert not handing.is_first("quick")
    assert [handing.done(number) for number in copies] == [True] * 4
    assert handing.in_hand("slow") == [0, 1, 2, 3]
    assert [handing.done(number) for number in held] == [True] * 4 + [False] * 4
    assert not handing.is_open


def test_a_lost_copy_is_no_more_than_that():
    handing = Handing(range(4))
    handing.give("slow", 1)
    assert handing.give("quick", 2) == [2, 3]
    handing.take_back("quick")
    assert handing.give("other", 2) == [2, 3], "a copy may be given again, nothing else waits"


@pytest.mark.parametrize("seed", range(20))
def test_whoever_is_lost_all_pieces_are_done(seed):
    chance, handing = random.Random(seed), Handing(range(200))
    done: set[int] = set()
    for _ in range(10_000):
        worker = chance.choice("abcd")
        if chance.random() < 0.2:
            handing.take_back(worker)
        elif not (hand := handing.in_hand(worker)):
            handing.give(worker, 4)
        elif handing.done(hand[0]):
            done.add(hand[0])
        if not handing.is_open:
            break
    assert done == set(range(200))


def test_machines_that_differ_are_told_by_what_differs():
    ours = dict(likeness())
    assert differences(ours, ours) == []
    theirs = {**ours, "Pillow": "1.1.7", "the processor's instructions": "avx sse"}
    found = differences({**ours, "the processor's instructions": "avx avx2 sse"}, theirs)
    assert found == [
        f"Pillow 1.1.7 instead of {ours['Pillow']}",
        "the processor's instructions none more instead of avx2",
    ]
    assert {"Lookbook's code", "Python", "TensorFlow", "NumPy", "Pillow", "pyarrow", "zlib"} <= set(ours)


def test_what_machines_share_is_no_secret_of_one(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    settings = Settings(store="s3://shop/lookbook", store_options={"endpoint": "http://here"}, max_image_bytes=7)
    assert shared_environment(settings) == {
        "LOOKBOOK_STORE": "s3://shop/lookbook",
        "LOOKBOOK_STORE_OPTIONS": '{"endpoint": "http://here"}',
        "LOOKBOOK_MAX_IMAGE_BYTES": "7",
        "LOOKBOOK_MAX_IMAGE_PIXELS": str(settings.max_image_pixels),
        "LOOKBOOK_MAX_IMAGE_SECONDS": str(settings.max_image_seconds),
    }


def test_a_cluster_without_ray_says_what_to_install(monkeypatch):
    monkeypatch.setattr("tasks.cluster.conducting.find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r"found none; install it: pip install 'lookbook\[cluster\]'"):
        check_cluster(Settings(cluster="local"))


@pytest.mark.parametrize("value", ["ray", "http://host:1", "ray://", "ray://host/path", "ray://a b"])
def test_addresses_of_clusters_are_checked(value):
    with pytest.raises(ValueError, match="cluster"):
        Settings(cluster=value)


def test_a_cluster_that_does_not_answer_is_given_up(monkeypatch):
    """Ray's own calls can hang; then a thread ends the program with what is known."""
    from tasks.cluster import conductor as module

    conductor = module.Conductor({"numbers": [0], "ready_seconds": 60.0}, None, None)
    assert conductor.given_up() is None
    monkeypatch.setattr(module, "_SILENT_SECONDS", 0.0)
    assert conductor.given_up().endswith("within 0 s, found none: it does not answer any more")
    for doing, name in (("do", "ann"), ("facts", "bob")):
        conductor._hands[name] = module.Hand(name, name, name, None, 0.0, doing)
    assert "found none: bob: its actor did not start in 60 s" in conductor.given_up()
