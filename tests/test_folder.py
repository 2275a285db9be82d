"""A user's own folder of images: what is listed, how photographs become squares, their splits, what is refused."""

import json
import os
import random
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import Bytes, assert_clear, drawn, encoded
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from genlib.data.arrays import open_split
from genlib.data.kinds import folder as kind
from genlib.data.processed import preprocess
from genlib.data.readers.folder import UNLABELLED, read, split_of
from genlib.data.readers.photos import Photos, count_scans
from genlib.data.readers.reading import Picture
from genlib.data.sources import provide_dataset
from genlib.errors import GenlibError
from genlib.params import parse
from genlib.settings import FolderSettings, FolderSource

ANEW = "run dvc repro --force download@mine"


def settings(photos: Path, **changes: Any) -> FolderSettings:
    entry = {"source": {"kind": "folder", "path": str(photos)}, "image_size": 16}
    return FolderSettings.model_validate(entry | changes)


def filled(folder: Path, count: int = 60) -> Path:
    """Photographs of several sizes and formats in two folders, one of them two levels deep."""
    photos = folder / "photos"
    for seed in range(count):
        place = photos / ("cats" if seed % 3 else "dogs/old")
        place.mkdir(parents=True, exist_ok=True)
        form, ending = (("JPEG", "jpg"), ("PNG", "PNG"), ("WEBP", "webp"), ("BMP", "bmp"), ("JPEG", "jpeg"))[seed % 5]
        (place / f"{seed:03d}.{ending}").write_bytes(encoded(drawn(seed, 30 + seed % 7, 40 - seed % 11), form))
    return photos


def listed(photos: Path, raw: Path) -> Path:
    provide_dataset(FolderSource(kind="folder", path=str(photos)), "mine", raw, raw.parent / "work" / "mine")
    return raw


def refused(run: Callable[[], object], *parts: str) -> None:
    with pytest.raises(GenlibError) as caught:
        run()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def decoded(content: bytes, size: int = 16, channels: int = 3, share: float = 1.0) -> Bytes:
    return Photos("mine", size, channels, share)(Picture("train", 0, Path("photos"), "a.jpg", content))


def scaled(pixels: Bytes, side: int, size: int) -> Bytes:
    """The central square of side x side, resized: H W 3 to 3 size size."""
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


# What is listed


def test_the_list_names_images_and_counts_what_else_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = filled(tmp_path, 10)
    (photos / "copy.jpg").write_bytes((photos / "dogs/old/000.jpg").read_bytes())
    for name in (".hidden.jpg", "notes.txt", "a.heic", "b.HEIC", "no ending", ".cache/x.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"?")
    (photos / "link.jpg").symlink_to(photos / "copy.jpg")
    (photos / "again").symlink_to(photos / "cats")
    raw = listed(photos, tmp_path / "raw")
    lines = (raw / kind.LIST_NAME).read_text().splitlines()
    assert [line[66:] for line in lines] == sorted(
        path.relative_to(photos).as_posix()
        for path in photos.rglob("*")
        if path.suffix.lower() in kind.ENDINGS and not path.is_symlink() and "/." not in str(path)
    )
    assert len(lines) == 11
    said = capsys.readouterr().err
    assert said.startswith("mine: 11 images of ")
    assert "1 of them copies of others; passed over: 2 .heic, 2 hidden, 2 links, 1 .txt, 1 other\n" in said
    record = json.loads((raw / "origin.json").read_text())["files"][0]
    assert (record["name"], record["source"], record["verified"]) == (kind.LIST_NAME, "folder", "listed")
    assert (raw / kind.LIST_NAME).read_bytes() == (listed(photos, tmp_path / "raw2") / kind.LIST_NAME).read_bytes()


def test_a_relative_folder_counts_from_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = filled(tmp_path, 1)
    for place in ("repository", "copy"):
        (tmp_path / place).mkdir()
    source = FolderSource(kind="folder", path="../photos")
    monkeypatch.chdir(tmp_path / "repository")
    assert kind.locate(source, "mine") == photos
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    monkeypatch.chdir("/")
    assert kind.locate(source, "mine") == photos
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kind.locate(FolderSource(kind="folder", path="~/photos"), "mine") == photos
    refused(
        lambda: kind.locate(FolderSource(kind="folder", path="nowhere"), "mine"),
        "data.mine.source.path", "nowhere: no such folder", "set it to",
    )  # fmt: skip


def spoilt_by_a_link(photos: Path, target: Path) -> None:
    target.write_bytes(encoded(drawn(0, 20, 20)))
    (photos / "secret.jpg").symlink_to(target)


def spoilt_by_a_linked_folder(photos: Path, target: Path) -> None:
    target.mkdir()
    (photos / "more").symlink_to(target)


def spoilt_by_a_link_to_nothing(photos: Path, target: Path) -> None:
    (photos / "secret.png").symlink_to(target)


def spoilt_by_a_pipe(photos: Path, target: Path) -> None:
    os.mkfifo(photos / "endless.jpg")


def spoilt_by_a_folder(photos: Path, target: Path) -> None:
    """Which is none to be afraid of, but for its name: it is gone into, as any other."""
    (photos / "album.jpg").mkdir()
    os.mkfifo(photos / "album.jpg" / "endless.jpg")


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (spoilt_by_a_link, ("secret.jpg: a link that leads out of", "remove it")),
        (spoilt_by_a_linked_folder, ("more: a link that leads out of", "remove it")),
        (spoilt_by_a_link_to_nothing, ("secret.png: a link that leads out of", "remove it")),
        (spoilt_by_a_pipe, ("endless.jpg: neither a plain file nor a folder", "remove it")),
        (spoilt_by_a_folder, ("album.jpg/endless.jpg: neither a plain file",)),
        (lambda photos, _: (photos / "a\nb.jpg").touch(), (r"'a\nb.jpg'", "rename it")),
        (lambda photos, _: (photos / "\udcff.jpg").touch(), (r"'\udcff.jpg'", "rename it")),
        (lambda photos, _: [path.unlink() for path in photos.rglob("*.*")], ("no image (it is empty)", "put JPEG")),
    ],
)
def test_what_no_list_can_hold_is_one_line(
    spoil: Callable[[Path, Path], None], parts: tuple[str, ...], tmp_path: Path
) -> None:
    photos = filled(tmp_path, 3)
    spoil(photos, tmp_path / "elsewhere")
    refused(lambda: listed(photos, tmp_path / "raw"), *parts)
    assert not (tmp_path / "raw").exists()


def test_limits_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = filled(tmp_path, 6)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "FILE_BYTES", 1000)
        refused(lambda: listed(photos, tmp_path / "raw"), "more than the 0 MiB that an image may have", "smaller")
    with monkeypatch.context() as patch:
        patch.setattr(kind, "ENTRIES", 5)
        refused(lambda: listed(photos, tmp_path / "raw"), "more than 5 files and folders", "smaller folder")
    with monkeypatch.context() as patch:
        patch.setattr(kind, "LIST_BYTES", 100)
        refused(lambda: listed(photos, tmp_path / "raw"), "6 images, too many for a list", "take fewer")


# Photographs to squares


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_a_picture_without_loss_is_its_central_square_resized(form: str) -> None:
    pixels = drawn(1, 57, 40)
    content = encoded(pixels, form, **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(decoded(content), scaled(pixels, 40, 16))
    np.testing.assert_array_equal(decoded(content, share=0.5), scaled(pixels, 20, 16))
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_allclose(decoded(content, channels=1)[0], scaled(grey[..., None].repeat(3, 2), 40, 16)[0], atol=1)


def test_a_large_jpeg_shrunk_on_its_way_is_near_the_same_resized_at_once() -> None:
    """24 megapixels; decoded whole it would take 72 MB."""
    pixels = drawn(2, 6000, 4000)
    shrunk = decoded(encoded(pixels, quality=90), size=32)
    np.testing.assert_allclose(shrunk.astype(int), scaled(pixels, 4000, 32), atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_as_the_camera_noted(orientation: int) -> None:
    upright = drawn(3, 16, 16)
    turned = [
        upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1], upright.transpose(1, 0, 2),
        np.rot90(upright), np.rot90(upright, 2).transpose(1, 0, 2), np.rot90(upright, -1),
    ]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(np.ascontiguousarray(turned[orientation - 1]), "PNG", exif=exif)
    np.testing.assert_array_equal(decoded(content), upright.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_any_colours_become_rgb_or_grey(mode: str) -> None:
    image = Image.fromarray(drawn(4, 16, 16)).convert(mode)
    stream = BytesIO()
    image.save(stream, "JPEG" if mode == "CMYK" else "PNG")
    content = stream.getvalue()
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_allclose(decoded(content).astype(int), expected, atol=12 if mode == "CMYK" else 0)
    assert decoded(content, channels=1).shape == (1, 16, 16)


def test_what_is_transparent_becomes_white() -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8, :, 3] = 255
    square = decoded(encoded(pixels, "PNG"))
    assert square[:, :8].max() == 0
    assert square[:, 8:].min() == 255


def bomb(width: int, height: int) -> bytes:
    """A PNG that announces so many pixels, and has none."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def of_16_bits() -> bytes:
    stream = BytesIO()
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(stream, "PNG")
    return stream.getvalue()


def many_scans() -> bytes:
    content = encoded(drawn(5, 40, 40), progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * 200 + content[-2:]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is no JPEG, PNG, WebP or BMP image (starts with b'')"),
        (b"<!DOCTYPE html><html>", "is no JPEG, PNG, WebP or BMP image (starts with b'<!DOCTYPE ht')"),
        (encoded(drawn(5, 90, 90))[:-900], "cannot be decoded (image file is truncated"),
        (encoded(drawn(5, 90, 90), "PNG")[:-900], "cannot be decoded"),
        (encoded(drawn(5, 40, 40), "TIFF"), "is no JPEG, PNG, WebP or BMP image"),
        (encoded(drawn(5, 40, 40), "GIF"), "is no JPEG, PNG, WebP or BMP image"),
        (of_16_bits(), "has colours of mode I;16: save it with 8"),
        (bomb(8001, 8000), "has 8001 x 8000 pixels, more than the 64 million"),
        (bomb(10_000, 10_000), "has 10000 x 10000 pixels"),
        (bomb(60_000, 60_000), "cannot be decoded (Image size (3600000000 pixels) exceeds limit"),
        (many_scans(), "has 210 scans, more than 100"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_photograph_is_one_line_that_names_it(content: bytes, fault: str) -> None:
    refused(lambda: decoded(content), f"photos/a.jpg {fault}", "mend or remove it", ANEW)


def test_a_film_behind_a_photograph_does_not_count_as_its_scans() -> None:
    content = encoded(drawn(6, 40, 40), progressive=True)
    assert count_scans(content) == content.count(b"\xff\xda") > 5
    film = content + b"\xff\xda\x00\x02" * 500
    assert count_scans(film) == count_scans(content)
    np.testing.assert_array_equal(decoded(film), decoded(content))


SOUND = {form: encoded(drawn(7, 24, 20), form) for form in ("JPEG", "PNG", "WEBP", "BMP")}
_EXIF = Image.Exif()
_EXIF[0x0112] = 6
SOUND["EXIF"] = encoded(drawn(7, 24, 20), "JPEG", exif=_EXIF)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(form=st.sampled_from(sorted(SOUND)), seed=st.integers(0, 2**32))
def test_a_damaged_photograph_is_a_picture_or_one_line(form: str, seed: int) -> None:
    chance = random.Random(seed)
    content = bytearray(SOUND[form])
    for _ in range(chance.randint(1, 6)):
        reach = len(content) if chance.random() < 0.3 else min(len(content), 200)
        content[chance.randrange(reach)] = chance.randrange(256)
    try:
        shape, message = decoded(bytes(content)).shape, "photos/a.jpg"
    except GenlibError as error:
        shape, message = (3, 16, 16), str(error)
    assert shape == (3, 16, 16)
    assert_clear(message, "photos/a.jpg")


# Splits, labels, arrays


def test_a_file_keeps_its_split_when_others_come(tmp_path: Path) -> None:
    photos = filled(tmp_path, 40)
    (photos / "copy.jpg").write_bytes((photos / "dogs/old/000.jpg").read_bytes())
    preprocess("mine", settings(photos), listed(photos, tmp_path / "raw"), tmp_path / "before")
    for seed in range(100, 130):
        (photos / f"{seed}.png").write_bytes(encoded(drawn(seed, 33, 33), "PNG"))
    card = preprocess("mine", settings(photos), listed(photos, tmp_path / "raw"), tmp_path / "after")
    assert sum(card["counts"].values()) == 71
    everywhere: list[set[bytes]] = []
    for split in ("train", "val", "test"):
        before, after = (
            {image.tobytes() for image in open_split(tmp_path / when, split).images} for when in ("before", "after")
        )
        assert before < after or (before == after and split == "val")
        everywhere.append(after)
    assert sum(map(len, everywhere)) == len(set.union(*everywhere)) == 70  # the copy is in the split of its twin


def test_shares_are_met_about() -> None:
    wanted = settings(Path("photos"), test_share=0.3, validation_share=0.15)
    chance = random.Random(0)
    splits = [split_of(chance.randbytes(32).hex(), wanted) for _ in range(4000)]
    assert splits.count("test") == pytest.approx(1200, abs=100)
    assert splits.count("val") == pytest.approx(600, abs=80)
    assert split_of("f" * 64, wanted) == "train"
    assert split_of("0" * 64, wanted) == "test"


def test_folders_are_classes_or_nothing_is(tmp_path: Path) -> None:
    photos = filled(tmp_path)
    raw = listed(photos, tmp_path / "raw")
    card = preprocess("mine", settings(photos, labels="folders"), raw, tmp_path / "labelled")
    assert (card["labels"], card["classes"]) == ("classes", ["cats", "dogs"])
    assert np.sum(list(card["class_counts"].values()), axis=0).tolist() == [40, 20]
    first = open_split(tmp_path / "labelled", "test")
    lines = sorted((raw / kind.LIST_NAME).read_text().splitlines())
    assert ["cats/" in line for line in lines[: len(first.labels)]] == (first.labels == 0).tolist()
    path = photos / lines[0][66:]
    np.testing.assert_array_equal(first.images[0], decoded(path.read_bytes()))
    bare = preprocess("mine", settings(photos), raw, tmp_path / "bare")
    assert bare["classes"] == [UNLABELLED]
    assert bare["people"] is True  # private: nothing that shows them is pushed or tracked
    assert bare["crop"] == "central square, the shorter side"
    np.testing.assert_array_equal(open_split(tmp_path / "bare", "test").images, first.images)


def test_an_image_in_no_folder_has_no_label(tmp_path: Path) -> None:
    photos = filled(tmp_path, 5)
    (photos / "alone.png").write_bytes(encoded(drawn(9, 20, 20), "PNG"))
    raw = listed(photos, tmp_path / "raw")
    refused(lambda: read("mine", settings(photos, labels="folders"), raw), "data.mine.labels", "'alone.png' is in none")


def test_grey_limited_and_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = filled(tmp_path)
    raw = listed(photos, tmp_path / "raw")
    for workers in ("1", "2"):
        monkeypatch.setenv("GENLIB_WORKERS", workers)
        card = preprocess("mine", settings(photos, channels=1, limit=4), raw, tmp_path / workers)
        assert card["counts"] == {"train": 4, "val": 4, "test": 4}
        assert (card["channels"], card["edition"]) == (1, "only the first 4 of each split")
    assert (tmp_path / "1" / "card.json").read_bytes() == (tmp_path / "2" / "card.json").read_bytes()


def test_too_few_to_measure_with_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = filled(tmp_path)
    read("mine", settings(photos), listed(photos, tmp_path / "raw"))
    assert "test images; evaluate needs 100: add images, or raise data.mine.test_share" in capsys.readouterr().err
    raw = listed(filled(tmp_path / "few", 2), tmp_path / "raw")
    refused(lambda: read("mine", settings(photos), raw), "its shares leave no", "of 2", "add images")


def test_only_what_was_listed_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = filled(tmp_path)
    raw, out, victim = listed(photos, tmp_path / "raw"), tmp_path / "out", photos / "cats" / "001.PNG"
    (photos / "new.png").write_bytes(encoded(drawn(99, 20, 20), "PNG"))
    preprocess("mine", settings(photos), raw, out)
    assert f"mine: 1 images came into {photos} after it was listed and are left out; {ANEW}" in capsys.readouterr().err
    before = victim.read_bytes()
    victim.write_bytes(encoded(drawn(98, 20, 20), "PNG"))
    refused(lambda: preprocess("mine", settings(photos), raw, out), "001.PNG: changed after it was listed", ANEW)
    victim.unlink()
    refused(lambda: preprocess("mine", settings(photos), raw, out), "001.PNG: cannot be read (No such file", ANEW)
    (tmp_path / "moved.png").write_bytes(before)
    victim.symlink_to(tmp_path / "moved.png")
    refused(lambda: preprocess("mine", settings(photos), raw, out), "001.PNG: a link that leads out of", "remove it")
    assert open_split(out, "test").images.shape[1:] == (3, 16, 16)  # what was there before is whole


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0" * 64 + "  ../secret.jpg", "is not SHA256  PATH"),
        ("0" * 64 + "  a/../../secret.jpg", "is not SHA256  PATH"),
        ("0" * 64 + "  /etc/secret.jpg", "is not SHA256  PATH"),
        ("0" * 64 + "  a//b.jpg", "is not SHA256  PATH"),
        ("0" * 64 + "  secret", "is not SHA256  PATH"),
        ("0" * 63 + "  a.jpg", "is not SHA256  PATH"),
        ("0" * 64 + "  a.jpg\n" + "1" * 64 + "  a.jpg", "'a.jpg' is there twice"),
        ("", "is not SHA256  PATH"),
    ],
)
def test_a_list_that_was_meddled_with(line: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / kind.LIST_NAME).write_text(line + "\n")
    refused(lambda: read("mine", settings(tmp_path), tmp_path), f"{kind.LIST_NAME}: line ", fault, ANEW)


# params.yaml


def with_mine(raw: dict[str, Any], **changes: Any) -> dict[str, Any]:
    raw["data"]["mine"] = {"source": {"kind": "folder", "path": "x"}, "image_size": 64} | changes
    raw["runs"]["mine-vae"] = raw["runs"]["faces-vae"] | {"dataset": "mine"}
    return raw


def test_an_entry_needs_little(raw: dict[str, Any]) -> None:
    mine = parse(with_mine(raw)).dataset("mine")
    assert isinstance(mine, FolderSettings)
    assert (mine.labels, mine.channels, mine.crop, mine.test_share, mine.limit) == ("none", 3, 1.0, 0.2, None)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"labels": "names"}, ("data.mine.labels: 'names' is refused", "'none' or 'folders'")),
        ({"channels": 4}, ("data.mine.channels: 4 is refused", "1 or 3")),
        ({"crop": 0}, ("data.mine.crop: 0 is refused",)),
        ({"test_share": 0.5}, ("data.mine.test_share: 0.5 is refused", "0.4")),
        ({"validation_images": 3}, ("data.mine.validation_images: unknown key", "did you mean validation_share?")),
        ({"source": {"kind": "folder", "path": ""}}, ("data.mine.source.path: '' is refused",)),
        ({"source": {"kind": "folder"}}, ("data.mine.source.path: missing",)),
        ({"channels": 1}, ("runs.mine-vae.features: the images of faces are 3 x 64 x 64, those of mine 1 x 64 x 64",)),
        ({"image_size": 32}, ("those of mine 3 x 32 x 32", "change data.mine.image_size")),
    ],
)
def test_a_mistake_is_one_line_before_any_work(
    changes: dict[str, Any], parts: tuple[str, ...], raw: dict[str, Any]
) -> None:
    refused(lambda: parse(with_mine(raw, **changes)), *parts)


def test_a_measuring_network_needs_labels(raw: dict[str, Any]) -> None:
    raw["features"]["mine"] = raw["features"]["faces"]
    refused(lambda: parse(with_mine(raw)), "features.mine", "data.mine has none", "set data.mine.labels to folders")
    assert "mine" in parse(with_mine(raw, labels="folders")).features
