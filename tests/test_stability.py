"""pytest tests/test_stability.py: two samples from one place are rarely called different, and different ones are.

`python tests/test_stability.py` simulates more, for docs/scoring.md.
"""

import numpy as np
import pytest

from tasks.vision.stability import LITTLE, MUCH, shift, stability_index

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


if __name__ == "__main__":
    main()
