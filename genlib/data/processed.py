"""From archives to the processed form: read, split, crop, resize, write arrays with a card that says what they are."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.data.arrays import Labels
from genlib.data.partial import check_space
from genlib.data.readers import celeba, folder, lfw, mnist
from genlib.data.readers.decode import Decoder, Shape, channels_of, frame_of
from genlib.data.readers.photos import Photos
from genlib.data.readers.reading import Picture, Reading
from genlib.data.workers import map_in_processes
from genlib.errors import GenlibError
from genlib.files import digest, read_json, staged_folder, write_array, write_json
from genlib.settings import CelebaSettings, DatasetSettings, FolderSettings, IdxSettings, LfwSettings

WORKERS = "GENLIB_WORKERS"
"""Environment variable: how many processes decode. The result does not depend on it."""

_BATCH_IMAGES = 32
_BATCH_BYTES = 4 << 20
_PRIVATE = ("lfw", "celeba", "folder")  # photographs of people, or what may be


def preprocess(dataset: str, settings: DatasetSettings, raw: Path, out: Path) -> dict[str, Any]:
    """Read the archives in `raw`, split, crop, resize and write the processed form to `out`; returns the card.

    Raises GenlibError for archives that cannot be read, for settings that do not go with them, and for a GENLIB_WORKERS
    that is no number; nothing is written then.
    """
    workers = worker_count(os.environ)
    origin = read_json(raw / "origin.json")
    reading = _read(dataset, settings, raw)
    pictures = reading.pictures()
    first = next(pictures)
    shape = _shape(dataset, settings, reading, first)
    counts = {split: len(labels) for split, labels in reading.labels.items()}
    with staged_folder(out) as folder:
        check_space(out.parent, sum(counts.values()) * shape.channels * shape.size**2, str(out))
        sums = _write_images(folder, counts, shape, reading.photos, chain([first], pictures), workers)
        for split, labels in reading.labels.items():
            write_array(folder / f"{split}_labels.npy", labels)
        for split, identities in (reading.identities or {}).items():
            write_array(folder / f"{split}_people.npy", identities)
        if reading.kind == "people":
            write_json(folder / "people.json", list(reading.classes))
        mean, deviation = _moments(sums, counts["train"] * shape.size**2)
        card = {
            "dataset": dataset,
            "origin": origin,
            "people": settings.source.kind in _PRIVATE,
            "edition": reading.edition(shape.frame),
            "image_size": settings.image_size,
            "channels": shape.channels,
            "labels": reading.kind,
            "classes": [] if reading.kind == "people" else list(reading.classes),
            "counts": counts,
            "class_counts": {split: _class_counts(reading, labels) for split, labels in reading.labels.items()},
            "people_counts": _people_counts(reading),
            "mean": mean,
            "std": deviation,
            "crop": _crop_in_words(shape) if reading.photos is None else reading.photos.crop,
            "resize": _resize_in_words(shape) if reading.photos is None else reading.photos.resize,
            "split_rule": reading.split_rule,
            "sha256": {path.name: digest(path) for path in sorted(folder.glob("*.npy"))},
        }
        write_json(folder / "card.json", card)
    return card


def worker_count(environ: Mapping[str, str]) -> int:
    """The number that GENLIB_WORKERS gives, else the number of CPUs that this process may use."""
    value = environ.get(WORKERS, "").strip()
    if value:
        if not (value.isascii() and value.isdecimal() and 1 <= len(value) <= 4 and int(value) >= 1):
            raise GenlibError(f"{WORKERS}: {value!r} is not a whole number from 1 to 9999; set one, or unset it")
        return int(value)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read(dataset: str, settings: DatasetSettings, raw: Path) -> Reading:
    match settings:
        case IdxSettings():
            return mnist.read(dataset, settings, raw)
        case LfwSettings():
            return lfw.read(dataset, settings, raw)
        case CelebaSettings():
            return celeba.read(settings, raw)
        case FolderSettings():
            return folder.read(dataset, settings, raw)
    raise TypeError(f"no reader for {type(settings).__name__}")


def _shape(dataset: str, settings: DatasetSettings, reading: Reading, first: Picture) -> Shape:
    """What every picture has and becomes, by the first one; of photographs, only what they become."""
    if reading.photos is not None:
        size = settings.image_size
        return Shape((size, size), (0, 0, size, size), size, reading.photos.channels)
    (width, height), channels = frame_of(first), channels_of(first)
    if reading.crop is None:
        return Shape((width, height), (0, 0, width, height), settings.image_size, channels)
    side = reading.crop(width)
    if not 1 <= side <= min(width, height):
        raise GenlibError(
            f"params.yaml: data.{dataset}.crop: comes to {side} pixels in frames of {width} x {height}; choose another"
        )
    left, upper = (width - side) // 2, (height - side) // 2
    return Shape((width, height), (left, upper, left + side, upper + side), settings.image_size, channels)


def _write_images(
    folder: Path,
    counts: Mapping[str, int],
    shape: Shape,
    photos: Photos | None,
    pictures: Iterator[Picture],
    workers: int,
) -> NDArray[np.int64]:
    """Write <split>.npy, uint8 N C H W: the pictures are read here, decoded and written by `workers` processes.

    A bounded number of pictures is in memory at a time. The files are written, not mapped, for the pages of a mapped
    file count as memory in use. Returns sums over the training images, 2 C: of each channel's levels and their squares.
    """
    starts = {}
    for split, count in counts.items():
        with (folder / f"{split}.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, shape.channels, shape.size, shape.size)}
            np.lib.format.write_array_header_1_0(file, header)
            starts[split] = file.tell()
    sums = np.zeros((2, shape.channels), np.int64)
    for of_batch in map_in_processes(_Writer(folder, starts, shape, photos), _batches(pictures), workers):
        sums += of_batch
    for split in counts:
        with (folder / f"{split}.npy").open("rb") as file:
            os.fsync(file.fileno())
    return sums


@dataclass(frozen=True)
class _Writer:
    """Decodes pictures and writes each to its place, which starts at `starts[split]` in the file of its split."""

    folder: Path
    starts: Mapping[str, int]
    shape: Shape
    photos: Photos | None

    def __call__(self, batch: list[Picture]) -> NDArray[np.int64]:
        """Sums over the training images in the batch, 2 C: of each channel's levels and of their squares."""
        sums = np.zeros((2, self.shape.channels), np.int64)
        size = self.shape.channels * self.shape.size**2
        decode = self.photos or Decoder(self.shape)
        files = {split: os.open(self.folder / f"{split}.npy", os.O_WRONLY) for split in {p.split for p in batch}}
        try:
            for picture in batch:
                image = decode(picture)
                _write_at(files[picture.split], image.tobytes(), self.starts[picture.split] + picture.row * size)
                if picture.split == "train":
                    levels = image.reshape(self.shape.channels, -1).astype(np.float64)  # in which these sums are exact
                    sums += np.stack([levels.sum(1), np.einsum("ij,ij->i", levels, levels)]).astype(np.int64)
        finally:
            for file in files.values():
                os.close(file)
        return sums


def _write_at(file: int, content: bytes, offset: int) -> None:
    """All of it: a disk that is nearly full takes a part without an error, and refuses the rest."""
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written


def _batches(pictures: Iterator[Picture]) -> Iterator[list[Picture]]:
    """Pictures in portions worth handing to a process, bounded in number and bytes."""
    batch: list[Picture] = []
    total = 0
    for picture in pictures:
        batch.append(picture)
        total += len(picture.content)
        if len(batch) == _BATCH_IMAGES or total > _BATCH_BYTES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def _moments(sums: NDArray[np.int64], count: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, pixels in 0..1, from sums of `count` levels and of their squares."""
    mean, squares = sums / count
    deviation = np.sqrt(squares - mean**2)
    return (mean / 255).round(6).tolist(), (deviation / 255).round(6).tolist()


def _class_counts(reading: Reading, labels: Labels) -> list[int]:
    match reading.kind:
        case "classes":
            counts = np.bincount(labels, minlength=len(reading.classes))
        case "attributes":
            counts = labels.sum(axis=0)
        case "people":
            counts = np.empty(0, np.int64)
    return [int(count) for count in counts]


def _people_counts(reading: Reading) -> dict[str, int] | None:
    who = reading.labels if reading.kind == "people" else reading.identities
    return None if who is None else {split: len(np.unique(people)) for split, people in who.items()}


def _crop_in_words(shape: Shape) -> str | None:
    left, upper, right, lower = shape.box
    (width, height), side = shape.frame, (right - left, lower - upper)
    return None if side == shape.frame else f"central {side[0]} x {side[1]} of {width} x {height}"


def _resize_in_words(shape: Shape) -> str | None:
    side = shape.box[2] - shape.box[0]
    return None if side == shape.size else f"lanczos from {side}"
