"""pytest tests/test_recipes.py: what settings a training has unless somebody says otherwise."""

import dataclasses

import pytest

from tasks.vision.errors import SettingsError
from tasks.vision.minutes import LEAST_EPOCHS, MOST_EPOCHS, NARROW, WIDE, WIDE_MINUTES
from tasks.vision.network import ARCHITECTURES
from tasks.vision.recipes import (
    RECIPES,
    STEPS,
    TRAINING,
    TrainingSettings,
    recommended,
    settings_for,
    without_effect,
)


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
    assert settings_for("conv", per_class=[500], batch_size=128).batch_size == 128, "what is given stays"
    large = {
        side: settings_for("conv", per_class=[20_000] * 2, pixels=side**2).batch_size for side in (64, 128, 256, 512)
    }
    assert large == {64: 256, 128: 256, 256: 64, 512: 16}, "what a batch takes is bounded"
    assert settings_for("conv", per_class=[500], pixels=512**2, batch_size=128).batch_size == 128
    assert settings_for("dense", per_class=[20_000] * 2, pixels=512**2).batch_size == TrainingSettings().batch_size
    assert [settings_for(each, pictures=True).inputs for each in RECIPES] == ["centered", "plain", "plain"]


@pytest.mark.parametrize("architecture", ["dense", "conv"])
def test_a_tenth_but_two_thousand_images_at_most_are_held_out_to_make_confidence_true(architecture):
    shares = {items: settings_for(architecture, per_class=[items // 10] * 10).validation for items in _SIZES}
    assert shares == dict(zip(_SIZES, (0, 0, 0.1, 0.1, 0.033, 0.002), strict=True))
    assert settings_for(architecture).validation == 0, "nobody knows yet how many there are"
    given = [settings_for(architecture, per_class=[600] * 10, validation=each).validation for each in (0, 0.2)]
    assert given == [0, 0.2], "what is given stays"
    assert settings_for(architecture, per_class=[3] * 400).validation == 0, "a tenth of three images is none"
    assert settings_for(architecture, per_class=[3] * 400 + [100]).validation == 0, "ten images are too few"
    assert settings_for(architecture, per_class=[3] * 100 + [300]).validation == 0.1


def test_transfer_holds_nothing_out():
    """Its folds tell what a share that is held out told."""
    assert [settings_for("transfer", per_class=[each // 10] * 10).validation for each in _SIZES] == [0] * len(_SIZES)
    assert settings_for("transfer", per_class=[20] * 10, validation=0.2).validation == 0


_SIZES = (200, 490, 500, 20_000, 60_000, 1_000_000)


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


def test_steps_decide_nothing_of_a_head_that_is_solved():
    given = {
        "epochs": 5, "batch_size": 16, "learning_rate": 0.02, "schedule": "constant", "optimizer": "nesterov",
        "weight_decay": 0.1, "label_smoothing": 0.1, "validation": 0.2, "patience": 3,
    }  # fmt: skip
    assert set(without_effect("transfer", given)) == set(given) == {*STEPS} - {"inputs"}
    assert settings_for("transfer", **given) == settings_for("transfer")
    assert without_effect("conv", given) == []
    assert settings_for("transfer", **given).to_dict().keys() & {*STEPS} == set()
    assert without_effect("transfer", {"epochs": None, "patience": 3, "seed": 3}) == ["patience"]


def test_nobody_hears_that_what_nobody_said_has_no_effect():
    assert without_effect("transfer", {setting.name: setting.default for setting in TRAINING}) == []


def test_only_transfer_stands_on_backbones():
    settings_for("transfer", backbone="efficientnet-lite0", augmentation="auto").check()
    with pytest.raises(SettingsError, match="expected the architecture transfer for the backbone x, found dense"):
        settings_for("dense", backbone="x").check()
    with pytest.raises(SettingsError, match="expected flips or none for the augmentation of conv, found auto"):
        settings_for("conv", augmentation="auto").check()


def test_only_transfer_is_fine_tuned():
    settings_for("transfer", fine_tune=2).check()
    with pytest.raises(SettingsError, match="expected the architecture transfer for fine-tuning, found conv"):
        settings_for("conv", fine_tune=2).check()


def test_nothing_is_held_out_where_a_batch_of_all_images_was_asked_for():
    assert settings_for("dense", per_class=[300, 300]).validation == 0.1
    assert settings_for("dense", per_class=[300, 300], batch_size=540).validation == 0.1
    assert settings_for("dense", per_class=[300, 300], batch_size=600).validation == 0
