"""The baseline: what one would write instead to learn from a folder, Keras on a frozen network. No report, no versions.

    python benchmarks/keras_transfer.py FOLDER

FOLDER has a folder for each class. MobileNetV2 has random weights, as its own can't be downloaded everywhere: this is
for the time alone. Prints one JSON line: seconds from the folder to the trained layer, imports left out.
"""

import json
import sys
import time

import numpy as np
import tensorflow as tf

started = time.perf_counter()
pictures = tf.keras.utils.image_dataset_from_directory(
    sys.argv[1], image_size=(224, 224), batch_size=32, shuffle=False, verbose=False
)
backbone = tf.keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(224, 224, 3), pooling="avg")
features, labels = [], []
for images, some in pictures:
    features.append(backbone(images / 127.5 - 1, training=False).numpy())
    labels.append(some.numpy())
head = tf.keras.Sequential([tf.keras.layers.Dense(len(pictures.class_names), activation="softmax")])
head.compile("adam", "sparse_categorical_crossentropy")
head.fit(np.concatenate(features), np.concatenate(labels), epochs=30, batch_size=64, verbose=0)
print(json.dumps({"seconds": time.perf_counter() - started, "images": sum(map(len, labels))}))
