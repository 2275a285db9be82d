"""Pictures of any frame, colours and format to squares of one size: a user's own photographs."""

import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from genlib.data.arrays import Images
from genlib.data.readers.decode import MAX_SCANS
from genlib.data.readers.reading import Picture
from genlib.errors import GenlibError

MAX_PIXELS = 64_000_000
"""The largest picture that is decoded; it takes 200 to 500 MB of memory, a JPEG a fraction of that."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""What is decoded, whatever the file is called."""

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
_ENOUGH = 2  # times the size that is asked for: down to that, a JPEG is shrunk while it is decoded
_FAULTS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # of a JPEG; those left out stand alone (ITU-T T.81, table B.1)
_START_OF_SCAN, _END = b"\xff\xda", b"\xff\xd9"


@dataclass(frozen=True)
class Photos:
    """Makes squares of pictures: turned as their camera says, the central square cut out, resized (Lanczos).

    Attributes:
        dataset: whose pictures they are, for errors.
        size: side of the square, in pixels.
        channels: 3 (RGB) or 1 (grey). What is transparent becomes white.
        share: side of what is cut out, as a share of the shorter side, above 0 to 1.
    """

    dataset: str
    size: int
    channels: int
    share: float

    @property
    def crop(self) -> str:
        """What is cut out, in words."""
        return "central square, " + ("the shorter side" if self.share == 1 else f"{self.share:g} of the shorter side")

    @property
    def resize(self) -> str:
        """How it is resized, in words."""
        return "lanczos from any size"

    def __call__(self, picture: Picture) -> Images:
        """A picture, which is an encoded file, as uint8 C size size. GenlibError, which names it, if it is none."""
        assert isinstance(picture.content, bytes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes, which are judged here
            try:
                with Image.open(BytesIO(picture.content), formats=FORMATS) as image:
                    self._judge(picture, picture.content, image)
                    square = self._square(image)
            except UnidentifiedImageError as error:
                start = picture.content[:12]
                raise self._refused(picture, f"is no JPEG, PNG, WebP or BMP image (starts with {start!r})") from error
            except _FAULTS as error:
                raise self._refused(picture, f"cannot be decoded ({' '.join(str(error).split())[:200]})") from error
        pixels = np.asarray(square)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)

    def _judge(self, picture: Picture, content: bytes, image: Image.Image) -> None:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise self._refused(
                picture, f"has {width} x {height} pixels, more than the {MAX_PIXELS // 10**6} million it may have"
            )
        if image.mode not in _MODES:
            raise self._refused(picture, f"has colours of mode {image.mode}: save it with 8 bits a channel")
        if image.format in ("JPEG", "MPO") and (scans := count_scans(content)) > MAX_SCANS:
            raise self._refused(picture, f"has {scans} scans, more than {MAX_SCANS}")

    def _square(self, image: Image.Image) -> Image.Image:
        mode = "L" if self.channels == 1 else "RGB"
        least = round(_ENOUGH * self.size / self.share)
        image.draft(None, (least, least))
        side = max(1, round(self.share * min(image.size)))
        left, upper = ((length - side) // 2 for length in image.size)
        square: Image.Image = image.crop((left, upper, left + side, upper + side))
        if square.has_transparency_data:
            square = self._resized(square.convert("RGBA"))
            square = Image.alpha_composite(Image.new("RGBA", square.size, "white"), square).convert(mode)
        else:
            square = self._resized(square.convert(mode))
        return ImageOps.exif_transpose(square)

    def _resized(self, square: Image.Image) -> Image.Image:
        if square.size == (self.size, self.size):
            return square
        return square.resize((self.size, self.size), Image.Resampling.LANCZOS)

    def _refused(self, picture: Picture, fault: str) -> GenlibError:
        return GenlibError(
            f"{picture.archive / picture.member} {fault}; mend or remove it, then run dvc repro --force "
            f"download@{self.dataset}"
        )


def count_scans(content: bytes) -> int:
    """How many scans a JPEG has. What follows its end does not count: phones append films to photographs."""
    scans = 0
    marker = _MARKER.search(content, 2)
    while marker is not None and marker[0] != _END:
        scans += marker[0] == _START_OF_SCAN
        length = int.from_bytes(content[marker.end() : marker.end() + 2], "big")
        marker = _MARKER.search(content, marker.end() + length)
    return scans
