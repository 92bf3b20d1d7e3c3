"""pytest tests/test_aliases.py"""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from artifacts import aliases
from artifacts.aliases import Choice
from artifacts.errors import Corrupt, NotFound
from artifacts.refs import Ref

A, B, C = (Ref("weights", "shoes", digit * 16) for digit in "abc")


def keep(store, champion, challenger):
    choice = Choice("keep", str(champion), str(challenger), "not better", {"accuracy": 0.5})
    return aliases.decide(store.disk, "weights", "shoes", "champion", lambda events: choice)


def champion(store):
    return aliases.current(store.disk, "weights", "shoes", "champion")


def rollback(store, reason):
    return aliases.rollback(store.disk, "shoes", reason, check=lambda ref: None)


def history(store):
    return aliases.history(store.disk, "weights", "shoes", "champion")


def test_every_decision_is_told(store):
    assert champion(store) is None
    aliases.promote(store.disk, A, "first")
    keep(store, A, B)
    aliases.promote(store.disk, C, "by hand")
    assert champion(store) == C
    assert [(event.number, event.action, event.ref, event.previous) for event in history(store)] == [
        (1, "promote", str(A), None),
        (2, "keep", str(A), str(A)),
        (3, "promote", str(C), str(A)),
    ]
    assert history(store)[1].challenger == str(B)
    assert history(store)[1].numbers == {"accuracy": 0.5}


def test_rollback_goes_back_one_reign_at_a_time(store):
    for ref in (A, B, C):
        aliases.promote(store.disk, ref, "next")
    keep(store, C, A)
    assert Ref.parse(rollback(store, "bad pictures").ref) == B
    assert Ref.parse(rollback(store, "worse").ref) == A
    with pytest.raises(NotFound, match="every other champion of shoes was withdrawn, so there is none to go back to"):
        rollback(store, "further")
    assert champion(store) == A
    assert len(history(store)) == 6


def test_what_was_withdrawn_is_not_gone_back_to(store):
    """A, B, A again; A is withdrawn, and so is B: the first reign of A is none to go back to."""
    for ref in (A, B, A):
        aliases.promote(store.disk, ref, "next")
    assert Ref.parse(rollback(store, "bad pictures").ref) == B
    assert aliases.withdrawn(history(store)).keys() == {str(A)}
    with pytest.raises(NotFound, match="every other champion of shoes was withdrawn, .*promote weights/shoes@"):
        rollback(store, "worse")
    aliases.promote(store.disk, A, "it was the pictures")
    assert aliases.withdrawn(history(store)) == {}
    assert Ref.parse(rollback(store, "no, it was not").ref) == B
    aliases.promote(store.disk, C, "another")
    assert Ref.parse(rollback(store, "no better").ref) == B
    assert aliases.withdrawn(history(store)).keys() == {str(A), str(C)}


def test_an_event_that_is_there_is_given_back_and_not_written_again(store):
    aliases.promote(store.disk, A, "first")
    event = aliases.promote(store.disk, B, "second")
    assert aliases.decide(store.disk, "weights", "shoes", "champion", lambda events: events[1]) == event
    assert len(history(store)) == 2
    assert store.disk.exists(aliases.event_key("weights", "shoes", "champion", 2))


def test_two_promotions_at_once_are_numbered_and_both_see_the_other(store):
    def promote(index):
        return aliases.promote(store.disk, (A, B, C)[index % 3], str(index)).number

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(promote, range(24)))
    assert sorted(numbers) == list(range(1, 25))
    events = history(store)
    assert all(event.previous == before.ref for before, event in itertools.pairwise(events))


def test_whoever_loses_the_race_decides_anew(store):
    seen = []

    def choose(events):
        seen.append(len(events))
        if len(seen) == 1:
            aliases.promote(store.disk, A, "quicker")
        return Choice("promote", str(B), str(B), f"after {len(events)}")

    event = aliases.decide(store.disk, "weights", "shoes", "champion", choose)
    assert seen == [0, 1]
    assert (event.number, event.previous, event.reason) == (2, str(A), "after 1")


def test_a_hole_in_the_history_is_named(store):
    for ref in (A, B, C):
        aliases.promote(store.disk, ref, "next")
    store.disk.remove("aliases/weights/shoes/champion/00000002.json")
    with pytest.raises(Corrupt, match=r"00000002\.json is missing"):
        champion(store)


def test_an_event_in_another_ones_place_is_refused(store):
    aliases.promote(store.disk, A, "first")
    store.disk.create(
        "aliases/weights/shoes/champion/00000002.json", store.disk.read("aliases/weights/shoes/champion/00000001.json")
    )
    with pytest.raises(Corrupt, match=r"00000002\.json is damaged: it holds event 1"):
        champion(store)


def test_a_decision_whose_answer_was_lost_is_written_once(store, monkeypatch):
    """NFS: the link was made, its answer was lost, and what is asked again finds the name taken."""
    link = os.link

    def lose(source, target):
        link(source, target)
        raise FileExistsError(17, "File exists")

    aliases.promote(store.disk, A, "first")
    monkeypatch.setattr(os, "link", lose)
    event = aliases.promote(store.disk, B, "better")
    assert history(store)[1:] == [event]
    assert event.number == 2


NOBODY_KNOWS = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
PROMOTE = """
import sys
from pathlib import Path
from artifacts import aliases
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store

assert Settings().cache.is_absolute()
print(aliases.promote(Store(Path(sys.argv[1])).disk, Ref.parse(sys.argv[2]), "because").by)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("home", [{}, {"HOME": "/"}])
def test_a_user_without_a_name_is_named_by_the_number(open_path, home):
    """As with `docker run --user 12345`."""
    (open_path / "store").mkdir()
    (open_path / "store").chmod(0o777)
    run = subprocess.run(
        [*NOBODY_KNOWS, sys.executable, "-c", PROMOTE, str(open_path / "store"), str(A)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **home},
    )
    assert run.stdout.startswith("12345@"), run.stderr


def test_the_decision_about_a_table_is_found(store):
    refs = [Ref("predictions", "shop", f"{number:016x}") for number in range(4)]

    def decide(action, ref, challenger):
        choice = Choice(action, str(ref), str(challenger), "why")
        aliases.decide(store.disk, "predictions", "shop", "latest", lambda _: choice)

    decide("promote", refs[0], refs[0])
    decide("promote", refs[1], refs[1])
    decide("keep", refs[1], refs[2])
    decide("promote", refs[0], refs[0])
    found = [aliases.decision_on(store.disk, ref, "latest") for ref in refs]
    folder = "aliases/predictions/shop/latest"
    assert found == [f"{folder}/00000004.json", f"{folder}/00000003.json", f"{folder}/00000003.json", None]
