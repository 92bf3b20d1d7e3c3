"""A training on a pretrained network: of a head on features that are kept, then, where asked for, of both together."""

from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.shared.embedding import Embedding, embed
from tasks.training.loops import Loops
from tasks.vision.recipes import TrainingSettings, fine_tuning, learns_again, steps_of

if TYPE_CHECKING:
    from tasks.vision.training import Trained


def transfer(loops: Loops, settings: TrainingSettings, embedding: Embedding) -> "Trained":
    """Train a head on the features of the train split, and fine-tune the whole network as long as the settings say.

    Where images were held out to watch a head, and nothing follows it, it is trained once more, from all images: the
    history and the temperature are those of the one that was watched.

    Raises what `fit` raises, StoreError and DeadlineExceeded.
    """
    from tasks.vision.transfer import head_on

    images = loops.data.train.images
    features = embed(loops.store, embedding, images)
    mirrored = embed(loops.store, embedding, images, mirrored=True) if settings.augmentation == "flips" else None
    stands_on = {"backbone": str(embedding.backbone.ref), "precision": embedding.precision}

    def fit_head(settings: TrainingSettings) -> "Trained":
        return loops.fit(
            features,
            settings,
            stands_on=stands_on,
            make=lambda: head_on(features, len(loops.data.classes)),
            mirrored=mirrored,
        )

    trained = fit_head(settings)
    if settings.fine_tune:
        return _fine_tuned(loops, settings, embedding, trained)
    if learns_again(settings):
        return replace(trained, tensors=fit_head(replace(settings, validation=0.0)).tensors)
    return trained


def _fine_tuned(loops: Loops, settings: TrainingSettings, embedding: Embedding, head: "Trained") -> "Trained":
    """Train all of the network, from a head that was trained alone."""
    from tasks.vision.training import seconds_a_step
    from tasks.vision.transfer import Whole

    def make() -> Whole:
        classes = len(loops.data.classes)
        return Whole(embedding.spec, classes, embedding.architecture, folded, head.tensors, embedding.looks_at)

    folded = embedding.architecture.fold(embedding.backbone.tensors)
    phase = fine_tuning(settings)
    images, labels = loops.data.train.images, loops.data.train.labels
    seconds = seconds_a_step(make, images, labels, phase, loops.execution, loops.device)
    minutes = seconds * steps_of(phase, len(labels)) / 60
    loops.progress.tell(f"fine-tuning for {phase.epochs} epochs will take about {minutes:,.0f} min on {head.device}")
    stands_on = {
        "backbone": str(embedding.backbone.ref),
        "precision": embedding.precision,
        "head": settings.to_dict(),
        "phase": "fine-tuning",
    }
    whole = loops.fit(images, phase, stands_on=stands_on, make=make, cropped=True)
    after = [replace(result, epoch=len(head.history) + result.epoch) for result in whole.history]
    return replace(
        whole,
        history=[*head.history, *after],
        epoch_seconds=[*head.epoch_seconds, *whole.epoch_seconds],
        best_epoch=len(head.history) + whole.best_epoch,
    )
