"""Train a classifier, judge it and predict, from Python: without Prefect, without the command line.

    python examples/from_python.py

It draws small pictures of three shapes, publishes them as a dataset in the store `shapes-store`, trains on them,
evaluates on the test images, promotes the model if it is better than the champion, and tells what is on three pictures.
Everything is versioned as `lookbook` does it: `LOOKBOOK_STORE=shapes-store lookbook lineage champion` shows
what the champion was made from. A second run gives the same versions.
"""

import numpy as np

from artifacts import dataset, open_store, weights
from artifacts.dataset import Split
from tasks.judging.measuring import evaluate_weights
from tasks.promote import decide_promotion
from tasks.requests import Gate
from tasks.shared import model
from tasks.vision.images import ImageSpec
from tasks.vision.recipes import settings_for
from tasks.vision.training import fit

CLASSES = ["square", "top", "right"]
SPEC = ImageSpec(height=8, width=8, channels=1)


def draw(items: int, seed: int) -> Split:
    """Images, labels, and where each image is from: uint8 [items, 8, 8, 1], int32 [items], text."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(CLASSES), items).astype(np.int32)
    images = random.integers(0, 60, (items, 8, 8, 1), dtype=np.uint8)
    images[labels == 0, 2:6, 2:6] += 150
    images[labels == 1, :2] += 150
    images[labels == 2, :, 6:] += 150
    return Split(images, labels, [f"drawn {index}" for index in range(items)])


def main() -> None:
    store = open_store("shapes-store")
    train, test = draw(300, seed=0), draw(60, seed=1)
    data = dataset.save(
        store,
        "shapes",
        train=train,
        test=test,
        classes=CLASSES,
        image_spec=SPEC.to_dict(),
        settings={"source": "drawn"},
        inputs={},
        made={},
    )
    settings = settings_for("dense", epochs=10, batch_size=16)
    trained = fit(train.images, train.labels, classes=len(CLASSES), spec=SPEC, settings=settings)
    challenger = weights.save(
        store,
        "shapes",
        tensors=trained.tensors,
        history=[each.to_dict() for each in trained.history],
        classes=CLASSES,
        image_spec=SPEC.to_dict(),
        settings=settings.to_dict(),
        dataset=data,
        made={},
    )
    decision = decide_promotion(store, evaluate_weights(store, challenger, data), Gate())
    print(f"{decision.action}: {decision.reason}")
    champion = model.load(store, store.resolve("shapes@champion", "weights"))
    for label, probabilities in zip(test.labels[:3], champion.predict(test.images[:3]), strict=True):
        called = probabilities.argmax()
        print(f"a {CLASSES[label]} is called {champion.classes[called]}, {probabilities[called]:.1%} sure")


if __name__ == "__main__":
    main()
