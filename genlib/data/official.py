"""The official archives: where they are served, what they must be, and how a file that has arrived is judged."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genlib.data import drive
from genlib.data.fetch import Address, SourceError, Transfer
from genlib.data.partial import discard
from genlib.data.readers.tgz import read_tgz
from genlib.errors import GenlibError
from genlib.files import digest

Verified = Literal["archive", "content", "mirror list", "drawn", "listed"]


class MismatchError(SourceError):
    """What a source gives is not what was expected of it."""


@dataclass(frozen=True)
class Content:
    """What a .gz unpacks to: md5 in hex, and length in bytes."""

    md5: str
    bytes: int

    def is_in(self, path: Path) -> bool:
        """Whether a .gz unpacks to it; no more than its length is ever unpacked."""
        checksum, left = hashlib.md5(usedforsecurity=False), self.bytes
        try:
            with gzip.open(path) as file:
                while block := file.read(min(1 << 20, left + 1)):
                    left -= len(block)
                    if left < 0:
                        return False
                    checksum.update(block)
        except (OSError, EOFError, zlib.error):
            return False
        return left == 0 and checksum.hexdigest() == self.md5


@dataclass(frozen=True)
class Tree:
    """What a tar.gz unpacks to: number of plain files, bytes of all of them, and the sha256, in hex, of the sorted
    lines "<sha256 of a file>  <its name in the archive>\\n" (UTF-8).
    """

    sha256: str
    files: int
    bytes: int

    def is_in(self, path: Path) -> bool:
        """Whether a tar.gz holds these files; no more of them, and hardly more bytes, are ever unpacked."""
        lines: list[str] = []
        left = self.bytes
        try:
            for name, content in read_tgz(path):
                left -= len(content)
                if left < 0 or len(lines) == self.files:
                    return False
                lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        except GenlibError:
            return False
        joined = "".join(sorted(lines)).encode("utf-8", "surrogateescape")
        return left == 0 and len(lines) == self.files and hashlib.sha256(joined).hexdigest() == self.sha256


@dataclass(frozen=True)
class RemoteFile:
    """An official file: its name, where it is served, its checksums in hex, and the size it may never exceed.

    One of `md5` and `sha256` is given; where both are, sha256 decides. `content` lets a .gz that was compressed again,
    or a tar.gz that was packed again, count as official data. `drive_id`: its id on Google Drive, asked after
    `urls`.
    """

    name: str
    max_bytes: int
    urls: tuple[str, ...] = ()
    drive_id: str | None = None
    md5: str | None = None
    sha256: str | None = None
    content: Content | Tree | None = None

    def addresses(self, transfer: Transfer) -> list[Address]:
        """The official addresses, in the order in which they are tried."""
        on_drive = [] if self.drive_id is None else [drive.file_url(self.drive_id, transfer.drive_base)]
        return [Address(url) for url in self.urls] + [Address(url, drive=True) for url in on_drive]


def verify(path: Path, file: RemoteFile, listed: str | None = None) -> tuple[str, Verified]:
    """The sha256 of the file at `path`, and how far it is known to be the official `file`.

    `listed`: the sha256 that a mirror states for it. Raises MismatchError if it breaks that, or, with None, if it is
    not official; the file is removed then.
    """
    sha256 = digest(path)
    if listed is not None and sha256 != listed:
        discard(path)
        raise MismatchError(f"expected sha256 {listed}, got {sha256}")
    name, expected = ("md5", file.md5) if file.sha256 is None else ("sha256", file.sha256)
    got = sha256 if name == "sha256" else _md5(path)
    if got == expected:
        return sha256, "archive"
    if file.content is not None and file.content.is_in(path):
        return sha256, "content"
    if listed is not None:
        return sha256, "mirror list"
    discard(path)
    raise MismatchError(f"expected {name} {expected}, got {got}")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
