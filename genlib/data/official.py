"""The official archives: where they are served, what they must be, and how a file that has arrived is judged."""

import gzip
import hashlib
import zlib
from collections.abc import Mapping
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


def _mnist(name: str, md5: str, content: Content) -> RemoteFile:
    # LeCun's own host no longer serves the files; these two are the copies that torchvision and TensorFlow point to.
    hosts = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
    return RemoteFile(name, 16 << 20, tuple(f"{host}/{name}" for host in hosts), md5=md5, content=content)


CATALOGUE: Mapping[str, tuple[RemoteFile, ...]] = {
    "mnist": (
        _mnist(
            "train-images-idx3-ubyte.gz",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            Content("6bbc9ace898e44ae57da46a324031adb", 47_040_016),
        ),
        _mnist(
            "train-labels-idx1-ubyte.gz",
            "d53e105ee54ea40749a09fcbcd1e9432",
            Content("a25bea736e30d166cdddb491f175f624", 60_008),
        ),
        _mnist(
            "t10k-images-idx3-ubyte.gz",
            "9fb629c4189551a2d022fa330f9573f3",
            Content("2646ac647ad5339dbf082846283269ea", 7_840_016),
        ),
        _mnist(
            "t10k-labels-idx1-ubyte.gz",
            "ec29112dd5afa0611ce80d1b7f02629c",
            Content("27ae3e4e09519cfbb04c329615203637", 10_008),
        ),
    ),
}


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
