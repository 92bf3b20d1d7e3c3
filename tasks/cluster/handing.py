"""Who does which piece of a work: handed out a few at a time, taken back when somebody is lost, the last ones twice."""

from collections import Counter, deque
from collections.abc import Iterable

_MOST = 32  # pieces in one hand: what nobody else begins until the end


class Handing:
    """The pieces of a work, known by numbers, and the workers that have them in hand, known by names."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._open = dict.fromkeys(numbers)
        self._waiting = deque(self._open)
        self._hands: dict[str, list[int]] = {}
        self._given_twice: set[int] = set()
        self._failures: Counter[int] = Counter()

    @property
    def is_open(self) -> bool:
        """Whether a piece is not done yet."""
        return bool(self._open)

    def give(self, worker: str, workers: int) -> list[int]:
        """Pieces for a worker that has none in hand; `workers`: how many share what waits.

        Where nothing waits any more, some of the last pieces of whoever has most of them: that worker may be slow.
        None where there are none that it could do.
        """
        count = len(self._waiting) if workers == 1 else len(self._waiting) // (2 * workers)
        given: list[int] = []
        while self._waiting and len(given) < min(max(count, 1), _MOST):
            number = self._waiting.popleft()
            if number in self._open:
                given.append(number)
        given = given or self._second_copies(worker)
        self._hands[worker] = given
        return given

    def done(self, number: int) -> bool:
        """Note that a piece is done; whether it was not before."""
        if number not in self._open:
            return False
        del self._open[number]
        return True

    def in_hand(self, worker: str) -> list[int]:
        """The pieces of a worker that are not done, in the order in which it does them."""
        return [number for number in self._hands.get(worker, ()) if number in self._open]

    def is_first(self, worker: str) -> bool:
        """Whether a worker has pieces in hand that nobody had before it."""
        return any(number not in self._given_twice for number in self.in_hand(worker))

    def take_back(self, worker: str) -> int | None:
        """What a worker had in hand waits again, at the front. Returns the piece that it was at."""
        left = self.in_hand(worker)
        self._hands.pop(worker, None)
        elsewhere = {number for hand in self._hands for number in self.in_hand(hand)}
        self._waiting.extendleft(number for number in reversed(left) if number not in elsewhere)
        self._given_twice.difference_update(left)
        return left[0] if left else None

    def failed(self, number: int) -> int:
        """Note that work on a piece failed. Returns how often it has."""
        self._failures[number] += 1
        return self._failures[number]

    def _second_copies(self, worker: str) -> list[int]:
        slowest = max((hand for hand in self._hands if hand != worker), key=self._once, default=None)
        left = [] if slowest is None else [each for each in self.in_hand(slowest) if each not in self._given_twice]
        copies = left[len(left) // 2 :]
        self._given_twice.update(copies)
        return copies

    def _once(self, worker: str) -> int:
        """How many pieces nobody but this worker has."""
        return sum(number not in self._given_twice for number in self.in_hand(worker))
