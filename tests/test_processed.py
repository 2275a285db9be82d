"""Preprocessing of hand-made archives, and opening what it wrote, whole or damaged."""

import gzip
import json
import multiprocessing
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genlib.data import processed
from genlib.data.arrays import open_card, open_split
from genlib.data.processed import preprocess
from genlib.data.readers.reading import Picture, Reading
from genlib.errors import GenlibError
from genlib.settings import IdxSettings

ORIGIN = {"dataset": "tiny", "files": [{"name": "made by hand"}]}
TRAIN, TEST = 13, 5

Bytes = NDArray[np.uint8]


def idx(array: Bytes) -> bytes:
    """An idx file, spelled out after the format description."""
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def drawn(count: int, size: int, seed: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size), np.uint8)


def settings(size: int = 10, validation_images: int = 4) -> IdxSettings:
    return IdxSettings.model_validate(
        {"source": {"kind": "mnist"}, "image_size": size, "validation_images": validation_images}
    )


@pytest.fixture
def archives() -> dict[str, Bytes]:
    return {
        "train-images-idx3-ubyte.gz": drawn(TRAIN, 10, 0),
        "train-labels-idx1-ubyte.gz": np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9], np.uint8),
        "t10k-images-idx3-ubyte.gz": drawn(TEST, 10, 1),
        "t10k-labels-idx1-ubyte.gz": np.array([2, 7, 1, 8, 2], np.uint8),
    }


def written(folder: Path, archives: dict[str, Bytes]) -> Path:
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    for name, array in archives.items():
        (raw / name).write_bytes(idx(array))
    (raw / "origin.json").write_text(json.dumps(ORIGIN))
    return raw


def refusal(raw: Path, out: Path, wanted: IdxSettings) -> str:
    with pytest.raises(GenlibError) as caught:
        preprocess("tiny", wanted, raw, out)
    message = str(caught.value)
    assert "\n" not in message
    assert list(out.parent.glob("*out*")) == []  # nothing is left, not even in part
    return message


def test_splits_labels_and_card(tmp_path: Path, archives: dict[str, Bytes]) -> None:
    out = tmp_path / "out"
    returned = preprocess("tiny", settings(), written(tmp_path, archives), out)
    images, labels = archives["train-images-idx3-ubyte.gz"], archives["train-labels-idx1-ubyte.gz"]
    expected = {
        "train": (images[:9], labels[:9]),
        "val": (images[9:], labels[9:]),
        "test": (archives["t10k-images-idx3-ubyte.gz"], archives["t10k-labels-idx1-ubyte.gz"]),
    }
    for name, (pictures, classes) in expected.items():
        split = open_split(out, name)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.images, pictures[:, None])
        np.testing.assert_array_equal(split.labels, classes)

    card = open_card(out)
    assert card == returned
    pixels = images[:9].astype(np.float64) / 255
    assert card["mean"] == [pytest.approx(pixels.mean(), abs=1e-6)]
    assert card["std"] == [pytest.approx(pixels.std(), abs=1e-6)]
    assert card["counts"] == {"train": 9, "val": 4, "test": 5}
    assert card["class_counts"] == {
        "train": [0, 2, 1, 1, 1, 2, 1, 0, 0, 1],
        "val": [0, 0, 0, 1, 0, 1, 0, 0, 1, 1],
        "test": [0, 1, 2, 0, 0, 0, 0, 1, 1, 0],
    }
    assert card["classes"] == list("0123456789")
    assert (card["dataset"], card["origin"], card["image_size"], card["channels"]) == ("tiny", ORIGIN, 10, 1)
    assert (card["crop"], card["resize"]) == (None, None)
    assert (card["people"], card["edition"], card["labels"], card["people_counts"]) == (False, None, "classes", None)
    assert "last 4" in card["split_rule"]
    arrays = {f"{split}{kind}.npy" for split in expected for kind in ("", "_labels")}
    assert card["sha256"] == {name: sha256((out / name).read_bytes()).hexdigest() for name in arrays}
    assert {path.name for path in out.iterdir()} == arrays | {"card.json"}


def test_the_same_archives_give_the_same_bytes(tmp_path: Path, archives: dict[str, Bytes]) -> None:
    raw = written(tmp_path, archives)
    for name in ("a", "b"):
        preprocess("tiny", settings(), raw, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_what_was_there_is_replaced(tmp_path: Path, archives: dict[str, Bytes]) -> None:
    out, raw = tmp_path / "out", written(tmp_path, archives)
    out.mkdir()
    (out / "card.json").write_text("old")
    preprocess("tiny", settings(), raw, out)
    assert (out / "card.json").read_text() != "old"
    with pytest.raises(GenlibError, match=r"is to be replaced, and holds .* which would be lost"):
        preprocess("tiny", settings(), raw, raw)
    assert len(list(raw.iterdir())) >= len(archives)


def test_shrinking_is_antialiased(tmp_path: Path, archives: dict[str, Bytes]) -> None:
    """A chessboard of single pixels becomes an even grey; taking every second pixel would make it black or white."""
    board = np.indices((20, 20)).sum(0) % 2 * 255
    archives["train-images-idx3-ubyte.gz"] = np.repeat(board[None].astype(np.uint8), TRAIN, 0)
    archives["t10k-images-idx3-ubyte.gz"] = drawn(TEST, 20, 2)
    card = preprocess("tiny", settings(size=10), written(tmp_path, archives), tmp_path / "out")
    assert (card["image_size"], card["resize"]) == (10, "lanczos from 20")
    train, test = open_split(tmp_path / "out", "train").images, open_split(tmp_path / "out", "test").images
    assert train.shape == (9, 1, 10, 10)
    assert train.dtype == np.uint8
    assert np.abs(train[:, :, 2:-2, 2:-2].astype(int) - 128).max() <= 8
    for small, large in zip(test[:, 0], archives["t10k-images-idx3-ubyte.gz"], strict=True):
        means = large.reshape(10, 2, 10, 2).mean((1, 3))  # not the same filter, nearly the same picture
        assert np.corrcoef(small.flatten(), means.flatten())[0, 1] > 0.8


def test_enlarging_keeps_an_even_picture_and_the_place_of_things(tmp_path: Path, archives: dict[str, Bytes]) -> None:
    images = np.full((TRAIN, 10, 10), 77, np.uint8)
    images[1] = 0
    images[1, :5] = 255
    archives["train-images-idx3-ubyte.gz"] = images
    preprocess("tiny", settings(size=20), written(tmp_path, archives), tmp_path / "out")
    train = open_split(tmp_path / "out", "train").images
    assert train.shape == (9, 1, 20, 20)
    assert (train[0] == 77).all()
    assert (train[1, 0, :7] > 240).all()
    assert (train[1, 0, 13:] < 15).all()


@pytest.mark.parametrize("count", [TRAIN, TRAIN + 1, 100])
def test_more_validation_images_than_there_are(count: int, tmp_path: Path, archives: dict[str, Bytes]) -> None:
    message = refusal(written(tmp_path, archives), tmp_path / "out", settings(validation_images=count))
    assert message.startswith(f"params.yaml: data.tiny.validation_images: {count} leaves none of the 13")
    assert "choose fewer" in message


def test_one_training_image_may_be_left(tmp_path: Path, archives: dict[str, Bytes]) -> None:
    card = preprocess("tiny", settings(validation_images=12), written(tmp_path, archives), tmp_path / "out")
    assert card["counts"]["train"] == 1


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("train-labels-idx1-ubyte.gz", np.zeros(12, np.uint8)),
        ("t10k-labels-idx1-ubyte.gz", np.zeros(6, np.uint8)),
        ("train-labels-idx1-ubyte.gz", np.zeros((13, 1), np.uint8)),
        ("train-images-idx3-ubyte.gz", np.zeros((13, 100), np.uint8)),
        ("train-images-idx3-ubyte.gz", np.zeros((13, 10, 12), np.uint8)),
    ],
)
def test_images_and_labels_that_do_not_go_together(
    name: str, array: Bytes, tmp_path: Path, archives: dict[str, Bytes]
) -> None:
    message = refusal(written(tmp_path, archives | {name: array}), tmp_path / "out", settings())
    assert "does not go with" in message
    assert name.split("-")[0] in message
    assert "delete both" in message


def test_a_label_that_is_no_digit(tmp_path: Path, archives: dict[str, Bytes]) -> None:
    archives["t10k-labels-idx1-ubyte.gz"][3] = 10
    message = refusal(written(tmp_path, archives), tmp_path / "out", settings())
    assert "t10k-labels-idx1-ubyte.gz: label 10 is not a digit; delete it" in message


def test_images_that_are_too_large(tmp_path: Path, archives: dict[str, Bytes]) -> None:
    archives["t10k-images-idx3-ubyte.gz"] = np.zeros((TEST, 1025, 1025), np.uint8)
    message = refusal(written(tmp_path, archives), tmp_path / "out", settings())
    assert "t10k-images-idx3-ubyte.gz: 1025 pixels a side, more than 1024; delete it" in message


@pytest.mark.parametrize("name", ["origin.json", "t10k-images-idx3-ubyte.gz"])
def test_an_archive_that_is_not_there(name: str, tmp_path: Path, archives: dict[str, Bytes]) -> None:
    raw = written(tmp_path, archives)
    (raw / name).unlink()
    assert f"{raw / name}: no such file" in refusal(raw, tmp_path / "out", settings())


def test_a_split_is_mapped_and_cannot_be_written(tmp_path: Path, archives: dict[str, Bytes]) -> None:
    preprocess("tiny", settings(), written(tmp_path, archives), tmp_path / "out")
    images = open_split(tmp_path / "out", "train").images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def zipped() -> bytes:
    content = BytesIO()
    np.savez(content, a=np.zeros(3))
    return content.getvalue()


def saved(array: NDArray[Any], allow_pickle: bool = False) -> bytes:
    content = BytesIO()
    np.save(content, array, allow_pickle=allow_pickle)
    return content.getvalue()


class Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, ("trap",)


GOOD = saved(np.zeros((9, 1, 10, 10), np.uint8))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        GOOD[:40],
        GOOD[:-1],
        GOOD.replace(b"(9, 1, 10, 10)", b"(9, 1, 10, 10,"),
        GOOD.replace(b"(9, 1, 10, 10)", b"(-9, 1, 1, 10)"),
        GOOD.replace(b"(9, 1, 10, 10)", b"(9, 1, 1, 'a')"),
        GOOD.replace(b"'|u1'", b"'|x1'"),
        b"<html>",
        bytes(100),
        zipped(),
        saved(np.array([Malicious()], object), allow_pickle=True),
        saved(np.zeros((9, 1, 10, 10), np.float32)),
        saved(np.zeros((9, 10, 10), np.uint8)),
        saved(np.zeros((8, 1, 10, 10), np.uint8)),
    ],
)
def test_a_damaged_array_is_refused_in_one_line(content: bytes, alone: Path, archives: dict[str, Bytes]) -> None:
    out = alone / "out"
    preprocess("tiny", settings(), written(alone, archives), out)
    (out / "train.npy").write_bytes(content)
    with pytest.raises(GenlibError) as caught:
        open_split(out, "train")
    assert "\n" not in str(caught.value)
    assert str(out / "train") in str(caught.value)
    assert "run dvc repro" in str(caught.value)
    assert not (alone / "trap").exists()


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GenlibError, match="no such file; run dvc repro preprocess@mnist"):
        open_split(tmp_path / "mnist", "train")


def test_labels_may_be_attributes(tmp_path: Path, archives: dict[str, Bytes]) -> None:
    out = tmp_path / "out"
    preprocess("tiny", settings(), written(tmp_path, archives), out)
    attributes = np.eye(4, 3, dtype=np.int64)
    np.save(out / "val_labels.npy", attributes)
    np.testing.assert_array_equal(open_split(out, "val").labels, attributes)
    np.save(out / "val_labels.npy", np.zeros((4, 3, 1), np.int64))
    with pytest.raises(GenlibError, match=r"val_labels.npy: int64 \(4, 3, 1\) is not what the stage writes"):
        open_split(out, "val")


@pytest.mark.parametrize("key", ["people", "edition", "labels", "classes", "people_counts", "sha256"])
def test_a_card_without_one_of_its_keys(key: str, tmp_path: Path, archives: dict[str, Bytes]) -> None:
    card = preprocess("tiny", settings(), written(tmp_path, archives), tmp_path / "out")
    del card[key]
    (tmp_path / "out" / "card.json").write_text(json.dumps(card))
    with pytest.raises(GenlibError, match=r"card.json: not the card of a dataset; delete it"):
        open_card(tmp_path / "out")


@pytest.mark.parametrize("workers", ["1", "2", "3"])
def test_statistics_are_those_of_the_training_pixels(
    tmp_path: Path, archives: dict[str, Bytes], workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENLIB_WORKERS", workers)
    monkeypatch.setattr(processed, "_BATCH_IMAGES", 2)
    card = preprocess("tiny", settings(), written(tmp_path, archives), tmp_path / "out")
    images = np.load(tmp_path / "out" / "train.npy") / 255
    assert (card["mean"], card["std"]) == ([round(float(images.mean()), 6)], [round(float(images.std()), 6)])


def test_a_fault_while_decoding_stops_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than the portions in flight are read after it, and no process is left."""
    read = 0

    def pictures() -> Iterator[Picture]:
        nonlocal read
        for row in range(100_000):
            read += 1
            yield Picture("train", row, tmp_path / "a.zip", "a.jpg", b"<html>")

    reading = Reading("classes", {"train": np.zeros(100_000, np.int64)}, ("a",), "", pictures)
    first = Picture("train", 0, tmp_path, "drawn", np.zeros((8, 8), np.uint8))
    with_first = replace(reading, pictures=lambda: chain([first], pictures()))
    monkeypatch.setattr(processed, "_read", lambda *_: with_first)
    (tmp_path / "origin.json").write_text("{}")
    with pytest.raises(GenlibError, match=r"a.zip: member 'a.jpg' is not a JPEG image"):
        preprocess("tiny", settings(), tmp_path, tmp_path / "out")
    assert read < 2000
    assert multiprocessing.active_children() == []
    assert not (tmp_path / "out").exists()


def test_too_little_disk_is_said_before_the_work(
    tmp_path: Path, archives: dict[str, Bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1799))
    assert "needs 1.80kB" in refusal(written(tmp_path, archives), tmp_path / "out", settings())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1800))
    assert preprocess("tiny", settings(), written(tmp_path, archives), tmp_path / "out")["counts"]["train"] == 9


def test_the_stage_needs_no_torch() -> None:
    code = "import stages.preprocess, sys; print([m for m in ('torch', 'torchvision', 'mlflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_labels_of_another_kind(tmp_path: Path, archives: dict[str, Bytes]) -> None:
    out = tmp_path / "out"
    preprocess("tiny", settings(), written(tmp_path, archives), out)
    np.save(out / "val_labels.npy", np.zeros(4, np.float64))
    with pytest.raises(GenlibError, match=r"val_labels.npy: float64 \(4,\) is not what the stage writes"):
        open_split(out, "val")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"3"])
def test_a_damaged_card_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(GenlibError) as caught:
        open_card(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "card.json") in str(caught.value)
