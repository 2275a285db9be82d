"""What a member of an archive that nobody vouches for may be called, and how large it may be."""

import re
from pathlib import Path

from genlib.data.readers.reading import quoted, remedy
from genlib.errors import GenlibError

MEMBER_BYTES = 4 << 20
"""The largest member that is read; an aligned CelebA face has 7 kB, as PNG 60 kB."""

MEMBERS = 1_000_000
"""The most members an archive may have; CelebA has 202,599."""

TOTAL_BYTES = 16 << 30
"""The most that an archive may unpack to; CelebA as PNG has 10 GB."""


NAME_BYTES = 300
"""The longest name of a member, folders included; LFW's longest has 92."""


class Ledger:
    """The members of one archive as they go by. Each method raises a GenlibError that names archive and member."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: set[bytes] = set()  # one character makes all others of a str take four bytes
        self._members = 0
        self._bytes = 0

    def enter(self, name: str) -> str:
        """Count a member of any kind; its name, without `.` and empty parts. It must stay inside the archive."""
        self._members += 1
        if self._members > MEMBERS:
            raise self.refused(name, f"is member number {self._members}, more than the {MEMBERS} an archive may have")
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
            raise self.refused(name, "has a name that leads out of its folder")
        if len(_encoded(name)) > NAME_BYTES:
            raise self.refused(name, f"has a name of more than the {NAME_BYTES} bytes it may have")
        return "/".join(part for part in parts if part not in ("", "."))

    def enter_file(self, name: str, stated_bytes: int) -> None:
        """A regular file, by the name that `enter` gave: one, not there yet, and not too large by its own account."""
        if not name:
            raise self.refused(name, "is a file without a name")
        if _encoded(name) in self._names:
            raise self.refused(name, "is there twice")
        self._names.add(_encoded(name))
        if not 0 <= stated_bytes <= MEMBER_BYTES:
            raise self.refused(name, f"says it has {stated_bytes} bytes, more than the {MEMBER_BYTES} it may have")

    def receive(self, name: str, content: bytes) -> bytes:
        """The real content of a member: bounded, and all of them together, too."""
        self._bytes += len(content)
        if len(content) > MEMBER_BYTES:
            raise self.refused(name, f"unpacks to more than the {MEMBER_BYTES} bytes it may have")
        if self._bytes > TOTAL_BYTES:
            raise self.refused(name, f"is where the archive exceeds the {TOTAL_BYTES >> 30} GiB it may unpack to")
        return content

    def refused(self, name: str, fault: str) -> GenlibError:
        """The error that says so."""
        return GenlibError(f"{self._path}: member {quoted(name)} {fault}; {remedy(self._path)}")

    def broken(self, fault: str) -> GenlibError:
        """The error that says what is wrong with the archive itself."""
        return GenlibError(f"{self._path}: {fault}; {remedy(self._path)}")


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
