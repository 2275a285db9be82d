"""A zip file, its table of contents checked before anything is unpacked, its members read in bounded memory."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from genlib.data.readers.members import MEMBER_BYTES, Ledger
from genlib.errors import GenlibError

_TABLE_BYTES = 32 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# OSError and OverflowError: a position before the start of the file, or beyond the end of all files.
_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, ValueError, OSError, OverflowError)
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # flag bits: encrypted, strongly, and the table of contents, too


class _BoundedFile(io.FileIO):
    """The zipfile module reads a table of contents of any length in one piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _TABLE_BYTES:
            raise zipfile.BadZipFile(f"a table of contents of {size} bytes")
        return super().read(-1 if size is None else size) or b""


class Zip:
    """An opened zip file."""

    def __init__(self, archive: zipfile.ZipFile, ledger: Ledger) -> None:
        self._archive = archive
        self._ledger = ledger
        members = {}
        for info in archive.infolist():
            name = ledger.enter(info.orig_filename)
            if info.orig_filename.endswith("/"):
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise ledger.refused(name, "is neither a plain file nor a folder (a link or device, say)")
            if info.flag_bits & _ENCRYPTED:
                raise ledger.refused(name, "is encrypted")
            if info.compress_type not in _METHODS:
                raise ledger.refused(name, f"is compressed by method {info.compress_type}, neither stored nor deflated")
            ledger.enter_file(name, info.file_size)
            members[name] = info
        self.members: Mapping[str, zipfile.ZipInfo] = MappingProxyType(members)
        """The plain files by name, without `.` and empty parts."""

    def read(self, name: str) -> bytes:
        """The content of a member, its checksum compared. Raises GenlibError."""
        try:
            with self._archive.open(self.members[name]) as member:
                return self._ledger.receive(name, member.read(MEMBER_BYTES + 1))
        except EOFError as error:
            raise self._ledger.refused(name, "is truncated") from error
        except _FAULTS as error:
            raise self._ledger.refused(name, f"is corrupt ({_short(error)})") from error


@contextmanager
def open_zip(path: Path) -> Iterator[Zip]:
    """Open a zip file and check its table of contents.

    Raises GenlibError, which names archive and member, if it is missing, truncated or corrupt, or has members that are
    refused: see `genlib.data.readers.members`; links, devices and encrypted ones, too.
    """
    ledger = Ledger(path)
    try:
        with _BoundedFile(path) as file:
            try:
                archive = zipfile.ZipFile(file)
            except _FAULTS as error:
                page = ", perhaps a web page" if _starts_with_tag(path) else ""
                raise ledger.broken(f"not a zip file, or a truncated one ({_short(error)}{page})") from error
            with archive:
                yield Zip(archive, ledger)
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; run dvc repro download@{path.parent.name}") from error
    except OSError as error:
        raise GenlibError(f"{path}: cannot be read ({error.strerror}); mend that and run dvc repro") from error


def _starts_with_tag(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"<"


def _short(error: Exception) -> str:
    """What the zipfile module says, which may quote 64 kB of a broken header."""
    return str(error)[:200]
