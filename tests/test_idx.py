"""The idx reader against hand-made bytes, honest and hostile; the writer against Python's own gzip."""

import gzip
import struct
import tracemalloc
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from genlib.data import idx
from genlib.data.idx import SIZE_LIMIT_BYTES, read_idx, write_idx
from genlib.errors import GenlibError

# Two images of 2 rows and 3 columns, spelled out after the format description.
HEADER = bytes([0, 0, 0x08, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3])
CONTENT = bytes([1, 2, 3, 4, 5, 6, 250, 251, 252, 253, 254, 255])

packed = partial(gzip.compress, mtime=0)  # cases are named by their bytes, and two workers must have the same names


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some-idx3-ubyte.gz"


def test_reads_hand_made_file(path: Path) -> None:
    path.write_bytes(packed(HEADER + CONTENT))
    array = read_idx(path)
    assert array.dtype == np.uint8
    assert array.tolist() == [[[1, 2, 3], [4, 5, 6]], [[250, 251, 252], [253, 254, 255]]]
    array[0, 0, 0] = 9  # writable


def test_reads_gzip_with_a_file_name_in_several_members(path: Path) -> None:
    with path.open("wb") as raw, gzip.GzipFile("train-images.idx3-ubyte", "wb", fileobj=raw, mtime=848098800) as file:
        file.write(HEADER + CONTENT[:5])
    path.write_bytes(path.read_bytes() + packed(CONTENT[5:]))
    assert read_idx(path).tobytes() == CONTENT


@pytest.mark.parametrize(("max_items", "items"), [(1, 1), (2, 2), (3, 2)])
def test_max_items_reads_the_first(path: Path, max_items: int, items: int) -> None:
    path.write_bytes(packed(HEADER + CONTENT))
    array = read_idx(path, max_items)
    assert array.shape == (items, 2, 3)
    assert array.tobytes() == CONTENT[: 6 * items]


def test_max_items_leaves_the_rest_unread(path: Path) -> None:
    path.write_bytes(packed(HEADER + CONTENT[:6]))
    assert read_idx(path, 1).tobytes() == CONTENT[:6]
    with pytest.raises(GenlibError, match="ends after 6 of 12 bytes"):
        read_idx(path)


def test_max_items_below_one_is_refused(path: Path) -> None:
    path.write_bytes(packed(HEADER + CONTENT))
    with pytest.raises(GenlibError, match=r"max_items=0 .* at least 1"):
        read_idx(path, 0)


def announce(*shape: int, data_type: int = 0x08) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, data_type, len(shape), *shape)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a gzip file"),
        (b"\x1f", "not a gzip file"),
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "not a gzip file .*web page"),
        (HEADER + CONTENT, "not a gzip file"),
        (b"\x1f\x8b", "truncated"),
        (b"\x1f\x8b\x08\x00", "truncated"),
        (b"\x1f\x8b\x07" + bytes(30), "corrupt"),
        (b"\x1f\x8b\x08\x00" + bytes(6) + b"\xff" * 30, "corrupt"),
        (packed(HEADER + CONTENT)[:-9], "truncated"),
        (packed(HEADER + CONTENT)[:-1], "truncated"),
        (packed(HEADER + CONTENT)[:-8] + bytes(8), "corrupt gzip file .*CRC"),
        (packed(HEADER + CONTENT) + b"<html>", "corrupt"),
        (packed(HEADER + CONTENT + b"\0"), "more bytes than its header announces"),
        (packed(HEADER + CONTENT) + packed(b"\0"), "more bytes than its header announces"),
        (packed(HEADER + CONTENT[:-1]), "ends after 11 of 12 bytes"),
        (packed(b""), "header ends after 0 of 4 bytes"),
        (packed(HEADER[:3]), "header ends after 3 of 4 bytes"),
        (packed(HEADER[:15]), "header ends after 11 of 12 bytes"),
        (packed(b"\1" + HEADER[1:] + CONTENT), "not an idx file .*0x0100"),
        (packed(announce(1, data_type=0x0D) + bytes(4)), "data type 0x0d"),
        (packed(announce()), "0 idx dimensions"),
        (packed(announce(1, 1, 1, 1, 1) + b"\0"), "5 idx dimensions"),
        (packed(announce(0)), "idx shape"),
        (packed(announce(2**32 - 1, 2**32 - 1, 0)), "idx shape"),
        (packed(announce(SIZE_LIMIT_BYTES + 1)), f"expected 1 to {SIZE_LIMIT_BYTES} elements"),
        (packed(announce(2**32 - 1, 2**32 - 1, 2**32 - 1, 2**32 - 1)), "idx shape"),
    ],
)
def test_hostile_files_are_named_with_the_remedy(path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with pytest.raises(GenlibError, match=message) as caught:
        read_idx(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.endswith("; delete it and run dvc repro")
    assert "\n" not in text


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(GenlibError, match=r"absent\.gz: no such file; run dvc repro"):
        read_idx(tmp_path / "absent.gz")
    with pytest.raises(GenlibError, match=r"cannot be read .*irectory"):
        read_idx(tmp_path)


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(announce(10) + bytes(1 << 25), id="much more than announced"),
        pytest.param(announce(SIZE_LIMIT_BYTES), id="much less than announced"),
    ],
)
def test_memory_follows_neither_a_bomb_nor_an_announcement(path: Path, bomb: bytes) -> None:
    path.write_bytes(packed(bomb))
    tracemalloc.start()
    try:
        with pytest.raises(GenlibError):
            read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@given(data=st.binary(max_size=200), as_gzip=st.booleans(), with_header=st.booleans())
def test_arbitrary_bytes_give_an_array_or_genlib_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, as_gzip: bool, with_header: bool
) -> None:
    content = (HEADER[:3] if with_header else b"") + data
    path = tmp_path_factory.getbasetemp() / "arbitrary.gz"
    path.write_bytes(packed(content) if as_gzip else b"\x1f\x8b\x08" + data)
    try:
        array = read_idx(path)
    except GenlibError:
        return
    assert content.endswith(array.tobytes())


@given(cut=st.integers(0, 200), flip=st.integers(0, 255), at=st.integers(0, 200))
def test_damaged_files_give_the_same_array_or_genlib_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int, at: int
) -> None:
    data = bytearray(packed(HEADER + CONTENT))
    data[at % len(data)] ^= flip
    path = tmp_path_factory.getbasetemp() / "damaged.gz"
    path.write_bytes(data[: len(data) - cut] if cut < len(data) else data)
    try:
        array = read_idx(path)
    except GenlibError:
        return
    assert array.tobytes() == CONTENT


@given(array=hypothesis_numpy.arrays(np.uint8, hypothesis_numpy.array_shapes(min_dims=1, max_dims=4, max_side=5)))
def test_written_files_read_back(tmp_path_factory: pytest.TempPathFactory, array: npt.NDArray[np.uint8]) -> None:
    path = tmp_path_factory.getbasetemp() / "written.gz"
    write_idx(path, array)
    np.testing.assert_array_equal(read_idx(path), array, strict=True)
    assert gzip.decompress(path.read_bytes()) == announce(*array.shape) + array.tobytes()


@pytest.mark.parametrize("size", [0xFFFF - 9, 0xFFFF - 8, 0xFFFF - 7, 2 * 0xFFFF - 8, 200_000])
def test_written_files_at_block_boundaries(path: Path, size: int) -> None:
    array = np.arange(size, dtype=np.uint8)
    write_idx(path, array)
    assert gzip.decompress(path.read_bytes()) == announce(size) + array.tobytes()


def test_written_bytes_are_those_of_the_format(path: Path) -> None:
    write_idx(path, np.array([7, 8], dtype=np.uint8))
    content = bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 8])
    stored = bytes([1, 10, 0, 0xF5, 0xFF]) + content
    trailer = struct.pack("<II", zlib.crc32(content), 10)
    assert path.read_bytes()[:10] == bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF])
    assert path.read_bytes()[10:] == stored + trailer


def test_writes_a_transposed_array_in_row_major_order(path: Path) -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3).T
    write_idx(path, array)
    assert read_idx(path).tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, dtype=np.int64),
        np.zeros((), dtype=np.uint8),
        np.zeros((1, 1, 1, 1, 1), dtype=np.uint8),
        np.zeros((2, 0), dtype=np.uint8),
        np.broadcast_to(np.zeros(1, dtype=np.uint8), (2, SIZE_LIMIT_BYTES)),
    ],
)
def test_writer_refuses_what_the_reader_would(path: Path, array: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(GenlibError, match=r"some-idx3-ubyte\.gz: cannot hold"):
        write_idx(path, array)
    assert list(path.parent.iterdir()) == []


def test_limit_counts_the_whole_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(packed(HEADER + CONTENT))
    monkeypatch.setattr(idx, "SIZE_LIMIT_BYTES", 12)
    assert read_idx(path).shape == (2, 2, 3)
    monkeypatch.setattr(idx, "SIZE_LIMIT_BYTES", 11)
    with pytest.raises(GenlibError, match="expected 1 to 11 elements"):
        read_idx(path, 1)
