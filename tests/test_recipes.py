"""pytest tests/test_recipes.py: what settings a training has unless somebody says otherwise."""

import dataclasses

import pytest

from tasks.vision.errors import SettingsError
from tasks.vision.minutes import LEAST_EPOCHS, MOST_EPOCHS, NARROW, WIDE, WIDE_MINUTES
from tasks.vision.network import ARCHITECTURES
from tasks.vision.recipes import RECIPES, TrainingSettings, recommended, settings_for


def test_a_recipe_is_an_architectures_and_what_is_given_comes_first():
    assert settings_for("dense") == TrainingSettings()
    assert settings_for("conv", epochs=3, schedule=None) == dataclasses.replace(RECIPES["conv"], epochs=3)
    for architecture, recipe in RECIPES.items():
        assert recipe.architecture == architecture
        recipe.check()
    assert RECIPES.keys() == {*ARCHITECTURES, "transfer"}


def test_a_recipe_fits_the_data():
    sizes = {items: settings_for("conv", per_class=[items // 2] * 2).batch_size for items in (20, 500, 20_000)}
    assert sizes == {20: 20, 500: 32, 20_000: 256}
    assert settings_for("conv", per_class=[15, 15], validation=0.2).batch_size == 24, "the others are held out"
    assert settings_for("dense", per_class=[6000] * 10) == TrainingSettings()
    assert settings_for("conv", per_class=[500], batch_size=128).batch_size == 128, "what is given stays"
    large = {
        side: settings_for("conv", per_class=[20_000] * 2, pixels=side**2).batch_size for side in (64, 128, 256, 512)
    }
    assert large == {64: 256, 128: 256, 256: 64, 512: 16}, "what a batch takes is bounded"
    assert settings_for("conv", per_class=[500], pixels=512**2, batch_size=128).batch_size == 128
    assert settings_for("dense", per_class=[20_000] * 2, pixels=512**2) == TrainingSettings()
    assert [settings_for(each, pictures=True).inputs for each in RECIPES] == ["centered", "plain", "plain"]
    assert [settings_for("transfer", per_class=[each] * 10).validation for each in (20, 49, 50, 500)] == [
        0,
        0,
        0.1,
        0.1,
    ]
    assert settings_for("transfer", per_class=[20] * 10, validation=0.2).validation == 0.2


def test_photographs_of_ones_own_are_for_the_pretrained_network():
    assert [recommended(side) for side in (None, 28, 63, 64, 3000)] == ["dense"] * 3 + ["transfer"] * 2
    assert settings_for(pictures=True, pixels=288 * 288).architecture == "transfer"
    assert settings_for(pictures=True, pixels=32 * 32).architecture == settings_for().architecture == "dense"


def test_equal_trainings_keep_the_version_that_they_had_before_there_were_more_settings():
    assert settings_for("conv").to_dict().keys() & {"class_weights", "precision", "fine_tune"} == set()
    asked = settings_for("conv", class_weights="balanced", precision="float32").to_dict()
    assert (asked["class_weights"], asked["precision"]) == ("balanced", "float32")


def test_minutes_decide_how_long_and_how_wide_a_conv_learns():
    def of(minutes, items=6_000, pixels=28 * 28, **given):
        settings = settings_for("conv", per_class=[items] * 10, pixels=pixels, minutes=minutes, **given)
        return settings.epochs, settings.width

    assert of(None) == of(5) == (RECIPES["conv"].epochs, NARROW)
    assert of(10)[0] == pytest.approx(2 * of(5)[0], abs=1)
    assert of(WIDE_MINUTES - 1)[1] == NARROW < WIDE == of(WIDE_MINUTES)[1]
    assert of(5, pixels=28 * 28 * 2)[0] == pytest.approx(of(5)[0] / 2, abs=1)
    assert of(5, items=10)[0] == MOST_EPOCHS
    assert of(1, items=10**6)[0] == LEAST_EPOCHS
    assert of(30, epochs=3) == (3, WIDE), "what is given stays"


def test_equal_trainings_are_equal_whatever_their_minutes_were():
    one, other = (settings_for("conv", per_class=[10] * 10, pixels=784, minutes=each).to_dict() for each in (4, 5))
    assert one == other
    assert "minutes" not in one
    assert (one["width"], "width" in TrainingSettings().to_dict()) == (NARROW, False)


def test_only_transfer_is_fine_tuned():
    settings_for("transfer", fine_tune=2).check()
    with pytest.raises(SettingsError, match="expected the architecture transfer for fine-tuning, found conv"):
        settings_for("conv", fine_tune=2).check()
