"""The idx file format of MNIST (LeCun, Cortes and Burges, "The MNIST database": file formats), gzip-compressed.

Layout: two zero bytes, one byte for the data type, one for the number of dimensions, each dimension as a big-endian
unsigned 32-bit integer, then the elements in row-major order. Only unsigned bytes (type 0x08) in 1 to 4 dimensions are
handled.
"""

import gzip
import struct
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from genlib.errors import GenlibError
from genlib.files import write_bytes

SIZE_LIMIT_BYTES = 1 << 28
"""The largest content, uncompressed and without its header, that is read or written; MNIST's largest has 47 MB."""

_UNSIGNED_BYTE = 0x08
_MAX_DIMS = 4
_REMEDY = "delete it and run dvc repro"
_READ_BYTES = 1 << 20
_STORED_BLOCK_BYTES = 0xFFFF  # the length field of a stored block has 16 bits: RFC 1951, section 3.2.4
_GZIP_HEADER = bytes.fromhex("1f8b08000000000000ff")  # deflate, no name, mtime 0, unknown system: RFC 1952, section 2.3


def read_idx(path: Path, max_items: int | None = None) -> npt.NDArray[np.uint8]:
    """Read a gzip-compressed idx file of unsigned bytes.

    Args:
        path: the file. It is not trusted: memory grows with what it really holds, never with what it announces, and
            decompression stops within one read buffer of the announced end.
        max_items: read at most this many entries of the first dimension (at least 1) and leave the rest of the file
            unread and unchecked; None reads and checks the whole file, its gzip checksum included.

    Returns:
        A writable uint8 array, row-major, in the announced shape: 1 to 4 dimensions, none of them 0, at most
        `SIZE_LIMIT_BYTES` elements (also where `max_items` would need fewer).

    Raises:
        GenlibError: the file is missing or unreadable; not gzip (a web page, say), truncated, corrupt or with bytes
            left over; not idx, of another data type or number of dimensions, empty or too large; or `max_items` is
            below 1.
    """
    if max_items is not None and max_items < 1:
        raise GenlibError(f"max_items={max_items} for {path}: must be at least 1, or None for all")
    try:
        with path.open("rb") as raw:
            _check_gzip_magic(path, raw)
            with gzip.GzipFile(fileobj=raw, mode="rb") as file:
                return _read_array(path, file, max_items)
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; run dvc repro") from error
    except EOFError as error:
        raise GenlibError(f"{path}: truncated gzip file; {_REMEDY}") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise GenlibError(f"{path}: corrupt gzip file ({error}); {_REMEDY}") from error
    except OSError as error:
        raise GenlibError(f"{path}: cannot be read ({error.strerror}); mend that and run dvc repro") from error


def write_idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    """Write a uint8 array of 1 to 4 non-empty dimensions as a gzip-compressed idx file, whole or not at all.

    The same array gives the same file, byte for byte, everywhere: the content goes into stored (uncompressed) deflate
    blocks laid out here. Compressed bytes depend on the zlib build (zlib, zlib-ng, ISA-L), and even its level 0 splits
    blocks by buffer sizes that differ between builds and Python versions. The price is a file as large as its content.

    Raises:
        GenlibError: the array has another dtype or number of dimensions, is empty, or exceeds `SIZE_LIMIT_BYTES`.
    """
    if array.dtype != np.uint8 or not 1 <= array.ndim <= _MAX_DIMS or not 1 <= array.size <= SIZE_LIMIT_BYTES:
        raise GenlibError(
            f"{path}: cannot hold an array of {array.dtype}, shape {array.shape}; "
            f"give uint8 in 1 to {_MAX_DIMS} dimensions, 1 to {SIZE_LIMIT_BYTES} elements"
        )
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, _UNSIGNED_BYTE, array.ndim, *array.shape)
    write_bytes(path, _stored_gzip(header + array.tobytes()))


def _check_gzip_magic(path: Path, raw: BinaryIO) -> None:
    start = raw.read(2)
    raw.seek(0)
    if start != _GZIP_HEADER[:2]:
        guess = ", perhaps a web page" if start[:1] == b"<" else ""
        raise GenlibError(f"{path}: not a gzip file (starts with {start!r}{guess}); {_REMEDY}")


def _read_array(path: Path, file: gzip.GzipFile, max_items: int | None) -> npt.NDArray[np.uint8]:
    announced = _read_shape(path, file)
    items = announced[0] if max_items is None else min(announced[0], max_items)
    shape = (items, *announced[1:])
    content = _read_exactly(path, file, prod(shape), "content")
    if items == announced[0] and file.read(1):
        raise GenlibError(f"{path}: more bytes than its header announces (shape {announced}); {_REMEDY}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read_shape(path: Path, file: gzip.GzipFile) -> tuple[int, ...]:
    zero, data_type, ndim = struct.unpack(">HBB", _read_exactly(path, file, 4, "header"))
    if zero != 0:
        raise GenlibError(f"{path}: not an idx file (starts with 0x{zero:04x}, not 0x0000); {_REMEDY}")
    if data_type != _UNSIGNED_BYTE:
        raise GenlibError(f"{path}: idx data type 0x{data_type:02x}, expected 0x08 (unsigned byte); {_REMEDY}")
    if not 1 <= ndim <= _MAX_DIMS:
        raise GenlibError(f"{path}: {ndim} idx dimensions, expected 1 to {_MAX_DIMS}; {_REMEDY}")
    shape = struct.unpack(f">{ndim}I", _read_exactly(path, file, 4 * ndim, "header"))
    if not 1 <= prod(shape) <= SIZE_LIMIT_BYTES:
        raise GenlibError(f"{path}: idx shape {shape}, expected 1 to {SIZE_LIMIT_BYTES} elements; {_REMEDY}")
    return shape


def _read_exactly(path: Path, file: gzip.GzipFile, count: int, part: str) -> bytearray:
    data = bytearray()
    while len(data) < count:
        block = file.read(min(count - len(data), _READ_BYTES))
        if not block:
            raise GenlibError(f"{path}: idx {part} ends after {len(data)} of {count} bytes; {_REMEDY}")
        data += block
    return data


def _stored_gzip(content: bytes) -> bytes:
    parts = [_GZIP_HEADER]
    for start in range(0, len(content), _STORED_BLOCK_BYTES):
        block = content[start : start + _STORED_BLOCK_BYTES]
        is_last = start + _STORED_BLOCK_BYTES >= len(content)
        parts += [struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF), block]
    parts.append(struct.pack("<II", zlib.crc32(content), len(content)))
    return b"".join(parts)
