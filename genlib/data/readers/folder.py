"""A folder of the user's own images, by the list that the stage download made of it."""

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from genlib.data.kinds.folder import ENDINGS, LIST_NAME, anew, find_images, locate, read_image
from genlib.data.meter import say
from genlib.data.readers.photos import Photos
from genlib.data.readers.reading import Picture, Reading, quoted, read_lines
from genlib.errors import GenlibError
from genlib.settings import FolderSettings, FolderSource

UNLABELLED = "unlabelled"
"""The one class of images without labels."""

_MEASURABLE = 100  # test images, which evaluation needs at least
_SPLITS = ("train", "val", "test")


class Listed(NamedTuple):
    """An image of the list; sorted by checksum, then path."""

    sha256: str
    path: str


def read(dataset: str, settings: FolderSettings, raw: Path) -> Reading:
    """Labels: the index of the folder directly below, among all of them, sorted; or 0.

    An image's split is decided by the checksum of its file (`split_of`): so it stays when others come or go, and copies
    are never in two splits. The order within a split is that of the checksums.

    Raises GenlibError for a list that is malformed, for shares that leave a split empty, and for an image without a
    folder where folders are labels; while the pictures are read, if one is not the one that was listed.
    """
    listed = read_list(raw / LIST_NAME, dataset)
    names = _classes(dataset, listed) if settings.labels == "folders" else [UNLABELLED]
    label = {name: index for index, name in enumerate(names)}
    splits: dict[str, list[Listed]] = {split: [] for split in _SPLITS}
    for image in sorted(listed):
        splits[split_of(image.sha256, settings)].append(image)
    for split, images in splits.items():
        if not images:
            raise GenlibError(
                f"params.yaml: data.{dataset}: its shares leave no {split} image of {len(listed)}; add images to the "
                "folder, or choose other shares"
            )
        splits[split] = images[: settings.limit]
    if len(splits["test"]) < _MEASURABLE:
        say(
            f"{dataset}: {len(splits['test'])} test images; evaluate needs {_MEASURABLE}: add images, or raise "
            f"data.{dataset}.test_share in params.yaml"
        )
    by_folder = settings.labels == "folders"
    return Reading(
        kind="classes",
        labels={
            split: np.array([label[_top(image.path)] if by_folder else 0 for image in images], np.int64)
            for split, images in splits.items()
        },
        classes=tuple(names),
        split_rule=(
            f"by the checksum of each file: about {settings.test_share:.0%} test, {settings.validation_share:.0%} "
            "validation; copies of a file are in one split"
        ),
        pictures=lambda: _pictures(dataset, settings, splits, {image.path for image in listed}),
        photos=Photos(dataset, settings.image_size, settings.channels, settings.crop),
        edition=lambda frame: None if settings.limit is None else f"only the first {settings.limit:,} of each split",
    )


def read_list(path: Path, dataset: str) -> list[Listed]:
    """The images of a list. GenlibError names a bad line."""
    listed: dict[str, Listed] = {}
    for number, line in enumerate(read_lines(path), start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)
        if match is None or not _is_below(match[2]):
            raise GenlibError(f"{path}: line {number}: {quoted(line)} is not SHA256  PATH; {anew(dataset)}")
        if match[2] in listed:
            raise GenlibError(f"{path}: line {number}: {quoted(match[2])} is there twice; {anew(dataset)}")
        listed[match[2]] = Listed(match[1], match[2])
    return list(listed.values())


def split_of(checksum: str, settings: FolderSettings) -> str:
    """The split of a file by its sha256, in hex: read as a fraction, it is evenly spread over 0..1."""
    place = int(checksum[:13], 16) / 16**13
    if place < settings.test_share:
        return "test"
    return "val" if place < settings.test_share + settings.validation_share else "train"


def _classes(dataset: str, listed: list[Listed]) -> list[str]:
    for image in listed:
        if "/" not in image.path:
            raise GenlibError(
                f"params.yaml: data.{dataset}.labels: folders, but {quoted(image.path)} is in none; move it into one, "
                "or set labels: none"
            )
    return sorted({_top(image.path) for image in listed})


def _top(path: str) -> str:
    return path.partition("/")[0]


def _is_below(path: str) -> bool:
    """Whether a path stays in its folder and is called like an image."""
    pure = PurePosixPath(path)
    return (
        path.isprintable()
        and not pure.is_absolute()
        and ".." not in pure.parts
        and pure.suffix.lower() in ENDINGS
        and pure.as_posix() == path
    )


def _pictures(
    dataset: str, settings: FolderSettings, splits: dict[str, list[Listed]], known: set[str]
) -> Iterator[Picture]:
    """The images as they are now, each checked to be the listed one."""
    assert isinstance(settings.source, FolderSource)
    root = locate(settings.source, dataset)
    new = sum(path not in known for path in find_images(root).images)
    if new:
        say(f"{dataset}: {new:,} images came into {root} after it was listed and are left out; {anew(dataset)}")
    for split, images in splits.items():
        for row, image in enumerate(images):
            content = read_image(root, image.path, dataset)
            if sha256(content).hexdigest() != image.sha256:
                raise GenlibError(f"{root / image.path}: changed after it was listed; {anew(dataset)}")
            yield Picture(split, row, root, image.path, content)
