"""A model ready to predict: published weights in their network. No Prefect here: `lookbook predict` needs none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from artifacts import backbones, weights
from artifacts.refs import Ref
from artifacts.store import Store
from artifacts.weights import Weights
from tasks.shared.embedding import Embedding, embed
from tasks.vision.images import ImageSpec
from tasks.vision.lite0 import fold, parted
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
    """The model of published weights; `temperature` scales its probabilities. Raises NotFound, Corrupt, WeightsError.

    processors: how many batches a pretrained network embeds at once; by default one a processor.
    device: where a pretrained network computes.

    One thread computes an operation: the same numbers wherever it is asked, and decoders have the other processors.
    """
    published = weights.load(store, ref)
    from tasks.vision import device as devices
    from tasks.vision.inference import Predictor

    devices.use_threads(1)
    spec = ImageSpec.from_dict(published.image_spec)
    if published.backbone is None:
        predict = Predictor(_network(published, spec), temperature or 1.0)
        return Model(ref, published.classes, spec, predict, predict)
    from tasks.vision.backbone import Embedder
    from tasks.vision.transfer import Head

    place = devices.choose(device)
    computed_in = precision(published.precision, place)
    tensors, own = parted(published.tensors)
    network = Head(len(published.classes))
    network.assign(tensors)
    head = Predictor(network, temperature or 1.0)
    if own:
        embedder = Embedder(own, computed_in, place, processors)

        def predict_whole(images: np.ndarray) -> np.ndarray:
            return head(embedder(images))

        return Model(ref, published.classes, spec, predict_whole, predict_whole, computed_in)
    embedding = Embedding(backbones.load(store, published.backbone), spec, computed_in, place, processors)
    return Model(
        ref,
        published.classes,
        spec,
        lambda images: head(embedding.embedder(images)),
        lambda images: head(embed(store, embedding, images)),
        computed_in,
    )


def network_of(store: Store, published: Weights) -> "Network":
    """All that turns pixels into logits, as one network that computes in float32. Raises NotFound, Corrupt and
    WeightsError."""
    spec = ImageSpec.from_dict(published.image_spec)
    if published.backbone is None:
        return _network(published, spec)
    from tasks.vision.transfer import Whole

    head, own = parted(published.tensors)
    return Whole(spec, len(published.classes), own or fold(backbones.load(store, published.backbone).tensors), head)


def _network(published: Weights, spec: ImageSpec) -> "Network":
    from tasks.vision.network import make_network

    settings = published.settings
    of = {
        name: settings[name] for name in ("augmentation", "inputs", "width") if name in settings
    }  # older weights have fewer
    network = make_network(settings["architecture"], spec, len(published.classes), **of)
    network.assign(published.tensors)
    return network
