"""Labeled Faces in the Wild, deep funneled: lfw-deepfunneled.tgz with the people of the development split (View 1)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from genlib.data.meter import say
from genlib.data.readers.members import MEMBERS
from genlib.data.readers.reading import Picture, Reading, is_name, quoted, read_lines, remedy, whole_number
from genlib.data.readers.tgz import read_tgz
from genlib.errors import GenlibError
from genlib.settings import LfwSettings

ARCHIVE, TRAIN_LIST, TEST_LIST = "lfw-deepfunneled.tgz", "peopleDevTrain.txt", "peopleDevTest.txt"
_OFFICIAL = {TRAIN_LIST: (4038, 9525), TEST_LIST: (1711, 3708)}

People = dict[str, int]
"""Name -> number of images, in the order of a list."""


@dataclass(frozen=True)
class _Listed:
    """A person's list, split, number of images, and row of their first image."""

    path: Path
    split: str
    images: int
    row: int


def read(dataset: str, settings: LfwSettings, raw: Path) -> Reading:
    """Labels: the index of the person among all names, sorted. Nobody is in two splits.

    Test people are those of the test list. Validation people are whole people of the training list, taken in the order
    of sha256(name) until they have at least `validation_images` images. Raises GenlibError for lists that are
    malformed or share a person, and for a validation split that leaves nobody to train on; while the pictures are read,
    if the archive does not hold exactly the listed images of each person.
    """
    listed = {name: read_people(raw / name) for name in (TRAIN_LIST, TEST_LIST)}
    train, test = listed[TRAIN_LIST], listed[TEST_LIST]
    for person in train:
        if person in test:
            raise GenlibError(f"{raw / TEST_LIST}: {person} is in {TRAIN_LIST}, too; {remedy(raw / TEST_LIST)}")
    held_out = choose_people(train, settings.validation_images)
    if len(held_out) == len(train):
        raise GenlibError(
            f"params.yaml: data.{dataset}.validation_images: {settings.validation_images} leaves nobody of the "
            f"{len(train)} people ({sum(train.values())} images) of {TRAIN_LIST} to train on; choose fewer"
        )
    splits = {
        "train": {person: images for person, images in train.items() if person not in held_out},
        "val": {person: images for person, images in train.items() if person in held_out},
        "test": test,
    }
    names = sorted(train | test)
    label = {person: index for index, person in enumerate(names)}
    places = {}
    for split, people in splits.items():
        row = 0
        for person, images in people.items():
            places[person] = _Listed(raw / (TEST_LIST if split == "test" else TRAIN_LIST), split, images, row)
            row += images
    counts = {name: (len(people), sum(people.values())) for name, people in listed.items()}
    return Reading(
        kind="people",
        labels={
            split: np.repeat(np.array([label[person] for person in people], np.int64), list(people.values()))
            for split, people in splits.items()
        },
        classes=tuple(names),
        split_rule=(
            f"test: the people of {TEST_LIST}; validation: whole people of {TRAIN_LIST}, in the order of sha256(name), "
            f"until they had {settings.validation_images} images; nobody is in two splits"
        ),
        pictures=lambda: _pictures(raw / ARCHIVE, places),
        crop=lambda width: settings.crop,
        edition=lambda frame: _edition(counts, frame),
    )


def read_people(path: Path) -> People:
    """A list of people: their number on the first line, then lines NAME<tab>IMAGES. GenlibError names a bad line."""
    first, *rows = read_lines(path)
    people: People = {}
    for number, row in enumerate(rows, start=2):
        person, *counts = row.split()[:3] or [""]
        images = whole_number(counts[0]) if len(counts) == 1 else None
        if not images or not is_name(person):
            raise GenlibError(f"{path}: line {number}: {quoted(row)} is not NAME<tab>IMAGES; {remedy(path)}")
        if person in people:
            raise GenlibError(f"{path}: line {number}: {person} is there twice; {remedy(path)}")
        people[person] = images
    if whole_number(first.strip()) != len(people):
        raise GenlibError(f"{path}: line 1: {quoted(first)}, but there are {len(people)} people; {remedy(path)}")
    if not 1 <= sum(people.values()) <= MEMBERS:
        raise GenlibError(f"{path}: {sum(people.values())} images, not 1 to {MEMBERS}; {remedy(path)}")
    return people


def choose_people(people: People, images: int) -> set[str]:
    """Whole people, in the order of sha256(name), until they have at least so many images (or there are no more)."""
    chosen, total = set(), 0
    for person in sorted(people, key=lambda name: sha256(name.encode()).digest()):
        if total >= images:
            break
        chosen.add(person)
        total += people[person]
    return chosen


def _pictures(archive: Path, places: dict[str, _Listed]) -> Iterator[Picture]:
    """The listed images in the order of the archive; then a check that each was there."""
    found = dict.fromkeys(places, 0)
    left_out = 0
    root = None
    for name, content in read_tgz(archive):
        match = re.fullmatch(r"([^/]+)/([^/]+)/\2_([0-9]{4})\.jpg", name)
        root = root or (match and match[1])
        if match is None or match[1] != root:
            raise GenlibError(
                f"{archive}: member {quoted(name)} is not <one folder>/NAME/NAME_0001.jpg; {remedy(archive)}"
            )
        person, number = match[2], int(match[3])
        place = places.get(person)
        if place is None:
            left_out += 1
            continue
        if not 1 <= number <= place.images:
            raise GenlibError(
                f"{archive}: member {quoted(name)}, but {place.path.name} says that {person} has {place.images} "
                f"images; {remedy(archive)}"
            )
        found[person] += 1
        yield Picture(place.split, place.row + number - 1, archive, name, content)
    if left_out:
        say(f"{archive}: {left_out} images of people in neither list are left out")
    for person, place in places.items():
        if found[person] != place.images:
            raise GenlibError(
                f"{place.path}: {person} has {place.images} images, but {archive.name} holds {found[person]} of them; "
                f"{remedy(place.path)}"
            )


def _edition(counts: dict[str, tuple[int, int]], frame: tuple[int, int]) -> str | None:
    parts = []
    for name, official in _OFFICIAL.items():
        if counts[name] != official:
            parts.append(
                f"{counts[name][0]:,} people with {counts[name][1]:,} images in {name} instead of "
                f"{official[0]:,} with {official[1]:,}"
            )
    if frame != (250, 250):
        parts.append(f"frames of {frame[0]} x {frame[1]} instead of 250 x 250")
    return ", ".join(parts) or None
