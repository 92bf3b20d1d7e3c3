"""The program that hands out a work on a Ray cluster: Ray's driver, in a process of its own.

Ray prints to standard output, takes over signals and ends its process when it loses the cluster: none of that should
happen to a run. `tasks.cluster.conducting` starts this with a task on its standard input, reads a JSON value a line,
and ends it by closing that input. Through Ray travel numbers and receipts; all else goes through the store.
"""

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from json import dumps, loads
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tasks.cluster.actor import Worker
from tasks.cluster.handing import Handing
from tasks.cluster.likeness import differences

_MOST_PROCESSORS = 8  # an actor has: one thread of it feeds all decoders
_OBJECT_STORE_BYTES = 75 << 20  # the least that Ray takes; nothing is put there
_CONNECT_SECONDS = 10.0
_TURN_SECONDS = 0.5
_LOOK_SECONDS = 1.0  # between two looks at an actor's progress
_NODES_SECONDS = 5.0  # between two looks at the cluster's nodes
_NO_LOOKBOOK = "Lookbook is not installed there, or is another version: install the same on every node"
_SILENT_SECONDS = 120.0  # after which a call that should take a second is given up: Ray's can hang (2.60)
_STRIKES = 3  # failures without a result between them, after which an actor is not asked any more
_TRIES = 5  # of a piece; more than _STRIKES, as whatever kills actors may meet the same one again by chance


class CannotGoOn(Exception):
    """The work has to end. kind: of the failure, as the parent tells them."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass
class Hand:
    """An actor, and what it is at.

    name: of its node, as people know it; node: as Ray does.
    doing: `facts`, `look`, `do` or nothing, and the call under way.
    """

    key: str
    name: str
    node: str
    actor: Any
    since: float
    doing: str = "facts"
    call: Any = None
    progress: Any = None
    looked_at: float = 0.0
    pid: int = 0
    in_hand: list[int] = field(default_factory=lambda: [0, 0, 0])
    strikes: int = 0
    rests_until: float = 0.0
    started: float | None = None
    rows: int = 0


class Conductor:
    """Hands out the pieces of a task until all are done."""

    def __init__(self, task: dict[str, Any], tell: Any, ended: threading.Event) -> None:
        self._task, self._tell, self._ended = task, tell, ended
        self._not_started = (
            f"its actor did not start in {task['ready_seconds']:g} s: are its processors in use, or its memory full?"
        )
        self._handing = Handing(task["numbers"])
        self._hands: dict[str, Hand] = {}
        self._refused: dict[str, str] = {}
        self._kind = "cluster"  # of the last failure
        self._done = [0, 0, 0]
        self._nodes_at = self._told_at = 0.0
        self._turned_at = time.monotonic()

    def run(self) -> None:
        """Raises CannotGoOn."""
        while self._handing.is_open and not self._ended.is_set():
            self._turned_at = time.monotonic()
            self._look_at_nodes()
            self._hand_out()
            calls = {hand.call: hand for hand in self._hands.values() if hand.call is not None}
            looks = {hand.progress: hand for hand in self._hands.values() if hand.progress is not None}
            ready, _ = ray.wait([*calls, *looks], num_returns=1, timeout=_TURN_SECONDS) if calls else ([], [])
            for each in ready:
                if each in calls:
                    self._take_answer(calls[each])
                else:
                    self._take_progress(looks[each])
            self._look_at_hands()
            if time.monotonic() - self._told_at > _LOOK_SECONDS:
                self._tell_progress()
            if not ready and not calls:
                time.sleep(_TURN_SECONDS)
        self._tell_progress()
        for hand in list(self._hands.values()):
            self._end(hand)

    def given_up(self) -> str | None:
        """Why nothing more can be hoped for, where Ray hangs. Asked by another thread."""
        if time.monotonic() - self._turned_at < _SILENT_SECONDS:
            return None
        late = [f"{hand.name}: {self._not_started}" for hand in list(self._hands.values()) if hand.doing == "facts"]
        reasons = "; ".join(sorted(late)) or "it does not answer any more"
        return f"expected an answer of the cluster within {_SILENT_SECONDS:g} s, found none: {reasons}"

    def _look_at_nodes(self) -> None:
        """Have actors on every node that is alive, and none on those that are not."""
        now = time.monotonic()
        if self._nodes_at and now - self._nodes_at < _NODES_SECONDS:
            return
        first, self._nodes_at = not self._nodes_at, now
        alive = {str(each["NodeID"]): each for each in ray.nodes() if each["Alive"]}
        for hand in [each for each in self._hands.values() if each.node not in alive]:
            self._lose(hand, "the node is gone")
        names = Counter(_called(each) for each in alive.values())
        for node, each in alive.items():
            name = _called(each) if names[_called(each)] == 1 else f"{_called(each)} ({node[:6]})"
            processors = int(each["Resources"].get("CPU", 0))
            actors = -(-processors // _MOST_PROCESSORS)
            for place in range(actors):
                key = f"{node} {place}"
                if key not in self._hands and key not in self._refused:
                    self._start(key, name, node, processors // actors)
        if first:
            found = Counter(hand.name for hand in self._hands.values())
            told = (f"{name} ({count} actors)" if count > 1 else name for name, count in sorted(found.items()))
            self._tell({"say": f"nodes of the cluster that work: {', '.join(told)}"})
        if not self._hands:
            reasons = "; ".join(sorted(set(self._refused.values()))) or "no node with a processor for an actor"
            raise CannotGoOn(self._kind, f"expected a node that can do the work, found none: {reasons}")

    def _start(self, key: str, name: str, node: str, processors: int) -> None:
        actor = (
            ray.remote(Worker)
            .options(
                num_cpus=processors,
                max_restarts=-1,
                max_task_retries=3,
                max_concurrency=2,  # `progress` answers beside `do`
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote(self._task["work"], processors)
        )
        hand = Hand(key, name, node, actor, time.monotonic())
        hand.call = actor.facts.remote()
        self._hands[key] = hand

    def _hand_out(self) -> None:
        now = time.monotonic()
        resting = [hand for hand in self._hands.values() if not hand.doing and now >= hand.rests_until]
        for hand in resting:
            if numbers := self._handing.give(hand.key, len(self._hands)):
                hand.doing, hand.call = "do", hand.actor.do.remote(numbers)
                hand.started = hand.started or now

    def _take_answer(self, hand: Hand) -> None:
        call, doing = hand.call, hand.doing
        hand.call, hand.doing = None, ""
        try:
            answer = ray.get(call)
        except ray.exceptions.RayError as error:
            self._failed(hand, "died", _reason(error))
            if doing != "do" and hand.key in self._hands:  # `do` makes the work anew by itself
                hand.doing, hand.call = doing, getattr(hand.actor, doing).remote()
            return
        if doing == "facts":
            if other := differences(self._task["likeness"], answer["likeness"]):
                self._refuse(hand, f"it has {', '.join(other)}: its rows could be others than this machine's")
            else:
                hand.pid = answer["pid"]
                hand.doing, hand.call = "look", hand.actor.look.remote()
            return
        self._take_receipts(hand, answer.get("receipts", ()))
        if "failed" in answer and doing == "look":
            self._refuse(hand, answer["text"])
        elif "failed" in answer:
            self._failed(hand, answer["failed"], answer["text"])

    def _take_progress(self, hand: Hand) -> None:
        call, hand.progress = hand.progress, None
        with contextlib.suppress(ray.exceptions.RayError):  # the call under way tells more of it
            answer = ray.get(call)
            if hand.pid and answer["pid"] != hand.pid:
                self._tell({"warn": f"{hand.name}: its process ended{self._at(hand)}, and Ray has started another"})
            hand.pid, hand.in_hand = answer["pid"], answer["in_hand"]
            self._take_receipts(hand, answer["receipts"])

    def _take_receipts(self, hand: Hand, receipts: Any) -> None:
        for number, receipt in receipts:
            hand.strikes = 0
            if self._handing.done(number):
                hand.rows += receipt["rows"]
                for place, what in enumerate(("rows", "errors", "reused")):
                    self._done[place] += receipt[what]
                self._tell({"done": number, "receipt": receipt, "node": hand.name})

    def _look_at_hands(self) -> None:
        now = time.monotonic()
        for hand in list(self._hands.values()):
            if hand.doing == "do" and hand.progress is None and now - hand.looked_at > _LOOK_SECONDS:
                hand.looked_at, hand.progress = now, hand.actor.progress.remote()
            if hand.doing == "facts" and now - hand.since > self._task["ready_seconds"]:
                self._kind = "lost"  # others may be done with it later
                self._refuse(hand, self._not_started)

    def _failed(self, hand: Hand, kind: str, text: str) -> None:
        """An actor failed: it rests, or is let go; what it had in hand is others'."""
        at, self._kind = self._at(hand), kind
        self._tell({"warn": f"{hand.name}{at}: {text}"})
        number = self._handing.take_back(hand.key)
        hand.in_hand, hand.strikes = [0, 0, 0], hand.strikes + 1
        if number is not None and self._handing.failed(number) >= _TRIES:
            raise CannotGoOn(kind, f"{hand.name}{at}, after {_TRIES} tries: {text}")
        if hand.strikes >= _STRIKES:
            self._refuse(hand, text)
        else:
            hand.rests_until = time.monotonic() + 2.0 * hand.strikes

    def _refuse(self, hand: Hand, why: str) -> None:
        """Do without an actor for the rest of the work."""
        self._refused[hand.key] = f"{hand.name}: {why}"
        self._tell({"warn": f"{hand.name} is left out: {why}"})
        self._end(hand)

    def _lose(self, hand: Hand, why: str) -> None:
        self._tell({"warn": f"{hand.name}{self._at(hand)}: {why}; others do what it had in hand"})
        self._end(hand)

    def _end(self, hand: Hand) -> None:
        self._handing.take_back(hand.key)
        del self._hands[hand.key]
        with contextlib.suppress(Exception):
            ray.kill(hand.actor, no_restart=True)
        if not self._hands and self._handing.is_open and not self._ended.is_set():
            self._nodes_at = 0.0  # look at once whether there are others

    def _at(self, hand: Hand) -> str:
        numbers = self._handing.in_hand(hand.key)
        return f", at {self._task['piece']} {numbers[0] + 1}" if numbers else ""

    def _tell_progress(self) -> None:
        now = self._told_at = time.monotonic()
        at_work = [hand.in_hand for hand in self._hands.values() if self._handing.is_first(hand.key)]
        in_hand = [sum(column) for column in zip(*at_work, strict=True)]
        rates: Counter[str] = Counter()
        for hand in self._hands.values():
            if hand.started:
                rates[hand.name] += round((hand.rows + hand.in_hand[0]) / max(now - hand.started, 1e-9))
        done = [a + b for a, b in zip(self._done, in_hand or [0, 0, 0], strict=True)]
        self._tell({"done_so_far": done, "rates": dict(rates)})


@contextlib.contextmanager
def connected(cluster: str) -> Iterator[None]:
    """Ray, connected to `cluster`: `local`, `auto` or `ray://host:port`. Raises CannotGoOn."""
    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    with contextlib.ExitStack() as stack:
        try:
            if cluster == "local":
                folder = tempfile.mkdtemp(prefix="lookbook-ray-")  # only this user's
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                ray.init(
                    address="local",
                    include_dashboard=False,
                    num_cpus=len(os.sched_getaffinity(0)),
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=folder,
                    **common,
                )
            else:
                if cluster != "auto":
                    _have_token()
                    _check_listens(cluster)
                try:
                    ray.init(address=cluster, **common)
                except ConnectionAbortedError:  # the process that Ray forks for a client sometimes dies at once (2.60)
                    ray.init(address=cluster, **common)
        except CannotGoOn:
            raise
        except Exception as error:
            expected = (
                "a Ray cluster of this machine" if cluster in ("auto", "local") else f"a Ray cluster at {cluster}"
            )
            raise CannotGoOn(
                "cluster",
                f"expected {expected} (LOOKBOOK_CLUSTER), with Ray {ray.__version__} and Python "
                f"{sys.version.split()[0]}, found: {_shortened(error)}",
            ) from None
        stack.callback(ray.shutdown)
        yield


def _have_token() -> None:
    """Without this Ray's client sends no token, though its cluster asks for one (Ray 2.60)."""
    token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    with contextlib.suppress(RuntimeError):
        if token or (Path.home() / ".ray" / "auth_token").exists():
            os.environ.setdefault("RAY_AUTH_MODE", "token")


def _check_listens(cluster: str) -> None:
    where = urlsplit(cluster)
    try:
        with socket.create_connection((where.hostname, where.port or 10001), _CONNECT_SECONDS):
            return
    except OSError as error:
        raise CannotGoOn(
            "cluster",
            f"expected a Ray cluster at {cluster} (LOOKBOOK_CLUSTER), found: {error.strerror or error}; start it there "
            "(ray start --head)",
        ) from None


def _called(node: dict[str, Any]) -> str:
    """As it was named (ray start --node-name), or else its host's name."""
    name, address = str(node.get("NodeName") or ""), str(node["NodeManagerAddress"])
    return name if name and name != address else str(node["NodeManagerHostname"])


def _shortened(error: Exception) -> str:
    """The text of an error, and of a traceback in it the end."""
    text = str(error).strip()
    return " ".join((text.splitlines()[-1] if "Traceback" in text else text).split())[:500]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "No module named" in text or "failed to import" in text:
        return _NO_LOOKBOOK
    if isinstance(error, ray.exceptions.ActorUnschedulableError):
        return "the node is gone"
    return (
        "its process ended: it was killed, maybe by Ray as the node's memory was full, as Ray's logs there tell "
        f"({type(error).__name__})"
    )


def _watch(conductor: Conductor, tell: Any) -> None:
    """End this process when Ray hangs; what it has started ends with it."""
    while (why := conductor.given_up()) is None:
        time.sleep(_LOOK_SECONDS)
    tell({"failed": "lost", "text": why})
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Read a task, hand it out, and tell."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what Ray prints is no answer
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    task = loads(sys.stdin.readline())
    ended, lock = threading.Event(), threading.Lock()

    def tell(value: dict[str, Any]) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            out.write(dumps(value) + "\n")

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()
        time.sleep(5)
        os.kill(os.getpid(), signal.SIGKILL)  # Ray hangs, and ends what it has started when this process does

    threading.Thread(target=wait_for_end, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        with connected(task["cluster"]):
            conductor = Conductor(task, tell, ended)
            threading.Thread(target=_watch, args=(conductor, tell), daemon=True).start()
            conductor.run()
            tell({"end": True})  # before Ray ends, which takes a second
    except CannotGoOn as error:
        tell({"failed": error.kind, "text": str(error)})
    except ModuleNotFoundError as error:  # Ray's client has the head node read what an actor is
        tell({"failed": "cluster", "text": f"the head node of the Ray cluster: {_NO_LOOKBOOK} ({error})"})
    except (ConnectionError, ray.exceptions.RayError) as error:
        tell({"failed": "lost", "text": f"the connection to the Ray cluster was lost: {_shortened(error)}"})


if __name__ == "__main__":
    main()
