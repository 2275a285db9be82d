"""One picture of an archive to pixels: decoded, checked, cropped, resized."""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import simplejpeg
from PIL import Image

from genlib.data.arrays import Images
from genlib.data.readers.lanczos import Lanczos
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

    `frame`: width and height in pixels before; `box`: the square that is kept of it (left, upper, right, lower);
    `size`: the side that it is resized to, Lanczos, antialiased when shrinking; `channels`: 3 (RGB) or 1 (grey).
    """

    frame: tuple[int, int]
    box: tuple[int, int, int, int]
    size: int
    channels: int = 3


def frame_of(picture: Picture) -> tuple[int, int]:
    """Width and height of a picture in pixels, by its header. GenlibError if it is not a picture."""
    if not isinstance(picture.content, bytes):
        return picture.content.shape[1], picture.content.shape[0]
    return _jpeg_frame(picture, picture.content) if _kind(picture) == "JPEG" else _png(picture, picture.content).size


def channels_of(picture: Picture) -> int:
    """How many channels a picture has, if it is one: no encoded one is grey."""
    return 3 if isinstance(picture.content, bytes) else 1


def pixels(picture: Picture, shape: Shape) -> Images:
    """A picture as uint8 C size size; GenlibError, which names it, if it is not what it should be."""
    return Decoder(shape)(picture)


class Decoder:
    """Makes pixels of one picture after another, in the same memory: new pages for each would take a third longer."""

    def __init__(self, shape: Shape) -> None:
        (width, height), (left, _, right, _) = shape.frame, shape.box
        self._shape = shape
        self._frame = np.empty((height, width, 3), np.uint8)
        self._resize = Lanczos(shape.channels, right - left, shape.size)

    def __call__(self, picture: Picture) -> Images:
        """A picture as uint8 C size size; GenlibError, which names it, if it is not what it should be."""
        frame = frame_of(picture)
        if frame != self._shape.frame:
            raise _refused(picture, f"has {_by(frame)} pixels, not {_by(self._shape.frame)} as the first one")
        left, upper, right, lower = self._shape.box
        # Cropped first: the filter would see beyond the edges of the box.
        array = self._decoded(picture)[:, upper:lower, left:right]
        return array.copy() if array.shape[1:] == (self._shape.size,) * 2 else self._resize(array)

    def _decoded(self, picture: Picture) -> Images:
        """All pixels, uint8 C H W, until the next picture; the frame is known to be as large as it should be."""
        if not isinstance(picture.content, bytes):
            return picture.content[None]
        try:
            if _kind(picture) == "JPEG":
                simplejpeg.decode_jpeg(picture.content, "RGB", buffer=self._frame)
                return self._frame.transpose(2, 0, 1)
            return np.asarray(_png(picture, picture.content)).transpose(2, 0, 1)
        except _FAULTS as error:
            raise _refused(picture, f"cannot be decoded ({error})") from error


def _kind(picture: Picture) -> str:
    return FORMATS["." + picture.member.rpartition(".")[2].lower()]


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
