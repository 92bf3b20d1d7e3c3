"""A model ready to predict: published weights in their network. No Prefect here: `lookbook predict` needs none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from artifacts import backbones, weights
from artifacts.refs import Ref
from artifacts.store import Store
from artifacts.weights import View, Weights
from tasks.shared.views import MovedViews, views_of
from tasks.vision.architecture import Architecture
from tasks.vision.families import architecture_of, parted
from tasks.vision.images import ImageSpec
from tasks.vision.processor import Precision, precision
from tasks.vision.recipes import Device

if TYPE_CHECKING:
    from tasks.vision.network import Network

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Model:
    """Published weights, ready to predict.

    predict: uint8 [items, height, width, channels] -> probabilities float32 [items, classes].
    predict_kept: the same, for images of a dataset: of those that were embedded, the features are kept.
    precision: what a pretrained network computes in here; float32 where there is none.
    """

    ref: Ref
    classes: list[str]
    spec: ImageSpec
    predict: Predict
    predict_kept: Predict
    precision: Precision = "float32"


def load(
    store: Store,
    ref: Ref,
    temperature: float | None = None,
    processors: int | None = None,
    device: Device = "auto",
) -> Model:
    """The model of published weights. Raises NotFound, Corrupt, WeightsError.

    temperature: what logits are divided by; None for the weights' own, where they have one, 1 for none.
    processors: how many batches a pretrained network embeds at once; by default one a processor.
    device: where a pretrained network computes.

    One thread computes an operation: the same numbers wherever it is asked, and decoders have the other processors.
    """
    published = weights.load(store, ref)
    from tasks.vision import device as devices
    from tasks.vision.inference import Predictor

    devices.use_threads(1)
    spec = ImageSpec.from_dict(published.image_spec)
    temperature = temperature or published.temperature or 1.0
    if published.backbone is None:
        predict = Predictor(_network(published, spec), temperature)
        return Model(ref, published.classes, spec, predict, predict)
    from tasks.vision.transfer import Head

    place = devices.choose(device)
    computed_in = precision(published.precision, place)
    tensors, own = parted(published.tensors)
    if own:
        sides = [view.side for view in published.views]
        moved = MovedViews(own, spec, sides, published.mirrored, computed_in, place, processors)
        features: Predict = moved
        kept: Predict = moved
        widths = moved.widths
    else:
        views = views_of(store, published, spec, place, processors)
        features, kept, widths = views.__call__, partial(views.embed, store), views.widths
    network = Head(widths, len(published.classes))
    network.assign(tensors)
    head = Predictor(network, temperature)
    return Model(
        ref,
        published.classes,
        spec,
        lambda images: head(features(images)),
        lambda images: head(kept(images)),
        computed_in,
    )


def network_of(store: Store, published: Weights) -> "Network":
    """All that turns pixels into logits, as one network that computes in float32. Raises NotFound, Corrupt and
    WeightsError."""
    spec = ImageSpec.from_dict(published.image_spec)
    if published.backbone is None:
        return _network(published, spec)
    from tasks.vision.transfer import Sight, Whole

    def sight(view: View, of: tuple[Architecture, Mapping[str, np.ndarray]]) -> Sight:
        return Sight(*of, of[0].looks_at(spec.height, spec.width, view.side))

    head, own = parted(published.tensors)
    if own:
        sights = [sight(view, each) for view, each in zip(published.views, own, strict=True)]
        return Whole(spec, len(published.classes), sights, head, published.mirrored)
    sights = []
    for view in published.views:
        backbone = backbones.load(store, view.backbone)
        architecture = architecture_of(backbone.architecture)
        sights.append(sight(view, (architecture, architecture.fold(backbone.tensors))))
    return Whole(spec, len(published.classes), sights, head, published.mirrored)


def _network(published: Weights, spec: ImageSpec) -> "Network":
    from tasks.vision.network import make_network

    settings = published.settings
    of = {
        name: settings[name] for name in ("augmentation", "inputs", "width") if name in settings
    }  # older weights have fewer
    network = make_network(settings["architecture"], spec, len(published.classes), **of)
    network.assign(published.tensors)
    return network
