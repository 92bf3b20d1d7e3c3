"""pytest tests/test_stability.py: two samples from one place are rarely called different, and different ones are.

`python tests/test_stability.py` simulates more, for docs/scoring.md.
"""

import numpy as np
import pytest

from tasks.vision.stability import LITTLE, MUCH, median_ratio, rise, shift, stability_index

pytestmark = pytest.mark.slow  # simulations

HUNDRED = "a hundred classes, a few of them often"
EQUAL = np.full(10, 0.1)
PLACES = {
    "ten equal classes": EQUAL,
    HUNDRED: 1 / np.arange(1, 101),
    "confidences, most of them near 1": np.array([0, 0, 0, 2, 10, 20, 30, 50, 88, 800]),
}
SIZES = (10, 20, 50, 100, 1_000, 10_000)
TEST_IMAGES = 10_000


def alarms(expected, found, size, draws, level=MUCH):
    """How many of the draws ring."""
    random = np.random.default_rng(size)
    shares = [place / place.sum() for place in (expected, found)]
    pairs = [(random.multinomial(TEST_IMAGES, shares[0]), random.multinomial(size, shares[1])) for _ in range(draws)]
    return sum(shift(*pair).above(level) for pair in pairs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "place", ["ten equal classes", pytest.param(HUNDRED, marks=pytest.mark.slow), "confidences, most of them near 1"]
)
def test_images_from_the_same_place_ring_in_at_most_five_of_a_hundred_draws(place, size):
    assert alarms(PLACES[place], PLACES[place], size, 100, LITTLE) <= 5


@pytest.mark.parametrize("size", [10, 20, 100, 1_000])
def test_pictures_of_three_of_ten_classes_ring(size):
    assert alarms(EQUAL, np.where(np.arange(10) < 3, 1, 0), size, 40) >= 38


@pytest.mark.parametrize("size", [20, 50, 1_000])
def test_a_model_that_is_much_less_sure_rings(size):
    sure = PLACES["confidences, most of them near 1"]
    assert alarms(sure, np.array([0, 0, 2, 10, 15, 15, 15, 13, 10, 20]), size, 40) >= 38


def test_equal_samples_give_equal_answers_and_the_sizes():
    expected, found = np.array([500, 300, 200]), np.array([5, 3, 12])
    told = shift(expected, found)
    assert told == shift(expected, found)
    assert told.sizes == (1000, 20)
    assert told.index == stability_index(expected, found) > told.chance > 0
    assert shift(expected, expected).index == 0


def test_samples_of_thousands_of_millions_can_be_compared():
    counts = np.array([2_000_000_000, 1_000_000_000])
    assert not shift(np.array([6_600, 3_400]), counts).above(LITTLE)
    assert shift(np.array([3_400, 6_600]), counts).above(MUCH)


def main():
    for place, shares in PLACES.items():
        for level in (LITTLE, MUCH):
            print(f"{place}, above {level}, of 300:", [alarms(shares, shares, size, 300, level) for size in SIZES])
    for size in (1_000, 100):
        for copies in (1, 2, 4):
            print(f"{size} pictures, each {copies} times, of 1,000:", copied(size, copies))


def copied(size, copies, tested=430, unsure=0.48):
    """How many tables of copied pictures have a rise and a shift without a reason, and how many above the limits."""
    random, found = np.random.default_rng(1), np.zeros(4, int)
    for _ in range(1_000):
        among = int(random.binomial(tested, unsure)), int(random.binomial(size, unsure)) * copies
        rose = rise((among[0], tested), (among[1], size * copies))
        expected, drawn = (np.bincount(random.integers(0, 10, items), minlength=10) for items in (tested, size))
        shifted = shift(expected, drawn * copies)
        found += [rose > 0, shifted.index > shifted.chance, rose > 0.1, shifted.above(MUCH)]
    return found.tolist()


if __name__ == "__main__":
    main()


@pytest.mark.parametrize("size", [60, 1_000])
@pytest.mark.parametrize(("tested", "unsure"), [(20, 0.31), (60, 0.4), (430, 0.48), (10_000, 0.02)])
def test_a_share_of_a_small_or_hard_set_seldom_rises_without_a_reason(tested, unsure, size):
    """One table in a hundred may; of 400 with the chance 0.01, more than 12 would be a rise in one of 10,000 tests."""
    random = np.random.default_rng(tested + size)
    pairs = [(int(random.binomial(tested, unsure)), int(random.binomial(size, unsure))) for _ in range(400)]
    assert sum(rise((hits, tested), (found, size)) > 0 for hits, found in pairs) <= 12


def test_a_share_that_rose_is_told_by_how_much():
    assert rise((44, 430), (300, 1_000)) == pytest.approx(0.3 - 44 / 430)
    assert rise((44, 430), (60, 1_000)) == 0, "it fell"
    assert rise((1, 5), (3, 5)) == 0, "so few may be chance"
    assert rise((20, 10_000), (2_000_000, 2_000_000_000)) == 0, "more than NumPy draws from"


@pytest.mark.parametrize(("tested", "size"), [(10, 60), (60, 200), (430, 200)])
def test_a_median_seldom_rises_without_a_reason(tested, size):
    random = np.random.default_rng(tested)
    samples = [(random.gamma(3, size=tested), random.gamma(3, size=size)) for _ in range(200)]
    assert sum(median_ratio(*pair) > 1 for pair in samples) <= 8
    far = [(random.gamma(3, size=tested), 2.5 * random.gamma(3, size=size)) for _ in range(20)]
    assert sum(median_ratio(*pair) > 1.5 for pair in far) >= 18
