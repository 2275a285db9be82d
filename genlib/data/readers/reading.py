"""What every reader gives, and what they share: the text of a list, the words of a refusal."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from genlib.data.arrays import Images, Labels
from genlib.errors import GenlibError

if TYPE_CHECKING:
    from genlib.data.readers.photos import Photos

LIST_BYTES = 32 << 20
"""The largest list that is read; CelebA's attributes have 27 MB."""

LIST_LINES = 1_000_002
"""The most lines of a list; CelebA's attributes have 202,601."""

LINE_CHARACTERS = 10_000
"""The longest line of a list; CelebA's longest, the names of the attributes, has 464."""

NAME_CHARACTERS = 100
"""The longest name of an image, person or attribute in a list; LFW's longest has 35."""


class Picture(NamedTuple):
    """One image and the place it goes to: row `row` of `split`.

    `content` is the encoded file (JPEG or PNG, as `member` ends), or the pixels themselves, uint8 H W (grey). `archive`
    and `member` are what an error calls it.
    """

    split: str
    row: int
    archive: Path
    member: str
    content: bytes | Images


@dataclass(frozen=True)
class Reading:
    """A dataset as its lists describe it, checked, and its pictures, not yet read.

    Attributes:
        kind: what the labels are.
        labels: of each split, int64: N, or N x A of 0 and 1 for attributes.
        classes: the names of the classes, attributes or people that the labels stand for.
        split_rule: how the splits came about, in a sentence.
        pictures: starts reading; every row of every split comes once, in the order of the archive. Raises GenlibError.
        identities: of each split, int64 N: who is shown, where the labels do not say that; None if unknown.
        crop: from the width of the frame in pixels, the side of the central square to keep; None keeps all.
        photos: makes pixels of a picture where each has a frame of its own; None where all are like the first.
        edition: from the frame (width, height), what of the official dataset this is; None if it is all of it.
    """

    kind: Literal["classes", "attributes", "people"]
    labels: Mapping[str, Labels]
    classes: tuple[str, ...]
    split_rule: str
    pictures: Callable[[], Iterator[Picture]]
    identities: Mapping[str, Labels] | None = None
    crop: Callable[[int], int] | None = None
    photos: "Photos | None" = None
    edition: Callable[[tuple[int, int]], str | None] = lambda frame: None


def remedy(path: Path) -> str:
    """What to do about a file of `data/raw/<dataset>` that is not what it should be."""
    return (
        f"delete it and run dvc repro --force download@{path.parent.name} (if it came from a mirror, mend that first)"
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a list (ASCII or UTF-8), without blank ones at its end. GenlibError if it is no such text.

    The limits above are counted in the text as it is, before there is an object in memory for each of its lines.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LIST_BYTES + 1)
        if len(content) > LIST_BYTES:
            raise GenlibError(f"{path}: more than {LIST_BYTES >> 20} MiB, too large for a list; {remedy(path)}")
        text = content.decode("utf-8")
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; run dvc repro download@{path.parent.name}") from error
    except OSError as error:
        raise GenlibError(f"{path}: cannot be read ({error.strerror}); mend that and run dvc repro") from error
    except UnicodeDecodeError as error:
        raise GenlibError(f"{path}: byte {error.start} is no text; {remedy(path)}") from error
    if text.count("\n") > LIST_LINES:
        raise GenlibError(f"{path}: more than {LIST_LINES} lines, too many for a list; {remedy(path)}")
    lines = text.rstrip().split("\n")
    for number, line in enumerate(lines, start=1):
        if len(line) > LINE_CHARACTERS:
            raise GenlibError(
                f"{path}: line {number} has {len(line)} characters, more than the {LINE_CHARACTERS} it may have; "
                f"{remedy(path)}"
            )
    return lines


def is_name(text: str) -> bool:
    """Whether a list may call an image, a person or an attribute so: short, printable, within its folder."""
    return 0 < len(text) <= NAME_CHARACTERS and text.isprintable() and "/" not in text


def whole_number(token: str) -> int | None:
    """The value of up to nine ASCII digits; None for any other text."""
    return int(token) if re.fullmatch(r"[0-9]{1,9}", token) else None


def quoted(text: str) -> str:
    """A piece of a hostile file as an error shows it: escaped and short."""
    return repr(text if len(text) <= 80 else text[:80] + "...")
