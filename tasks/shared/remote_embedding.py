"""Pictures to embed on a cluster: what the stage hands out, and what one of the machines does. Features are on record
in the store then, where whoever wants them takes them over."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from artifacts import backbones
from artifacts import dataset as datasets
from artifacts.documents import seal
from artifacts.living import Needs
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.cluster.actor import Receipt
from tasks.cluster.conducting import carry_out
from tasks.cluster.sharing import shared_document
from tasks.shared.embedding import Embedding, View
from tasks.shared.watching import OnRows, Watch
from tasks.vision.duplicates import contents_of
from tasks.vision.images import ImageSpec

_PICTURES = 512  # of a batch at most: some seconds of a processor, and a segment of 2.6 MB


def embed_on_cluster(
    settings: Settings,
    store: Store,
    dataset: Ref,
    embedding: Embedding,
    missing: Sequence[tuple[View, np.ndarray]],
    watch: Watch,
) -> None:
    """Have pictures embedded by the processors of a cluster's nodes. Raises what `carry_out` does.

    missing: of each view the items whose features are not on record, int64.
    """
    batches = [
        {"side": view.side, "mirrored": view.mirrored, "items": items[start : start + _PICTURES].tolist()}
        for view, items in missing
        for start in range(0, len(items), _PICTURES)
    ]
    if not batches:
        return
    key = f"staging/plans/{uuid.uuid4().hex}.json"  # another run that embeds the same has its own
    work = {
        "kind": "embed",
        "dataset": str(dataset),
        "backbone": str(embedding.backbone.ref),
        "precision": embedding.precision,
        "side": embedding.side,
        "batches": key,
    }
    with Needs(store.disk) as needs:
        needs.add(key)
        store.disk.create(key, seal({"batches": batches}))
        try:
            for _ in carry_out(settings, work, range(len(batches)), "batch", watch):
                pass
        finally:
            store.disk.remove(key)


class Pictures:
    """Batches of a dataset's pictures on one machine of a cluster: the pretrained network is loaded once."""

    def __init__(self, task: Mapping[str, Any], processors: int) -> None:
        """task: as `embed_on_cluster` makes it. Raises what says that this machine can't do it."""
        settings = Settings()
        store = Store(settings.store)
        self._disk = store.disk
        self._batches = shared_document(self._disk, task["batches"])["batches"]
        data = datasets.load(store, Ref.parse(task["dataset"]))
        self._images = {"train": data.train.images, "test": data.test.images}
        backbone = backbones.load(store, Ref.parse(task["backbone"]))
        spec = ImageSpec.from_dict(data.image_spec)
        self._embedding = Embedding(backbone, spec, task["precision"], "/CPU:0", processors, task["side"])

    def do(self, numbers: list[int], on_rows: OnRows) -> Iterator[tuple[int, Receipt]]:
        """A receipt tells no more than how much there was."""
        for number in numbers:
            batch = self._batches[number]
            images, items, mirrored = self._images[batch["side"]], np.array(batch["items"], np.int64), batch["mirrored"]
            with self._embedding.kept(self._disk, mirrored, earlier=False) as features:
                for part, found in self._embedding.embedder.embed(images, items, mirrored):
                    features.add_pictures(contents_of(images[part]), found)
                    on_rows(len(part), 0, 0)
            yield number, {"rows": len(items), "errors": 0, "reused": 0}
