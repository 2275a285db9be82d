"""A toy dataset that a network learns in a second, a measuring network of it, and its card."""

from functools import cache
from typing import Any

import numpy as np
import torch

from genlib import features
from genlib.data.arrays import Split
from genlib.features import MeasuringNetwork, classifiers
from genlib.settings import FeatureSettings

CPU = torch.device("cpu")
NAMES = ("square", "bright")


def blobs(count: int, seed: int) -> Split:
    """Colour images 16 x 16 of one square or one bar in a random place; attributes: is it a square, is it bright."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 30, size=(count, 3, 16, 16), dtype=np.uint8)
    labels = np.stack([np.arange(count) % 2, np.arange(count) // 2 % 2], axis=1)
    for image, (square, bright) in zip(images, labels, strict=True):
        height, width = (6, 6) if square else (2, 14)
        top, left = random.integers(0, 17 - height), random.integers(0, 17 - width)
        image[:, top : top + height, left : left + width] += np.uint8(200 if bright else 110)
    return Split(images, labels)


@cache
def classifier() -> classifiers.Classifier:
    """Two outputs: they are right as attributes, and only the first one means anything as a class."""
    values = {
        "seed": 0,
        "net": "plain",
        "epochs": 3,
        "batch_size": 25,
        "lr": 5e-3,
        "width": 4,
        "shift": 0,
        "flip": False,
    }
    return features.train(blobs(500, 0), "attributes", 2, FeatureSettings.model_validate(values), 0, CPU)


def network(
    kind: features.Kind = "attributes", names: tuple[str, ...] = NAMES, dataset: str = "toy"
) -> MeasuringNetwork:
    """A measuring network around `classifier`; its file's sha256 is all zeros."""
    return MeasuringNetwork(dataset, kind, names, "0" * 64, classifier(), CPU)


def card(labels: str = "attributes", classes: tuple[str, ...] = NAMES, dataset: str = "toy") -> dict[str, Any]:
    """What measuring reads from a dataset's card."""
    return {
        "dataset": dataset,
        "labels": labels,
        "classes": list(classes),
        "edition": "drawn",
        "image_size": 16,
        "channels": 3,
        "crop": None,
        "resize": None,
        "sha256": {"train.npy": "1" * 64, "test.npy": "2" * 64},
    }


def by_class(split: Split) -> Split:
    """The same images, labelled by the first attribute alone."""
    return Split(split.images, split.labels[:, 0])
