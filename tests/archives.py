"""Small archives in the official formats of LFW and CelebA, of drawn pictures, with room for whatever a test spoils."""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]
Members = dict[str, bytes]

LFW_TRAIN = {"Ann_Ash": 3, "Bob_Birch": 1, "Cai_Cedar": 2, "Dee_Dogwood": 4, "Ede": 1}
LFW_TEST = {"Fay_Fir": 2, "Gus_Gum": 1}
ATTRIBUTES = ("Smiling", "Eyeglasses", "Young")
ORIGIN = {"dataset": "tiny", "files": [{"name": "made by hand"}]}


def drawn(seed: int, width: int, height: int) -> Bytes:
    """Coarse coloured noise, uint8 height width 3: no two seeds alike, and JPEG keeps it well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: Bytes, kind: str = "JPEG", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def decoded(content: bytes) -> Bytes:
    return np.asarray(Image.open(io.BytesIO(content)))


def shrunk(content: bytes, box: tuple[int, int, int, int], size: int) -> Bytes:
    """What preprocessing is to make of an encoded picture: C size size."""
    left, upper, right, lower = box
    kept = Image.fromarray(decoded(content)[upper:lower, left:right])
    return np.asarray(kept.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


def assert_clear(message: str, name: object) -> None:
    """An error's message: one line that names a file."""
    assert "\n" not in message
    assert str(name) in message


def lfw_members(
    people: Mapping[str, int], root: str = "lfw-deepfunneled", frame: tuple[int, int] = (50, 50)
) -> Members:
    """The members of LFW's archive: every image a different one."""
    names = [f"{root}/{person}/{person}_{n + 1:04d}.jpg" for person, images in people.items() for n in range(images)]
    return {name: encoded(drawn(seed, *frame)) for seed, name in enumerate(names)}


def people_list(people: Mapping[str, int]) -> str:
    return f"{len(people)}\n" + "".join(f"{name}\t{images}\n" for name, images in people.items())


def tgz(members: Mapping[str, bytes], more: Sequence[tuple[tarfile.TarInfo, bytes]] = (), kind: str = "gz") -> bytes:
    """A tar.gz of plain files, and of whatever else is given with its header."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=f"w:{kind}", format=tarfile.GNU_FORMAT) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
        for header, data in more:
            archive.addfile(header, io.BytesIO(data))
    return content.getvalue()


def write_lfw(
    folder: Path,
    train: Mapping[str, int] = LFW_TRAIN,
    test: Mapping[str, int] = LFW_TEST,
    members: Mapping[str, bytes] | None = None,
    archive: bytes | None = None,
) -> Path:
    """A raw folder of LFW; the archive holds `members` instead of the listed people's, or is `archive`."""
    raw = folder / "raw" / "lfw"
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "origin.json").write_text(json.dumps(ORIGIN))
    (raw / "peopleDevTrain.txt").write_text(people_list(train))
    (raw / "peopleDevTest.txt").write_text(people_list(test))
    members = lfw_members({**train, **test}) if members is None else members
    (raw / "lfw-deepfunneled.tgz").write_bytes(tgz(members) if archive is None else archive)
    return raw


def celeba_names(count: int, ending: str = "jpg") -> list[str]:
    return [f"{number:06d}.{ending}" for number in range(1, count + 1)]


def celeba_members(
    names: Sequence[str], frame: tuple[int, int] = (178, 218), folder: str = "img_align_celeba/"
) -> Members:
    return {
        folder + name: encoded(drawn(seed, *frame), "PNG" if name.endswith("png") else "JPEG")
        for seed, name in enumerate(names)
    }


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def attribute_rows(count: int) -> NDArray[np.int64]:
    """The attributes that `write_celeba` gives its images: count x 3 of 0 and 1."""
    return np.random.default_rng(5).integers(0, 2, (count, len(ATTRIBUTES)))


def celeba_lists(names: Sequence[str], splits: Sequence[int]) -> dict[str, str]:
    """The text of CelebA's three lists; image i is of person 100 + i // 2."""
    rows = zip(names, attribute_rows(len(names)), strict=True)
    lines = [" ".join([name, *(" 1" if value else "-1" for value in values)]) for name, values in rows]
    return {
        "list_attr_celeba.txt": "\n".join([str(len(names)), " ".join(ATTRIBUTES) + " ", *lines, ""]),
        "list_eval_partition.txt": "".join(f"{name} {split}\n" for name, split in zip(names, splits, strict=True)),
        "identity_CelebA.txt": "".join(f"{name} {100 + index // 2}\n" for index, name in enumerate(names)),
    }


def write_celeba(
    folder: Path,
    splits: Sequence[int] = (0, 0, 0, 0, 0, 1, 1, 2, 2, 2),
    lists: Mapping[str, str] | None = None,
    members: Mapping[str, bytes] | None = None,
    archive: bytes | None = None,
) -> Path:
    """A raw folder of CelebA; `lists` replaces some of the lists, the archive holds `members` or is `archive`."""
    raw = folder / "raw" / "celeba"
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "origin.json").write_text(json.dumps(ORIGIN))
    names = celeba_names(len(splits))
    for name, text in {**celeba_lists(names, splits), **(lists or {})}.items():
        (raw / name).write_text(text)
    members = celeba_members(names) if members is None else members
    (raw / "img_align_celeba.zip").write_bytes(zipped(members) if archive is None else archive)
    return raw
