"""A tar.gz as a stream of its files, front to back, in bounded memory whatever it claims.

Headers are parsed here (POSIX.1-2001, pax interchange format: ustar headers and pax records; GNU long names), for the
tarfile module reads extension headers of any length into memory and takes a broken header for the end.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from gzip import BadGzipFile, GzipFile
from pathlib import Path

from genlib.data.readers.members import Ledger
from genlib.data.readers.reading import quoted
from genlib.errors import GenlibError

_BLOCK = 512
_FILE, _FOLDER, _PAX, _PAX_GLOBAL, _GNU_LONG_NAME = (ord(letter) for letter in "05xgL")
_OLD_FILE = 0
_EXTENSION_BYTES = 64 << 10
_PADDING_BYTES = 1 << 20


@dataclass(frozen=True)
class _Header:
    name: bytes
    size: int
    type: int


def read_tgz(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each regular file of a tar.gz, in its order; folders are passed over.

    Names have no `.` and no empty parts. The archive is read to its end, checksum included. Raises GenlibError, which
    names archive and member, if it is missing, truncated or corrupt, or has members that are refused: see
    `genlib.data.readers.members`; links, devices and sparse files, too.
    """
    ledger = Ledger(path)
    try:
        with GzipFile(path) as stream:
            yield from _files(stream, ledger)
            # What pads the archive is read, too: only at its end does gzip compare its checksum.
            if len(stream.read(_PADDING_BYTES + 1)) > _PADDING_BYTES:
                raise ledger.broken("goes on after its end")
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; run dvc repro download@{path.parent.name}") from error
    except EOFError as error:
        raise ledger.broken("truncated") from error
    except (BadGzipFile, zlib.error) as error:
        raise ledger.broken(f"not a gzip file, or a corrupt one ({error})") from error
    except OSError as error:
        raise GenlibError(f"{path}: cannot be read ({error.strerror}); mend that and run dvc repro") from error


def _files(stream: GzipFile, ledger: Ledger) -> Iterator[tuple[str, bytes]]:
    long_name = None
    while any(block := _exactly(stream, _BLOCK)):
        header = _parsed(block)
        if header is None:
            raise ledger.broken("not a tar file, or a corrupt one (a header's checksum or size is wrong)")
        if header.type in (_PAX, _PAX_GLOBAL, _GNU_LONG_NAME):
            name = ledger.enter(_text(header.name))
            if header.size > _EXTENSION_BYTES:
                raise ledger.refused(
                    name, f"is a header of {header.size} bytes, more than the {_EXTENSION_BYTES} allowed"
                )
            extension = _content(stream, header.size)
            if header.type == _GNU_LONG_NAME:
                long_name = extension.rstrip(b"\0")
            elif header.type == _PAX:
                long_name = _pax_path(extension, ledger) or long_name
            continue
        name = ledger.enter(_text(long_name or header.name))
        long_name = None
        if header.type == _FOLDER or (header.type == _OLD_FILE and header.name.endswith(b"/")):
            continue
        if header.type not in (_FILE, _OLD_FILE):
            raise ledger.refused(name, "is neither a plain file nor a folder (a link or device, say)")
        ledger.enter_file(name, header.size)
        yield name, ledger.receive(name, _content(stream, header.size))


def _parsed(block: bytes) -> _Header | None:
    """A header; None if its checksum does not hold, or its size is not the octal number it should be."""
    size, checksum = _octal(block[124:136]), _octal(block[148:156])
    if size is None or checksum != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        return None
    name = _until_nul(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := _until_nul(block[345:500])):
        name = prefix + b"/" + name
    return _Header(name, size, block[156])


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    return int(digits, 8) if re.fullmatch(b"[0-7]{1,12}", digits) else None


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _content(stream: GzipFile, count: int) -> bytes:
    """The next `count` bytes, without the padding to the end of their block."""
    return _exactly(stream, count + -count % _BLOCK)[:count]


def _exactly(stream: GzipFile, count: int) -> bytes:
    """The next `count` bytes; EOFError if there are fewer."""
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _pax_path(records: bytes, ledger: Ledger) -> bytes | None:
    """The path that a pax header gives, if it does; its records are b"<length> <key>=<value>\\n"."""
    path = None
    while records:
        digits, _, _ = records.partition(b" ")
        length = int(digits) if re.fullmatch(b"[0-9]{1,5}", digits) else 0
        if not len(digits) + 3 <= length <= len(records):
            raise ledger.broken("has a corrupt pax header")
        key, _, value = records[len(digits) + 1 : length - 1].partition(b"=")
        if key == b"size" or key.startswith(b"GNU.sparse"):
            raise ledger.broken(f"has a pax header with {quoted(_text(key))}, which no small file needs")
        if key == b"path":
            path = value
        records = records[length:]
    return path


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
