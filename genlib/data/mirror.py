"""A mirror of the official archives, named by GENLIB_MIRROR: a folder or an http(s) URL.

Its layout is `<kind>/<official file name>`, with `SHA256SUMS` at its root: lines `<sha256>  <kind>/<name>`, as
sha256sum writes them.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from genlib.data.fetch import Address, SourceError, Transfer, download
from genlib.data.meter import size
from genlib.data.partial import check_space, discard
from genlib.errors import GenlibError
from genlib.files import refusal_named

VARIABLE = "GENLIB_MIRROR"
LIST_NAME = "SHA256SUMS"
_LIST_BYTES = 1 << 20
_COPIED_BYTES = 1 << 20  # at a time


@dataclass(frozen=True)
class Mirror:
    """An opened mirror: `sums` maps `<kind>/<name>` to sha256; `fault` says why there are none."""

    base: Path | str
    sums: Mapping[str, str]
    fault: str | None = None

    def listed(self, key: str) -> str:
        """The sha256 that the mirror states for `<kind>/<name>`; SourceError if it states none."""
        if self.fault is not None:
            raise SourceError(self.fault)
        if key not in self.sums:
            raise SourceError(f"its {LIST_NAME} does not list it")
        return self.sums[key]

    def bring(self, key: str, part: Path, max_bytes: int, transfer: Transfer) -> bool:
        """Bring a file to `part`, unverified; the answer is `download`'s. SourceError if the mirror has it not."""
        return _bring(self.base, key, part, max_bytes, transfer)


def find_mirror(environ: Mapping[str, str]) -> Path | str | None:
    """The folder (absolute) or URL (no slash at its end) that GENLIB_MIRROR names; None if it is unset or empty.

    A relative folder counts from DVC_ROOT if that is set, for DVC runs experiments in copies of the repository and
    leaves DVC_ROOT at the original, else from the current folder. Raises GenlibError if it cannot be a mirror.
    """
    value = environ.get(VARIABLE, "").strip()
    if not value:
        return None
    if "://" in value:
        if re.fullmatch(r"https?://[^/\s]+(/\S*)?", value) is None:
            raise GenlibError(
                f"{VARIABLE}: {public(value)!r} is no http(s) URL; set it to a URL or a folder, or unset it"
            )
        return value.rstrip("/")
    folder = (Path(environ.get("DVC_ROOT", "")) / Path(value).expanduser()).resolve()
    if not folder.is_dir():
        raise GenlibError(f"{VARIABLE}: {value!r} is no folder ({folder}); set it to one or to a URL, or unset it")
    return folder


def open_mirror(base: Path | str, work: Path, transfer: Transfer) -> Mirror:
    """Read the mirror's list, through `work` if it is a URL. One that cannot be had is a fault, not an exception.

    Raises GenlibError if the list is there and malformed.
    """
    part = work / LIST_NAME
    discard(part)
    try:
        _bring(base, LIST_NAME, part, _LIST_BYTES, transfer)
    except SourceError as error:
        return Mirror(base, {}, f"no {LIST_NAME}: {error}")
    text = part.read_text(encoding="utf-8", errors="replace")
    discard(part)
    return Mirror(base, parse_sums(text))


def parse_sums(text: str) -> dict[str, str]:
    """`<kind>/<name>` -> sha256 in lower case, of the text of a SHA256SUMS; GenlibError names a malformed line."""
    sums = {}
    for number, line in enumerate(map(str.rstrip, text.splitlines()), start=1):
        if not line:
            continue
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(\S.*)", line)
        if match is None:
            raise GenlibError(
                f"{VARIABLE}: {LIST_NAME} line {number}: {line[:80]!r} is not '<sha256>  <kind>/<name>'; mend that line"
            )
        sums[match[2]] = match[1].lower()
    return sums


def _bring(base: Path | str, name: str, part: Path, max_bytes: int, transfer: Transfer) -> bool:
    if isinstance(base, str):
        return download(Address(f"{base}/{quote(name)}"), part, max_bytes, name, transfer)
    _copy(base / name, part, max_bytes, name)
    return False


def _copy(origin: Path, part: Path, max_bytes: int, label: str) -> None:
    if not origin.is_file():
        raise SourceError("it has no such file")
    needed = origin.stat().st_size
    if needed > max_bytes:
        raise SourceError(f"its file has {size(needed)}, more than the {size(max_bytes)} it may have")
    check_space(part.parent, needed, label)
    discard(part)
    try:
        with origin.open("rb") as source, refusal_named(part), part.open("wb") as target:
            shutil.copyfileobj(source, target, _COPIED_BYTES)
    except OSError as error:
        discard(part)
        raise SourceError(f"its file cannot be copied ({error.strerror})") from error


def public(url: str) -> str:
    """A URL without the user name and password it may hold."""
    return re.sub(r"//[^/@]*@", "//", url)
