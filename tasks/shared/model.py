"""A model ready to predict: published weights in their network. No Prefect here: `lookbook predict` needs none."""

from dataclasses import dataclass
from typing import Any

from artifacts import weights
from artifacts.refs import Ref
from artifacts.store import Store
from tasks.vision.images import ImageSpec


@dataclass(frozen=True)
class Model:
    """`predict`: uint8 [items, height, width, channels] -> probabilities float32 [items, classes]."""

    ref: Ref
    classes: list[str]
    spec: ImageSpec
    predict: Any


def load(store: Store, ref: Ref, temperature: float | None = None) -> Model:
    """The model of published weights; `temperature` scales its probabilities. Raises NotFound, Corrupt, WeightsError.

    It computes with one thread: the same numbers wherever it is asked, and decoders have the other processors.
    """
    published = weights.load(store, ref)
    from tasks.vision import device
    from tasks.vision.inference import Predictor
    from tasks.vision.network import make_network

    device.use_threads(1)
    spec = ImageSpec.from_dict(published.image_spec)
    settings = published.settings
    of = {name: settings[name] for name in ("augmentation", "inputs") if name in settings}  # older weights have fewer
    network = make_network(settings["architecture"], spec, len(published.classes), **of)
    network.assign(published.tensors)
    return Model(ref, published.classes, spec, Predictor(network, temperature or 1.0))
