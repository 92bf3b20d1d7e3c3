"""pytest tests/test_recipes.py: what settings a training has unless somebody says otherwise."""

import dataclasses

from tasks.vision.network import ARCHITECTURES
from tasks.vision.recipes import RECIPES, TrainingSettings, settings_for


def test_a_recipe_is_an_architectures_and_what_is_given_comes_first():
    assert settings_for("dense") == TrainingSettings()
    assert settings_for("conv", epochs=3, schedule=None) == dataclasses.replace(RECIPES["conv"], epochs=3)
    for architecture, recipe in RECIPES.items():
        assert recipe.architecture == architecture
        recipe.check()
    assert RECIPES.keys() == ARCHITECTURES.keys()


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
    assert [settings_for(each, pictures=True).inputs for each in RECIPES] == ["centered", "plain"]
