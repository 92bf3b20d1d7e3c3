"""A training on pretrained networks: of a head on features that are kept, then, where asked for, of all together."""

from dataclasses import replace

from tasks.shared.views import Views
from tasks.training.loops import Loops
from tasks.vision.duplicates import contents_of, firsts_of
from tasks.vision.metrics import calibrate
from tasks.vision.recipes import TrainingSettings, fine_tuning, steps_of
from tasks.vision.trained import OutOfFold, Trained, Tried


def transfer(loops: Loops, settings: TrainingSettings, views: Views) -> Trained:
    """Solve a head on the features of the train split, and fine-tune the whole network as long as the settings say.

    The temperature is fitted on what the folds of the head held out.

    Raises what `fit` and `solve_head` raise, StoreError and DeadlineExceeded.
    """
    from tasks.vision import device as devices
    from tasks.vision.heads import solve_head

    def on_tried(tried: Tried) -> None:
        loops.progress.on_tried(tried)
        loops.deadline.check("solving the last layer")

    images, labels = loops.data.train.images, loops.data.train.labels
    contents = contents_of(images)
    solved = solve_head(
        views.embed(loops.store, images, contents),
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
            "so hard or so alike that the best one may lie beyond it"
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
    return _fine_tuned(loops, settings, views, head) if settings.fine_tune else head


def _fine_tuned(loops: Loops, settings: TrainingSettings, views: Views, head: Trained) -> Trained:
    """Train all of the network, from the head that was solved."""
    from tasks.vision.training import seconds_a_step
    from tasks.vision.transfer import Sight, Whole

    [embedding] = views.embeddings

    def make() -> Whole:
        return Whole(embedding.spec, len(loops.data.classes), [sight], head.tensors)

    folded = embedding.architecture.fold(embedding.backbone.tensors)
    sight = Sight(embedding.architecture, folded, embedding.looks_at)
    images, labels = loops.data.train.images, loops.data.train.labels
    phase = fine_tuning(settings, len(labels))
    seconds = seconds_a_step(make, images, labels, phase, loops.execution, loops.device)
    minutes = seconds * steps_of(phase, len(labels)) / 60
    loops.progress.tell(f"fine-tuning for {phase.epochs} epochs will take about {minutes:,.0f} min on {head.device}")
    stands_on = {
        "backbone": views.backbone,
        "refs": [str(embedding.backbone.ref)],
        "precision": embedding.precision,
        "head": settings.to_dict(),
        "phase": "fine-tuning",
    }
    whole = loops.fit(images, phase, stands_on=stands_on, make=make, cropped=True)
    return replace(whole, tried=head.tried, penalty=head.penalty)
