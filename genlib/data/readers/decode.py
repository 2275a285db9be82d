"""One picture of an archive to pixels: decoded, checked, cropped, resized."""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
import simplejpeg
from PIL import Image

from genlib.data.arrays import Images
from genlib.data.readers.reading import Picture, quoted, remedy
from genlib.errors import GenlibError

MAX_SIDE = 1024
"""The largest width or height, in pixels, that is decoded."""

MAX_SCANS = 100
"""The most scans that a JPEG is decoded in; progressive encoders make about ten, a bomb as many as fit."""

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
"""What a member is, by the end of its name."""

_START_OF_SCAN = b"\xff\xda"
_COLOURS = ("YCbCr", "RGB")  # of a JPEG; the decoder gives RGB for both
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
    if not isinstance(picture.content, bytes):
        return picture.content.shape[1], picture.content.shape[0]
    return _jpeg_frame(picture, picture.content) if _kind(picture) == "JPEG" else _png(picture, picture.content).size


def pixels(picture: Picture, shape: Shape) -> Images:
    """A picture as uint8 C size size; GenlibError, which names it, if it is not what it should be."""
    frame = frame_of(picture)
    if frame != shape.frame:
        raise _refused(picture, f"has {_by(frame)} pixels, not {_by(shape.frame)} as the first one")
    left, upper, right, lower = shape.box
    # Cropped first, and not as resize's box: its filter would see beyond the edges of the box.
    array = _decoded(picture)[upper:lower, left:right]
    if array.shape[:2] != (shape.size, shape.size):
        resized = Image.fromarray(array).resize((shape.size, shape.size), Image.Resampling.LANCZOS)
        array = np.asarray(resized)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _decoded(picture: Picture) -> Images:
    """All pixels, uint8 H W (grey) or H W 3; the frame is known to be small enough."""
    if not isinstance(picture.content, bytes):
        return picture.content
    try:
        if _kind(picture) == "JPEG":
            decoded: Images = simplejpeg.decode_jpeg(picture.content, "RGB")
            return decoded
        return np.asarray(_png(picture, picture.content))
    except _FAULTS as error:
        raise _refused(picture, f"cannot be decoded ({error})") from error


def _kind(picture: Picture) -> str:
    return FORMATS[PurePosixPath(picture.member).suffix.lower()]


def _jpeg_frame(picture: Picture, content: bytes) -> tuple[int, int]:
    """Width and height of a JPEG, judged by its header."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError as error:
        raise _no_image(picture, content) from error
    _check_side(picture, (width, height))
    if colours not in _COLOURS:
        raise _refused(picture, f"has colours of mode {colours}, not RGB")
    # In the data of a scan, 0xFF is never followed by this byte (ITU-T T.81, B.1.1.5): each match is a marker.
    scans = content.count(_START_OF_SCAN)
    if scans > MAX_SCANS:
        raise _refused(picture, f"has {scans} scans, more than {MAX_SCANS}")
    return width, height


def _png(picture: Picture, content: bytes) -> Image.Image:
    """A PNG with its header read and judged, nothing decoded yet."""
    try:
        image = Image.open(BytesIO(content), formats=["PNG"])
    except _FAULTS as error:
        raise _no_image(picture, content) from error
    _check_side(picture, image.size)
    if image.mode != "RGB":
        raise _refused(picture, f"has colours of mode {image.mode}, not RGB")
    return image


def _check_side(picture: Picture, size: tuple[int, int]) -> None:
    if max(size) > MAX_SIDE:
        raise _refused(picture, f"has {_by(size)} pixels, more than {MAX_SIDE} a side")


def _no_image(picture: Picture, content: bytes) -> GenlibError:
    start = content[:12]
    page = ", perhaps a web page" if start.lstrip().startswith(b"<") else ""
    return _refused(picture, f"is not a {_kind(picture)} image (starts with {start!r}{page})")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _refused(picture: Picture, fault: str) -> GenlibError:
    return GenlibError(f"{picture.archive}: member {quoted(picture.member)} {fault}; {remedy(picture.archive)}")
