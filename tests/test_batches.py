"""pytest tests/test_batches.py: the order, the rates and the flips of an epoch, and chunks of bounded size."""

import dataclasses

import numpy as np
import pytest

from tasks.vision.batches import learning_rates, make_chunks, shuffle_epoch
from tasks.vision.recipes import TrainingSettings, settings_for


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize(("items", "size"), [(300, 16), (299, 16), (16, 16), (17, 16), (5000, 3), (1, 1)])
def test_every_item_once_an_epoch_the_short_batch_included(items, size, lanes):
    settings = TrainingSettings(batch_size=size, epochs=3)
    some = np.arange(items) * 3
    orders = []
    for epoch in (1, 2):
        batches = shuffle_epoch(some, settings, epoch, lanes)
        assert batches.order.shape[1] % lanes == 0
        assert np.isin(batches.order, some).all()  # padding, too: statistics are of real images
        order = [item for batch, count in zip(batches.order, batches.counts, strict=True) for item in batch[:count]]
        assert sorted(order) == some.tolist()
        orders.append(order)
    assert items < 10 or orders[0] != orders[1]


def test_an_image_is_mirrored_by_seed_epoch_and_index_whoever_is_beside_it():
    settings = settings_for("conv", batch_size=10)

    def flips(items, **change):
        batches = shuffle_epoch(
            np.asarray(items), dataclasses.replace(settings, **change.pop("settings", {})), **change
        )
        return dict(zip(batches.order.ravel().tolist(), batches.flips.ravel().tolist(), strict=True))

    all_of_them = flips(range(1000), epoch=1)
    assert 400 < sum(all_of_them.values()) < 600
    few = flips(range(0, 1000, 7), epoch=1)
    assert few == {item: all_of_them[item] for item in few}
    assert flips(range(1000), epoch=2) == {item: not flipped for item, flipped in all_of_them.items()}, "in turn"
    assert all_of_them == flips(range(1000), epoch=3) != flips(range(1000), epoch=1, settings={"seed": 1})


def test_an_image_is_moved_by_seed_epoch_and_index_and_its_edge_goes_on():
    images = np.random.default_rng(0).integers(1, 256, (50, 5, 4, 3), dtype=np.uint8)
    settings = settings_for("conv", batch_size=10, augmentation="none", epochs=2)
    items = np.arange(0, 50, 2)
    chunks = list(make_chunks(images, np.zeros(50, np.int32), items, settings, shifted=2))
    seen = set()
    for epoch, chunk in zip((1, 2), chunks, strict=True):
        batches = shuffle_epoch(items, settings, epoch, shifted=2)
        assert batches.shifts.shape == (3, 10, 2)
        order, shifts = batches.order.reshape(-1), batches.shifts.reshape(-1, 2)
        moved = chunk.images.numpy()[:3].reshape(-1, 5, 4, 3)
        for found, item, (down, right) in zip(moved, order, shifts, strict=True):
            padded = np.pad(images[item], ((2, 2), (2, 2), (0, 0)), mode="edge")
            assert (found == padded[2 - down : 7 - down, 2 - right : 6 - right]).all()
            seen.add((down, right))
        every = shuffle_epoch(np.arange(50), settings, epoch, shifted=2)
        all_of_them = dict(zip(every.order.ravel().tolist(), every.shifts.reshape(-1, 2).tolist(), strict=True))
        assert [all_of_them[item] for item in order] == shifts.tolist(), "whoever is beside it"
    assert len(seen) > 15, "all of the 25, but for chance"


def test_a_square_covers_every_other_image_by_seed_epoch_and_index():
    images = np.random.default_rng(0).integers(1, 256, (50, 9, 8, 3), dtype=np.uint8)
    settings = settings_for("conv", batch_size=10, augmentation="none", epochs=4)
    items = np.arange(0, 50, 2)
    chunks = list(make_chunks(images, np.zeros(50, np.int32), items, settings, covered=3))
    whole = places = 0
    for epoch, chunk in enumerate(chunks, start=1):
        batches = shuffle_epoch(items, settings, epoch, covered=True)
        order, middles = batches.order.reshape(-1), batches.covers.reshape(-1, 2)
        seen = chunk.images.numpy()[:3].reshape(-1, 9, 8, 3)
        for found, item, (down, right) in zip(seen, order, middles, strict=True):
            if down < 0:
                whole += 1
                assert (found == images[item]).all()
                continue
            top, left = round(down * 9 - 1.5), round(right * 8 - 1.5)
            expected = images[item].copy()
            expected[max(top, 0) : top + 3, max(left, 0) : left + 3] = 0
            assert (found == expected).all()
            assert (found == 0).any()
            places += 1
        every = shuffle_epoch(np.arange(50), settings, epoch, covered=True)
        all_of_them = dict(zip(every.order.ravel().tolist(), every.covers.reshape(-1, 2).tolist(), strict=True))
        assert [all_of_them[item] for item in order] == middles.tolist(), "whoever is beside it"
    assert 35 < whole < 85
    assert whole + places == 4 * 30, "the padding, too"


def rates_of(settings, batches):
    return np.concatenate([learning_rates(settings, batches, epoch) for epoch in range(1, settings.epochs + 1)])


def test_the_rate_falls_linearly_to_zero_or_stays():
    rates = rates_of(TrainingSettings(epochs=4, learning_rate=0.2), batches=25)
    assert rates[[0, 50, 99]] == pytest.approx([0.2, 0.1, 0.002])
    assert set(rates_of(TrainingSettings(schedule="constant"), 10)) == {np.float32(0.1)}


def test_one_cycle_rises_for_a_fifth_and_falls_to_zero():
    rates = rates_of(TrainingSettings(epochs=10, learning_rate=0.5, schedule="one-cycle"), batches=10)
    assert rates.max() == pytest.approx(0.5, rel=0.05)
    assert 18 <= rates.argmax() <= 20
    assert (np.diff(rates[:19]) > 0).all()
    assert (np.diff(rates[21:]) < 0).all()
    assert 0 < rates[-1] < 0.02
    assert 0 < rates[0] < 0.05


def test_large_images_come_in_small_chunks(shapes):
    """So that memory is a few MiB and not a hundred batches, whatever the images are."""
    images = np.zeros((40, 200, 200, 3), np.uint8)
    settings = settings_for("conv", batch_size=8)
    chunks = make_chunks(images, np.zeros(40, np.int32), np.arange(40), settings)
    assert next(chunks).images.shape == (5, 8, 200, 200, 3)
    assert (
        next(make_chunks(images[:, :28, :28, :1], np.zeros(40, np.int32), np.arange(40), settings)).images.shape[0]
        == 100
    )
