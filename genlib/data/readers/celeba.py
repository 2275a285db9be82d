"""CelebA, aligned and cropped: img_align_celeba.zip with attributes, partition, identities; `faces` is alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from genlib.data.arrays import Labels
from genlib.data.readers.decode import FORMATS
from genlib.data.readers.reading import Picture, Reading, is_name, quoted, read_lines, remedy, whole_number
from genlib.data.readers.zip import open_zip
from genlib.errors import GenlibError
from genlib.settings import CelebaSettings

ARCHIVE, ATTRIBUTES = "img_align_celeba.zip", "list_attr_celeba.txt"
PARTITION, IDENTITIES = "list_eval_partition.txt", "identity_CelebA.txt"
FOLDER = "img_align_celeba"
FRAME = (178, 218)
"""Width and height of the official frames, in pixels."""

_SPLITS = ("train", "val", "test")
_OFFICIAL_ENDS = (162_770, 182_637, 202_599)  # the last image of each official split: 162,770, 19,867 and 19,962


@dataclass(frozen=True)
class _Lists:
    """What the lists say of N images: names, attributes N x A of 0 and 1, split numbers N, identity numbers N."""

    names: list[str]
    attributes: tuple[str, ...]
    values: NDArray[np.int64]
    splits: Labels
    identities: Labels | None


def read(settings: CelebaSettings, raw: Path) -> Reading:
    """Labels: the attributes, 0 or 1. Images in the order of the lists, the first `limit` of each split.

    Raises GenlibError for lists that are malformed, disagree or leave a split empty; when the reading of pictures
    starts, if the archive lacks a listed image.
    """
    lists = _read_lists(raw)
    rows = {split: np.flatnonzero(lists.splits == number)[: settings.limit] for number, split in enumerate(_SPLITS)}
    for number, split in enumerate(_SPLITS):
        if len(rows[split]) == 0:
            path = raw / PARTITION
            raise GenlibError(f"{path}: no image in partition {number} ({split}); {remedy(path)}")
    names = {split: [lists.names[row] for row in chosen] for split, chosen in rows.items()}
    identities = lists.identities
    return Reading(
        kind="attributes",
        labels={split: lists.values[chosen] for split, chosen in rows.items()},
        classes=lists.attributes,
        split_rule=f"as {PARTITION} says" + (f", the first {settings.limit} of each" if settings.limit else ""),
        pictures=lambda: _pictures(raw / ARCHIVE, names),
        identities=None if identities is None else {split: identities[chosen] for split, chosen in rows.items()},
        crop=lambda width: round(settings.crop * width / FRAME[0]),
        edition=lambda frame: None if settings.source.kind == "faces" else _edition(lists, frame, settings.limit),
    )


def _read_lists(raw: Path) -> _Lists:
    names, attributes, values = read_attributes(raw / ATTRIBUTES)
    splits = read_numbers(raw / PARTITION, names)
    path = raw / PARTITION
    for row in np.flatnonzero(splits > 2)[:1]:
        raise GenlibError(f"{path}: line {row + 1}: partition {splits[row]} is not 0, 1 or 2; {remedy(path)}")
    identities = read_numbers(raw / IDENTITIES, names) if (raw / IDENTITIES).exists() else None
    return _Lists(names, attributes, values, splits, identities)


def read_attributes(path: Path) -> tuple[list[str], tuple[str, ...], NDArray[np.int64]]:
    """The names of N images, the names of A attributes, and their values N x A, 0 or 1.

    The file: the number of images, the names of the attributes, then a line for each image: name and values 1 or -1.
    Raises GenlibError that names a bad line.
    """
    lines = read_lines(path)
    attributes = tuple(lines[1].split()) if len(lines) > 1 else ()
    if not attributes or len(set(attributes)) != len(attributes) or not all(map(is_name, attributes)):
        raise GenlibError(f"{path}: line 2 does not name the attributes, each once; {remedy(path)}")
    rows = lines[2:]
    if whole_number(lines[0].strip()) != len(rows):
        raise GenlibError(f"{path}: line 1: {quoted(lines[0])}, but there are {len(rows)} images; {remedy(path)}")
    value = {"1": 1, "-1": 0}
    names: dict[str, None] = {}
    values = bytearray()  # it grows with what the file holds, not with what two of its lines announce
    for row, line in enumerate(rows):
        name, *tokens = line.split() or [""]
        if PurePosixPath(name).suffix.lower() not in FORMATS or not is_name(name):
            raise GenlibError(f"{path}: line {row + 3}: {quoted(name)} names no .jpg or .png; {remedy(path)}")
        if len(tokens) != len(attributes) or not value.keys() >= set(tokens):
            raise GenlibError(
                f"{path}: line {row + 3}: {name} has not a 1 or -1 for each of the {len(attributes)} attributes; "
                f"{remedy(path)}"
            )
        if name in names:
            raise GenlibError(f"{path}: line {row + 3}: {name} is there twice; {remedy(path)}")
        names[name] = None
        values += bytes(value[token] for token in tokens)
    return list(names), attributes, np.frombuffer(values, np.uint8).reshape(-1, len(attributes)).astype(np.int64)


def read_numbers(path: Path, names: list[str]) -> Labels:
    """The number beside each image, int64 N. The file: lines NAME NUMBER for exactly the images `names`, in that order.

    Raises GenlibError that names the first line that is malformed or of another image.
    """
    lines = read_lines(path)
    numbers = np.empty(len(names), np.int64)
    for row, (name, line) in enumerate(zip(names, lines, strict=False)):
        tokens = line.split()
        number = whole_number(tokens[1]) if len(tokens) == 2 else None
        if number is None:
            raise GenlibError(f"{path}: line {row + 1}: {quoted(line)} is not NAME NUMBER; {remedy(path)}")
        if tokens[0] != name:
            raise GenlibError(
                f"{path}: line {row + 1}: {quoted(tokens[0])}, but {ATTRIBUTES} has {name} there; {remedy(path)}"
            )
        numbers[row] = number
    if len(lines) != len(names):
        raise GenlibError(f"{path}: {len(lines)} lines, but {ATTRIBUTES} has {len(names)} images; {remedy(path)}")
    return numbers


def _pictures(path: Path, names: dict[str, list[str]]) -> Iterator[Picture]:
    """The listed images in the order of the archive, after a check that each is there."""
    places = {name: (split, index) for split, chosen in names.items() for index, name in enumerate(chosen)}
    with open_zip(path) as archive:
        members: dict[str, str] = {}
        for member in archive.members:
            folder, _, name = member.rpartition("/")
            if folder not in ("", FOLDER):
                continue
            if name in members:
                raise GenlibError(
                    f"{path}: member {quoted(member)} is there as {quoted(members[name])}, too; {remedy(path)}"
                )
            members[name] = member
        for name in places:
            if name not in members:
                raise GenlibError(f"{path}: no member {FOLDER}/{name}, which {ATTRIBUTES} lists; {remedy(path)}")
        for name in sorted(places, key=lambda name: archive.members[members[name]].header_offset):
            split, index = places[name]
            yield Picture(split, index, path, members[name], archive.read(members[name]))


def _edition(lists: _Lists, frame: tuple[int, int], limit: int | None) -> str | None:
    parts = []
    total = _OFFICIAL_ENDS[-1]
    if len(lists.names) != total:
        parts.append(f"{len(lists.names):,} of the {total:,} images")
    if frame != FRAME:
        parts.append(f"frames of {frame[0]} x {frame[1]} instead of {FRAME[0]} x {FRAME[1]}")
    if not _split_officially(lists):
        parts.append("split by the mirror's own list")
    if limit is not None:
        parts.append(f"only the first {limit:,} images of each split")
    return ", ".join(parts) or None


def _split_officially(lists: _Lists) -> bool:
    """Whether each image is in the split that its number (000001.jpg is 1) has in the official partition."""
    numbers = [whole_number(name.partition(".")[0]) or 0 for name in lists.names]
    return bool((np.searchsorted(_OFFICIAL_ENDS, numbers) == lists.splits).all())
