"""The baseline: what one would write instead, Keras from a folder to Parquet. No hashes, no errors, no report.

    python benchmarks/keras_score.py FOLDER OUTPUT.parquet

Prints one JSON line: images a second from the folder to the predictions, imports left out.
"""

import json
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

folder, output = sys.argv[1:]
started = time.perf_counter()
pictures = tf.keras.utils.image_dataset_from_directory(
    folder, color_mode="grayscale", image_size=(28, 28), batch_size=256, shuffle=False, verbose=False
)
network = tf.keras.Sequential(
    [
        tf.keras.layers.Rescaling(1 / 255),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(20, activation="relu"),
        tf.keras.layers.Dense(10, activation="softmax"),
    ]
)
predicted = network.predict(pictures, verbose=0)
seconds = time.perf_counter() - started
columns = {"path": pictures.file_paths, "label": predicted.argmax(1), "confidence": predicted.max(1)}
pq.write_table(pa.table(columns), output, compression="zstd")
print(json.dumps({"images": len(predicted), "images_per_second": len(predicted) / seconds}))
