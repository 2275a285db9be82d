"""Archives from strangers, with their lists, pictures and checksums: read or refused, and nothing is written."""

import gzip
import io
import random
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import (
    LFW_TEST,
    LFW_TRAIN,
    celeba_lists,
    celeba_members,
    celeba_names,
    drawn,
    encoded,
    lfw_members,
    people_list,
    tgz,
    zipped,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from strangers import MIB, frugal, refusal, settled

from genlib.data.idx import SIZE_LIMIT_BYTES, read_idx
from genlib.data.mirror import parse_sums
from genlib.data.readers import celeba, lfw, mnist, reading
from genlib.data.readers import members as limits
from genlib.data.readers.decode import MAX_SCANS, Shape, frame_of, pixels
from genlib.data.readers.reading import Picture
from genlib.data.readers.tgz import read_tgz
from genlib.data.readers.zip import open_zip
from genlib.settings import CelebaSettings, CelebaSource, IdxSettings, LfwSettings, LfwSource, MnistSource

# Numbers in idx archives


def announced(*shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


def test_labels_of_a_few_kilobytes_that_unpack_to_gigabytes(tmp_path: Path) -> None:
    """A million labels and one, each of an image of one pixel: as int64 they would take eight times as much."""
    count = limits.MEMBERS + 1
    for name in ("train", "t10k"):
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(announced(count, 1, 1) + bytes(count), 1))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(announced(count) + bytes(count), 1))
    chosen = IdxSettings(source=MnistSource(kind="mnist"), image_size=28, validation_images=1)
    with frugal(8 * MIB):
        assert f"{count} images, more than {limits.MEMBERS}" in refusal(lambda: mnist.read("mnist", chosen, tmp_path))


def test_an_idx_file_that_is_larger_than_any_of_mnist(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(announced(SIZE_LIMIT_BYTES + 1)))
    with frugal(MIB):
        assert "expected 1 to" in refusal(lambda: read_idx(path))


# Members of archives


def zip_of(entry: Callable[[bytearray], None]) -> bytes:
    """A zip of one member a.jpg, whose entry in the table of contents (from its signature on) is changed."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.jpg", b"abc")
    whole = bytearray(content.getvalue())
    at = whole.index(b"PK\1\2")
    changed = whole[at:]
    entry(changed)
    return bytes(whole[:at] + changed)


def read_zip(path: Path) -> list[bytes]:
    with open_zip(path) as archive:
        return [archive.read(name) for name in archive.members]


def test_a_member_without_a_name(tmp_path: Path) -> None:
    def nameless(entry: bytearray) -> None:
        struct.pack_into("<H", entry, 28, 0)  # of the length of the name
        del entry[46:51]
        struct.pack_into("<I", entry, entry.index(b"PK\5\6") + 12, 46)

    (tmp_path / "a.zip").write_bytes(zip_of(nameless))
    assert "member '' is a file without a name" in refusal(lambda: read_zip(tmp_path / "a.zip"))
    (tmp_path / "a.tgz").write_bytes(tgz({"./.": b"x"}))
    assert "member '' is a file without a name" in refusal(lambda: list(read_tgz(tmp_path / "a.tgz")))


@pytest.mark.parametrize("place", [2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_member_that_starts_beyond_the_end_of_all_files(place: int, tmp_path: Path) -> None:
    def elsewhere(entry: bytearray) -> None:
        extra = struct.pack("<HHQ", 1, 8, place)
        struct.pack_into("<H", entry, 30, len(extra))
        struct.pack_into("<I", entry, 42, 0xFFFFFFFF)
        entry[51:51] = extra
        struct.pack_into("<I", entry, entry.index(b"PK\5\6") + 12, 51 + len(extra))

    (tmp_path / "a.zip").write_bytes(zip_of(elsewhere))
    assert "member 'a.jpg' is corrupt" in refusal(lambda: read_zip(tmp_path / "a.zip"))


def test_a_header_that_quotes_all_that_follows_it(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.jpg", bytes(range(256)) * 300)
    whole = bytearray(content.getvalue())
    struct.pack_into("<H", whole, 26, 0xFFFF)  # the length of the name, before the member itself
    (tmp_path / "a.zip").write_bytes(whole)
    assert "is corrupt (File name in directory" in refusal(lambda: read_zip(tmp_path / "a.zip"))


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_a_name_of_many_bytes(kind: str, tmp_path: Path) -> None:
    path, long = tmp_path / f"a.{kind}", "\U0001f600" * (limits.NAME_BYTES // 4 + 1)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(long, b"x")
    path.write_bytes(content.getvalue() if kind == "zip" else tgz({long: b"x"}))
    read = (lambda: read_zip(path)) if kind == "zip" else (lambda: list(read_tgz(path)))
    assert f"more than the {limits.NAME_BYTES} bytes it may have" in refusal(read)


@pytest.mark.parametrize("name", ["\x1b[2J.jpg", "\u202ea.jpg", "a\nb.jpg", "\x85.jpg"])
def test_a_name_that_a_terminal_would_obey(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.tgz").write_bytes(tgz({name: b"x" * (limits.MEMBER_BYTES + 1)}))
    assert "says it has" in refusal(lambda: list(read_tgz(tmp_path / "a.tgz")))


def test_a_pax_record_that_a_terminal_would_obey(tmp_path: Path) -> None:
    record = b"21 GNU.sparse.\x1b[2J=1\n"
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    (tmp_path / "a.tgz").write_bytes(tgz({}, [(header, record)]))
    assert r"'GNU.sparse.\x1b[2J" in refusal(lambda: list(read_tgz(tmp_path / "a.tgz")))


# Lists

NAMES = celeba_names(6)
LISTS = celeba_lists(NAMES, [0, 0, 0, 1, 2, 2])
CELEBA = CelebaSettings(source=CelebaSource(kind="celeba"), image_size=8, crop=178, limit=None)
LFW = LfwSettings(source=LfwSource(kind="lfw"), image_size=8, crop=30, validation_images=1)


def test_a_list_that_announces_more_values_than_it_holds(tmp_path: Path) -> None:
    """Of so many images and attributes, a table of their values would take 320 MB."""
    rows, attributes = 20_000, 2000
    header = f"{rows}\n{' '.join(f'{number:04d}' for number in range(attributes))}\n"
    (tmp_path / "a.txt").write_text(header + "1.jpg 1\n" * rows)
    with frugal(40 * MIB):
        assert "line 3: 1.jpg has not a 1 or -1" in refusal(lambda: celeba.read_attributes(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("ab\n" * (reading.LIST_LINES + 1), "more than 1000002 lines"),
        ("1\n" + "a " * reading.LINE_CHARACTERS, "line 2 has"),
        ("\U0001f600" * (reading.LIST_BYTES // 4 + 1), "too large for a list"),
    ],
    ids=["lines", "a line", "bytes"],
)
def test_a_list_that_would_fill_the_memory(text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    with frugal(8 * reading.LIST_BYTES):
        assert fault in refusal(lambda: reading.read_lines(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    "name", [".jpg", "a\x1b.jpg", "\x00.png", "a/b.jpg", "a.jp\u0261", "a" * 200 + ".jpg", "..png/"]
)
def test_an_image_of_an_odd_name(name: str, tmp_path: Path) -> None:
    """`.jpg` alone has no ending."""
    (tmp_path / "a.txt").write_text(LISTS["list_attr_celeba.txt"].replace("000003.jpg", name))
    assert "line 5: " in refusal(lambda: celeba.read_attributes(tmp_path / "a.txt"))


@pytest.mark.parametrize("name", ["\x1b[2J", "x" * 101, "a/b"])
def test_a_person_or_an_attribute_of_an_odd_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"2\nAnn\t1\n{name}\t1\n")
    assert "line 3: " in refusal(lambda: lfw.read_people(tmp_path / "a.txt"))
    (tmp_path / "a.txt").write_text(LISTS["list_attr_celeba.txt"].replace("Smiling", name))
    assert "line 2 does not name the attributes" in refusal(lambda: celeba.read_attributes(tmp_path / "a.txt"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(sorted(LISTS)), at=st.integers(0, 400), text=st.text(max_size=12))
def test_a_list_with_anything_in_it(which: str, at: int, text: str, tmp_path: Path) -> None:
    for name, whole in LISTS.items():
        changed = whole[:at] + text + whole[at + 3 :] if name == which else whole
        (tmp_path / name).write_bytes(changed.encode("utf-8", "surrogatepass"))
    settled(lambda: celeba.read(CELEBA, tmp_path))


# Pictures

JPEG = encoded(drawn(1, 16, 16), progressive=True)


def picture(content: bytes, member: str = "a.jpg") -> Picture:
    return Picture("train", 0, Path("raw/a.zip"), member, content)


def test_a_jpeg_of_many_scans() -> None:
    """Each takes the decoder once through the whole picture: 4 MB of them take a minute."""
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x10"
    assert frame_of(picture(JPEG)) == (16, 16)
    scans = JPEG.count(b"\xff\xda") + 400_000
    with frugal(16 * MIB):
        message = refusal(lambda: frame_of(picture(JPEG[:-2] + scan * 400_000 + b"\xff\xd9")))
    assert f"has {scans} scans, more than {MAX_SCANS}" in message


@pytest.mark.parametrize(
    ("member", "side", "fault"),
    [
        ("a.jpg", 1025, "has 1025 x 1025 pixels, more than 1024 a side"),
        ("a.jpg", 65500, "has 65500 x 65500 pixels, more than 1024 a side"),
        ("a.jpg", 65535, "is not a JPEG image"),
        ("a.png", 1025, "has 1025 x 1025 pixels, more than 1024 a side"),
        ("a.png", 65535, "is not a PNG image"),
        ("a.png", 2**31 - 1, "is not a PNG image"),
    ],
)
def test_a_picture_of_many_pixels_a_side(member: str, side: int, fault: str) -> None:
    if member == "a.jpg":
        at = JPEG.index(b"\xff\xc2")
        content = JPEG[: at + 5] + struct.pack(">HH", side, side) + JPEG[at + 9 :]
    else:
        whole = bytearray(encoded(drawn(1, 16, 16), "PNG"))
        struct.pack_into(">II", whole, 16, side, side)
        struct.pack_into(">I", whole, 29, zlib.crc32(bytes(whole[12:29])))
        content = bytes(whole)
    with frugal(MIB):
        assert fault in refusal(lambda: frame_of(picture(content, member)))


def test_a_png_of_texts_that_unpack_to_gigabytes() -> None:
    texts = PngInfo()
    for number in range(18):
        texts.add_text(f"a{number}", "\0" * (4 << 20), zip=True)
    content = io.BytesIO()
    Image.fromarray(drawn(1, 16, 16)).save(content, "PNG", pnginfo=texts)
    with frugal(100 * MIB):
        refusal(lambda: pixels(picture(content.getvalue(), "a.png"), Shape((16, 16), (0, 0, 16, 16), 8)))


# Mirrors


def test_a_line_of_spaces_does_not_take_forever() -> None:
    line = f"{'a' * 64}  mnist/a{' ' * 500_000}b"
    began = time.perf_counter()
    assert len(parse_sums(line)) == 1
    assert time.perf_counter() - began < 1


@settings(max_examples=60, deadline=None)
@given(st.text() | st.from_regex(r"[0-9a-f]{64} [ *](\./)?\S{0,9}\s*", fullmatch=True))
def test_any_text_as_checksums(text: str) -> None:
    def parsed() -> None:
        for name, checksum in parse_sums(text).items():
            assert name == name.rstrip() != ""
            assert len(checksum) == 64

    settled(parsed)


# Whole archives


FILES = {
    "lfw": {
        "lfw-deepfunneled.tgz": tgz(lfw_members(LFW_TRAIN | LFW_TEST, frame=(16, 16))),
        "peopleDevTrain.txt": people_list(LFW_TRAIN).encode(),
        "peopleDevTest.txt": people_list(LFW_TEST).encode(),
    },
    "celeba": {
        "img_align_celeba.zip": zipped(celeba_members(NAMES, (16, 16)), zipfile.ZIP_DEFLATED),
        **{name: text.encode() for name, text in LISTS.items()},
    },
}


def read_dataset(kind: str, raw: Path) -> reading.Reading:
    return lfw.read("lfw", LFW, raw) if kind == "lfw" else celeba.read(CELEBA, raw)


@pytest.mark.parametrize("kind", ["lfw", "celeba"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_reading_writes_nothing(kind: str, seed: int, tmp_path: Path) -> None:
    """Whatever becomes of an archive and its lists, in their folder and beside it is what was there before."""
    raw = tmp_path / kind / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in FILES[kind].items():
        (raw / name).write_bytes(content)
    chance = random.Random(seed)
    victim = chance.choice(sorted(FILES[kind]))
    whole = bytearray(FILES[kind][victim])
    whole[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    (raw / victim).write_bytes(whole)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    settled(lambda: [frame_of(one) for one in read_dataset(kind, raw).pictures()])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
