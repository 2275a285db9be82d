"""One picture of an archive to pixels: decoded, checked, cropped, resized."""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from genlib.data.arrays import Images
from genlib.data.readers.reading import Picture, quoted, remedy
from genlib.errors import GenlibError

MAX_SIDE = 1024
"""The largest width or height, in pixels, that is decoded."""

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_FAULTS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Shape:
    """What every picture of a dataset has and becomes.

    `frame`: width and height in pixels before; `box`: what is kept of it (left, upper, right, lower); `size`: the side
    of the square that it is resized to, Lanczos, antialiased when shrinking.
    """

    frame: tuple[int, int]
    box: tuple[int, int, int, int]
    size: int


def frame_of(picture: Picture) -> tuple[int, int]:
    """Width and height of a picture in pixels, by its header. GenlibError if it is not a picture."""
    return _opened(picture).size


def pixels(picture: Picture, shape: Shape) -> Images:
    """A picture as uint8 C size size; GenlibError, which names it, if it is not what it should be."""
    image = _opened(picture)
    if image.size != shape.frame:
        raise _refused(picture, f"has {_by(image.size)} pixels, not {_by(shape.frame)} as the first one")
    try:
        image.load()
    except _FAULTS as error:
        raise _refused(picture, f"cannot be decoded ({error})") from error
    if shape.box != (0, 0, *image.size):
        # Not as resize's box: its filter would see beyond the edges of the box.
        image = image.crop(shape.box)
    if image.size != (shape.size, shape.size):
        image = image.resize((shape.size, shape.size), Image.Resampling.LANCZOS)
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _opened(picture: Picture) -> Image.Image:
    """The picture with its header read and judged, nothing decoded yet."""
    if not isinstance(picture.content, bytes):
        return Image.fromarray(picture.content)
    kind = _FORMATS[PurePosixPath(picture.member).suffix.lower()]
    try:
        image = Image.open(BytesIO(picture.content), formats=[kind])
    except _FAULTS as error:
        start = picture.content[:12]
        page = ", perhaps a web page" if start.lstrip().startswith(b"<") else ""
        raise _refused(picture, f"is not a {kind} image (starts with {start!r}{page})") from error
    if max(image.size) > MAX_SIDE:
        raise _refused(picture, f"has {_by(image.size)} pixels, more than {MAX_SIDE} a side")
    if image.mode != "RGB":
        raise _refused(picture, f"has colours of mode {image.mode}, not RGB")
    return image


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _refused(picture: Picture, fault: str) -> GenlibError:
    return GenlibError(f"{picture.archive}: member {quoted(picture.member)} {fault}; {remedy(picture.archive)}")
