"""pytest tests/test_fine_tuning.py: all of a pretrained network learns, and is taken where that was better."""

import dataclasses
import json
import re

import numpy as np
import pytest
from trainings import Forks

from artifacts import backbones, weights
from artifacts import dataset as datasets
from artifacts.store import Store
from tasks.export import export
from tasks.judging.measuring import evaluate_weights
from tasks.reports.progress import TrainingProgress
from tasks.shared import backbones as pretrained
from tasks.shared import model
from tasks.shared.deadline import Deadline
from tasks.train import train_weights
from tasks.training.transferring import compare
from tasks.vision.backbone import features
from tasks.vision.batches import SHARES, share_of_side
from tasks.vision.convolutional import Convolutional
from tasks.vision.device import tf
from tasks.vision.efficientnet_lite import LITE0
from tasks.vision.images import ImageSpec
from tasks.vision.layering import convolution
from tasks.vision.metrics import fit_temperature
from tasks.vision.recipes import fine_tuning, settings_for
from tasks.vision.transfer import FIRST_RATE, Sight, Whole

SPEC = ImageSpec(height=64, width=64, channels=3)
CLASSES = ["dots", "stripes"]
FROZEN = settings_for("transfer", backbone="efficientnet-lite0:64", augmentation="none", precision="float32")
TUNED = dataclasses.replace(FROZEN, fine_tune=3)


def draw(items, seed, noise=256):
    """Dots or stripes that hardly show in noise: uint8 [items, 64, 64, 3]."""
    random = np.random.default_rng(seed)
    labels = (np.arange(items) % 2).astype(np.int32)
    images = random.integers(0, noise, (items, 64, 64, 3), dtype=np.uint8)
    images[labels == 0, ::8, ::8] = 255
    images[labels == 1, ::8, ::8, 1:] = 255
    return datasets.Split(images, labels, [f"drawn[{index}]" for index in range(items)])


def publish(store, items=60, seed=0):
    return datasets.save(
        store, "drawn", train=draw(items, seed), test=draw(20, 1), classes=CLASSES, image_spec=SPEC.to_dict(),
        settings={"source": "pictures"}, inputs={}, made={},
    )  # fmt: skip


def train(store, dataset, settings, lines=None, execution="graph"):
    said = lines if lines is not None else []
    with TrainingProgress(settings.fine_tune, said.append, "drawn") as progress:
        return train_weights(store, dataset, settings, execution, "cpu", progress, Deadline.after(1))
