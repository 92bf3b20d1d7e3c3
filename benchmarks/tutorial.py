"""The baseline: the tutorial's way, a Keras-assisted loop that compiles one batch into a graph. 784-20-10, SGD 0.1,
batch 64, 5 epochs, shuffled within a buffer of 500, loss and accuracy a batch read back into Python.

    python benchmarks/tutorial.py FOLDER [SEED]

FOLDER holds Fashion-MNIST's four .gz files. Prints one JSON line: test accuracy, test loss, seconds an epoch.
"""

import gzip
import json
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf


def read(path: Path, offset: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset)


def batches(folder: Path, side: str, shuffle: bool) -> tf.data.Dataset:
    pixels = read(folder / f"{side}-images-idx3-ubyte.gz", 16).reshape(-1, 784).astype(np.float32) / 255
    labels = read(folder / f"{side}-labels-idx1-ubyte.gz", 8).astype(np.int64)
    data = tf.data.Dataset.from_tensor_slices((pixels, labels))
    return (data.shuffle(500) if shuffle else data).batch(64)


def main(folder: Path, seed: int) -> None:
    tf.random.set_seed(seed)
    glorot = tf.keras.initializers.GlorotUniform(seed=seed)
    weights = [tf.Variable(glorot((784, 20))), tf.Variable(tf.zeros(20))]
    weights += [tf.Variable(glorot((20, 10))), tf.Variable(tf.zeros(10))]
    cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = tf.keras.optimizers.SGD(0.1)
    optimizer.build(weights)

    def forward(images: tf.Tensor) -> tf.Tensor:
        hidden = tf.nn.relu(images @ weights[0] + weights[1])
        return hidden @ weights[2] + weights[3]

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = forward(images)
            loss = cross_entropy(labels, logits)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return logits, loss

    @tf.function
    def evaluate(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = forward(images)
        return logits, cross_entropy(labels, logits)

    train, test = batches(folder, "train", shuffle=True), batches(folder, "t10k", shuffle=False)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        for images, labels in train:
            logits, loss = step(images, labels)
            (tf.argmax(logits, 1) == labels).numpy().sum(), loss.numpy()
        seconds.append(time.perf_counter() - started)
    hits = total = items = 0
    for images, labels in test:
        logits, loss = evaluate(images, labels)
        hits += (tf.argmax(logits, 1) == labels).numpy().sum()
        total += loss.numpy() * len(images)
        items += len(images)
    epoch = float(np.median(seconds[1:]))
    print(json.dumps({"accuracy": float(hits / items), "loss": float(total / items), "epoch": epoch}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
