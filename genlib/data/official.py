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
from genlib.files import digest

Verified = Literal["archive", "content", "mirror list", "drawn"]


class MismatchError(SourceError):
    """What a source gives is not what was expected of it."""


@dataclass(frozen=True)
class Content:
    """What a .gz unpacks to: md5 in hex, and length in bytes."""

    md5: str
    bytes: int


@dataclass(frozen=True)
class RemoteFile:
    """An official file: its name, where it is served, its checksums in hex, and the size it may never exceed.

    One of `md5` and `sha256` is given; where both are, sha256 decides. `content` lets a .gz that was compressed again
    count as official data. `drive_id`: the file's id on Google Drive, asked after `urls`.
    """

    name: str
    max_bytes: int
    urls: tuple[str, ...] = ()
    drive_id: str | None = None
    md5: str | None = None
    sha256: str | None = None
    content: Content | None = None

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
    if file.content is not None and _holds(path, file.content):
        return sha256, "content"
    if listed is not None:
        return sha256, "mirror list"
    discard(path)
    raise MismatchError(f"expected {name} {expected}, got {got}")


def _holds(path: Path, content: Content) -> bool:
    """Whether a .gz unpacks to `content`; no more than its length is ever unpacked."""
    checksum, left = hashlib.md5(usedforsecurity=False), content.bytes
    try:
        with gzip.open(path) as file:
            while block := file.read(min(1 << 20, left + 1)):
                left -= len(block)
                if left < 0:
                    return False
                checksum.update(block)
    except (OSError, EOFError, zlib.error):
        return False
    return left == 0 and checksum.hexdigest() == content.md5


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
