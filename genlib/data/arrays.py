"""The processed form of a dataset, opened: uint8 arrays N C H W, labels, and the card that says what they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.files import read_json

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Images uint8 N C H W and labels int64 N, memory-mapped."""

    images: Images
    labels: Labels


def open_split(folder: Path, split: str) -> Split:
    """A split of the processed form, memory-mapped read-only; GenlibError if it is not there or not as it should be."""
    arrays = []
    for name, dtype, dimensions in ((f"{split}.npy", np.uint8, 4), (f"{split}_labels.npy", np.int64, 1)):
        path = folder / name
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise GenlibError(f"{path}: no such file; run dvc repro preprocess@{folder.name}") from error
        except ValueError as error:
            raise GenlibError(f"{path}: not a numpy array ({error}); delete it and run dvc repro") from error
        if array.dtype != dtype or array.ndim != dimensions:
            raise GenlibError(f"{path}: {array.dtype} {array.shape} is not what preprocess writes; run dvc repro")
        arrays.append(array)
    if len(arrays[0]) != len(arrays[1]):
        raise GenlibError(f"{folder / split}.npy: {len(arrays[0])} images, {len(arrays[1])} labels; run dvc repro")
    return Split(arrays[0], arrays[1])


def open_card(folder: Path) -> dict[str, Any]:
    """The card of a processed dataset."""
    card: dict[str, Any] = read_json(folder / "card.json")
    return card
