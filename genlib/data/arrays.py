"""The processed form of a dataset, opened: uint8 arrays N C H W, labels, and the card that says what they are."""

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from genlib.errors import GenlibError
from genlib.files import read_json

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

_MAGIC = b"\x93NUMPY\x01\x00"  # version 1.0 of numpy's format; what follows is what numpy writes, not all it reads
_HEADER = re.compile(rb"\{'descr': '([<|][a-z]\d)', 'fortran_order': False, 'shape': \((\d+(?:, \d+)*),?\), \} *\n")
_HEADER_BYTES = 1 << 10


class _Card(BaseModel):
    """What a card says at least; `genlib.data.processed` writes it. What is `Any` is only shown or compared."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    dataset: str
    origin: Any
    people: bool
    edition: Any
    image_size: Annotated[int, Field(ge=1, le=4096)]
    channels: Annotated[int, Field(ge=1, le=16)]
    labels: Literal["classes", "attributes", "people"]
    classes: list[str]
    counts: dict[str, NonNegativeInt]
    class_counts: Any
    people_counts: Any
    mean: Any
    std: Any
    crop: Any
    resize: Any
    split_rule: Any
    sha256: Any


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
        found, shape, start = _header(path)
        if found != dtype or len(shape) not in dimensions:
            raise GenlibError(f"{path}: {found} {shape} is not what the stage writes; {remedy}")
        expected = start + prod(shape) * found.itemsize
        if path.stat().st_size != expected:
            raise ValueError(f"{path.stat().st_size} bytes, its header announces {expected}")
        return np.memmap(path, found, "r", start, shape)
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; run dvc repro {stage}") from error
    except OSError as error:
        raise GenlibError(f"{path}: cannot be read ({error.strerror}); mend that and run dvc repro {stage}") from error
    except (ValueError, TypeError) as error:
        raise GenlibError(f"{path}: not a numpy array as genlib writes it ({error}); {remedy}") from error


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
    try:
        _Card.model_validate(card)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        fault = f" ({first['loc'][0]}: {first['type']})" if first["loc"] else ""
        raise GenlibError(
            f"{path}: not the card of a dataset; delete it and run dvc repro preprocess@{folder.name}{fault}"
        ) from error
    checked: dict[str, Any] = card
    return checked


def _header(path: Path) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """dtype and shape of a .npy file, and the byte where its elements start; ValueError or TypeError if it is none.

    numpy's own reading parses the header as a Python expression, which fails in many ways and can take much memory.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    end = 10 + int.from_bytes(start[8:10], "little")
    match = _HEADER.fullmatch(start[10:end])
    if not start.startswith(_MAGIC) or match is None:
        raise ValueError(f"starts with {start[:12]!r}")
    return np.dtype(match[1].decode()), tuple(int(size) for size in match[2].split(b", ")), end
