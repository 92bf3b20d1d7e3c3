"""In which order the least certain rows of a table teach most, by what they look like to the backbone of its weights. A
program: `python -m tasks.reviewing.looks REF` reads places and writes them in order, both JSON.

A process of its own, at low priority: the page answers meanwhile, and never imports TensorFlow.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from artifacts import predictions
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.reviewing.rows import Place, read
from tasks.shared.listing import allow_place
from tasks.shared.looks import Picture, features_of, first_look
from tasks.vision.images import ImageSpec
from tasks.vision.teaching import spread_over_features

LOOKED_AT = 1000  # rows; about ten seconds on two processors
_ORDERED = 500  # an hour's work
_NICE, _SECONDS = 10, 300
_ONE = threading.Lock()


def order_by_looks(table: Ref, places: Sequence[Place]) -> list[Place] | None:
    """The places in the order in which they teach most, by a child process, one at a time; None where it fails."""
    command = [sys.executable, "-P", "-m", "tasks.reviewing.looks", str(table)]
    with _ONE, suppress(subprocess.TimeoutExpired):
        answer = subprocess.run(
            command, input=json.dumps(places), capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        if answer.returncode == 0:
            return [Place(*each) for each in json.loads(answer.stdout)]
    return None


def in_order(store: Store, settings: Settings, ref: Ref, places: Sequence[Place]) -> list[Place]:
    """The places of the table `ref` in the order in which they teach most; at most 500."""
    table = predictions.load(store, ref)
    identity = table.artifact.identity
    rows = read(table, places)
    pictures = [Picture(each.path, each.size, each.mtime_ns, str(each.sha256)) for each in rows]
    spec = ImageSpec.from_dict(identity["facts"]["image_spec"])
    embedding = first_look(store, identity["inputs"]["weights"], spec, processors=1)
    folder = allow_place(table.artifact.manifest["provenance"]["folder"])
    found = list(features_of(store, settings, folder, embedding, pictures))
    shown = [rows[item] for items, _ in found for item in items]
    margins = np.array([each.margin for each in shown], np.float32)
    order = spread_over_features(margins, np.concatenate([features for _, features in found]), _ORDERED)
    return [shown[place].place for place in order]


def _main() -> None:
    os.nice(_NICE)
    settings = Settings()
    places = [Place(*each) for each in json.loads(sys.stdin.read())]
    print(json.dumps(in_order(Store(settings.store), settings, Ref.parse(sys.argv[1]), places)))


if __name__ == "__main__":
    _main()
