"""The processed form of a dataset, opened: uint8 arrays N C H W, labels, and the card that says what they are."""

from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.files import read_json

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

_CARD_KEYS = {
    "dataset",
    "origin",
    "people",
    "edition",
    "image_size",
    "channels",
    "labels",
    "classes",
    "counts",
    "class_counts",
    "people_counts",
    "mean",
    "std",
    "crop",
    "resize",
    "split_rule",
    "sha256",
}


@dataclass(frozen=True)
class Split:
    """Images uint8 N C H W and labels, memory-mapped: int64 N, or N x A of 0 and 1 where they are attributes."""

    images: Images
    labels: Labels


def open_array(path: Path, stage: str, dtype: type[np.generic], *dimensions: int) -> NDArray[Any]:
    """A .npy file, memory-mapped read-only. GenlibError if it is missing or damaged, or of another type or number of
    dimensions than those allowed; it names `stage`, which writes it.
    """
    remedy = f"delete it and run dvc repro {stage}"
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; run dvc repro {stage}") from error
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:
        raise GenlibError(f"{path}: not a numpy array ({error}); {remedy}") from error
    if array.dtype != dtype or array.ndim not in dimensions:
        raise GenlibError(f"{path}: {array.dtype} {array.shape} is not what the stage writes; {remedy}")
    return array


def open_split(folder: Path, split: str) -> Split:
    """A split of the processed form, memory-mapped read-only; GenlibError if it is not there or not as it should be."""
    stage = f"preprocess@{folder.name}"
    images = open_array(folder / f"{split}.npy", stage, np.uint8, 4)
    labels = open_array(folder / f"{split}_labels.npy", stage, np.int64, 1, 2)
    if len(images) != len(labels):
        raise GenlibError(f"{folder / split}.npy: {len(images)} images, {len(labels)} labels; run dvc repro {stage}")
    return Split(images, labels)


def open_card(folder: Path) -> dict[str, Any]:
    """The card of a processed dataset; GenlibError if it is missing or not one."""
    path = folder / "card.json"
    card = read_json(path)
    if not isinstance(card, dict) or not card.keys() >= _CARD_KEYS:
        raise GenlibError(f"{path}: not the card of a dataset; delete it and run dvc repro preprocess@{folder.name}")
    return card
