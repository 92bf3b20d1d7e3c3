"""A training on pretrained networks: of a head on features that are kept, then, where asked for, of all together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tasks.shared.views import MovedViews, Views
from tasks.training.loops import Loops
from tasks.vision.duplicates import contents_of, firsts_of
from tasks.vision.families import parted, prefix
from tasks.vision.metrics import calibrate, fit_temperature, scale
from tasks.vision.recipes import TrainingSettings, fine_tuning, steps_of
from tasks.vision.trained import Compared, OutOfFold, Trained, Tried

if TYPE_CHECKING:
    from tasks.vision.cross_validation import Chosen

HELD_OUT = 0  # the fold that a fine-tuning doesn't see
MOVED = 0.75  # of 0.5, 0.75 and 1 the best on the pictures that were held out, three times (docs/photographs.md)


def transfer(loops: Loops, settings: TrainingSettings, views: Views) -> Trained:
    """Solve a head on the features of the train split, and fine-tune the whole network as long as the settings say.

    The temperature is fitted on what the folds of the head held out; that of a network which was fine-tuned, on the
    fold that it has not seen.

    Raises what `fit` and `solve_head` raise, StoreError and DeadlineExceeded.
    """
    from tasks.vision import device as devices
    from tasks.vision.heads import solve_head

    def on_tried(tried: Tried) -> None:
        loops.progress.on_tried(tried)
        loops.deadline.check("solving the last layer")

    images, labels = loops.data.train.images, loops.data.train.labels
    contents = contents_of(images)
    embedded = views.embed(loops.store, images, contents)
    solved = solve_head(
        embedded,
        labels,
        len(loops.data.classes),
        widths=views.widths,
        first=firsts_of(contents),
        balanced=settings.class_weights == "balanced",
        seed=settings.seed,
        on_tried=on_tried,
    )
    found = solved.found
    if found.at_the_edge:
        loops.progress.tell(
            f"the penalty {found.chosen.penalty:g} is at the edge of those that are tried: the pictures are so easy, "
            "so hard or so alike that cross-validation would go beyond it"
        )
    held_out = found.folds >= 0
    head = Trained(
        tensors=solved.tensors,
        history=[],
        epoch_seconds=[],
        best_epoch=0,
        device=devices.describe("/CPU:0"),
        threads=devices.threads(),
        calibration=calibrate(found.probabilities[held_out], labels[held_out], "out-of-fold")
        if held_out.any()
        else None,
        tried=found.tried,
        penalty=found.chosen.penalty,
        out_of_fold=OutOfFold(found.folds, found.probabilities),
    )
    return _fine_tuned(loops, settings, views, head, embedded, found) if settings.fine_tune else head


def _fine_tuned(
    loops: Loops, settings: TrainingSettings, views: Views, head: Trained, embedded: np.ndarray, found: "Chosen"
) -> Trained:
    """Train the network of each view on all folds but the first, and take them where they are better on that one than
    the frozen network, which is `head` otherwise.

    Each learns by itself, from a head of its own; the logits are the mean of theirs. Two that learn as one are right
    less often: what one has learned the other needs not (docs/photographs.md).

    embedded: the features of the train split. found: what cross-validation made of a head on them.
    """
    labels, classes = loops.data.train.labels, len(loops.data.classes)
    held_out, kept = np.flatnonzero(found.folds == HELD_OUT), np.flatnonzero(found.folds != HELD_OUT)
    if not len(held_out):
        loops.progress.tell(
            "did not fine-tune: no class has two pictures, so that nothing can tell whether it would be better"
        )
        return head
    parts = np.split(embedded, np.cumsum(views.widths)[:-1], axis=1)
    moved = [_moved(loops, settings, views, place, part, kept, found) for place, part in enumerate(parts)]
    tensors = beside([each.tensors for each in moved])
    loops.deadline.check("fine-tuning, before it is compared")
    answered = _answers(views, tensors, classes, loops.data.train.images, held_out)
    compared = compare(found.probabilities[held_out], answered, labels[held_out])
    loops.progress.tell(str(compared))
    if not compared.better:
        return replace(head, fine_tuned=compared)
    folds = np.where(found.folds == HELD_OUT, found.folds, -1)
    probabilities = np.zeros_like(found.probabilities)
    probabilities[held_out] = answered
    history = [result for each in moved for result in each.history]
    return replace(
        moved[0],
        tensors=tensors,
        history=[replace(result, epoch=epoch) for epoch, result in enumerate(history, 1)],
        epoch_seconds=[seconds for each in moved for seconds in each.epoch_seconds],
        best_epoch=len(history),
        tried=head.tried,
        penalty=head.penalty,
        calibration=calibrate(answered, labels[held_out], "held-out"),
        out_of_fold=OutOfFold(folds, probabilities),
        fine_tuned=compared,
    )


def _moved(
    loops: Loops,
    settings: TrainingSettings,
    views: Views,
    place: int,
    embedded: np.ndarray,
    kept: np.ndarray,
    found: "Chosen",
) -> Trained:
    """The network of one view, trained as a whole. Its tensors are those of a Whole, and the mean of what they were
    before and after, which counts MOVED (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022).

    place: of the view. embedded: its features of the train split. kept: int64, which items are learned from.
    """
    from tasks.vision.heads import solve_head_on
    from tasks.vision.training import seconds_a_step
    from tasks.vision.transfer import Sight, Whole

    embedding, data = views.embeddings[place], loops.data
    images, labels, classes = data.train.images, data.train.labels, len(data.classes)
    folded = embedding.architecture.fold(embedding.backbone.tensors)
    sight = Sight(embedding.architecture, folded, embedding.looks_at)
    start = solve_head_on(
        kept, embedded, labels, classes, penalty=found.chosen.penalty, balanced=settings.class_weights == "balanced"
    )

    def make() -> Whole:
        return Whole(embedding.spec, classes, [sight], start)

    phase = fine_tuning(settings, len(kept))
    seconds = seconds_a_step(make, images, labels, phase, loops.execution, loops.device)
    minutes = seconds * steps_of(phase, len(kept)) / 60
    loops.progress.tell(
        f"fine-tuning {views.backbone.split('+')[place]} for {phase.epochs} epochs will take about {minutes:,.0f} min"
    )
    stands_on = {
        "backbone": views.backbone,
        "ref": str(embedding.backbone.ref),
        "place": place,
        "precision": [each.precision for each in views.embeddings],
        "mirrored": views.mirrored,
        "head": settings.to_dict(),
        "phase": "fine-tuning",
    }
    trained = loops.fit(images, phase, stands_on=stands_on, make=make, cropped=True, items=kept)
    before = make().tensors()
    tensors = {name: (1 - MOVED) * before[name] + MOVED * after for name, after in trained.tensors.items()}
    return replace(trained, tensors=tensors)


def beside(networks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The tensors of a Whole that has the mean of the logits of others, each of which has one backbone."""
    heads, moved = zip(*(parted(tensors) for tensors in networks), strict=True)
    tensors = {name: np.concatenate([head[name] for head in heads]) for name in ("features/mean", "features/deviation")}
    tensors["output/kernel"] = np.concatenate([head["output/kernel"] for head in heads]) / np.float32(len(heads))
    tensors["output/bias"] = np.stack([head["output/bias"] for head in heads]).mean(axis=0)
    for place, [(_, backbone)] in enumerate(moved):
        tensors |= {f"{prefix(place)}{name}": each for name, each in backbone.items()}
    return tensors


def _answers(
    views: Views, tensors: Mapping[str, np.ndarray], classes: int, images: np.ndarray, items: np.ndarray
) -> np.ndarray:
    """What a network whose backbones were moved answers of some pictures: float32 [items, classes]."""
    from tasks.vision.inference import Predictor
    from tasks.vision.transfer import Head

    first = views.embeddings[0]
    head, own = parted(tensors)
    sides = [each.looks_at[0] for each in views.embeddings]
    moved = MovedViews(own, first.spec, sides, views.mirrored, first.precision, first.place, first.processors)
    network = Head(views.widths, classes)
    network.assign(head)
    predict = Predictor(network)
    parts = np.split(items, range(predict.batch, len(items), predict.batch))
    return np.concatenate([predict(moved(images[part])) for part in parts])


def compare(frozen: np.ndarray, tuned: np.ndarray, labels: np.ndarray) -> Compared:
    """What two networks answer of the same items, which neither has learned from. Each one's confidence is made true
    on them: so a wrong temperature decides nothing.

    frozen, tuned: float32 [items, classes].
    labels: int32 [items].
    """
    items = np.arange(len(labels))
    losses = []
    for answered in (frozen, tuned):
        true = scale(answered, fit_temperature(answered, labels))[items, labels]
        losses.append(-np.log(np.maximum(true.astype(np.float64), np.finfo(np.float32).tiny)))
    gains = losses[0] - losses[1]
    hits = [int((answered.argmax(axis=1) == labels).sum()) for answered in (frozen, tuned)]
    return Compared(
        items=len(labels),
        frozen_loss=float(losses[0].mean()),
        tuned_loss=float(losses[1].mean()),
        gain=float(gains.mean()),
        gain_error=float(gains.std() / np.sqrt(len(labels))),
        frozen_hits=hits[0],
        tuned_hits=hits[1],
    )
