"""MNIST's four idx archives; `digits` is written in the same format."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from genlib.data.arrays import Images, Labels
from genlib.data.idx import read_idx
from genlib.data.readers.decode import MAX_SIDE
from genlib.data.readers.members import MEMBERS
from genlib.data.readers.reading import Picture, Reading
from genlib.errors import GenlibError
from genlib.settings import IdxSettings


def read(dataset: str, settings: IdxSettings, raw: Path) -> Reading:
    """The validation split is the last `validation_images` of the training images.

    Raises GenlibError for archives that cannot be read or do not go together, and for a validation split that leaves
    nothing to train on.
    """
    train_images, train_labels = _read_pair(raw, "train")
    test_images, test_labels = _read_pair(raw, "t10k")
    cut = len(train_images) - settings.validation_images
    if cut < 1:
        raise GenlibError(
            f"params.yaml: data.{dataset}.validation_images: {settings.validation_images} leaves none of the "
            f"{len(train_images)} training images; choose fewer"
        )
    images = {"train": train_images[:cut], "val": train_images[cut:], "test": test_images}
    return Reading(
        kind="classes",
        labels={"train": train_labels[:cut], "val": train_labels[cut:], "test": test_labels},
        classes=tuple("0123456789"),
        split_rule=f"validation: the last {settings.validation_images} training images of the archive",
        pictures=lambda: _pictures(images, raw),
    )


def _pictures(images: dict[str, Images], raw: Path) -> Iterator[Picture]:
    for split, pixels in images.items():
        for index, image in enumerate(pixels):
            yield Picture(split, index, raw, f"{split} {index}", image)


def _read_pair(raw: Path, name: str) -> tuple[Images, Labels]:
    image_path, label_path = raw / f"{name}-images-idx3-ubyte.gz", raw / f"{name}-labels-idx1-ubyte.gz"
    images, labels = read_idx(image_path), read_idx(label_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or images.shape[1] != images.shape[2]:
        raise GenlibError(
            f"{image_path}: shape {images.shape} does not go with {label_path.name} {labels.shape}; "
            "delete both and run dvc repro"
        )
    if len(images) > MEMBERS:
        raise GenlibError(f"{image_path}: {len(images)} images, more than {MEMBERS}; delete it and run dvc repro")
    if images.shape[1] > MAX_SIDE:
        raise GenlibError(
            f"{image_path}: {images.shape[1]} pixels a side, more than {MAX_SIDE}; delete it and run dvc repro"
        )
    if labels.max(initial=0) > 9:
        raise GenlibError(f"{label_path}: label {labels.max()} is not a digit; delete it and run dvc repro")
    return images, labels.astype(np.int64)
