"""A file that is still arriving, and the note beside it that says what it is a part of."""

import shutil
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from genlib.data.meter import size
from genlib.errors import GenlibError
from genlib.files import read_json, write_json


@dataclass(frozen=True)
class Memo:
    """What a partial file is a part of.

    `origin`: sha256 of its address, which may hold a password; `validator`: which version it is, as If-Range may carry
    it; `total`: its length once whole, in bytes.
    """

    origin: str
    validator: str | None = None
    total: int | None = None


def kept(part: Path, url: str) -> tuple[int, Memo]:
    """How many bytes of the file at `url` are there, and of which version; a part of other origin counts as none."""
    try:
        memo = Memo(**read_json(_memo_path(part)))
    except (GenlibError, TypeError):
        memo = Memo("")
    return (length(part), memo) if memo.origin == _hashed(url) else (0, Memo(_hashed(url)))


def remember(part: Path, url: str, validator: str | None, total: int | None) -> None:
    """Note what `part` is about to become."""
    write_json(_memo_path(part), asdict(Memo(_hashed(url), validator, total)))


def discard(part: Path) -> None:
    """Forget a partial file and what is known of it."""
    part.unlink(missing_ok=True)
    _memo_path(part).unlink(missing_ok=True)


def length(part: Path) -> int:
    """Bytes that have arrived."""
    return part.stat().st_size if part.exists() else 0


def check_space(folder: Path, needed: int, label: str) -> None:
    """Raise GenlibError if `folder` has not `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise GenlibError(f"{label}: needs {size(needed)} and {folder} has {size(free)} free; make room and try again")


def _hashed(url: str) -> str:
    return sha256(url.encode()).hexdigest()


def _memo_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")
