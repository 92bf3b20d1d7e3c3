"""Evaluating 10,000 test images and drawing the report: seconds beyond TensorFlow's import, for both networks.

    python benchmarks/evaluate.py

Beside it the bare evaluation: the same predictions and accuracy, without numbers, pictures and files. Each in a process
of its own, five times. Takes about two minutes.
"""

import json
import statistics
import sys
import tempfile

from retrain import BIN, timed
from score import run

RUNS, LIMIT = 5, 5.0
EVALUATE = """
import json, shutil, sys, time
from artifacts.settings import Settings
from artifacts.store import Store
from artifacts.refs import Ref
from artifacts import dataset
from tasks import evaluate
from tasks.shared import model
from tasks.vision import inference, network
store = Store(Settings().store)
weights, data, metrics = map(Ref.parse, sys.argv[1:])
folder = store.open(metrics).folder
folder.chmod(0o755)
shutil.rmtree(folder)
started = time.perf_counter()
assert evaluate.evaluate_weights(store, weights, data) == metrics
whole = time.perf_counter() - started
test = dataset.load(store, data).test
started = time.perf_counter()
(model.load(store, weights).predict(test.images).argmax(axis=1) == test.labels).mean()
print(json.dumps({"whole": whole, "bare": time.perf_counter() - started}))
"""


def main() -> None:
    slow = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {"LOOKBOOK_STORE": f"{folder}/store", "PREFECT_HOME": f"{folder}/prefect", "PREFECT_API_URL": ""}
        for architecture in ("dense", "conv"):
            retrain = [str(BIN / "lookbook"), "retrain", "--architecture", architecture, "--epochs", "1", "--json"]
            made = timed([*retrain, "--name", architecture], environment)[1]
            refs = [made[kind] for kind in ("weights", "dataset", "metrics")]
            found = [run([sys.executable, "-c", EVALUATE, *refs], environment)[1] for _ in range(RUNS)]
            whole, bare = (statistics.median(each[what] for each in found) for what in ("whole", "bare"))
            print(f"{architecture}: evaluated and reported in {whole:.2f} s, predicted in {bare:.2f} s", flush=True)
            slow += [architecture] if whole > LIMIT else []
    if slow:
        sys.exit(f"expected {LIMIT:g} s at most: {json.dumps(slow)}")


if __name__ == "__main__":
    main()
