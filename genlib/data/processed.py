"""From archives to the processed form: read, split, resize, write arrays with a card that says what they are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genlib.data.arrays import Images, Split
from genlib.data.idx import read_idx
from genlib.errors import GenlibError
from genlib.files import digest, read_json, staged_folder, write_json
from genlib.settings import DatasetSettings

_CHUNK = 4096


@dataclass(frozen=True)
class Raw:
    """What a reader found: training and test images uint8 N H W (grey) with labels, and the names of the classes."""

    train: Split
    test: Split
    classes: tuple[str, ...]


def preprocess(dataset: str, settings: DatasetSettings, raw: Path, out: Path) -> dict[str, Any]:
    """Read the archives in `raw`, split, resize and write the processed form to `out`; returns the card.

    The validation split is the last `validation_images` of the training images. Raises GenlibError for archives that
    cannot be read and for splits that leave nothing to train on.
    """
    origin = read_json(raw / "origin.json")
    archive = _READERS[settings.source.kind](raw)
    cut = len(archive.train.images) - settings.validation_images
    if cut < 1:
        raise GenlibError(
            f"params.yaml: data.{dataset}.validation_images: {settings.validation_images} leaves none of the "
            f"{len(archive.train.images)} training images; choose fewer"
        )
    splits = {
        "train": Split(archive.train.images[:cut], archive.train.labels[:cut]),
        "val": Split(archive.train.images[cut:], archive.train.labels[cut:]),
        "test": archive.test,
    }
    native = archive.train.images.shape[2]
    with staged_folder(out) as folder:
        for name, split in splits.items():
            np.save(folder / f"{name}.npy", _resized(split.images, settings.image_size))
            np.save(folder / f"{name}_labels.npy", split.labels)
        train = np.load(folder / "train.npy", mmap_mode="r", allow_pickle=False)
        mean, deviation = _channel_statistics(train)
        card = {
            "dataset": dataset,
            "origin": origin,
            "image_size": settings.image_size,
            "channels": train.shape[1],
            "classes": list(archive.classes),
            "counts": {name: len(split.images) for name, split in splits.items()},
            "class_counts": {
                name: np.bincount(split.labels, minlength=len(archive.classes)).tolist()
                for name, split in splits.items()
            },
            "mean": mean,
            "std": deviation,
            "crop": None,
            "resize": None if native == settings.image_size else f"lanczos from {native}",
            "split_rule": f"validation: the last {settings.validation_images} training images of the archive",
            "sha256": {path.name: digest(path) for path in sorted(folder.glob("*.npy"))},
        }
        write_json(folder / "card.json", card)
    return card


def _read_idx_archives(raw: Path) -> Raw:
    splits = []
    for name in ("train", "t10k"):
        image_path, label_path = raw / f"{name}-images-idx3-ubyte.gz", raw / f"{name}-labels-idx1-ubyte.gz"
        images, labels = read_idx(image_path), read_idx(label_path)
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or images.shape[1] != images.shape[2]:
            raise GenlibError(
                f"{image_path}: shape {images.shape} does not go with {label_path.name} {labels.shape}; "
                "delete both and run dvc repro"
            )
        if labels.max(initial=0) > 9:
            raise GenlibError(f"{label_path}: label {labels.max()} is not a digit; delete it and run dvc repro")
        splits.append(Split(images, labels.astype(np.int64)))
    train, test = splits
    return Raw(train, test, tuple("0123456789"))


_READERS: dict[str, Callable[[Path], Raw]] = {"mnist": _read_idx_archives, "digits": _read_idx_archives}


def _resized(images: Images, size: int) -> Images:
    """Images N H W to N 1 size size; Lanczos, antialiased when shrinking."""
    if images.shape[1] == size:
        return np.ascontiguousarray(images[:, None])
    resized = np.empty((len(images), 1, size, size), np.uint8)
    for index, image in enumerate(images):
        resized[index, 0] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))
    return resized


def _channel_statistics(images: Images) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, pixels in 0..1; exact integer sums, so independent of chunking."""
    total = np.zeros(images.shape[1], np.int64)
    squares = np.zeros(images.shape[1], np.int64)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].astype(np.int64)
        total += chunk.sum(axis=(0, 2, 3))
        squares += (chunk * chunk).sum(axis=(0, 2, 3))
    pixels = images.size // images.shape[1]
    mean = total / pixels
    deviation = np.sqrt(squares / pixels - mean**2)
    return (mean / 255).round(6).tolist(), (deviation / 255).round(6).tolist()
